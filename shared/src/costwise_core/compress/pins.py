"""What a question makes indispensable: the exact things that it mentions.

Beside it a mere hint, too common to be a reason to stay: whether a piece holds the kind of thing
that the question word asks for.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from costwise_core.text.words import words

if TYPE_CHECKING:
    from costwise_core.text.segments import Segment

__all__ = ["answers_wh", "pinned"]

_Asked: TypeAlias = Literal["when", "number", "who", "where"]

# In this order: what one rule took, the next ones do not see.
_MENTIONS: Final = (
    ("code", re.compile(r"`([^`\n]{2,200})`")),
    (
        "quote",
        re.compile(
            r"\"([^\"\n]{2,200})\"|“([^“”]{2,200})”|„([^„“”]{2,200})[“”]|«([^«»]{2,200})»"
            r"|「([^「」]{2,200})」|『([^『』]{2,200})』|《([^《》]{2,200})》"
            r"|(?<!\w)['‘]([^'‘’\n]{2,200})['’](?!\w)"
        ),
    ),
    ("URL", re.compile(r"(?:https?://|www\.)[^\s<>\"'()]*[\w/]|[\w.+-]{1,64}@[\w-]+\.[\w.-]*\w")),
    (
        "identifier",
        re.compile(
            # Letters and digits in one, but neither "19th" nor "1990s"; then names of things in
            # programs: snake_case, camelCase, file.ext, --flag.
            r"(?<![\w-])(?!\d+[a-z]{1,2}(?![\w-]))(?=[A-Za-z_./:-]{0,60}\d)(?=[\d_./:-]{0,60}[A-Za-z])"
            r"[A-Za-z0-9]+(?:[-_./:][A-Za-z0-9]+)*"
            r"|\b[A-Za-z]+(?:_[A-Za-z0-9]+)+|\b[a-z]+(?:[A-Z][a-z0-9]+)+"
            r"|\b[a-zA-Z]\w+\.[a-z]\w+(?:\.\w+)*|(?<![\w-])--[a-z][\w-]*"
        ),
    ),
    ("number", re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?![\w])")),
)

_MOST: Final = 50
"""Things mentioned that are looked for; a pasted page is no question."""


def pinned(question: str, text: str, segments: Sequence["Segment"]) -> dict[int, str]:
    """Find the segments that hold something exact that the question mentions.

    Exact are code spans, quoted strings, URLs, identifiers and numbers. Case, width, white space
    and how thousands are grouped make no difference.

    Args:
        question: Any text.
        text: What was cut into segments.
        segments: Of that text.

    Returns:
        Index of a segment: why it must stay, one phrase for a person.

    Example:
        >>> from costwise_core.text.segments import segment
        >>> text = "Restart it. Error E1234-X means no paper."
        >>> pinned("What is E1234-X?", text, segment(text))
        {1: 'holds the identifier E1234-X'}
    """
    mentions = _mentions(question)
    found: dict[int, str] = {}
    for i, piece in enumerate(segments if mentions else ()):
        held = text[piece.start : piece.end]
        forms = {"exact": f" {_folded(held)} ", "words": f" {' '.join(words(held))} "}
        for form, mention, why in mentions:
            if mention in forms[form]:
                found[i] = why
                break
    return found


@lru_cache(maxsize=16)
def _mentions(question: str) -> tuple[tuple[str, str, str], ...]:
    """Return in which form to look for what, and why it would pin what holds it."""
    found = (mention for mention in _all_mentions(question) if mention[1].strip())
    return tuple(islice(found, _MOST))


def _all_mentions(question: str) -> Iterator[tuple[str, str, str]]:
    for kind, rule in _MENTIONS:
        for match in rule.finditer(question):
            held = next((group for group in match.groups() if group), match[0]).strip()
            why = f"holds the {kind} {held}"
            if kind not in {"identifier", "number"}:
                yield "exact", _folded(held), why
            elif len(held) > 1:
                yield "words", f" {' '.join(words(held))} ", why
            else:  # a digit alone is everywhere: "Apollo 6" is meant, or "6 days"
                start, end = match.span()
                before = words(question[max(start - 40, 0) : start])
                after = words(question[end : end + 40])
                yield from (("words", f" {word} {held} ", why) for word in before[-1:])
                yield from (("words", f" {held} {word} ", why) for word in after[:1])
        question = rule.sub(" ", question)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


_MONTHS: Final = (
    "january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|"
    "mar|apr|jun|jul|aug|sept?|oct|nov|dec|januar|februar|märz|mai|juni|juli|oktober|dezember|"
    "janvier|février|mars|avril|juin|juillet|août|septembre|octobre|novembre|décembre|enero|"
    "febrero|marzo|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre"
)
_ASKS: Final[tuple[tuple[_Asked, re.Pattern[str]], ...]] = (
    (
        "number",
        re.compile(
            r"\bhow (?:many|much|long|far|old|tall|high|large|big|deep|fast|often|wide|heavy)\b"
            r"|\b(?:what|which)(?: is| was| are| were)?(?: the)?(?: \w+)? (?:percent|percentage|"
            r"number|amount|price|cost|population|distance|height|rate|share|age|size|length)\b"
            r"|\bwie ?viele?\b|\bwie (?:hoch|groß|lange?|alt|weit|schnell|oft|schwer|tief)\b"
            r"|\bcombien\b|\bcuánt[oa]s?\b|\bquant[oiae]s?\b"
            r"|多少|几[个個人次年天种種]|幾|多[大高长長远遠久]|いくつ|いくら|何[人個回歳]|몇|얼마|сколько|كم|कितन"
        ),
    ),
    (
        "when",
        re.compile(
            r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|century|decade)s?\b|\bwann\b"
            r"|\b(?:welche[mnrs]? |im )jahr|\bquand\b|\bquelle année\b|\bcuándo\b|\bqué año\b"
            r"|\bquando\b|什么时候|什麼時候|何时|何時|哪一?年|何年|いつ|언제|когда|متى|कब"
        ),
    ),
    (
        "who",
        re.compile(
            r"\bwho(?:m|se)?\b|\bwe(?:r|m|n|ssen)\b|^qui\b|\bquién(?:es)?\b|\bquem\b|\bchi\b"
            r"|\b(?:what|which)(?: \w+)? (?:actor|actress|singer|author|president|king|queen|"
            r"person|man|woman|player|artist|scientist|leader|band|team|company)\b"
            r"|谁|誰|哪位|누구|누가|\bкто\b|कौन"
        ),
    ),
    (
        "where",
        re.compile(
            r"\bwhere\b|\b(?:what|which)(?: \w+)? (?:city|country|state|town|place|continent|river|"
            r"county|region|island|location)\b|\bwo(?:her|hin)?\b|\bwelche[mnrs]? (?:stadt|land)\b"
            r"|\boù\b|\bd[óo]nde\b|\bonde\b|\bdove\b|哪里|哪裡|哪儿|何处|在哪|哪[个個](?:城市|国家|國家|地方)"
            r"|どこ|어디|\bгде\b|أين|कहाँ"
        ),
    ),
)
_DATE: Final = re.compile(
    rf"\b1\d{{3}}s?\b|\b20\d\d\b|\d年|\b(?:{_MONTHS})\.? \d|\d\.? (?:{_MONTHS})\b", re.IGNORECASE
)
_TIME: Final = re.compile(
    rf"\b(?:{_MONTHS}|century|centuries|decade|jahrhunderts?|\w+day|siècle|siglo)\b|世纪|世紀|[月日]",
    re.IGNORECASE,
)
_FIGURE: Final = re.compile(r"\d[\d.,]*")
_YEAR: Final = re.compile(r"1\d{3}|20\d\d")
_NUMERAL: Final = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|half|"
    r"hundreds?|thousands?|million|billion|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|zwölf|"
    r"hundert|tausend|millionen|milliarden|deux|trois|quatre|cinq|dos|tres|cuatro|cinco)\b"
    r"|[一二三四五六七八九十百千万亿兩两]",
    re.IGNORECASE,
)
_PLACE: Final = re.compile(r"[省市县縣州区區岛島国國镇鎮村山河湖]")
_INTO_PLACES: Final = frozenset(
    "in at near from to into of im aus nach bei à en au dans de a desde".split()
)
_EDGES: Final = "\"'“”‘’«»„()[]{},;:.!?*_"


def answers_wh(question: str, text: str) -> float:
    """Say how well a piece of text holds the kind of thing that the question word asks for.

    Knows "when", "how many", "who" and "where" in several languages. What the question itself
    mentions is no answer. Names are told by their capitals, so in scripts without them "who" finds
    nothing.

    Args:
        question: Any text.
        text: One sentence, row or item.

    Returns:
        From 0.0 (no, or the question asks for no such kind) to 1.0.

    Example:
        >>> answers_wh("When was it built?", "It was built in 1889.")
        1.0
        >>> answers_wh("Who built it?", "It was built in 1889.")
        0.0
    """
    asked, mentioned = _asked(question)
    if asked == "when":
        return 1.0 if _DATE.search(text) else 0.5 if _TIME.search(text) else 0.0
    if asked == "number":
        figures = [match[0].rstrip(".,") for match in _FIGURE.finditer(text)]
        new = [figure for figure in figures if figure not in mentioned]
        if any(not _YEAR.fullmatch(figure) for figure in new):
            return 1.0
        return 0.7 if _NUMERAL.search(text) else 0.3 if new else 0.0
    if asked == "where" and _PLACE.search(text):
        return 0.7
    return _named(text, mentioned, places=asked == "where") if asked else 0.0


@lru_cache(maxsize=16)
def _asked(question: str) -> tuple[_Asked | None, frozenset[str]]:
    """Return the kind asked for, None if unknown, and what the question mentions."""
    folded = question.casefold()
    # The first one counts: "Who led it when it was built?" asks who.
    places = ((rule.search(folded), kind) for kind, rule in _ASKS)
    kind = min(((match.start(), kind) for match, kind in places if match), default=(0, None))[1]
    mentioned = {word.strip(_EDGES) for word in folded.split()}
    return kind, frozenset(mentioned | {word.removesuffix("'s") for word in mentioned})


def _named(text: str, mentioned: frozenset[str], *, places: bool) -> float:
    """Return how surely a text holds a name that is not mentioned; two words of one are sure."""
    best = 0.0
    before, run = "", 0
    for i, raw in enumerate(text.split()):
        word = raw.strip(_EDGES)
        folded = word.casefold().removesuffix("'s")
        if word[:1].isupper() and folded not in mentioned and not _TIME.fullmatch(word):
            run += 1
            sure = run > 1 or (places and before in _INTO_PLACES)
            # A capital that begins the sentence says nothing.
            best = max(best, 1.0 if sure and i > 1 else 0.6 if i else 0.0)
            run = run if raw[-1:] not in ",;:.!?" else 0
        else:
            run = 0
        before = folded
    return best
