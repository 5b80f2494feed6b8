"""How similar two questions must be before one answer may serve both.

No single cosine separates rewordings from look-alikes: the two overlap at every value. What the
words themselves show moves the boundary. If each content word of either question has a counterpart
in the other and no guard objects, a modest cosine is enough; if any word is left over, only a high
one will do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.cache.guards.checks import GUARDS, Guard, first_objection
from costwise_core.cache.guards.reading import Reading, read
from costwise_core.cache.guards.swap import difference
from costwise_core.cache.policy import Verdict
from costwise_core.errors import ConfigError
from costwise_core.types import Neighbour

__all__ = ["OTHER_WORDS", "SAME_WORDS", "GuardedThreshold"]

SAME_WORDS: Final = 0.70
"""Cosine that is enough when the two questions have the same content words."""

OTHER_WORDS: Final = 0.93
"""Cosine that is asked for when they have not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardedThreshold:
    """Serve the nearest entry that no guard objects to, at a cosine that depends on the words.

    Args:
        same_words: Cosine that is enough when every content word of either question has a
            counterpart in the other and at least two do. Between 0 and 1.
        other_words: Cosine asked for otherwise; at least `same_words`.
        guards: What may object, in the order they are asked.

    Raises:
        ConfigError: if the two cosines are not in (0, 1] or not in order.

    Example:
        >>> from costwise_core.types import Entry
        >>> stored = Entry(key="k", scope="s", question="How do I lock my card?", answer="...")
        >>> near = [Neighbour(entry=stored, cosine=0.96)]
        >>> GuardedThreshold().decide("How can I lock my card?", near).action
        'serve'
        >>> GuardedThreshold().decide("How do I unlock my card?", near).why
        'opposites: "unlock" and "lock" are opposites'
    """

    same_words: float = SAME_WORDS
    other_words: float = OTHER_WORDS
    guards: Sequence[Guard] = GUARDS

    def __post_init__(self) -> None:
        if not 0.0 < self.same_words <= self.other_words <= 1.0:
            raise ConfigError(
                "same_words and other_words are similarities with 0 < same_words <= other_words "
                f"<= 1, got {self.same_words!r} and {self.other_words!r}."
            )

    def decide(self, question: str, neighbours: Sequence[Neighbour]) -> Verdict:
        """Serve the first neighbour that may be, else say why the nearest one may not."""
        asked = read(question)
        refused: list[Verdict] = []
        for neighbour in neighbours:
            objection = self._objection(asked, neighbour)
            if objection is None:
                why = f"asked before in similar words (cosine {neighbour.cosine:.3f})"
                return Verdict(action="serve", why=why, candidate=neighbour)
            reason, why = objection
            refused.append(Verdict(action="refuse", why=why, reason=reason, candidate=neighbour))
        nothing = Verdict(action="refuse", why="nothing similar is stored in this scope")
        return refused[0] if refused else nothing

    def learn(self, verdict: Verdict, *, same: bool) -> None:
        """Learn nothing."""

    def _objection(self, asked: Reading, neighbour: Neighbour) -> tuple[str, str] | None:
        if neighbour.cosine < self.same_words:
            return _too_far(neighbour, self.same_words)
        stored = read(neighbour.entry.question)
        objection = first_objection(asked, stored, self.guards)
        if objection is not None:
            return f"guard_{objection.guard}", f"{objection.guard}: {objection.why}"
        least = self.same_words if _same_words(asked, stored) else self.other_words
        # Two embeddings of one text differ in the last bits, so 1.0 must not be out of reach.
        return None if neighbour.cosine >= least - 1e-6 else _too_far(neighbour, least)


def _too_far(neighbour: Neighbour, least: float) -> tuple[str, str]:
    why = f"nearest question has cosine {neighbour.cosine:.3f}, below {least:.3f}"
    return "below_threshold", why


def _same_words(asked: Reading, stored: Reading) -> bool:
    if asked.words == stored.words:
        return True
    left = difference(asked, stored)
    return not left.asked and not left.stored and left.shared >= 2
