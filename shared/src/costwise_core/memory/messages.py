"""The values of a conversation: its messages, whose it is, and what stands for the old ones."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Conversation", "Message", "Summary", "borders", "digest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of a conversation, in neither framework's words.

    The system prompt is no message of a conversation: it stays in front of it whatever is folded.

    Args:
        role: Who says it.
        text: What is said, as the model reads it.
        id: Unique in its conversation. Stores give a message without one a digest of its content
            and of how often that occurred.
        name: The speaker, or the tool.
        at: Seconds since the epoch, None where nobody knows.
        calls: Ids of the tool calls that it makes.
        answers: Id of the call that this tool result answers.
        tokens: What it costs in a prompt, tool calls and thinking included; 0 is not counted yet.
        raw: The adapter's own JSON, to give the framework's object back unchanged.

    Example:
        >>> Message(role="user", text="Where is my parcel?", tokens=5).name
        ''
    """

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    id: str = ""
    name: str = ""
    at: float | None = None
    calls: tuple[str, ...] = ()
    answers: str = ""
    tokens: int = 0
    raw: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Whose conversation and which; two tenants or users never meet, whatever their ids are.

    Args:
        id: Unique for its tenant and user.
        tenant: Whose data it may contain.
        user: Who can ask for its deletion.

    Example:
        >>> Conversation(id="1", tenant="a").key == Conversation(id="1", tenant="b").key
        False
    """

    id: str
    tenant: str = ""
    user: str = ""

    @property
    def key(self) -> str:
        """32 hexadecimal digits that differ whenever any field differs."""
        canonical = json.dumps([self.tenant, self.user, self.id], ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What stands for the first messages of a conversation in its prompts.

    Args:
        text: What the model reads in their place.
        folded: How many messages it stands for.
        tokens: Of `text`.
        version: Grows by one with each replacement; the number to compare before swapping.
        digest: `digest` of the folded messages, so that it is never put before other ones.
        written: How many of them a model has read into the text; those from here to `folded` are
            in it only by sentences taken over word for word.
        seen: How many messages there were when it was made. Calls after that saved with it.
        saved_usd: What the conversation had saved against sending its whole history until then,
            in dollars, after every fold's own price. The planner spends no more than this.

    Example:
        >>> Summary().folded
        0
    """

    text: str = ""
    folded: int = 0
    tokens: int = 0
    version: int = 0
    digest: str = ""
    written: int = 0
    seen: int = 0
    saved_usd: float = 0.0


def borders(messages: Sequence[Message]) -> tuple[int, ...]:
    """Return the indexes at which a conversation can be cut in two, in order.

    A cut lies before a user's message, so that what is kept begins with a question, and never
    between a tool call and its result, which providers refuse. The first message is no border.

    Example:
        >>> talk = [Message(role=role, text="") for role in ("user", "assistant", "user")]
        >>> borders(talk)
        (2,)
    """
    last_use = {}
    for index, message in enumerate(messages):
        for call in (*message.calls, *([message.answers] if message.answers else [])):
            last_use[call] = index
    found, needed = [], 0
    for index, message in enumerate(messages):
        # `needed` is the first index that no call made before it still waits for.
        if index and message.role == "user" and needed <= index:
            found.append(index)
        for call in message.calls:
            # A call without a result so far may get one with the next message.
            answered = last_use[call] > index
            needed = max(needed, last_use[call] + 1 if answered else len(messages) + 1)
    return tuple(found)


def digest(messages: Sequence[Message]) -> str:
    """Return 32 hexadecimal digits of the messages' ids, or of their contents where they have none.

    Example:
        >>> digest([Message(role="user", text="a")]) == digest([Message(role="user", text="b")])
        False
    """
    known = [one.id or [one.role, one.name, one.text, one.answers] for one in messages]
    return hashlib.sha256(json.dumps(known, ensure_ascii=True).encode()).hexdigest()[:32]
