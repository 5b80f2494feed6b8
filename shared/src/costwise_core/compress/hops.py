"""Questions that one passage cannot answer, and where their second half is found.

"Where was the director of Jaws born?" shares no word with the sentence that answers it. But a
relevant sentence says "Jaws was directed by Steven Spielberg", and another passage is called so.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.compress.fusion import Scores, passage_shares
from costwise_core.text.words import words

__all__ = ["asks_several", "bridged", "name_of"]

_HOPS: Final = 2
_FOLLOWED: Final = 1.0
"""Logarithm of how much likelier than the piece that names it a passage is, if no other does."""

_LONG: Final = 6
"""Words that say something; a question over several passages has rarely fewer."""

_LIKELY: Final = math.log(0.05)
_GAINED: Final = 0.5

_BRACKETS: Final = re.compile(r"\s*[(（\[][^)）\]]*[)）\]]\s*$")
_NAME: Final = re.compile(
    r"(?:[^\W\d_][\w.'’-]*\s+)??"  # an article
    r"([A-ZÀ-Þ][\w.'’&-]*(?:\s(?:(?:of|the|and|de|von|van|der|la)\s){0,2}[A-ZÀ-Þ][\w.'’&-]*){1,5})"
)
_NAMES: Final = re.compile(
    r"(?<!^)(?<![.?!:]\s)(?<!\w)[A-ZÀ-Þ]\w+(?:\s(?:(?:of|the|de|von)\s)?[A-ZÀ-Þ]\w+)*"
)
_COMPARES: Final = re.compile(
    r"\b(?:both|compar(?:e[ds]?|ison)|in common|same \w+ as|versus|vs|difference between"
    r"|(?:older|younger|larger|longer|taller|bigger|earlier|later|first|more|better|closer)\b"
    r".{0,80}\bor|beide[nrs]?|vergleich\w*|unterschied\w* zwischen|gemeinsam|les deux|comparé\w*"
    r"|ambos|entrambi)\b"
    r"|比较|比較|相比|区别|區別|两者|兩者|共同|違い|両方",
    re.IGNORECASE,
)


def name_of(title: str, text: str) -> list[str]:
    """Return the words by which other passages would mention this one; none if it has no name.

    That is its title without what stands in brackets behind it, or else the name of several words
    that it begins with.

    Example:
        >>> name_of("Jaws (film)", ""), name_of("", "Steven Spielberg was born in 1946.")
        (['jaw'], ['stev', 'spielberg'])
    """
    bare = _BRACKETS.sub("", title) or title
    if not bare.strip():
        match = _NAME.match(text[:200])
        bare = match[1] if match else ""
    return words(bare)


def bridged(
    scores: Scores,
    pieces: Sequence[Sequence[str]],
    names: Sequence[Sequence[str]],
    of: NDArray[np.intp],
) -> Scores:
    """Score pieces again, knowing which are relevant: a passage they name is relevant too.

    A kind of pseudo relevance feedback (Rocchio 1971) by names instead of vectors, which found more
    and cost single questions less. A passage becomes as likely as the likeliest piece elsewhere
    that mentions its name, less the more pieces do; twice, for questions over three passages.

    Args:
        scores: Logarithms of the pieces' probabilities, as `relevance` gives them.
        pieces: The words of each piece.
        names: The words of each passage's name.
        of: Which passage each piece is of.

    Returns:
        New scores, none lower than before; they no longer add up to 1.

    Example:
        >>> of = np.array([0, 1, 2])
        >>> pieces = [["directed", "by", "spielberg"], ["whales"], ["born", "in", "ohio"]]
        >>> names = [["jaws"], ["whale"], ["spielberg"]]
        >>> bridged(np.array([-1.0, -2.0, -9.0]), pieces, names, of).tolist()
        [-1.0, -2.0, 0.0]
    """
    mentions = _mentions(pieces, names, of)
    within = scores - passage_shares(scores, of)
    for _ in range(_HOPS):
        reached = np.full(len(names), -np.inf)
        for passages, found in mentions:
            reached[passages] = scores[found].max() + _FOLLOWED - math.log(len(found))
        scores = np.maximum(scores, reached[of] + within)
    return scores


def _mentions(
    pieces: Sequence[Sequence[str]], names: Sequence[Sequence[str]], of: NDArray[np.intp]
) -> list[tuple[list[int], list[int]]]:
    """Return for each name the passages that have it and the pieces of others that mention it."""
    holders: defaultdict[str, set[int]] = defaultdict(set)
    for i, piece in enumerate(pieces):
        for word in piece:
            holders[word].add(i)
    named: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for passage, name in enumerate(names):
        if name:
            named[tuple(name)].append(passage)
    found = []
    for name, passages in named.items():
        held = sorted((holders.get(word, set()) for word in set(name)), key=len)
        own = set(passages)
        elsewhere = sorted(i for i in set.intersection(*held) if int(of[i]) not in own)
        if elsewhere:
            found.append((passages, elsewhere))
    return found


def asks_several(
    question: str,
    names: Sequence[Sequence[str]],
    alone: Scores,
    linked: Scores,
    of: NDArray[np.intp],
) -> str:
    """Say why a question seems to need several passages; "" if it does not.

    It compares; or it mentions several names and what answers it names a passage that was
    unlikely without that.

    Args:
        question: Any text.
        names: The words of each passage's name.
        alone: Scores of the pieces by the question alone.
        linked: The same after `bridged`.
        of: Which passage each piece is of.

    Example:
        >>> of = np.array([0, 1])
        >>> asks_several("Did both play?", [[], []], np.zeros(2), np.zeros(2), of)
        'it compares'
    """
    if _COMPARES.search(question):
        return "it compares"
    asked = words(question)
    likely = passage_shares(linked, of)
    gained = likely - passage_shares(alone, of) > _GAINED
    if len(asked) < _LONG or not (gained & (likely > _LIKELY)).any():
        return ""
    named = {frozenset(name) for name in names if name and set(asked).issuperset(name)}
    several = sum(not any(name < other for other in named) for name in named) > 1
    if several or len(_NAMES.findall(question)) > 1:
        return "it mentions several names, and its answer a further passage"
    return ""
