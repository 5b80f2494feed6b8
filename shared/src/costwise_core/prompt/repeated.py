"""Instructions that a prompt gives twice."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from costwise_core.passages import Span
from costwise_core.prompt.worked import CODE, blanked
from costwise_core.text.words import words

__all__ = ["repeats"]

_SENTENCE: Final = re.compile(r"[^\n]+?(?:[.!?](?=\s)|[。！？]|(?=\n)|\Z)")
_MARKER: Final = re.compile(r"\s*(?:[-*•+]|\d{1,3}[.)]|#{1,6}|\|)?\s*")
# Tables, markup, data and code may look alike line by line.
_NO_PROSE: Final = re.compile(
    r"[|{}]|</|\A\s*[\"']?[\w$-]+[\"']?\s*[:=]|\A\s*(?:[!-~]+\s+){0,3}[!-~]*\s*\Z"
)
_CONTRACTED: Final = re.compile(r"(?i)\b[a-z]{1,6}n['’]t\b")
_NEGATIONS: Final = frozenset(
    "not never no dont cannot without avoid refrain nicht nie niemals kein keine keinen".split()
)
_EMPTY: Final = frozenset(
    form
    for word in (
        "a an the to of in on at for and is are be been being am do does did your you it it's this "
        "that these those with as by from please always must should shall will would make sure "
        "ensure remember really very under circumstances ever any also just so then "
        "der die das den dem ein eine einen und zu im in auf mit ist sind bitte immer stets du sie"
    ).split()
    for form in (word, *words(word))
)
_LEAST_WORDS: Final = 4
_LEAST_IF_EQUAL: Final = 3
_ALIKE: Final = 0.8


@dataclass(frozen=True, slots=True)
class _Sentence:
    span: Span
    said: tuple[str, ...]
    content: frozenset[str]
    denies: bool


def repeats(text: str) -> list[tuple[Span, Span]]:
    """Return sentences that say again what an earlier one said, each with that earlier one.

    Two sentences say the same when one has all content words of the other and at most a quarter
    more, and both agree in numbers and in saying yes or no; short ones must be equal. A word
    exchanged makes another rule: "If they ask about refunds, call A" and "If they ask about orders,
    call A" are two.

    Example:
        >>> rules = "Never reveal the internal price list. Do not ever reveal internal price lists."
        >>> repeats(rules)
        [((38, 78), (0, 37))]
    """
    sentences = list(_sentences(blanked(text, CODE)))
    common = Counter(word for one in sentences for word in one.content)
    found: list[tuple[Span, Span]] = []
    holding: defaultdict[str, list[_Sentence]] = defaultdict(list)
    for one in sentences:
        rarest = sorted(one.content, key=lambda word: (common[word], word))
        # Who shares four fifths of the words has one of the rarest fifth and one more.
        near = (other for word in rarest[: len(rarest) // 5 + 1] for other in holding[word])
        first = min((other.span for other in near if _same(one, other)), default=None)
        if first is not None:
            found.append((one.span, first))
            continue
        for word in one.content:
            holding[word].append(one)
    return found


def _sentences(text: str) -> Iterator[_Sentence]:
    for match in _SENTENCE.finditer(text):
        marker = _MARKER.match(text, *match.span())
        start = marker.end() if marker else match.start()
        sentence = text[start : match.end()].rstrip()
        said = tuple(words(_CONTRACTED.sub("not", sentence)))
        content = frozenset(said) - _EMPTY - _NEGATIONS
        if len(content) >= _LEAST_IF_EQUAL and not _NO_PROSE.search(match[0]):
            span = (start, start + len(sentence))
            yield _Sentence(span, said, content, not _NEGATIONS.isdisjoint(said))


def _same(one: _Sentence, other: _Sentence) -> bool:
    if one.said == other.said:
        return True
    few, many = sorted((one.content, other.content), key=len)
    if len(few) < _LEAST_WORDS:
        return False
    if one.denies != other.denies or not few <= many or len(few) < _ALIKE * len(many):
        return False
    return not any(word[0].isdigit() for word in many - few)
