"""How well scores tell right from wrong."""

from collections.abc import Sequence

import numpy as np


def auc(right: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Return how often a right one is scored above a wrong one; ties count half."""
    marks, score = np.array(right, bool), np.array(scores)
    above, below = score[marks][:, None], score[~marks][None, :]
    if not above.size or not below.size:
        return None
    return float(((above > below) + 0.5 * (above == below)).mean())
