"""Exact one-sided bounds on a share of which only a sample was seen (Clopper and Pearson 1934)."""

import math

__all__ = ["least_sample", "sample_needed", "wrong_share_upper"]

_MOST = 10_000_000


def wrong_share_upper(wrong: int, n: int, confidence: float) -> float:
    """Return the exact one-sided upper bound on a share of which `wrong` in `n` were seen.

    It is the share at which so few or fewer would be seen with probability 1 - `confidence`.

    Example:
        >>> round(wrong_share_upper(0, 59, 0.95), 4)  # 1 - 0.05 ** (1 / 59)
        0.0495
    """
    if wrong >= n:
        return 1.0
    low, high = wrong / n, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if _at_most(wrong, n, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def least_sample(max_wrong: float, confidence: float) -> int:
    """Return how large a sample without a wrong one supports the bound.

    Example:
        >>> least_sample(0.02, 0.95)
        149
    """
    return math.ceil(math.log(1 - confidence) / math.log1p(-max_wrong))


def sample_needed(wrong: int, n: int, max_wrong: float, confidence: float) -> int | None:
    """Return how large a sample with this share of wrong ones supports the bound.

    Returns:
        The size, to within 2 %; at least `n`. None if no sample of ten million would.

    Example:
        >>> sample_needed(0, 100, 0.02, 0.95), sample_needed(2, 100, 0.02, 0.95)
        (149, None)
    """
    share = wrong / n if n else 1.0
    if share >= max_wrong:
        return None
    low = high = max(n, least_sample(max_wrong, confidence))
    while wrong_share_upper(math.ceil(share * high), high, confidence) > max_wrong:
        low, high = high, high * 2
        if high > _MOST:
            return None
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        if wrong_share_upper(math.ceil(share * middle), middle, confidence) > max_wrong:
            low = middle
        else:
            high = middle
    return high


def _at_most(k: int, n: int, share: float) -> float:
    """Probability of at most `k` in `n`: the lower tail of the binomial distribution."""
    if share >= 1.0:
        return 0.0
    log_in, log_out = math.log(share), math.log1p(-share)
    log_all = math.lgamma(n + 1)
    return math.fsum(
        math.exp(
            log_all - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_in + (n - i) * log_out
        )
        for i in range(k + 1)
    )
