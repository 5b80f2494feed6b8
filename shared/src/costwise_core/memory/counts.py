"""What a memory did, counted."""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

__all__ = ["Counts", "MemoryStats"]

_log: Final = logging.getLogger("costwise.memory")

Kind: TypeAlias = Literal["view", "fold", "error", "tokens", "facts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryStats:
    """What a memory did since it was made.

    Args:
        views: Prompts it was asked for, by reason: "whole", "folded", "edited", "holdout", "error".
        folds: Folds by how they ended: "folded" (a model wrote the summary), "extracted" (sentences
            were taken word for word), "nothing_due", "busy" (another is at it), "raced" (another
            writer was first), "resting" (the summariser failed lately), "error", "paid" (what came
            to nothing was written down), and what was wrong with what was written: "empty",
            "refusal", "no_gain".
        errors: Faults that were passed over, by the name of the error's class.
        tokens_left_out: Tokens fewer than the whole histories would have had.
        facts_added: Facts that a summary had lost and got back, word for word.
        facts_lost: Facts that found no place under the summary's limit; the raw turns have them.
    """

    views: Mapping[str, int] = field(default_factory=dict)
    folds: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    tokens_left_out: int = 0
    facts_added: int = 0
    facts_lost: int = 0


class Counts:
    """Thread-safe counters.

    Example:
        >>> counts = Counts()
        >>> counts.add("fold", "folded")
        >>> dict(counts.stats().folds)
        {'folded': 1}
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[Kind, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: Kind, name: str = "", by: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counts[kind, name] += by

    def error(self, error: BaseException) -> None:
        """Count a fault that was passed over; the first of its class is logged by its name."""
        name = type(error).__name__
        with self._lock:
            first = not self._counts["error", name]
            self._counts["error", name] += 1
        if first:
            # Never its text, which may quote what somebody said.
            _log.warning("conversation memory: passed over %s; the stats count any others", name)

    def stats(self) -> MemoryStats:
        """Return all counts so far."""
        with self._lock:
            counts = Counter(self._counts)

        def group(wanted: Kind) -> Mapping[str, int]:
            return MappingProxyType(
                {name: n for (kind, name), n in sorted(counts.items()) if kind == wanted and n}
            )

        return MemoryStats(
            views=group("view"),
            folds=group("fold"),
            errors=group("error"),
            tokens_left_out=counts["tokens", ""],
            facts_added=counts["facts", "added"],
            facts_lost=counts["facts", "lost"],
        )
