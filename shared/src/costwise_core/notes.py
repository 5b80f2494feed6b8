"""Which calls something was left out of: found again by what stayed in the prompt.

A compressor runs long before the call it shortens, in another step, thread or task, and a framework
carries nothing from one to the other but the text. So the text tells: a prompt that holds the kept
pieces is one the rest was left out of. A context sent three times was shortened thrice.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
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
        self._notes: OrderedDict[tuple[str, str], tuple[float, str, LeftOut]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, note: LeftOut, *, shortened: str = "") -> None:
        """Remember one; the older one of the same stage and source is forgotten.

        Args:
            note: What was left out, and what stayed.
            shortened: Text it was left out of that an earlier step had shortened. What that step
                left out is found by the new pieces from now on; its own may just have gone.
        """
        if note.tokens == 0 or not note.pieces:
            return
        words = set(shortened.split())
        with self._lock:
            for key, (at, word, other) in list(self._notes.items()) if shortened else ():
                same = (other.stage, other.question) == (note.stage, note.question)
                if same and _holds(shortened, words, word, other):
                    moved = replace(other, pieces=note.pieces)
                    self._notes[key] = (at, _rare_word(moved), moved)
            self._notes.pop((note.stage, note.source), None)
            self._notes[note.stage, note.source] = (time.monotonic(), _rare_word(note), note)
            while len(self._notes) > MAX_NOTES:
                self._notes.popitem(last=False)

    def of(self, prompt: str) -> tuple[LeftOut, ...]:
        """Return what was left out of this prompt; no piece stands for two questions."""
        with self._lock:
            notes = list(self._notes.values())
        if not notes or not prompt:
            return ()
        since = time.monotonic() - MAX_SECONDS
        words = set(prompt.split())
        found = [
            note
            for at, word, note in reversed(notes)
            if at >= since and _holds(prompt, words, word, note)
        ]
        found.sort(key=lambda note: (note.question not in prompt, -len(note.pieces)))
        return tuple(_apart(found))


def _apart(notes: Iterable[LeftOut]) -> Iterator[LeftOut]:
    """Leave out notes that go by a piece which already stands for another question."""
    taken: dict[tuple[str, str], str] = {}
    for note in notes:
        its = dict.fromkeys(((note.stage, piece) for piece in note.pieces), note.question)
        if all(taken.get(key, note.question) == note.question for key in its):
            taken |= its
            yield note


def _holds(text: str, words: set[str], word: str, note: LeftOut) -> bool:
    # To look for hundreds of pieces in a long text would take a hundred times as long.
    return (
        (not word or word in words)
        and all(piece in text for piece in note.pieces)
        and not any(piece in text for piece in note.absent)
    )


def _rare_word(note: LeftOut) -> str:
    """Return the longest word inside a piece, which stands alone in every prompt that holds it."""
    return max((word for piece in note.pieces for word in piece.split()[1:-1]), key=len, default="")
