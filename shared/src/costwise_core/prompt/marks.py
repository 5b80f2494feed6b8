"""Where in a list of messages the provider is to be told to cache: for the adapters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from costwise_core.prompt.provider_cache import terms_of
from costwise_core.prompt.volatile import changing
from costwise_core.tokens import shared_tokens

__all__ = ["TOOLS", "Mark", "Role", "Said", "marks_in", "steady_prefix"]

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
TOOLS: Final = -1
_SLACK: Final = 0.8
"""Tokens are an estimate here. A mark too early costs nothing; one left out costs the discount."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A message, as far as marking goes.

    Args:
        role: Who says it.
        text: What it says.
        markable: Whether the framework can mark the end of this message.

    Example:
        >>> Said(role="user", text="Hello").markable
        True
    """

    role: Role
    text: str
    markable: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A place up to which the provider is to cache.

    Args:
        message: Which message, from 0; `TOOLS` is the end of the tools, before all messages.
        end: How many characters of its text belong to it; None is all of the message.

    Example:
        >>> Mark(message=0).end is None
        True
    """

    message: int
    end: int | None = None


def marks_in(messages: Sequence[Said], *, model: str, tools: str = "") -> tuple[Mark, ...]:
    """Return where a provider is to be told to cache, in order; at most three places.

    They are: the end of the instructions, but before anything in them that changes with each call;
    then, if nothing does, the end of the history before the last question; then, where tools are
    offered or were used, the end of all, since the next step of the agent sends it again. What is
    too short for the provider is left out.

    Args:
        messages: In order.
        model: As the provider names it.
        tools: Of the tools' descriptions, which come before all messages.

    Example:
        >>> rules = Said(role="system", text="Cite the page of every figure. " * 300)
        >>> marks_in([rules, Said(role="user", text="Why?")], model="claude-sonnet-4-5")
        (Mark(message=0, end=None),)
    """
    terms = terms_of(model)
    if terms is None or terms.how != "marked":
        return ()
    count = shared_tokens().counter(model)
    ends = [count(tools)] if tools else [0]
    for one in messages:
        ends.append(ends[-1] + count(one.text))
    least = terms.least * _SLACK
    system = _leading_system(messages)
    cut = _first_change(messages[:system])
    if cut is not None:
        changed, end = cut
        before = ends[changed] + count(messages[changed].text[:end])
        if before < least:
            return ()
        if end:
            return (Mark(message=changed, end=end),)
        return (Mark(message=changed - 1),) if changed or tools else ()
    wanted = [system - 1, _last_question(messages) - 1]
    if tools or any(one.role == "tool" for one in messages):
        wanted.append(len(messages) - 1)
    found = []
    for place in wanted:
        number = _markable(messages, place)
        if number is not None and ends[number + 1] >= least and Mark(message=number) not in found:
            found.append(Mark(message=number))
    return tuple(found)


def steady_prefix(messages: Sequence[Said]) -> list[str]:
    """Return the instructions that are the same in each call: what a cache key is made of.

    Example:
        >>> steady_prefix([Said(role="system", text="Be brief."), Said(role="user", text="Why?")])
        ['Be brief.']
    """
    system = _leading_system(messages)
    cut = _first_change(messages[:system])
    if cut is None:
        return [one.text for one in messages[:system]]
    number, end = cut
    return [*(one.text for one in messages[:number]), messages[number].text[:end]]


def _leading_system(messages: Sequence[Said]) -> int:
    others = (place for place, one in enumerate(messages) if one.role != "system")
    return next(others, len(messages))


def _first_change(messages: Sequence[Said]) -> tuple[int, int] | None:
    for number, one in enumerate(messages):
        starts = [found.span[0] for found in changing(one.text) if found.each == "call"]
        if starts:
            # The white space before it would be a token of its own there, and none with a word.
            return number, len(one.text[: starts[0]].rstrip())
    return None


def _last_question(messages: Sequence[Said]) -> int:
    asked = [place for place, one in enumerate(messages) if one.role == "user"]
    return asked[-1] if asked else 0


def _markable(messages: Sequence[Said], place: int) -> int | None:
    return next((one for one in range(place, -1, -1) if messages[one].markable), None)
