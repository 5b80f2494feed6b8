"""How a plan is shown: a table in words, the same as HTML with a picture, and a plot."""

from html import escape
from typing import TYPE_CHECKING, Final

from costwise_core.display_table import as_html, as_text
from costwise_core.qdrant.plan import Measured, TuningPlan, pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plan_html", "plan_plot", "plan_svg", "plan_text"]

_SHOWN: Final = 12
_WIDE, _HIGH, _LEFT, _FOOT = 560, 240, 46, 34


def plan_text(plan: TuningPlan) -> str:
    """Return a plan as text: what to do, the Pareto table, what to know, what to paste."""
    notes = [*_notes(plan), *(f"  {line}" for line in _paste(plan).splitlines())]
    return as_text(_heading(plan), _rows(plan), left=1, notes=notes)


def plan_html(plan: TuningPlan) -> str:
    """Return the same as one HTML fragment with a picture of recall over cost."""
    table = as_html(_heading(plan), _rows(plan), left=1, notes=_notes(plan))
    paste = f"<pre>{escape(_paste(plan))}</pre>" if _paste(plan) else ""
    # Inside the card, whose colours the picture and the code take.
    return f"{table.removesuffix('</div>')}{paste}{plan_svg(plan)}</div>"


def plan_plot(plan: TuningPlan, ax: "Axes") -> None:
    """Draw recall over cost into a matplotlib axis."""
    tried = [one for one in plan.tried if one.cost is not None]
    ax.plot(
        [one.cost or 0.0 for one in tried],
        [one.recall for one in tried],
        "o",
        color="0.7",
        markersize=4,
        label="tried",
    )
    front = pareto(tried)
    ax.plot(
        [one.cost or 0.0 for one in front],
        [one.recall for one in front],
        "-o",
        color="tab:blue",
        markersize=4,
        label="nothing cheaper is better",
    )
    for one, mark, name in ((plan.baseline, "s", "today"), (plan.recommended, "*", "found")):
        if one is not None and one.cost is not None:
            below = one.recall - (one.recall if one.recall_low is None else one.recall_low)
            ax.errorbar(
                [one.cost],
                [one.recall],
                yerr=[[below], [0.0]],
                fmt=mark,
                color="black" if name == "today" else "tab:green",
                markersize=9,
                capsize=3,
                label=f"{name}, with its lower bound",
            )
    ax.axhline(plan.recall_target, color="tab:red", linewidth=1, linestyle="--", label="target")
    ax.set_xlabel(_cost_name(plan))
    ax.set_ylabel(f"recall@{plan.k}")
    ax.legend(frameon=False, fontsize="small", loc="lower right")


def plan_svg(plan: TuningPlan) -> str:
    """Return recall over cost as inline SVG."""
    tried = [one for one in plan.tried if one.cost is not None]
    marked = [one for one in (plan.baseline, plan.recommended) if one and one.cost is not None]
    if not tried:
        return ""
    most = max(one.cost or 0.0 for one in (*tried, *marked)) * 1.05 or 1.0
    seen = [one.recall for one in (*tried, *marked)]
    lows = [one.recall_low for one in marked if one.recall_low is not None]
    least = max(0.0, min(*seen, *lows, plan.recall_target) - 0.02)

    def x(cost: float) -> float:
        return _LEFT + (_WIDE - _LEFT - 8) * cost / most

    def y(recall: float) -> float:
        return 8 + (_HIGH - _FOOT - 8) * (1 - recall) / max(1 - least, 1e-6)

    def dot(one: Measured, size: float, fill: str) -> str:
        words = escape(f"{one.index}; {one.search}: recall {one.recall:.3f}")
        return (
            f'<circle cx="{x(one.cost or 0.0):.1f}" cy="{y(one.recall):.1f}" r="{size}" '
            f'fill="{fill}"><title>{words}</title></circle>'
        )

    def bound(one: Measured, colour: str) -> str:
        if one.recall_low is None:
            return ""
        at = f"{x(one.cost or 0.0):.1f}"
        return (
            f'<line x1="{at}" x2="{at}" y1="{y(one.recall):.1f}" y2="{y(one.recall_low):.1f}" '
            f'stroke="{colour}" stroke-width="2"/>'
        )

    def text(at: float, high: float, words: str, anchor: str = "start") -> str:
        return (
            f'<text x="{at:.1f}" y="{high:.1f}" text-anchor="{anchor}" font-size="11" '
            f'fill="currentColor">{escape(words)}</text>'
        )

    line = " ".join(f"{x(one.cost or 0.0):.1f},{y(one.recall):.1f}" for one in pareto(tried))
    goal = y(plan.recall_target)
    parts = [
        *(dot(one, 2.5, "#9aa3ad") for one in tried),
        f'<polyline points="{line}" fill="none" stroke="#2f6fde" stroke-width="1.5"/>',
        (
            f'<line x1="{_LEFT}" x2="{_WIDE - 8}" y1="{goal:.1f}" y2="{goal:.1f}" '
            'stroke="#c8402f" stroke-dasharray="4 3"/>'
        ),
        bound(plan.baseline, "currentColor") + dot(plan.baseline, 5, "currentColor"),
    ]
    if plan.recommended is not None:
        parts.append(bound(plan.recommended, "#23874b") + dot(plan.recommended, 5, "#23874b"))
        parts.append(text(x(plan.recommended.cost or 0.0) + 8, y(plan.recommended.recall), "found"))
    parts += [
        text(x(plan.baseline.cost or 0.0) - 8, y(plan.baseline.recall), "today", "end"),
        text(_LEFT - 6, goal + 4, f"{plan.recall_target:g}", "end"),
        text(_LEFT - 6, y(1.0) + 4, "1", "end"),
        text(_LEFT - 6, y(least) + 4, f"{least:.2f}", "end"),
        text((_LEFT + _WIDE) / 2, _HIGH - 6, _cost_name(plan), "middle"),
    ]
    said = escape(f"Recall at {plan.k} over {_cost_name(plan)}")
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" width="{_WIDE}" style="max-width:100%" role="img" '
        f'aria-label="{said}">{"".join(parts)}</svg>'
    )


# --- words --------------------------------------------------------------------------------------


def _heading(plan: TuningPlan) -> str:
    if plan.keep:
        return f"Keep what you have: {plan.why}"
    return f"Use {plan.index}, searched with {plan.search}: {plan.why}"


def _rows(plan: TuningPlan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            "",
            f"recall@{plan.k}",
            "at least",
            "p5",
            "under half",
            "hot B",
            "CPU ms",
            "p50 ms",
            "cost",
        )
    ]
    rows += [_row(name, one) for name, one in _named(plan)]
    front = [one for one in pareto(plan.tried) if one.recall >= plan.recall_target - 0.1]
    every = max(1, -(-len(front) // _SHOWN))
    rows += [_row(f"{one.index}; {one.search}", one) for one in front[::every]]
    return rows


def _named(plan: TuningPlan) -> list[tuple[str, Measured]]:
    said = (
        ("found", plan.recommended),
        ("today, rebuilt here", plan.baseline),
        ("today, where it is", plan.deployed),
        ("without a rebuild", plan.search_only),
        ("float32, untuned index", plan.float32),
    )
    return [(f"{name}: {one.index}; {one.search}", one) for name, one in said if one is not None]


def _row(name: str, one: Measured) -> tuple[str, ...]:
    return (
        name,
        f"{one.recall:.3f}",
        _number(one.recall_low, ".3f"),
        f"{one.p5:.2f}",
        f"{one.below_half:.1%}",
        _number(one.hot_bytes, ",.0f"),
        _number(one.search_cpu_ms, ".3f"),
        _number(one.p50_ms, ".3f"),
        _number(one.cost, ".3g"),
    )


def _number(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _cost_name(plan: TuningPlan) -> str:
    return "dollars a month" if plan.priced else "cost (memory and CPU, today = 1)"


def _notes(plan: TuningPlan) -> list[str]:
    asked, source = len(plan.confirm), plan.confirm.source
    shares = f"{plan.tune_questions:,} questions chose, {asked:,} others confirm ({source})"
    sure = (
        f"'at least' holds with {plan.confidence:.0%} confidence for {asked // 3:,} new questions"
    )
    notes = [
        f"{shares}; {sure}",
        f"{plan.sampled:,} of {plan.points:,} vectors of {plan.dims} dimensions, {plan.distance}",
    ]
    if plan.rebuild_noise is not None:
        notes.append(f"two builds of the same index differ by up to {plan.rebuild_noise:.3f}")
    notes += plan.notes
    cpu, clock = f"{plan.tune_cpu_seconds:,.0f}", f"{plan.tune_wall_seconds:,.0f}"
    notes.append(f"found with {cpu} CPU seconds, {clock} on the clock")
    if not plan.keep:
        notes.append("the search settings go with each query; without them half of this is lost:")
    return notes


def _paste(plan: TuningPlan) -> str:
    """Return the code that the last note speaks of."""
    return "" if plan.keep else plan.search.for_langchain()
