"""Old turns for a question, from indexes that are kept for the conversations asked about lately."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from costwise_core.drive import Flow, call
from costwise_core.memory.counts import Counts
from costwise_core.memory.messages import Conversation, Message

if TYPE_CHECKING:
    from costwise_core.memory.recall import Recalled, TurnIndex
    from costwise_core.protocols import Embedder, TokenCounter

__all__ = ["Recalling"]

CONVERSATIONS: Final = 64
"""Conversations whose words and vectors are kept, so that the next question costs less."""


class Recalling:
    """Recalls, and fails open.

    Args:
        embedder: For recall by meaning.
        count: Counts tokens.
        counts: Told about faults.
    """

    def __init__(self, embedder: "Embedder | None", count: "TokenCounter", counts: Counts) -> None:
        self._embedder = embedder
        self._count = count
        self._counts = counts
        self._kept: OrderedDict[str, tuple[tuple[str, ...], TurnIndex]] = OrderedDict()
        self._lock = threading.Lock()

    def relevance(
        self, conversation: Conversation, history: Sequence[Message], folded: int, question: str
    ) -> Flow[float]:
        """Return how much the folded messages have to do with a question, from 0 to 1."""
        if not folded or not question.strip():
            return 0.0
        try:
            index = yield from call(self._index, conversation, history)
            return (yield from call(index.relevance, question, until=folded))
        except Exception as error:  # noqa: BLE001 - recall is a help, never a condition
            self._counts.error(error)
            return 0.0

    def recalled(
        self,
        conversation: Conversation,
        history: Sequence[Message],
        folded: int,
        question: str,
        budget: int,
    ) -> Flow["Recalled | None"]:
        """Return the folded messages that matter for a question, None if there are none."""
        if not folded or not budget or not question.strip():
            return None
        try:
            index = yield from call(self._index, conversation, history)
            found = yield from call(index.recall, question, budget_tokens=budget, until=folded)
        except Exception as error:  # noqa: BLE001 - likewise
            self._counts.error(error)
            return None
        if found.fault:
            self._counts.add("error", found.fault)
        return found

    def _index(self, conversation: Conversation, history: Sequence[Message]) -> "TurnIndex":
        from costwise_core.memory.recall import TurnIndex  # noqa: PLC0415 - it brings numpy

        ids = tuple(message.id for message in history)
        with self._lock:  # taken out, so that two callers never add to one
            known, index = self._kept.pop(conversation.key, ((), None))
        if index is None or known != ids[: len(known)]:
            known, index = (), TurnIndex(embedder=self._embedder, counter=self._count)
        index.extend(history[len(known) :])
        with self._lock:
            self._kept[conversation.key] = (ids, index)
            while len(self._kept) > CONVERSATIONS:
                self._kept.popitem(last=False)
        return index
