"""Where sentences end, in many languages, without a model.

A stop that is no end costs an answer when only half of it is kept; an end that is missed costs a
few tokens. So in doubt a sentence goes on.
"""

import re
from typing import Final

__all__ = ["ends", "goes_on"]

_CLOSERS: Final = "\"'”’»›)\\]}」』）】》〉"
_OPENERS: Final = "\"'“”‘«»„‚‹›([{「『（【《〈¿¡*_"
_STOP: Final = re.compile(
    # Stops that are followed by a space, and what closes or cites after them.
    rf"(?<![.!?…])(?P<stop>[.!?…]++)"
    rf"(?:[{_CLOSERS}*_]|\[[^\[\]\n]{{1,20}}\]|</\w{{1,10}}>)*+(?=\s|<\w)"
    # Stops of scripts that put no space after them, or have no other use for the sign.
    rf"|[。！？｡؟۔।॥։።។။]+(?:[{_CLOSERS}]+(?=\s))?(?![{_CLOSERS}])"
)
_BEFORE: Final = re.compile(r"[^\s(\[{\"“”„‘«»—–/]+$")
_WORD: Final = re.compile(r"[^\W\d_]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Never the end, whatever follows; compared without the last stop, in lower case.
_ABBREVIATIONS: Final = _words(
    "mr mrs ms mx dr prof st ste sen rep gov gen col maj capt cpt cmdr lt sgt cpl pvt adm rev hon "
    "messrs mme mmes mlle mgr hr fr dipl ing sra srta dra dña mt ft vs viz cf e.g i.e eg ie approx "
    "a.k.a f.k.a d.b.a z.b d.h bzw ggf vgl evtl p.ej p.ex c.-à-d"
)
# Not the end before a number.
_NUMBERED: Final = _words(
    "no nos nr nrn num núm n° nº vol vols bd bde p pp pg pag pág s f ff ch chap kap sec sect par "
    "abschn § art arts abs fig figs abb tab eq eqs ex app anh ver v op al cat c ca about tel ext "
    "apt jan feb mar apr jun jul aug sep sept oct nov dec mär okt dez janv févr avr juil déc ene "
    "abr ago dic"
)
# May end a sentence or not: it does when a word follows that sentences begin with.
_EITHER: Final = _words(
    "inc ltd co corp llc bros jr sr esq pharm ph.d m.d etc usw usf al ave blvd rd dept univ assn "
    "gmbh aufl hrsg jh jhd ca incl excl resp esp ed eds trans orig est no nr art vol bd inkl exkl "
    "zzgl bspw insb geb gest max min u z.t z.z u.a s.o s.u o.ä u.ä o.g v.a a.m p.m b.c a.d ph "
    "jan feb mar apr jun jul aug sep sept oct nov dec okt dez mio mrd av apr j.-c env"
)
_STARTERS: Final = _words(
    "the a an this that these those it its he she they we i you his her their our my there here "
    "in on at by for from to with as after before during since until when while where who what why "
    "how although though because if but and or so however moreover furthermore meanwhile then thus "
    "also another other some many most several all both each no not one two today later according "
    "der die das ein eine einer dies diese dieser dieses er sie es wir ihr ich man im in am an auf "
    "bei mit nach vor seit für von zu als wenn während da und oder aber doch auch jedoch dann so "
    "le la les l un une des ce cet cette ces il elle ils elles on nous vous je en au aux dans par "
    "pour avec après avant depuis mais et ou où si el los las una este esta estos estas él ella "
    "ellos su sus se y pero con por para desde cuando o os um uma ele ela il lo gli i questo "
    "questa non nel nella de het een dit dat zij hij"
)
_ORDINAL_CUES: Final = _words(
    "am vom zum beim im der die das den dem des zur bis ab seit jedem jeden einem einen"
)
_COUNTED: Final = tuple(
    "januar jänner februar märz april mai juni juli august september oktober november dezember "
    "jahrhundert jh jahrtausend auflage klasse platz liga stock tag".split()
)
_ORDINAL: Final = re.compile(r"\d{1,3}\.,?$")
_ROMAN: Final = re.compile(r"[IVXLC]{1,6}")
_INITIAL: Final = re.compile(r"(?:[^\W\d_]\.-?)*[^\W\d_]")


def ends(text: str, start: int, end: int) -> list[int]:
    """Return the offsets at which sentences of `text[start:end]` end, without the last one.

    Args:
        text: Any text.
        start: Where its paragraph begins.
        end: Where its paragraph ends.

    Example:
        >>> ends("Dr. No paid 3.5 percent. Then he left.", 0, 38)
        [24]
    """
    found: list[int] = []
    begin = start
    # Chats and transcripts know no capitals: there a small letter begins a sentence too.
    small = not any(map(str.isupper, text[start:end]))
    for match in _STOP.finditer(text, start, end):
        at = match.end()
        after = _next(text, at, end)
        if after is None:
            break
        if match["stop"] is None or _is_end(text, begin, match, after, small=small):
            found.append(at)
            begin = at
    return found


def goes_on(line: str) -> bool:
    """Return whether a line ends with a word that leaves its sentence open.

    Example:
        >>> goes_on("It was founded in"), goes_on("It was founded")
        (True, False)
    """
    return line.rpartition(" ")[2] in _STARTERS


def _next(text: str, at: int, end: int) -> int | None:
    """Return where the text goes on after spaces and opening signs."""
    while at < end and (text[at].isspace() or text[at] in _OPENERS):
        at += 1
    return at if at < end else None


def _is_end(text: str, begin: int, match: re.Match[str], after: int, *, small: bool) -> bool:
    follows = text[after]
    if follows in ",;:.!?%)]}+=</&|" or (follows.islower() and not small):
        return False
    if match["stop"] != ".":
        return True
    # Longer than any abbreviation: enough to know what stands before the stop.
    window = text[max(begin, match.start() - 40) : match.start()]
    before = _BEFORE.search(window)
    if before is None:
        return True
    token, rest = before[0], window[: before.start()].split()
    lower = token.lower()
    if lower in _ABBREVIATIONS or lower.rpartition("-")[2] in _ABBREVIATIONS:
        return False
    word = _WORD.match(text, after, min(after + 30, len(text)))
    next_word = word[0].lower() if word else ""
    if word and len(next_word) == 1 and text.startswith(".", word.end()):
        next_word = ""  # one more initial
    open_ended = lower in _EITHER or _ROMAN.fullmatch(token) or _INITIAL.fullmatch(token)
    if follows.isdigit():
        return not open_ended and lower not in _NUMBERED
    if token.isdigit():
        return not _is_ordinal(token, rest, next_word)
    return not open_ended or next_word in _STARTERS


def _is_ordinal(token: str, before: list[str], next_word: str) -> bool:
    """Whether a number and its stop count something: "3. Mai", "die 2. Liga", or a list's item."""
    if len(token) > 3:
        return False
    if not before or next_word.startswith(_COUNTED):
        return True
    cued = before[-1].lower().strip("(") in _ORDINAL_CUES
    in_row = len(before) > 1 and _ORDINAL.match(before[-2]) is not None  # "18. und 19."
    return (cued or in_row) and next_word not in _STARTERS
