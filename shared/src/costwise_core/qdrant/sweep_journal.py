"""What a sweep has measured so far, so that one which was killed goes on where it stopped."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

__all__ = ["SweepJournal", "key_of"]

_LONGEST_LINE: Final = 16_000_000


class SweepJournal:
    """A file of measurements, each a line that is on disk when `put` returns.

    Args:
        path: The file; None keeps it in memory. One that was written for something else, or whose
            last line was torn by a crash, costs only what it cannot tell.
        of: What is measured: the vectors, the questions, the engine. With another one, it begins
            anew.

    Example:
        >>> journal = SweepJournal(None, of="these vectors")
        >>> journal.put("int8", {"recall": 0.98})
        >>> journal.get("int8"), journal.get("float32")
        ({'recall': 0.98}, None)
    """

    def __init__(self, path: Path | None, *, of: str) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path is None:
            return
        lines = _lines(path)
        if lines[:1] == [{"of": of}]:
            self._known = {line["key"]: line["value"] for line in lines[1:] if "key" in line}
        # Written anew either way, so that a torn last line does not spoil the one after it.
        rows = [{"of": of}, *({"key": key, "value": said} for key, said in self._known.items())]
        half = path.with_suffix(f".{os.getpid()}")
        half.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        half.replace(path)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Any:
        """Return what was measured under this key, or None."""
        return self._known.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a measurement, as JSON can hold it."""
        self._known[key] = value
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")
                file.flush()
                os.fsync(file.fileno())


def key_of(*parts: Any) -> str:
    """Return a short name for what is measured.

    Example:
        >>> key_of("a", 1) == key_of("a", 1), key_of("a", 1) == key_of("a", 2)
        (True, False)
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _lines(path: Path) -> list[Any]:
    rows = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if len(line) > _LONGEST_LINE or not line.endswith("\n"):
                    break
                row = json.loads(line)
                if not isinstance(row, dict):
                    break
                rows.append(row)
    except (OSError, ValueError):
        pass
    return rows
