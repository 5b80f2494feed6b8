"""What a cache did, counted by reason."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from costwise_core.types import Miss

__all__ = ["CacheStats", "Counts", "Kind"]

Kind: TypeAlias = Literal["hit", "stale", "miss", "stored", "not_stored", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheStats:
    """What a cache did since it was made.

    Args:
        hits: Served answers by tier, "exact" and "near".
        stale: How many of them were past their time, served while being refreshed.
        misses: Lookups without an answer, by reason.
        stored: Answers stored.
        not_stored: Answers not stored, by reason.
        errors: Faults that were passed over, by the name of the error's class.
    """

    hits: Mapping[str, int] = field(default_factory=dict)
    stale: int = 0
    misses: Mapping[str, int] = field(default_factory=dict)
    stored: int = 0
    not_stored: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def hit_rate(self) -> float:
        """Hits as a share of lookups, 0.0 before the first lookup."""
        hits, misses = sum(self.hits.values()), sum(self.misses.values())
        return hits / (hits + misses) if hits + misses else 0.0


class Counts:
    """Thread-safe counters.

    Example:
        >>> counts = Counts()
        >>> counts.add("hit", "exact")
        >>> counts.stats().hit_rate
        1.0
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[Kind, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: Kind, name: str = "", by: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counts[kind, name] += by

    def miss(self, reason: str, why: str) -> Miss:
        """Count and return a miss."""
        self.add("miss", reason)
        return Miss(reason=reason, why=why)

    def stats(self) -> CacheStats:
        """Return all counts so far."""
        with self._lock:
            counts = Counter(self._counts)

        def group(wanted: Kind) -> Mapping[str, int]:
            return MappingProxyType(
                {name: n for (kind, name), n in sorted(counts.items()) if kind == wanted and n}
            )

        return CacheStats(
            hits=group("hit"),
            stale=counts["stale", ""],
            misses=group("miss"),
            stored=counts["stored", ""],
            not_stored=group("not_stored"),
            errors=group("error"),
        )
