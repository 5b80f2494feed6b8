"""Where to draw the line: the most that may be served while the share of wrong answers is bounded.

Labels come from two sources. A request that was not served is answered by the model, so whether
the candidate's answer would have been right is known for free (weight 1). Of those that would have
been served, a share is answered by the model anyway; each stands for all like it (weight 1/share).
From both, a logistic model predicts how likely a candidate is wrong, and the line is drawn at the
largest prediction for which an upper confidence bound on the weighted count of wrong answers below
it stays within what was promised: inverse probability weighting (Horvitz and Thompson 1952) with a
score bound for a Poisson count, the weights entering through their mean (after Fay and Feuer 1997).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Line", "draw", "fit", "poisson_upper", "predict_wrong"]

_RIDGE: Final = 1.0
_BIAS_RIDGE: Final = 0.1
_MAX_FIT_WEIGHT: Final = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """The boundary and what it is expected to do.

    Args:
        max_wrong: Serve candidates predicted to be wrong with at most this probability; -1 is none.
        served: Weighted number of the observed requests below the line.
        wrong: Weighted number of wrong answers among them.
        wrong_upper: Its upper confidence bound.
    """

    max_wrong: float
    served: float = 0.0
    wrong: float = 0.0
    wrong_upper: float = 0.0


def fit(features: "Floats", same: "Floats", weights: "Floats", start: "Floats") -> "Floats":
    """Return logistic coefficients for "the answer is right", by damped Newton steps with a ridge.

    Args:
        features: Shape (n, d), the first column ones.
        same: Shape (n,), 1.0 where the candidate's answer was right.
        weights: Shape (n,), how many requests each observation stands for.
        start: Shape (d,), where to begin.
    """
    ridge = np.diag([_BIAS_RIDGE, *[_RIDGE] * (features.shape[1] - 1)])
    weights = np.minimum(weights, _MAX_FIT_WEIGHT)
    beta = start
    for _ in range(12):
        p = 1 / (1 + np.exp(-np.clip(features @ beta, -30, 30)))
        hessian = (features * (weights * p * (1 - p))[:, None]).T @ features + ridge
        step = np.linalg.solve(hessian, features.T @ (weights * (same - p)) - ridge @ beta)
        largest = float(np.abs(step).max())
        # Early on, few labels can be separated perfectly, and a full step would run away.
        beta = beta + step * min(1.0, 2.0 / max(largest, 1e-9))
        if largest < 1e-3:
            break
    return beta


def predict_wrong(features: "Floats", beta: "Floats") -> "Floats":
    """Return the predicted probability that each candidate's answer is wrong."""
    wrong: Floats = 1 / (1 + np.exp(np.clip(features @ beta, -30, 30)))
    return wrong


def poisson_upper(count: "Floats", z: float) -> "Floats":
    """Return the upper score bound on the mean of a Poisson count.

    Example:
        >>> bool(2.6 < poisson_upper(np.array(0.0), 1.64) < 3.0)  # the rule of three
        True
    """
    bound: Floats = count + z * z / 2 + z * np.sqrt(count + z * z / 4)
    return bound


def draw(
    predicted: "Floats",
    wrong: "Floats",
    weights: "Floats",
    *,
    allowed: float,
    allowed_per_hit: float,
    judge_error: float,
    z: float,
    cap: float,
) -> Line:
    """Draw the line through observations of a stretch of traffic.

    Args:
        predicted: Shape (n,), predicted probability of being wrong.
        wrong: Shape (n,), 1.0 where the answer was in fact judged wrong.
        weights: Shape (n,), how many requests each observation stands for.
        allowed: Wrong answers allowed on the whole stretch.
        allowed_per_hit: Wrong answers allowed for each one served.
        judge_error: Share of wrong answers that are judged right, below 1.
        z: One-sided normal quantile of the confidence.
        cap: No candidate more likely wrong than this is served, whatever the budget.
    """
    if not len(predicted):
        return Line(max_wrong=-1.0)
    order = np.argsort(predicted, kind="stable")
    weight = weights[order]
    served = np.cumsum(weight)
    count = np.cumsum(weight * wrong[order])
    unit = np.cumsum(weight**2) / served
    upper = unit * poisson_upper(count / unit, z) / (1 - judge_error)
    risk = predicted[order]
    # Of equal predictions all are served or none, so a line lies only behind the last of them.
    ends = np.append(risk[1:] > risk[:-1], True)
    fine = ends & (upper <= allowed) & (upper <= allowed_per_hit * served) & (risk <= cap)
    if not fine.any():
        return Line(max_wrong=-1.0)
    last = int(np.nonzero(fine)[0][-1])
    return Line(
        max_wrong=float(risk[last]),
        served=float(served[last]),
        wrong=float(count[last]) / (1 - judge_error),
        wrong_upper=float(upper[last]),
    )
