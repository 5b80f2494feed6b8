"""What a summary must not lose: names, numbers, dates, codes, decisions and open questions."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from costwise_core.cache.guards.quantities import amounts
from costwise_core.cache.guards.reading import read
from costwise_core.cache.words import FILLERS
from costwise_core.memory.facts_find import codes, decides, names, open_ended, quantities
from costwise_core.memory.messages import Message
from costwise_core.text.segments import segment
from costwise_core.text.words import words

__all__ = ["Fact", "Kind", "facts_of", "missing"]

Kind: TypeAlias = Literal["code", "number", "decision", "question", "name"]

_WORTH: Final[dict[Kind, float]] = {
    "code": 4.0,
    "number": 3.0,
    "decision": 3.0,
    "question": 2.5,
    "name": 2.0,
}
"""What is lost with one: a code cannot be guessed, a name often stands for itself."""
_BARE: Final = 0.4
"""The share of a number's worth that one has without a unit, a date's other half or a noun."""
_LONGEST: Final = 160
"""Characters of a fact, a sentence too."""
_READ: Final = 200_000
"""Characters of a block that are read, from its end."""
_SAID_AGAIN: Final = 0.5
"""The share of a sentence's telling words that says that a summary has it, reworded or not."""
_HEADER: Final = re.compile(r"^[^\n:]{1,80}?(?: \(\d{4}-\d\d-\d\d \d\d:\d\d\))?: (?=\S)")
_ASKED: Final = re.compile(r"[?？][\s\"”»)]*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """Something that was said and must not get lost.

    Args:
        kind: What it is; amounts, dates and times are numbers.
        text: As it was said, short enough to be put into a summary.
        worth: The higher, the worse its loss; to choose by where not all have room.

    Example:
        >>> [(fact.kind, fact.text) for fact in facts_of("We agreed to pay $40.")]
        [('number', '$40'), ('decision', 'We agreed to pay $40.')]
    """

    kind: Kind
    text: str
    worth: float


def facts_of(source: str | Sequence[Message]) -> tuple[Fact, ...]:
    """Return the facts of a text or of messages, those first whose loss is worst.

    Found by signs, without a model: in any script that has digits, names in scripts with capitals
    and where they carry a title or quotation marks, decisions and open questions in English,
    German, French, Spanish, Chinese, Japanese and Korean. A question is open if it is the last
    thing said, or called open. What was said often counts more, and of equals the later.

    Args:
        source: Messages, or their text with one message on a line.

    Example:
        >>> talk = [Message(role="user", text="I need 3 rooms in Porto, ref. AB-120.")]
        >>> [fact.text for fact in facts_of(talk)]
        ['AB-120', '3 rooms', 'Porto']
    """
    said = [source] if isinstance(source, str) else [message.text for message in source]
    if isinstance(source, str):
        said = [_HEADER.sub("", line) for line in source.splitlines()]
    text = "\n".join(said)[-_READ:]
    found: dict[tuple[Kind, str], tuple[Fact, int]] = {}
    often = Counter[str]()
    taken: set[int] = set()
    for fact, start, end in _found(text):
        if len(fact.text) > _LONGEST:
            continue
        if fact.kind in ("number", "name") and not taken.isdisjoint(range(start, end)):
            continue
        if fact.kind in ("code", "number"):
            taken.update(range(start, end))
        key = _key(fact)
        often[key] += 1
        found[fact.kind, key] = (fact, start)

    def worth(item: tuple[Fact, int]) -> tuple[float, int]:
        fact, start = item
        return fact.worth * (1 + math.log(often[_key(fact)])), start

    ranked = sorted(found.values(), key=worth, reverse=True)
    return tuple(fact for fact, _ in ranked)


def missing(facts: Iterable[Fact], summary: str) -> tuple[str, ...]:
    """Return the texts of the facts that a summary does not have, in the order of the facts.

    A number counts as there if its value is, in whatever words; a name if its longest word is; a
    sentence if half of its telling words are.

    Example:
        >>> facts = facts_of("I need three rooms in Porto, ref. AB-120.")
        >>> missing(facts, "The user wants 3 rooms (AB-120).")
        ('Porto',)
    """
    reading = read(summary)
    plain = f"{summary}\n{reading.text}".casefold()
    numbers = amounts(reading)
    known = frozenset(words(summary))
    return tuple(fact.text for fact in facts if not _there(fact, plain, numbers, known))


def _found(text: str) -> Iterator[tuple[Fact, int, int]]:
    for start, end in codes(text):
        yield _fact("code", text, start, end), start, end
    for start, end in quantities(text):
        if values := amounts(read(text[start:end])):
            bare = len(values) == 1 and not values[0][1] and text[start:end].strip().isdigit()
            yield _fact("number", text, start, end, _BARE if bare else 1.0), start, end
    for start, end in names(text):
        yield _fact("name", text, start, end), start, end
    for part in segment(text):
        sentence = text[part.start : part.end].strip()
        if decides(sentence) and not _ASKED.search(sentence):
            yield _fact("decision", text, part.start, part.end), part.start, part.end
        elif open_ended(sentence) or (_ASKED.search(sentence) and not text[part.end :].strip()):
            yield _fact("question", text, part.start, part.end), part.start, part.end


def _fact(kind: Kind, text: str, start: int, end: int, share: float = 1.0) -> Fact:
    return Fact(kind=kind, text=" ".join(text[start:end].split()), worth=_WORTH[kind] * share)


def _key(fact: Fact) -> str:
    if fact.kind == "number":
        return repr(sorted(value for value, _ in amounts(read(fact.text))))
    return _longest(fact.text) if fact.kind == "name" else fact.text.casefold()


def _longest(name: str) -> str:
    return max(read(name).words, key=len, default=name.casefold())


def _there(
    fact: Fact, plain: str, numbers: Sequence[tuple[str, str]], known: frozenset[str]
) -> bool:
    text = fact.text.casefold()
    if text in plain:
        return True
    if fact.kind == "number":
        values = {value for value, _ in numbers}
        return all(value in values for value, _ in amounts(read(fact.text)))
    if fact.kind == "name":
        return _longest(fact.text) in plain
    if fact.kind == "code":
        return False
    telling = " ".join(word for word in fact.text.split() if word.casefold() not in FILLERS)
    said = set(words(telling))
    return bool(said) and len(said & known) >= _SAID_AGAIN * len(said)
