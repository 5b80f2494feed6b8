"""How much of a prompt the last one of its conversation began with as well."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

__all__ = ["Prefixes"]

_MOST: Final = 10_000


class Prefixes:
    """Remembers how the last prompt of each conversation went. Thread-safe, in this process.

    Kept are the lengths and short hashes of its pieces, never text.

    Example:
        >>> prefixes = Prefixes()
        >>> prefixes.shared("7", ["You are kind.", "Hi"])
        0.0
        >>> prefixes.shared("7", ["You are kind.", "Hi", "And what then?!"])
        0.5
    """

    def __init__(self) -> None:
        self._last: OrderedDict[str, list[tuple[int, bytes]]] = OrderedDict()
        self._lock = threading.Lock()

    def shared(self, conversation: str, pieces: Sequence[str]) -> float:
        """Return the share of a prompt that the last one began with too, and remember this one.

        Args:
            conversation: Names it; "" is none, of which nothing is kept.
            pieces: Tools, instructions and messages, in the order in which they are sent.

        Returns:
            A share of the characters, in [0, 1].
        """
        if not conversation:
            return 0.0
        now = [(len(piece), _digest(piece)) for piece in pieces]
        with self._lock:
            before = self._last.pop(conversation, [])
            self._last[conversation] = now
            while len(self._last) > _MOST:
                self._last.popitem(last=False)
        same = 0
        for one, other in zip(now, before, strict=False):
            if one != other:
                break
            same += one[0]
        total = sum(length for length, _ in now)
        return same / total if total else 0.0


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
