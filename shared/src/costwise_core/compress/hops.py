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

from costwise_core.compress.fusion import Scores, best_of_passage
from costwise_core.text.words import words

__all__ = ["asks_several", "bridged", "name_of"]

_LINK: Final = 1.5
_COMMON: Final = 0.5
_STANDS_OUT: Final = 1.5

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
    and cost single questions less. A passage inherits the score of the best piece elsewhere that
    mentions its name, less the more pieces do.

    Args:
        scores: Standard scores of the pieces.
        pieces: The words of each piece.
        names: The words of each passage's name.
        of: Which passage each piece is of.

    Returns:
        New scores, none lower than before.

    Example:
        >>> of = np.array([0, 1, 2])
        >>> pieces = [["directed", "by", "spielberg"], ["whales"], ["born", "in", "ohio"]]
        >>> names = [["jaws"], ["whale"], ["spielberg"]]
        >>> bridged(np.array([1.0, 0.0, -1.0]), pieces, names, of).tolist()
        [1.0, 0.0, 0.5]
    """
    holders: defaultdict[str, set[int]] = defaultdict(set)
    for i, piece in enumerate(pieces):
        for word in piece:
            holders[word].add(i)
    keys = [tuple(name) for name in names]
    gained = np.zeros(len(names))
    for key in set(keys) - {()}:
        held = sorted((holders.get(word, set()) for word in set(key)), key=len)
        mentions = [i for i in set.intersection(*held) if keys[of[i]] != key]
        if mentions:
            gain = max(scores[i] for i in mentions) - _COMMON * math.log(len(mentions))
            for passage, other in enumerate(keys):
                if other == key:
                    gained[passage] = max(gain, 0.0)
    bonus: Scores = _LINK * gained[of]
    return scores + bonus


def asks_several(
    question: str, names: Sequence[Sequence[str]], scores: Scores, of: NDArray[np.intp]
) -> str:
    """Say why a question seems to need several passages; "" if it does not.

    It compares; or it names two passages; or it mentions several names while no passage stands out.

    Args:
        question: Any text.
        names: The words of each passage's name.
        scores: Standard scores of the pieces.
        of: Which passage each piece is of.

    Example:
        >>> of = np.array([0, 1])
        >>> asks_several("Did both play?", [[], []], np.zeros(2), of)
        'it compares'
    """
    if _COMPARES.search(question):
        return "it compares"
    asked = set(words(question))
    named = {tuple(name) for name in names if name and asked.issuperset(name)}
    if len(named) > 1:
        return f"it names {len(named)} passages"
    best = np.sort(np.unique(best_of_passage(scores, of)))[::-1]
    if len(best) > 1 and best[0] - best[1] < _STANDS_OUT and len(_NAMES.findall(question)) > 1:
        return "it mentions several names, and no passage stands out"
    return ""
