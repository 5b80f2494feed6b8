"""What a question asks for, of how much, and as of when."""

from typing import Final

from costwise_core.cache.guards.reading import Reading

__all__ = ["asks_for", "extent", "moment"]

# fmt: off
_KINDS: Final = {
    word: kind
    for kind, words in (
        ("who", "who whom whose wer wem wen quién chi"),
        ("where", "where wo wohin woher où dónde dove onde waar"),
        ("when", "when wann quand cuándo wanneer"),
        ("why", "why warum wieso weshalb pourquoi waarom"),
        ("how", "how"),
        ("what", "what"),
    )
    for word in words.split()
}
# In English these also join clauses ("when I pay by card"), and ask only before a verb.
_JOINING: Final = frozenset("who whom where when why how what".split())
_VERBS: Final = frozenset(
    "is are was were do does did can could will would shall should has have had may might must "
    "to".split()
)
_AFTER_HOW: Final = {
    "much": "how much", "many": "how many", "long": "how long", "often": "how often",
    "far": "how far",
    "old": "how old", "soon": "when", "come": "why", "big": "how big", "tall": "how tall",
    "fast": "how fast",
    "frequently": "how often", "late": "how late", "early": "how early",
}
_AFTER_WHAT: Final = {"time": "when", "date": "when", "day": "when", "year": "when",
"age": "how old"}
_SPANS: Final = frozenset("time longer days weeks months years hours minutes seconds".split())
# "Where do I find it" and "how do I find it" are one wish, and "what is" asks for any measure.
_COMPATIBLE: Final = frozenset((
    ("how", "where"), ("how", "what"), ("what", "where"), ("how big", "what"),
    ("how early", "what"),
    ("how far", "what"), ("how fast", "what"), ("how late", "what"), ("how long", "what"),
    ("how many", "what"), ("how much", "what"), ("how often", "what"), ("how old", "what"),
    ("how tall", "what"),
))

_EXTENTS: Final = tuple(
    frozenset(words.split())
    for words in (
        "all every entire whole alle jeder jede tous toutes todos todas tutti tutte 全部 所有",
        "only solely exclusively nur seulement sólo solamente soltanto alleen apenas 只 仅",
        "except excluding besides außer sauf excepto eccetto behalve",
        "half quarter",
    )
)
_RATES: Final = {
    "hourly": "hour", "daily": "day", "nightly": "night", "weekly": "week", "monthly": "month",
    "quarterly": "quarter", "yearly": "year", "annual": "year", "annually": "year",
}
_ORDERS: Final = {
    word: kind
    for kind, words in (
        ("before", "before until till prior vor bevor avant antes prima voordat"),
        ("after", "after since following nach nachdem après después dopo nadat"),
        ("during", "during while whilst während pendant durante tijdens"),
        ("first", "first earliest initial"),
        ("last", "last final latest"),
        ("next", "next upcoming following"),
        ("previous", "previous previously prior former"),
        ("my", "my mine our"),
        ("your", "your yours"),
        ("their", "his her their hers theirs"),
    )
    for word in words.split()
}
_CLASHES: Final = (
    ("before", "after"), ("before", "during"), ("after", "during"), ("first", "last"),
    ("first", "next"),
    ("last", "next"), ("previous", "next"), ("first", "previous"), ("my", "their"), ("my", "your"),
)
_MOMENTS: Final = {
    word: kind
    for kind, words in (
        ("now", "now currently nowadays presently jetzt momentan maintenant ahora adesso agora nu"),
        ("today", "today tonight today's heute aujourd'hui hoy oggi hoje vandaag 今天 今日"),
        ("tomorrow", "tomorrow morgen demain mañana domani amanhã"),
        ("yesterday", "yesterday gestern hier ayer ieri ontem gisteren"),
        ("recent", "recent recently latest newest neueste dernier reciente"),
        ("past", "ago previously formerly historically"),
    )
    for word in words.split()
}
_PERIODS: Final = frozenset(
    "minute hour day week weekend month quarter year season morning afternoon evening night term "
    "woche monat jahr semaine mois année semana mes año settimana mese anno".split()
)
_POINTERS: Final = {
    "this": "this", "last": "last", "next": "next", "past": "last", "previous": "last",
    "coming": "next",
    "current": "this", "diese": "this", "diesen": "this", "dieses": "this", "letzte": "last",
    "letzten": "last",
    "letztes": "last", "nächste": "next", "nächsten": "next", "nächstes": "next",
}
# fmt: on


def asks_for(asked: Reading, stored: Reading) -> str | None:
    """Speak when the questions want different things: who, where, when, why, how many, how long.

    Questions answered by yes or no fit any of these, and "how" fits "where", because "how do I
    find it" and "where do I find it" are the same wish.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> asks_for(read("When does the shop open?"), read("Why does the shop open?"))
        'one asks when, the other why'
    """
    one, other = _wanted(asked.words), _wanted(stored.words)
    if not one or not other or any(_fit(a, b) for a in one for b in other):
        return None
    return f"one asks {min(one)}, the other {min(other)}"


def _fit(one: str, other: str) -> bool:
    return one == other or (one, other) in _COMPATIBLE or (other, one) in _COMPATIBLE


def _wanted(words: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    for i, word in enumerate(words):
        if word not in _KINDS and word != "which":
            continue
        after = words[i + 1] if i + 1 < len(words) else ""
        if word == "how" and after in _AFTER_HOW:
            unit = words[i + 2] if i + 2 < len(words) else ""
            found.add("how long" if unit in _SPANS else _AFTER_HOW[after])
        elif word in ("what", "which") and after in _AFTER_WHAT:
            found.add(_AFTER_WHAT[after])
        elif word in _KINDS and (
            word not in _JOINING or after in _VERBS or (not i and word == "who")
        ):
            found.add(_KINDS[word])
    return found


def extent(asked: Reading, stored: Reading) -> str | None:
    """Speak when one question is wider or elsewhere in order: all, only, still, first, before.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> extent(read("Can I delete all my photos?"), read("Can I delete my photos?"))
        'only one of the two says "all"'
    """
    for group in _EXTENTS:
        here, there = asked.vocabulary & group, stored.vocabulary & group
        if bool(here) != bool(there):
            return f'only one of the two says "{min(here or there)}"'
    for rate in sorted((asked.vocabulary | stored.vocabulary) & _RATES.keys()):
        period = {word for word, unit in _RATES.items() if unit == _RATES[rate]} | {_RATES[rate]}
        if period.isdisjoint(asked.vocabulary) or period.isdisjoint(stored.vocabulary):
            return f'only one of the two says "{rate}"'
    ours = _orders(asked.vocabulary - stored.vocabulary)
    theirs = _orders(stored.vocabulary - asked.vocabulary)
    for left, right in _CLASHES:
        for these, those in ((ours, theirs), (theirs, ours)):
            if left in these and right in those:
                return f'one says "{these[left]}", the other "{those[right]}"'
    return None


def _orders(words: frozenset[str]) -> dict[str, str]:
    return {_ORDERS[word]: word for word in sorted(words & _ORDERS.keys())}


def moment(asked: Reading, stored: Reading) -> str | None:
    """Speak when the questions are about different times: today, tomorrow, now, last year.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> moment(read("What is the rate today?"), read("What was the rate last year?"))
        'one is about today, the other about last year'
    """
    one, other = _moments(asked.words), _moments(stored.words)
    if one == other:
        return None
    return f"one is about {_said(one)}, the other about {_said(other)}"


def _said(moments: frozenset[str]) -> str:
    return min(moments) if moments else "no time it says"


def _moments(words: tuple[str, ...]) -> frozenset[str]:
    found: set[str] = set()
    for i, word in enumerate(words):
        after = words[i + 1] if i + 1 < len(words) else ""
        if word in _MOMENTS:
            found.add(_MOMENTS[word])
        elif word in _POINTERS and after in _PERIODS:
            found.add(f"{_POINTERS[word]} {after}")
        elif word == "current" and after not in ("account", "accounts"):
            found.add("now")
    return frozenset(found)
