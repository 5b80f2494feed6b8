"""Names for messages that have none, the same ones whenever the same history is handed over."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from costwise_core.memory.messages import Message

__all__ = ["named"]


def named(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages, each with an id.

    One without gets a digest of its content and of how often that occurred before it. So a history
    that is handed over again has the same ids again, and two equal messages in it stay two. The
    list is read as a history from its beginning: whoever hands over only what is new gives ids,
    since nothing else tells a second "ok" from the first one sent twice.

    Args:
        messages: Of one conversation, oldest first. Times, token counts and `raw` do not matter.

    Example:
        >>> ok = Message(role="user", text="ok")
        >>> first, second = named([ok, ok])
        >>> first.id == second.id, first == named([ok])[0]
        (False, True)
    """
    seen = Counter[bytes]()
    found = []
    for message in messages:
        if not message.id:
            content = _content(message)
            ident = hashlib.blake2b(b"%d %b" % (seen[content], content), digest_size=16)
            seen[content] += 1
            message = replace(message, id=ident.hexdigest())  # noqa: PLW2901
        found.append(message)
    return tuple(found)


def _content(message: Message) -> bytes:
    texts = (message.role, message.text, message.name, message.answers, *message.calls)
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)
