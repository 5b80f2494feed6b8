"""Whether an answer says what the retrieved passages say."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from costwise_core.cache.signs import abstains
from costwise_core.route.judges.arithmetic import numbers_in
from costwise_core.route.judges.material import Material, material_of
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


@dataclass(frozen=True, kw_only=True, slots=True)
class GroundedJudge:
    """Checks an answer against the passages that were retrieved for it; calls no model.

    Where a chain wrote them into the prompt, what stands around the question there counts.

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
        """Score an answer by what it had to go by."""
        material, text = material_of(ask), answer.text[:_MOST_CHARS]
        if not material.texts:
            return Judgement(score=_UNKNOWN, why="there are no passages to check it against")
        if said := abstains(text):
            return Judgement(score=0.0, why=f"it says {said!r}")
        share = _support(material, text)
        for one in _unknown_ids(material, text):
            return Judgement(
                score=min(_INVENTED, share), why=f"it cites {one}, which is no passage"
            )
        for one in _strange(material, text):
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
    return _support(material_of(ask), text[:_MOST_CHARS])


def _support(material: Material, text: str) -> float:
    said = set(words(_CITED.sub(" ", text)))
    said = said - set(words(material.question)) or said
    held = {word for one in material.texts for word in words(one)}
    return len(said & held) / len(said) if said else 0.0


def _unknown_ids(material: Material, text: str) -> Iterator[str]:
    """Yield the numbers in brackets that are no passage's."""
    for match in _CITED.finditer(text):
        for cited in _SEPARATOR.split(match[1]):
            if cited in material.ids or not (cited.isdecimal() and len(cited) < 4):
                continue
            if int(cited) > len(material.texts) and not any(
                f"[{cited}]" in one for one in material.texts
            ):
                yield f"[{cited}]"


def _strange(material: Material, text: str) -> Iterator[str]:
    """Yield the numbers and names that neither passages nor question hold."""
    text = _CITED.sub(" ", text)
    sources = (material.question, *material.texts)
    numbers = {number for one in sources for number in numbers_in(one)}
    for number in numbers_in(text):
        if number not in numbers:
            yield f"{number:.15g}"
    held = {word for one in sources for word in words(one)}
    for match in _NAME.finditer(text):
        forms = words(match[0])
        if forms and held.isdisjoint(forms):
            yield match[0]
