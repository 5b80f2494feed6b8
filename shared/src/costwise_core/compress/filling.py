"""Which pieces fill a budget best."""

from collections.abc import Iterable, Sequence

__all__ = ["Room"]


class Room:
    """A token budget over the pieces of all passages, filled piece by piece.

    The first piece of a passage brings the passage's title, and one that follows no kept neighbour
    a gap marker; both are counted.

    Args:
        tokens: Of each piece.
        titles: Tokens of each passage's title.
        of: Which passage each piece is of.
        same: For each piece, a key that it shares with pieces that say the same.
        gap: Tokens of a gap marker.

    Example:
        >>> room = Room(tokens=[5, 9, 5], titles=[1, 1], of=[0, 0, 1], same=[0, 1, 2], gap=2)
        >>> room.fill([1, 0, 2], up_to=15)
        >>> sorted(room.kept), room.used
        ([0, 1], 15)
    """

    def __init__(
        self,
        *,
        tokens: Sequence[int],
        titles: Sequence[int],
        of: Sequence[int],
        same: Sequence[object],
        gap: int,
    ) -> None:
        self.kept: dict[int, None] = {}
        self.used = 0
        self.tokens = tokens
        self._titles, self._of, self._same = titles, of, same
        self._gap = gap
        self._passages: set[int] = set()
        self._said: set[object] = set()

    def fill(self, order: Iterable[int], *, up_to: float) -> None:
        """Keep pieces in this order while they fit; one that does not is passed over.

        Args:
            order: Pieces, the most wanted first.
            up_to: Tokens that may be used in all, those used before included.
        """
        for i in order:
            if i in self.kept or self._same[i] in self._said:
                continue
            cost = self._cost(i)
            if self.used + cost <= up_to:
                self.kept[i] = None
                self._passages.add(self._of[i])
                self._said.add(self._same[i])
                self.used += cost

    def _cost(self, i: int) -> int:
        of = self._of[i]
        if of not in self._passages:
            return self.tokens[i] + self._titles[of]
        beside = any(j in self.kept and self._of[j] == of for j in (i - 1, i + 1))
        return self.tokens[i] + (0 if beside else self._gap)
