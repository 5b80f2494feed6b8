"""Which conversation a caller means who hands over all of it, its end, or only what is new."""

from collections.abc import Sequence
from dataclasses import replace

from costwise_core.memory.messages import Message
from costwise_core.memory.naming import named

__all__ = ["matched"]


def matched(stored: Sequence[Message], given: Sequence[Message]) -> tuple[Message, ...]:
    """Return the conversation that a list of messages stands for, each message with an id.

    The first message that is known says where the list begins; from there on the list is right and
    replaces what is stored, so an answer that was made anew, or a branch, is what is gone on with.
    A list without any known message is what comes next. A message that is known but reads otherwise
    was edited, and is another message; only tool results are often shortened on their way.

    Args:
        stored: What the store has, oldest first.
        given: All messages, those since some point, or new ones. Without ids they are matched by
            content: as a whole history if they begin as the stored one does, else as new ones.

    Example:
        >>> one, two, three = named([Message(role="user", text=text) for text in "abc"])
        >>> [len(matched([one, two], given)) for given in ([one, two, three], [three])]
        [3, 3]
        >>> [message.text for message in matched([one, two], [one, three])]
        ['a', 'c']
    """
    place = {message.id: at for at, message in enumerate(stored)}
    given = _with_ids(stored, given)
    starts = next((at for at, one in enumerate(given) if one.id in place), None)
    if starts is None:
        before = tuple(stored)
    else:
        # What stands before the first known message was put there by the caller.
        before = () if starts else tuple(stored[: place[given[0].id]])
    now = tuple(
        replace(one, id=_edition(one))
        if one.id in place and _edited(stored[place[one.id]], one)
        else one
        for one in given
    )
    return (*before, *now)


def _edited(stored: Message, message: Message) -> bool:
    return message.role != "tool" and (stored.role, stored.text) != (message.role, message.text)


def _edition(message: Message) -> str:
    (edition,) = named([replace(message, id="")])
    return f"{message.id}~{edition.id[:8]}"


def _with_ids(stored: Sequence[Message], given: Sequence[Message]) -> tuple[Message, ...]:
    if not stored or all(message.id for message in given) or _begins(stored, given):
        return named(given)
    # Only new ones. What ends the stored history and begins the list was handed over before.
    said = [_said(message) for message in stored]
    saying = [_said(message) for message in given]
    most = min(len(said), len(saying))
    again = next(n for n in range(most, -1, -1) if said[len(said) - n :] == saying[:n])
    before = [replace(message, id="") for message in stored]
    numbered = named([*before, *given[again:]])[len(stored) :]
    return (*stored[len(stored) - again :], *numbered)


def _begins(stored: Sequence[Message], given: Sequence[Message]) -> bool:
    # A single message that says again what the first one said ("hi") is rather a new one.
    alone = len(given) == 1 < len(stored)
    return not alone and _said(stored[0]) == _said(given[0])


def _said(message: Message) -> tuple[str, str, str]:
    return (message.role, message.name, message.text)
