"""Numbers, dates, times, amounts and ids: the part of a question that embeddings hardly see."""

import re
from typing import Final, TypeAlias

from costwise_core.cache.guards.reading import Reading, stem

__all__ = ["amounts", "is_number", "is_span", "numbers"]

# fmt: off
_SMALL: Final = {
    word: value
    for value, words in enumerate((
        "zero null cero zéro", "one", "two zwei dos deux dois duas twee",
        "three drei tres trois tre três drie", "four vier cuatro quatre quattro quatro",
        "five fünf cinco cinq cinque vijf", "six sechs seis zes",
        "seven sieben siete sette sete zeven",
        "eight acht ocho huit otto oito", "nine neun nueve neuf nove negen",
        "ten zehn diez dix dieci dez tien", "eleven", "twelve zwölf doce douze dodici twaalf",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    ))
    for word in words.split()
}
_TENS: Final = {
    word: 10 * value
    for value, words in enumerate((
        "twenty zwanzig veinte vingt venti vinte twintig", "thirty dreißig dreissig treinta trente",
        "forty fourty vierzig", "fifty fünfzig", "sixty sechzig", "seventy", "eighty", "ninety",
    ), start=2)
    for word in words.split()
}
_SCALE: Final = {
    "hundred": 100, "hundert": 100, "thousand": 1_000, "tausend": 1_000, "million": 10**6,
    "mio": 10**6, "billion": 10**9, "bn": 10**9, "trillion": 10**12,
}
_ORDINALS: Final = {
    word: value
    for value, word in enumerate(
        "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(), start=3
    )
}
# One number of a thing is often no number at all ("one of my cards"): these satisfy a number on the
# other side but ask for none.
_SOFT: Final = {
    "one": 1, "first": 1, "single": 1, "once": 1, "second": 2, "twice": 2, "double": 2, "both": 2,
    "couple": 2, "pair": 2, "dozen": 12,
}
_MONTHS: Final = {
    word: f"month {number}"
    for number, words in enumerate((
        "january jan januar enero janvier gennaio janeiro januari",
        "february feb februar febrero février febbraio fevereiro februari",
        "march märz marzo mars março maart", "april apr abril avril aprile",
        "mai mayo maggio maio mei",
        "june jun juni junio juin giugno junho", "july jul juli julio juillet luglio julho",
        "august aug agosto août augustus",
        "september sep sept septiembre septembre settembre setembro",
        "october oct oktober octubre octobre ottobre outubro",
        "november nov noviembre novembre novembro",
        "december dec dezember diciembre décembre dicembre dezembro",
    ), start=1)
    for word in words.split()
}
_DAYS: Final = {
    word: f"weekday {number}"
    for number, words in enumerate((
        "monday mondays montag lunes lundi lunedì maandag",
        "tuesday tuesdays dienstag martes mardi martedì dinsdag",
        "wednesday wednesdays mittwoch miércoles mercredi mercoledì woensdag",
        "thursday thursdays donnerstag jueves jeudi giovedì donderdag",
        "friday fridays freitag viernes vendredi venerdì vrijdag",
        "saturday saturdays samstag sábado samedi sabato zaterdag",
        "sunday sundays sonntag domingo dimanche domenica zondag",
        "weekend weekends", "weekday weekdays",
    ), start=1)
    for word in words.split()
}
_CLOCK_WORDS: Final = {"noon": "12:00", "midday": "12:00", "midnight": "0:00"}
# Hours in each, a month being 30 days and a year 12 months: as people mean it when they ask.
_TIME_UNITS: Final = {
    word: hours
    for hours, words in (
        (1 / 60, "minute minutes min mins"),
        (1.0, "hour hours hr hrs h stunde stunden heure heures"),
        (24.0, "day days tag tage tagen jour jours día días giorni dagen"),
        (168.0, "week weeks woche wochen semaine semaines semana semanas settimane weken"),
        (720.0, "month months monat monate monaten mois mes meses mesi maanden"),
        (8640.0, "year years yr yrs jahr jahre jahren an ans año años anni anos jaar"),
    )
    for word in words.split()
}
_UNITS: Final = {
    word: unit
    for unit, words in (
        ("%", "% percent procent prozent"), ("usd", "$ usd dollar dollars us$"),
        ("eur", "€ eur euro euros"),
        ("gbp", "£ gbp pound pounds"), ("jpy", "¥ jpy yen"), ("inr", "₹ inr rupee rupees"),
        ("chf", "chf francs"), ("km", "km kilometre kilometres kilometer kilometers"),
        ("mi", "mile miles"), ("kg", "kg kilo kilos kilogram kilograms"), ("lb", "lb lbs"),
        ("g", "gram grams"), ("m", "metre metres meter meters"), ("ft", "ft feet foot"),
        ("gb", "gb gigabyte gigabytes"), ("mb", "mb megabyte megabytes"),
        ("tb", "tb terabyte terabytes"),
        ("c", "celsius"), ("f", "fahrenheit"),
    )
    for word in words.split()
}
# fmt: on
_NUMBER_WORDS: Final = {**_SMALL, **_TENS}
_UNIT_OF: Final = {
    **{word: f"{hours}h" for word, hours in _TIME_UNITS.items()},
    **_UNITS,
}
_SPEAKS: Final = frozenset(
    (
        *_NUMBER_WORDS,
        *_SCALE,
        *_ORDINALS,
        *_SOFT,
        *_MONTHS,
        *_DAYS,
        *_TIME_UNITS,
        *_CLOCK_WORDS,
        "may",
    )
)
_JUDGED: Final = frozenset((*_NUMBER_WORDS, *_SCALE, *_UNITS, *_MONTHS, *_DAYS, *_CLOCK_WORDS))
_SPANS: Final = frozenset(map(stem, _TIME_UNITS))
_ARTICLES: Final = frozenset("a an per ein eine einem einen un une una uno um uma een".split())
_MAY_BEFORE: Final = frozenset("in of since by until last next this for".split())

_DIGIT: Final = re.compile(r"\d")
_ISO: Final = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})")
_SLASHED: Final = re.compile(r"(\d{1,2})[/.](\d{1,2})[/.](\d{4})")
_CLOCK: Final = re.compile(r"(\d{1,2})(?:[:.](\d{2}))?(am|pm|uhr)")
_COLON: Final = re.compile(r"(\d{1,2}):(\d{2})")
_THOUSANDS: Final = re.compile(r"\d{1,3}(?:[.,]\d{3})+")
_PLAIN: Final = re.compile(r"([-−]?\d+(?:[.,]\d+)?)([^\W\d_]*)")
_SUFFIX: Final = {"k": 1_000, "mio": 10**6, "bn": 10**9}
_ORDINAL_ENDINGS: Final = frozenset(("st", "nd", "rd", "th", "er", "e", "ème", "º", "ª"))

_Fact: TypeAlias = tuple[str, str]
"""A value and its unit, "" for none."""


def numbers(asked: Reading, stored: Reading) -> str | None:
    """Speak when a number, date, time, amount or id of one question is missing in the other.

    "Fifteen percent" is 15 %, "7 pm" is 19:00, "2 weeks" are 14 days, 21/11/2026 is 21 November
    2026. A number on one side only counts as a difference.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> numbers(read("Remind me at 7am"), read("Remind me at 7pm"))
        'only one of the two says 7:00'
        >>> numbers(read("Is it free for 2 weeks?"), read("Is it free for fourteen days?")) is None
        True
    """
    if not (_has_numbers(asked) or _has_numbers(stored)):
        return None
    (hard_a, soft_a), (hard_s, soft_s) = _facts(asked), _facts(stored)
    if hard_a == hard_s:
        return None
    missing = _unmatched(hard_a, hard_s + soft_s) or _unmatched(hard_s, hard_a + soft_a)
    return f"only one of the two says {_shown(missing)}" if missing else None


def amounts(reading: Reading) -> tuple[tuple[str, str], ...]:
    """Return the numbers, dates, times and ids that a text insists on: values and their units.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> amounts(read("Three seats for $48k on 5 May"))
        (('3', ''), ('48000', 'usd'), ('5', ''), ('month 5', ''))
    """
    return tuple(_facts(reading)[0]) if _has_numbers(reading) else ()


def is_number(word: str) -> bool:
    """Whether `numbers` alone judges this word: digits, "seven", "%", "$", "march", "monday".

    Example:
        >>> is_number("48k"), is_number("seven"), is_number("grade")
        (True, True, False)
    """
    return word in _JUDGED or not (word.isalpha() or _DIGIT.search(word) is None)


def is_span(word: str) -> bool:
    """Whether this stem is a unit of time, judged by `numbers` where it follows a number.

    Example:
        >>> is_span("week"), is_span("weak")
        (True, False)
    """
    return word in _SPANS


def _has_numbers(reading: Reading) -> bool:
    return not reading.vocabulary.isdisjoint(_SPEAKS) or _DIGIT.search(reading.text) is not None


def _unmatched(needed: list[_Fact], offered: list[_Fact]) -> _Fact | None:
    units: dict[str, set[str]] = {}
    hours: set[float] = set()
    for value, unit in offered:
        units.setdefault(value, set()).add(unit)
        if (length := _hours(value, unit)) is not None:
            hours.add(length)
    for value, unit in needed:
        known = units.get(value, ())
        if known and (not unit or unit in known or "" in known):
            continue
        if _hours(value, unit) not in hours:
            return value, unit
    return None


def _hours(value: str, unit: str) -> float | None:
    """How long a time span is, to compare weeks with days; None for anything else."""
    if not unit.endswith("h") or not unit[0].isdigit():
        return None
    try:
        return round(float(value) * float(unit[:-1]), 2)
    except ValueError:
        return None


def _shown(fact: _Fact) -> str:
    value, unit = fact
    return value if not unit or unit[0].isdigit() else f"{value} {unit}"


def _facts(reading: Reading) -> tuple[list[_Fact], list[_Fact]]:
    """The numbers a question insists on, and those it may be said to contain."""
    words = reading.words
    hard: list[_Fact] = []
    soft: list[_Fact] = []
    at = 0
    while at < len(words):
        word = words[at]
        if _DIGIT.search(word):
            read, at = _numeral(words, at)
            hard += read
        elif word in _NUMBER_WORDS or word in _SCALE:
            value, end = _spelled(words, at)
            soft_one = end == at + 1 and word in _SOFT
            (soft if soft_one else hard).append((_text(value), _unit(words, at, end)))
            at = end
        else:
            if word in _SOFT:
                soft.append((str(_SOFT[word]), ""))
            elif word in _ORDINALS:
                hard.append((str(_ORDINALS[word]), ""))
            elif word in _MONTHS or word in _DAYS or word in _CLOCK_WORDS:
                hard.append((_MONTHS.get(word) or _DAYS.get(word) or _CLOCK_WORDS[word], ""))
            elif word == "may" and _is_month(words, at):
                hard.append(("month 5", ""))
            elif word in _TIME_UNITS and at and words[at - 1] in _ARTICLES:
                soft.append(("1", _UNIT_OF[word]))
            at += 1
    return hard, soft


def _numeral(words: tuple[str, ...], at: int) -> tuple[list[_Fact], int]:
    """Read what begins with the digits at `at`, and where it ends."""
    word = words[at]
    after = words[at + 1] if at + 1 < len(words) else ""
    if date := _ISO.fullmatch(word):
        return _date(date[1], date[2], date[3]), at + 1
    if date := _SLASHED.fullmatch(word):
        day, month = (date[1], date[2]) if int(date[1]) > 12 else (date[2], date[1])
        # 03/04/2026 is March to some and April to others: equal only to itself.
        return ([(word, "")] if int(day) <= 12 else _date(date[3], month, day)), at + 1
    if after in ("am", "pm", "uhr") and not word.endswith(("am", "pm")):
        word, at = word + after, at + 1
    if (clock := _CLOCK.fullmatch(word)) or (clock := _COLON.fullmatch(word)):
        hour, minute = int(clock[1]), clock[2] or "00"
        half = clock[3] if clock.re is _CLOCK else ""
        hour = hour % 12 + 12 * (half == "pm") if half in ("am", "pm") else hour
        return [(f"{hour}:{minute}", "")], at + 1
    if _THOUSANDS.fullmatch(word):
        word = word.replace(",", "").replace(".", "")
    plain = _PLAIN.fullmatch(word)
    if plain is None:  # a version, an id, a phone number: only equal to itself
        return [(word, "")], at + 1
    number, ending = plain[1].replace(",", ".").replace("−", "-"), plain[2]
    scale = _SUFFIX.get(ending) or _SCALE.get(after if not ending else "") or 1
    end = at + 1 + (not ending and after in _SCALE)
    if scale > 1 and len(number) < 16:
        number = _text(float(number) * scale)
    elif number.endswith(".00"):
        number = number[:-3]
    if ending in _ORDINAL_ENDINGS or ending in _SUFFIX:
        ending = ""
    return [(number, _UNIT_OF.get(ending, ending) or _unit(words, at, end))], end


def _date(year: str, month: str, day: str) -> list[_Fact]:
    return [(year, ""), (f"month {int(month)}", ""), (str(int(day)), "")]


def _spelled(words: tuple[str, ...], at: int) -> tuple[int, int]:
    """Read a number written in words, such as "two hundred and fifty", and where it ends."""
    total = current = 0
    while at < len(words):
        word = words[at]
        if word in _NUMBER_WORDS:
            value = _NUMBER_WORDS[word]
            if current % 10 and value < 100:  # "two three" are two numbers
                break
            current += value
        elif word in _SCALE and _SCALE[word] == 100:
            current = max(1, current) * 100
        elif word in _SCALE:
            total, current = total + max(1, current) * _SCALE[word], 0
        elif not (
            word == "and"
            and at + 1 < len(words)
            and words[at + 1] in _NUMBER_WORDS
            and words[at - 1] in _SCALE
        ):
            break
        at += 1
    return total + current, at


def _unit(words: tuple[str, ...], at: int, end: int) -> str:
    """The unit of the number between `at` and `end`: behind it, or a sign before it."""
    if end < len(words) and words[end] in _UNIT_OF:
        return _UNIT_OF[words[end]]
    return _UNITS.get(words[at - 1], "") if at and not words[at - 1].isalpha() else ""


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _is_month(words: tuple[str, ...], at: int) -> bool:
    before = words[at - 1] if at else ""
    after = words[at + 1] if at + 1 < len(words) else ""
    return before in _MAY_BEFORE or bool(_DIGIT.match(before) or _DIGIT.match(after))
