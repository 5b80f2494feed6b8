"""The guards in order, and the first that objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from costwise_core.cache.guards.entities import direction, names
from costwise_core.cache.guards.negation import negation, opposites
from costwise_core.cache.guards.quantities import numbers
from costwise_core.cache.guards.reading import Reading, read
from costwise_core.cache.guards.scope_words import asks_for, extent, moment
from costwise_core.cache.guards.swap import swap

__all__ = ["GUARDS", "Guard", "Veto", "first_objection", "veto"]

Guard: TypeAlias = Callable[[Reading, Reading], str | None]
"""Takes the question asked and the one stored; returns one sentence against serving, or None.

Any function will do; its name is what is counted.
"""

GUARDS: Final[tuple[Guard, ...]] = (
    numbers,
    negation,
    opposites,
    asks_for,
    moment,
    extent,
    direction,
    names,
    swap,
)
"""All guards, those with the plainest reasons first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Veto:
    """Why a stored answer must not be served.

    Args:
        guard: Name of the guard that spoke.
        why: One sentence for a person. It quotes words of the questions, so keep it out of logs.
    """

    guard: str
    why: str


def veto(asked: str, stored: str, guards: Sequence[Guard] = GUARDS) -> Veto | None:
    """Say why the answer to one question must not be served for the other, None if nothing speaks.

    Questions with the same words are never kept apart, whatever their case, spacing and
    punctuation. None is no promise that the answers agree: it leaves the decision to similarity.

    Args:
        asked: The question asked now, any string.
        stored: The question whose answer is stored.
        guards: What may object, in the order they are asked.

    Example:
        >>> veto("Is it open on Saturday?", "Is it open on Sunday?")
        Veto(guard='numbers', why='only one of the two says weekday 6')
        >>> veto("How do I reset my password?", "how can I reset the password") is None
        True
    """
    return first_objection(read(asked), read(stored), guards)


def first_objection(asked: Reading, stored: Reading, guards: Sequence[Guard]) -> Veto | None:
    """Do what `veto` does for two questions that are read already.

    Example:
        >>> first_objection(read("Who is it?"), read("who is it"), GUARDS) is None
        True
    """
    if asked.words == stored.words:
        return None
    for guard in guards:
        why = guard(asked, stored)
        if why is not None:
            return Veto(guard=getattr(guard, "__name__", type(guard).__name__), why=why)
    return None
