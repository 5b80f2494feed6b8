"""Words that several rules share: number words, fillers, what makes a text a question."""

import re
from functools import lru_cache
from textwrap import dedent
from typing import Final

__all__ = [
    "DAYS",
    "FILLERS",
    "LEADS",
    "NUMBERS",
    "YES",
    "asks",
    "either",
    "phrases",
    "stem",
    "words",
]


def words(text: str) -> frozenset[str]:
    """Return the words of a text that lists them.

    Example:
        >>> sorted(words("one two"))
        ['one', 'two']
    """
    return frozenset(text.split())


def either(text: str) -> str:
    """Return a piece of a regular expression that matches any of the listed words.

    Example:
        >>> either("one two")
        'one|two'
    """
    return "|".join(text.split())


def phrases(text: str, *, start: str = r"\b") -> re.Pattern[str]:
    """Compile a list of phrases, one regular expression a line, into one that finds any of them.

    Args:
        text: The list, in lower case, for text in lower case: twice as fast as ignoring case.
            Lines that begin with "#" are comments; a line that is further in goes on with the one
            before it.
        start: What every phrase must begin at.

    Example:
        >>> phrases("right now").search("do it right now!")[0]
        'right now'
    """
    lines = [line for line in dedent(text).splitlines() if line and line[0] != "#"]
    one_each = "\n".join(lines).replace("\n    ", "").splitlines()
    return re.compile(f"{start}(?:{'|'.join(one_each)})")


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """Cut the commonest English endings off a lower-case word.

    Less than the guards' `uninflected`: that takes "weekly" for "week", by which conversations that
    differ in just this would agree.

    Example:
        >>> stem("tickets"), stem("booked")
        ('ticket', 'book')
    """
    word = word.removesuffix("'s")
    if word.endswith(("ss", "us", "is")):
        return word
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


_UNITS: Final = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
YES: Final = words("yes yeah yep yup ja oui sí si sì sim")
"""Assent; what an assistant or a user begins with it may turn on this word."""

NUMBERS: Final = {word: str(value) for value, word in enumerate(_UNITS.split(), start=2)} | {
    "couple": "2",
    "dozen": "12",
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "sixty": "60",
    "seventy": "70",
    "eighty": "80",
    "ninety": "90",
    "hundred": "100",
    "thousand": "1000",
}
"""English number words; "one" is left out because it mostly is a pronoun."""

DAYS: Final = frozenset(
    word.capitalize()
    for word in words(
        "monday tuesday wednesday thursday friday saturday sunday january february march april "
        "june july august september october november december montag dienstag mittwoch donnerstag "
        "freitag samstag sonntag lundi mardi mercredi jeudi vendredi samedi dimanche lunes martes "
        "jueves viernes sábado domingo"
    )
)
"""Days and months, capitalised; "may" is left out because it mostly is a verb."""

FILLERS: Final = words(
    "a an the and or but so if then than as of at by for from in into on onto out over to up with "
    "about is are was were be been being am do does did done have has had having can could will "
    "would shall should may might must i me my mine we us our ours you your yours he him his she "
    "her hers it its they them their theirs this that these those there here who whom whose which "
    "what when where why how not no never nor ok okay oh ah ha haha lol hi hey hello hiya thanks "
    "thank cheers please pls welcome sorry great lovely perfect sure course right fine cool nice "
    "brilliant glad happy help hope day one some any all both each every just also too very "
    "really quite still yet already again even though because while during per via let's let get "
    "got getting go going gone come coming want wanted need needed like know think see look "
    "looking make made anything something nothing everything else thing things bit lot bits lots "
    "well now actually honestly quick question questions more most much many other others ask "
    "asking tell told said say i'm i've i'll i'd it's that's you're you've you'll we're we've "
    "we'll they're they've there's what's who's here's he's she's don't doesn't didn't can't "
    "couldn't won't wouldn't isn't aren't wasn't haven't hasn't dont doesnt didnt cant wont isnt "
    "thats whats im ive noted understood agreed touch btw mate ugh phew gutted typical roughly "
    "maybe around der die das ein eine und oder aber ich du er sie es wir ihr ist sind war mit "
    "für von zu auf den dem des le la les un une et ou mais je tu il elle nous vous est sont avec "
    "pour de au aux el los las una y o pero yo son con por para del al"
)
"""Words that carry no fact: grammar, courtesy, and what every chat is full of."""

LEADS: Final = (
    "and so but also then please ok okay yes yeah yep right hi hello hey well thanks cool fine "
    "great no hmm ah oh perfect alright sure unrelated btw"
)
"""What people begin a message with before they come to the point."""

_INTERROGATIVES: Final = (
    "what when where which who whom whose why how is are was were does did can could will would "
    "should shall may has have am wer wie wo wann warum welche welcher ist sind kann gibt quel "
    "quelle quand comment où pourquoi combien est-ce cómo cuándo dónde cuál cuánto qué quando onde "
    "quanto como dove perché che wat hoe waar wanneer heeft"
)
_IMPERATIVES: Final = (
    "explain describe list name compare define translate write calculate summarize summarise"
)
_OPENS: Final = re.compile(
    rf"(?i)^(?:(?:{either(LEADS)}|got it)[\s,.!]+)*(?:do(?! (?:it|that|this|so)\b)|"
    rf"(?:tell|show|give) me|{either(_INTERROGATIVES)}|{either(_IMPERATIVES)})\b"
)
_INTERROGATIVE: Final = re.compile(rf"(?i)\b(?:do|{either(_INTERROGATIVES)})\b")
_ASKS_CJK: Final = re.compile(r"か[。\s]*$|[？吗呢]")


def asks(text: str) -> bool:
    """Return whether a text asks for something that can be answered with words.

    Example:
        >>> asks("which one is cheaper"), asks("yes, do it"), asks("six of us, at 7.30?")
        (True, False, False)
    """
    marked = "?" in text and _INTERROGATIVE.search(text)
    return bool(marked or _OPENS.search(text) or _ASKS_CJK.search(text))
