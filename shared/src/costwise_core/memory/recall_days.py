"""Days that a question names, and how near to them a message was said."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, TypeAlias

from costwise_core.cache.guards.quantities import amounts
from costwise_core.cache.guards.reading import read
from costwise_core.memory.messages import Message

__all__ = ["Day", "day_of", "days_named", "nearness"]

Day: TypeAlias = tuple[int, int, int]
"""Year, month and day of the month; 0 where it is not known."""

_MONTH: Final = "month "
_YEARS: Final = range(1900, 2200)
_READ: Final = 2_000
"""Characters of a question that are looked through for dates."""


def day_of(message: Message) -> Day:
    """Return the day of a message in UTC, zeros where it is not known.

    Example:
        >>> day_of(Message(role="user", text="", at=0.0)), day_of(Message(role="user", text=""))
        ((1970, 1, 1), (0, 0, 0))
    """
    if message.at is None:
        return (0, 0, 0)
    try:
        at = datetime.fromtimestamp(message.at, UTC)
    except (OverflowError, OSError, ValueError):  # no time that a calendar has
        return (0, 0, 0)
    return (at.year, at.month, at.day)


def days_named(question: str) -> tuple[Day, ...]:
    """Return the dates in a question that name a month or a year, in seven languages and in digits.

    Example:
        >>> days_named("What did Ada eat on 3 May 2026, and what in June?")
        ((2026, 5, 3), (0, 6, 0))
        >>> days_named("2026-05-03"), days_named("In 2026?"), days_named("Three of 5?")
        (((2026, 5, 3),), ((2026, 0, 0),), ())
    """
    said = [value for value, _ in amounts(read(question[:_READ]))]
    found: list[Day] = []
    used: set[int] = set()
    for at, value in enumerate(said):
        if value.startswith(_MONTH):
            # A day stands before or after its month, a year at most one number further.
            near = [i for i in (at - 1, at + 1, at + 2) if 0 <= i < len(said) and i not in used]
            if at + 1 in near and said[at + 1].startswith(_MONTH):
                near = near[: near.index(at + 1)]
            day = next((i for i in near if _in(said[i], range(1, 32)) and abs(i - at) == 1), None)
            year = next((i for i in near if _in(said[i], _YEARS)), None)
            used |= {i for i in (day, year) if i is not None}
            found.append(
                (
                    0 if year is None else int(said[year]),
                    int(value.removeprefix(_MONTH)),
                    0 if day is None else int(said[day]),
                )
            )
    years = (value for i, value in enumerate(said) if i not in used and _in(value, _YEARS))
    return (*found, *((int(year), 0, 0) for year in years))


def nearness(day: Day, named: Sequence[Day]) -> float:
    """Return how much of the nearest named date a day agrees with, from 0 to 1.

    Year, month and day count a third each, the smaller only where the larger agree.

    Example:
        >>> round(nearness((2026, 5, 4), [(2026, 5, 3)]), 2), nearness((2025, 5, 3), [(2026, 5, 3)])
        (0.67, 0.0)
    """
    best = 0
    for each in named:
        agreed = 0
        for ours, theirs in zip(day, each, strict=True):
            if theirs and ours != theirs:
                break
            agreed += bool(theirs)
        best = max(best, agreed)
    return best / 3


def _in(value: str, numbers: range) -> bool:
    return value.isdecimal() and len(value) <= 4 and int(value) in numbers
