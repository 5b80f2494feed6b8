"""Which calls something was left out of: found again by what stayed in the prompt.

A compressor runs long before the call it shortens, in another step, thread or task, and a framework
carries nothing from one to the other but the text. So the text tells: a prompt that holds the kept
pieces is one the rest was left out of. A context sent three times was shortened thrice.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from costwise_core.waterfall import LeftOut

__all__ = ["Notes", "pieces_of"]

MAX_NOTES: Final = 512
MAX_SECONDS: Final = 900.0
_PIECE: Final = 60
_PIECES: Final = 8


def pieces_of(texts: Iterable[str]) -> tuple[str, ...]:
    r"""Return a short verbatim piece of each text, by which a prompt that holds them is known.

    A piece lies within one line, since templates indent and JSON escapes line ends.

    Example:
        >>> pieces_of(["RAG is a method.\nIt helps.", " "])
        ('RAG is a method.',)
    """
    lines = (max(text.splitlines() or [""], key=len).strip()[:_PIECE].strip() for text in texts)
    return tuple(dict.fromkeys(line for line in lines if line))[:_PIECES]


class Notes:
    """What was left out lately. Thread-safe, bounded in number and age.

    Example:
        >>> notes = Notes()
        >>> notes.add(LeftOut(stage="compress", tokens=90, pieces=("RAG is",), source="1"))
        >>> [found.tokens for found in notes.of("Context: RAG is a method. Question: ...")]
        [90]
    """

    def __init__(self) -> None:
        self._notes: OrderedDict[tuple[str, str], tuple[float, LeftOut]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, note: LeftOut) -> None:
        """Remember one; the older one of the same stage and source is forgotten."""
        if note.tokens == 0 or not note.pieces:
            return
        with self._lock:
            self._notes.pop((note.stage, note.source), None)
            self._notes[note.stage, note.source] = (time.monotonic(), note)
            while len(self._notes) > MAX_NOTES:
                self._notes.popitem(last=False)

    def of(self, prompt: str) -> tuple[LeftOut, ...]:
        """Return what was left out of this prompt, newest first."""
        if not prompt:
            return ()
        with self._lock:
            notes = list(self._notes.values())
        since = time.monotonic() - MAX_SECONDS
        return tuple(
            note
            for at, note in reversed(notes)
            if at >= since and all(piece in prompt for piece in note.pieces)
        )
