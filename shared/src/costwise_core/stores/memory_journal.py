"""Logs in this process's memory."""

from collections import deque
from collections.abc import Sequence

from costwise_core.errors import StoreError
from costwise_core.stores.checks import JOURNAL_KEPT

__all__ = ["MemoryJournal", "place"]


class MemoryJournal:
    """Keeps the newest rows of each log. Not thread-safe; the store that has it is.

    Example:
        >>> journal = MemoryJournal()
        >>> journal.append("log", ["a", "b"])
        >>> journal.read("log", "1")
        (['b'], '2')
    """

    def __init__(self) -> None:
        self._rows: dict[str, deque[str]] = {}
        self._counts: dict[str, int] = {}

    def append(self, name: str, rows: Sequence[str]) -> None:
        """Add rows at the end of the named log."""
        if rows:
            self._rows.setdefault(name, deque(maxlen=JOURNAL_KEPT)).extend(rows)
            self._counts[name] = self._counts.get(name, 0) + len(rows)

    def read(self, name: str, after: str) -> tuple[list[str], str]:
        """Return the rows after a position and the position after them."""
        if name not in self._rows:
            return [], ""
        rows, count = self._rows[name], self._counts[name]
        read = place(after)
        if read > count:  # a position of another life
            read = 0
        new = min(count - read, len(rows))
        # From the end, where a deque is quick.
        return [rows[-n] for n in range(new, 0, -1)], str(count)


def place(after: str) -> int:
    """Return how many rows a position stands after.

    Raises:
        StoreError: if it is no position.

    Example:
        >>> place(""), place("12")
        (0, 12)
    """
    if after == "":
        return 0
    if not (after.isascii() and after.isdigit() and len(after) < 19):
        raise StoreError(f"a position is one that read() returned, got {after[:40]!r}.")
    return int(after)
