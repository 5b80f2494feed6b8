"""Whether an answer says what the retrieved passages say."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.cache.signs import abstains
from costwise_core.passages import Passage
from costwise_core.route.judges.arithmetic import numbers_in
from costwise_core.route.routes import Ask, Candidate, Judgement
from costwise_core.text.words import words

__all__ = ["GroundedJudge", "support"]

_MOST_CHARS: Final = 20_000
_CITED: Final = re.compile(
    r"[\[【](?:(?:doc|document|passage|source|ref)s?[ #:]*)?([^\[\]【】\n]{1,60})[\]】]",
    re.IGNORECASE,
)
_SEPARATOR: Final = re.compile(r"[,;]\s*")
_NAME: Final = re.compile(r"(?<=[^\W\d_.!?:][ \-])[^\W\d_a-z][^\W\d_]*[^\W\d_A-Z][^\W\d_]*")
_INVENTED: Final = 0.1
_UNKNOWN: Final = 0.5
_STRANGE: Final = 0.3


@dataclass(frozen=True, slots=True)
class GroundedJudge:
    """Checks an answer against the passages that were retrieved for it; no model, about 1 ms.

    The score is the share of the answer's words that come from the passages; what the question
    said already does not count. It is low where the answer cites a passage that does not exist, or
    holds numbers or names that neither passages nor question do, and 0 where it abstains. Without
    passages it is 0.5: nothing to tell by.

    An answer can be drawn from the passages and be wrong all the same. docs/routing.md says how
    well this tells right answers from wrong ones.

    Example:
        >>> from costwise_core import Passage
        >>> passages = (Passage(text="The Eiffel Tower was opened in 1889.", id="a"),)
        >>> ask = Ask(question="When was the tower opened?", passages=passages)
        >>> GroundedJudge().judge(ask, Candidate(text="It was opened in 1889 [1].")).score
        1.0
        >>> GroundedJudge().judge(ask, Candidate(text="It was opened in 1898.")).why
        '1898 is in none of the passages'
    """

    blocking = False

    def judge(self, ask: Ask, answer: Candidate) -> Judgement:
        """Score an answer by the passages of the request."""
        if not ask.passages:
            return Judgement(score=_UNKNOWN, why="there are no passages to check it against")
        text = answer.text[:_MOST_CHARS]
        if said := abstains(text):
            return Judgement(score=0.0, why=f"it says {said!r}")
        share = support(ask, text)
        for one in _unknown_ids(ask, text):
            return Judgement(
                score=min(_INVENTED, share), why=f"it cites {one}, which is no passage"
            )
        for one in _strange(ask, text):
            return Judgement(score=min(_STRANGE, share), why=f"{one} is in none of the passages")
        return Judgement(score=share, why=f"{share:.0%} of what it adds is in the passages")


def support(ask: Ask, text: str) -> float:
    """Return the share of a text's words that the passages hold; 0.0 without passages or words.

    Words of the question do not count, unless the text has no others.

    Example:
        >>> from costwise_core import Passage
        >>> ask = Ask(question="Who?", passages=(Passage(text="Ada wrote it."),))
        >>> support(ask, "Ada did, in Turin.")
        0.5
    """
    said = set(words(_CITED.sub(" ", text[:_MOST_CHARS])))
    said = said - set(words(ask.question[:_MOST_CHARS])) or said
    held = _held(ask.passages)[0]
    return len(said & held) / len(said) if said else 0.0


def _held(passages: Sequence[Passage]) -> tuple[frozenset[str], frozenset[float]]:
    """Return the words and the numbers of passages."""
    texts = [f"{one.heading}{one.text}" for one in passages]
    found = frozenset(word for text in texts for word in words(text))
    return found, frozenset(number for text in texts for number in numbers_in(text))


def _unknown_ids(ask: Ask, text: str) -> Iterator[str]:
    """Yield the numbers in brackets that are no passage's."""
    ids = {one.id for one in ask.passages}
    for match in _CITED.finditer(text):
        for cited in _SEPARATOR.split(match[1]):
            is_one = cited in ids or (cited.isdecimal() and int(cited) <= len(ask.passages))
            if cited.isdecimal() and len(cited) < 4 and not is_one:
                yield f"[{cited}]"


def _strange(ask: Ask, text: str) -> Iterator[str]:
    """Yield the numbers and names that neither passages nor question hold."""
    text = _CITED.sub(" ", text)
    held, numbers = _held(ask.passages)
    asked, given = set(words(ask.question[:_MOST_CHARS])), set(numbers_in(ask.question))
    for number in numbers_in(text):
        if number not in numbers and number not in given:
            yield f"{number:.15g}"
    for match in _NAME.finditer(text):
        forms = set(words(match[0]))
        if forms and not forms & held and not forms & asked:
            yield match[0]
