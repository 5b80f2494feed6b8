"""What people ask most, and what answering it from the cache has saved."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from costwise_core.cache.conversation import question_of
from costwise_core.errors import ConfigError
from costwise_core.protocols import CacheStore
from costwise_core.types import Entry, Selection

__all__ = ["Popular", "PopularQuestion", "popular"]

_ALL: Final = Selection()
_WIDTH: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class PopularQuestion:
    """One answer and the ways it was asked for.

    Args:
        question: The way that was asked for most.
        uses: How often its stored answers were served, as far as the store was told.
        saved: Dollars not paid for that; 0.0 where no worth is known.
        wordings: How many questions share the answer.
        created: When the newest of them was stored, in seconds since the epoch.
    """

    question: str
    uses: int
    saved: float
    wordings: int
    created: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Popular:
    """The questions asked most, first the most used; print it for a table.

    Args:
        rows: One for each answer.
    """

    rows: tuple[PopularQuestion, ...]

    def __iter__(self) -> Iterator[PopularQuestion]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        if not self.rows:
            return "Popular questions: none stored"
        table = [("uses", "saved", "wordings", "newest", "question")]
        table += [
            (f"{row.uses:,}", f"${row.saved:,.4f}", f"{row.wordings:,}", _day(row), _line(row))
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([*(f"{c:>{w}}" for c, w in zip(cells, widths, strict=False)), text])
            for *cells, text in table
        ]
        return "\n  ".join(["Popular questions:", *lines])


def popular(store: CacheStore, selection: Selection = _ALL, *, top: int = 20) -> Popular:
    """Return the questions whose stored answers were served most.

    Questions whose answers were judged equal count as one; those of two scopes never do.

    Args:
        store: Where to read; it is read once, and no uses are counted.
        selection: Which entries.
        top: At most how many rows.

    Raises:
        ConfigError: if `top` is below 1.
        StoreError: if the store cannot be used.

    Example:
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> store = MemoryStore()
        >>> cache = Cache(store, clock=lambda: 0.0)
        >>> _ = cache.store("What is RAG?", Scope(), "A method.", worth=0.002)
        >>> _ = [cache.lookup("What is RAG?", Scope()) for _ in range(3)]
        >>> print(popular(store))
        Popular questions:
          uses    saved  wordings      newest  question
             3  $0.0060         1  1970-01-01  What is RAG?
    """
    if top < 1:
        raise ConfigError(f"top must be at least 1, got {top!r}.")
    groups = dict[tuple[str, str], _Group]()
    for entry in store.entries(selection):
        name = (entry.scope, entry.group or entry.key)
        groups.setdefault(name, _Group()).add(entry)
    rows = (group.row for group in groups.values())
    best = heapq.nsmallest(top, rows, key=lambda row: (-row.uses, -row.saved, row.question))
    return Popular(rows=tuple(best))


class _Group:
    """The questions of one answer, summed up as they are read."""

    __slots__ = ("_best", "_created", "_question", "_saved", "_uses", "_wordings")

    def __init__(self) -> None:
        self._question, self._best = "", (-1, "")
        self._uses = self._wordings = 0
        self._saved = self._created = 0.0

    def add(self, entry: Entry) -> None:
        question = question_of(entry.question)
        rank = (entry.uses, question)
        if rank > self._best or not self._wordings:
            self._question, self._best = question, rank
        self._created = max(self._created, entry.created) if self._wordings else entry.created
        self._uses += entry.uses
        self._saved += entry.worth * entry.uses
        self._wordings += 1

    @property
    def row(self) -> PopularQuestion:
        return PopularQuestion(
            question=self._question,
            uses=self._uses,
            saved=self._saved,
            wordings=self._wordings,
            created=self._created,
        )


def _day(row: PopularQuestion) -> str:
    try:
        return f"{datetime.fromtimestamp(row.created, tz=UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return "?"


def _line(row: PopularQuestion) -> str:
    """Return the question in one line that any terminal can show."""
    text = " ".join(row.question.split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
