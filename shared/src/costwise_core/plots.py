"""Curves behind the three promises that are found on labelled data, drawn with matplotlib.

Each takes an `ax` to draw on and returns it; without one it makes a figure, which a notebook shows.
The extra `plot` brings matplotlib.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import MissingExtraError

if TYPE_CHECKING:
    from costwise_core.cache.calibrate import Calibrated
    from costwise_core.compress.promise import CalibratedShare
    from costwise_core.route.calibrate import CalibratedThreshold

__all__ = ["plot_routing", "plot_shares", "plot_thresholds"]

_GOOD: Final = "#2b9a55"
_BAD: Final = "#d0702c"
_QUIET: Final = "#8c98a5"


def plot_thresholds(calibrated: "Calibrated", ax: Any = None) -> Any:
    """Draw what each cosine threshold of a cache finds, and how much of that may be wrong.

    Args:
        calibrated: What `calibrate` found.
        ax: The matplotlib axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        MissingExtraError: if matplotlib is not installed.

    Example:
        >>> from costwise_core.cache.calibrate import Calibrated
        >>> nothing = Calibrated(chosen=None, curve=(), pairs=0, max_wrong=0.05, confidence=0.95)
        >>> plot_thresholds(nothing).get_xlabel()
        'cosine threshold'
    """
    ax = _axes(ax)
    x = [one.threshold for one in calibrated.curve]
    ax.plot(x, [one.recall for one in calibrated.curve], color=_GOOD, label="hits found (recall)")
    ax.plot(x, [one.wrong_share for one in calibrated.curve], color=_BAD, label="wrong among hits")
    ax.plot(
        x,
        [one.upper for one in calibrated.curve],
        color=_BAD,
        linestyle=":",
        label=f"its upper bound ({calibrated.confidence:.0%})",
    )
    ax.axhline(calibrated.max_wrong, color=_QUIET, linewidth=1, label="allowed")
    _chosen(ax, None if calibrated.chosen is None else calibrated.chosen.threshold)
    return _finished(ax, "cosine threshold", "share", f"{calibrated.pairs:,} labelled pairs")


def plot_shares(calibrated: "CalibratedShare", ax: Any = None) -> Any:
    """Draw how many answers survive when a compressor keeps less (the Pareto curve).

    Args:
        calibrated: What `calibrate_share` found.
        ax: The matplotlib axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        MissingExtraError: if matplotlib is not installed.

    Example:
        >>> from costwise_core.compress.promise import CalibratedShare
        >>> nothing = CalibratedShare(
        ...     chosen=None, curve=(), questions=0, answerable=0, target=0.98, confidence=0.95
        ... )
        >>> plot_shares(nothing).get_ylabel()
        'answers kept'
    """
    ax = _axes(ax)
    x = [one.kept for one in calibrated.curve]
    y = [one.recall for one in calibrated.curve]
    _band(ax, x, y, [one.recall_least for one in calibrated.curve], calibrated.confidence)
    ax.axhline(calibrated.target, color=_QUIET, linewidth=1, label="promised")
    _chosen(ax, None if calibrated.chosen is None else calibrated.chosen.kept)
    return _finished(ax, "tokens kept", "answers kept", f"{calibrated.answerable:,} questions")


def plot_routing(calibrated: "CalibratedThreshold", ax: Any = None) -> Any:
    """Draw the quality that a router or cascade keeps with fewer calls to the dearer model.

    Args:
        calibrated: What `calibrate_routing` found.
        ax: The matplotlib axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        MissingExtraError: if matplotlib is not installed.

    Example:
        >>> from costwise_core.route.calibrate import CalibratedThreshold
        >>> nothing = CalibratedThreshold(
        ...     chosen=None, curve=(), labels=100, quality=0.95, confidence=0.95
        ... )
        >>> plot_routing(nothing).get_title()
        '100 labelled questions'
    """
    ax = _axes(ax)
    x = [one.strong_share for one in calibrated.curve]
    y = [one.kept for one in calibrated.curve]
    _band(ax, x, y, [one.kept_least for one in calibrated.curve], calibrated.confidence)
    ax.axhline(calibrated.quality, color=_QUIET, linewidth=1, label="promised")
    _chosen(ax, None if calibrated.chosen is None else calibrated.chosen.strong_share)
    title = f"{calibrated.labels:,} labelled questions"
    return _finished(ax, "calls to the dearer model", "quality kept", title)


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("a plot", "plot") from error
    return plt.subplots(figsize=(6, 3.6), layout="constrained")[1]


def _band(
    ax: Any, x: Sequence[float], y: Sequence[float], least: Sequence[float], confidence: float
) -> None:
    order = sorted(range(len(x)), key=lambda at: x[at])
    x, y, least = ([values[at] for at in order] for values in (x, y, least))
    ax.plot(x, y, color=_GOOD, marker=".", label="seen")
    ax.plot(x, least, color=_BAD, linestyle=":", label=f"lower bound ({confidence:.0%})")
    ax.fill_between(x, least, y, color=_GOOD, alpha=0.12, linewidth=0)


def _chosen(ax: Any, x: float | None) -> None:
    if x is not None:
        ax.axvline(x, color=_QUIET, linestyle="--", linewidth=1, label="chosen")


def _finished(ax: Any, x: str, y: str, title: str) -> Any:
    ax.set(xlabel=x, ylabel=y, title=title)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small")
    return ax
