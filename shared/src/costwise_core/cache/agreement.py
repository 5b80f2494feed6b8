"""Whether two conversations say the same as far as a follow-up question can tell.

A follow-up ("will it go through today?") may share an answer only with the same question after the
same facts. The facts are neither the whole history, where small talk differs, nor an embedding of
it, which cannot tell £4,500 from £6,500. So a conversation is boiled down to a digest, one group of
content words for each sentence, and two digests agree when one says everything the other does:

* not both name a number, name, day or code that the other lacks;
* no sentence of one is a sentence of the other with a word exchanged or a negation added;
* neither has moved on to another topic since;
* most content words of the shorter one occur in the longer one.

The digest is text, so a store needs no new field for it and a person can read it.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from costwise_core.cache.words import DAYS, FILLERS, NUMBERS, YES, asks, either, stem

__all__ = ["Turn", "content_words", "digest", "disagreement", "is_exact"]

MIN_COVERED: Final = 0.6
"""Share of the shorter conversation's content words that the longer one must contain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message of a conversation.

    Args:
        role: Who spoke.
        text: What was said.
    """

    role: Literal["user", "assistant"]
    text: str


# A code such as SK2214 or PN-CARD-7731, a number, a word, or one sign of a script without spaces.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"\d[\d.,:]*\d|\d|[{_CJK}]|(?:(?![{_CJK}])[^\W\d_]|['’](?=[^\W\d_]))+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|[。！？\n;]+")
_CODE = re.compile(r"\b(?=[\w-]{0,40}\d)(?=[\w-]{0,40}[A-Z])[A-Z0-9]+(?:-[A-Z0-9]+)*\b")
_NOT = re.compile(
    rf"(?i)\b(?:{either('not never no without cannot dont doesnt cant wont isnt didnt havent')}|"
    rf"{either('hasnt nicht kein keine nie pas jamais non nunca niet geen não')})\b"
    r"|n['’]t\b|[不没無]"
)


def content_words(sentence: str, names: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return what one sentence says: its numbers, names and content words, in order, each once.

    Words are lower case and stemmed; what must match exactly (numbers, names, codes, days) keeps
    its form, names with a capital. A negated sentence begins with "not".

    Args:
        sentence: One sentence in any language.
        names: Lower-cased words to take for names even where they open the sentence.

    Example:
        >>> content_words("I haven't paid the two bills from Nimbus on Friday.")
        ('not', 'paid', '2', 'bill', 'Nimbus', 'Friday')
    """
    found: dict[str, None] = {}
    if _NOT.search(sentence):
        found["not"] = None
    for code in _CODE.findall(sentence):
        found[code] = None
    for index, match in enumerate(_TOKEN.finditer(_CODE.sub(" ", sentence))):
        form = match[0]
        low = form.casefold().replace("’", "'")
        if form[0].isdigit():
            number = form.replace(",", "")
            found[number.removesuffix(".00") if "." in number else number] = None
        elif low in NUMBERS:
            found[NUMBERS[low]] = None
        elif low.capitalize() in DAYS:
            found[low.capitalize()] = None
        elif low in YES:
            found.setdefault("yes" if index == 0 else low)
        elif form == "May" and index > 0:
            found[form] = None
        elif low in FILLERS or (len(low) == 1 and low.isascii()):
            continue
        elif form[0].isupper() and (index > 0 or low in names):
            found[stem(low).capitalize()] = None
        else:
            found[stem(low)] = None
    return tuple(found)


def is_exact(word: str) -> bool:
    """Return whether one of the content words is a number, name, code or day: no synonym will do.

    Example:
        >>> is_exact("Spain"), is_exact("30"), is_exact("ticket")
        (True, True, False)
    """
    return word[0].isupper() or any(sign.isdigit() for sign in word)


def digest(turns: Sequence[Turn]) -> str:
    """Boil a conversation down to its facts, as text.

    Returns:
        One group of words for each sentence that says anything, led by "q" (the user asks), "u"
        (the user says) or "a" (the assistant) and separated by " · ". Takes linear time.

    Example:
        >>> digest([Turn(role="user", text="Hi! What does Nimbus Fibre 150 cost?")])
        'q Nimbus Fibre 150 cost'
    """
    sentences = [
        (turn.role[0], sentence)
        for turn in turns
        for sentence in _SENTENCE.split(unicodedata.normalize("NFKC", turn.text))
    ]
    names = frozenset(
        match[0].casefold()
        for _, sentence in sentences
        for index, match in enumerate(_TOKEN.finditer(sentence))
        if index > 0 and match[0][0].isupper()
    )
    groups = (
        ("q" if role == "u" and asks(sentence) else role, content_words(sentence, names))
        for role, sentence in sentences
    )
    return " · ".join(" ".join((role, *words)) for role, words in groups if words)


def disagreement(first: str, second: str) -> str:
    """Return one sentence on how two digests contradict each other, or "" when they agree.

    The order of the arguments does not matter to whether they agree.

    Example:
        >>> spain = digest([Turn(role="user", text="I'm going to Spain. Am I covered?")])
        >>> chat = digest([Turn(role="user", text="So wet! I'm going to Spain. Am I covered?")])
        >>> florida = digest([Turn(role="user", text="I'm going to Florida. Am I covered?")])
        >>> disagreement(spain, chat), disagreement(spain, florida)
        ('', "one conversation says 'Spain' where the other says 'Florida'")
    """
    if first == second:
        return ""
    one, two = _groups(first), _groups(second)
    said_one, said_two = _said(one), _said(two)
    only_one = {word for word in _exact(one) if word.casefold() not in said_two}
    only_two = {word for word in _exact(two) if word.casefold() not in said_one}
    if only_one and only_two:
        return f"one conversation says {min(only_one)!r} where the other says {min(only_two)!r}"
    less, more = sorted((said_one, said_two), key=len)
    covered = len(less & more) / len(less) if less else 1.0
    if covered < MIN_COVERED:
        return f"only {covered:.0%} of what one conversation says is said in the other"
    return (
        _exchanged(one, two)
        or _replaced(one, two)
        or _moved_on(one, said_two)
        or _moved_on(two, said_one)
    )


_Group = tuple[str, ...]


def _groups(text: str) -> list[_Group]:
    return [tuple(group.split(" ")) for group in text.split(" · ") if group]


def _said(groups: Sequence[_Group]) -> frozenset[str]:
    return frozenset(word.casefold() for group in groups for word in group[1:])


def _exact(groups: Sequence[_Group]) -> frozenset[str]:
    """Return the words that must be matched: those with a digit or a capital."""
    return frozenset(word for group in groups for word in group[1:] if is_exact(word))


def _exchanged(one: Sequence[_Group], two: Sequence[_Group]) -> str:
    """Find a sentence that returns with one or two words exchanged, or negated."""
    same = set(one) & set(two)
    said_one, said_two, exact = _said(one), _said(two), _exact(one) | _exact(two)
    exact = frozenset(word.casefold() for word in exact)
    for role, *words in (group for group in one if group not in same):
        left = {word.casefold() for word in words}
        for other_role, *other in (group for group in two if group not in same):
            right = {word.casefold() for word in other}
            shared, gone, come = len(left & right), left - right, right - left
            if (role == "a") != (other_role == "a") or shared < 2 or shared < len(gone) + len(come):
                continue
            if not gone and not come and _order(words, exact) != _order(other, exact):
                return "the same sentence names the same things in another order"
            if gone ^ come == {"not"}:
                return "the same sentence is negated in one conversation"
            if not (gone & exact and come & exact):
                # Where each word is used by both, the sentence is worded otherwise, no more.
                swapped = len(gone) == len(come) <= 2
                if not swapped or not (gone - said_two or come - said_one):
                    continue
            if gone and come:
                return f"one conversation says {min(gone)!r} where the other says {min(come)!r}"
    return ""


def _order(words: Sequence[str], exact: frozenset[str]) -> list[str]:
    return [low for word in words if (low := word.casefold()) in exact]


def _replaced(one: Sequence[_Group], two: Sequence[_Group]) -> str:
    """Find a message of the user that stands between the same sentences and says something else."""
    for left in _surrounded(one):
        for right in _surrounded(two):
            if left[::2] != right[::2] or "a" in (left[1][0], right[1][0]):
                continue
            gone, come = set(left[1][1:]) - set(right[1][1:]), set(right[1][1:]) - set(left[1][1:])
            if gone and come:
                return f"one conversation says {min(gone)!r} where the other says {min(come)!r}"
    return ""


def _surrounded(groups: Sequence[_Group]) -> list[tuple[_Group, _Group, _Group]]:
    edge: _Group = ("",)
    return list(zip([edge, *groups], groups, [*groups[1:], edge], strict=False))


def _moved_on(groups: Sequence[_Group], said: frozenset[str]) -> str:
    """Say what a conversation went on to after the last thing that the other one says too."""
    for role, *words in reversed(groups):
        new = [word for word in words if word.casefold() not in said]
        if 2 * len(new) < len(words):
            return ""
        if new and (role == "q" or any(map(is_exact, new))):
            return f"one conversation has moved on to {min(new)!r}"
    return ""
