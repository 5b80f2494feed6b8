"""A conversation's memory: what of it goes into the next prompt, decided by price.

It stands between nobody and their model: when the store or the summariser fails, that is counted
and the history is sent as it was given.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.memory.background import Background
from costwise_core.memory.counts import Counts, MemoryStats
from costwise_core.memory.deciding import Deciding, standing
from costwise_core.memory.economics import MemoryPrices
from costwise_core.memory.explained import Explained
from costwise_core.memory.facts import facts_of, missing
from costwise_core.memory.folding import LEASE_SECONDS, Folding, Live
from costwise_core.memory.looking import Looking, asked, check, turns_of, view_of
from costwise_core.memory.matching import matched
from costwise_core.memory.messages import Conversation, Message, Summary
from costwise_core.memory.plan import MemoryPolicy
from costwise_core.memory.recalling import Recalling
from costwise_core.memory.view import MemoryView

if TYPE_CHECKING:
    from costwise_core.protocols import Completer, ConversationStore, Embedder, TokenCounter

__all__ = ["ConversationMemory"]

WAIT_SECONDS: Final = 20.0


class ConversationMemory:
    """Keeps conversations whole in a store, and short in prompts where that pays.

    Old messages are folded into a summary when the prices say so, never the newest ones and never
    between a tool call and its result; until the next fold the prompt's beginning stays the same,
    byte for byte. A summary that a model writes is written behind the answer, and the old state is
    served meanwhile. Old messages that matter for a question are quoted besides. No message is ever
    deleted from the store, and no state is kept outside it, so any replica may go on.

    Thread-safe; one memory serves any number of conversations and callers, sync and async.

    Args:
        store: Where messages and summaries are kept, such as `SQLiteConversations`.
        summariser: Writes summaries; a cheap model will do. Without one old messages are folded
            into sentences taken from them word for word. One that is the answering model itself may
            have a method `complete_after(messages, instruction)`, which goes on from a prompt just
            sent, with the same tools: its beginning is then in the provider's cache.
        model: The model that answers, as the provider names it: its prices and its tokenizer.
        summariser_model: The summariser's name in the price list; "" is `model`.
        policy: How short conversations are kept.
        prices: What both models charge; by default taken from the price list. Where no price is
            known, nothing is folded before the policy's window is full.
        embedder: Lets old messages be recalled by meaning as well as by words.
        tokens: Counts tokens; by default as `model` does.
        lengths: Model calls in finished conversations of this kind, to tell how many are to come.
        background: False to fold before `view` returns instead of behind it, for functions that are
            frozen once they have answered.
        wait_seconds: How long `view` waits for that at most; the fold goes on behind.

    Raises:
        ConfigError: if an argument is wrong.

    Example:
        >>> from costwise_core import ConversationMemory, MemoryConversations
        >>> memory = ConversationMemory(MemoryConversations(), model="gpt-4o")
        >>> talk = Conversation(id="42", tenant="acme", user="ada")
        >>> view = memory.view(talk, [Message(role="user", text="Do you ship to Malta?")])
        >>> [message.text for message in view.messages]
        ['Do you ship to Malta?']
    """

    def __init__(
        self,
        store: "ConversationStore",
        *,
        summariser: "Completer | None" = None,
        model: str = "",
        summariser_model: str = "",
        policy: MemoryPolicy | None = None,
        prices: MemoryPrices | None = None,
        embedder: "Embedder | None" = None,
        tokens: "TokenCounter | None" = None,
        lengths: Sequence[int] = (),
        background: bool = True,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        for needed in ("append", "messages", "summary", "replace"):
            if not callable(getattr(store, needed, None)):
                raise ConfigError(
                    f"a conversation store has a method {needed}; {type(store).__name__} has none."
                )
        if summariser is not None and not callable(getattr(summariser, "complete", None)):
            raise ConfigError(
                "a summariser has a method complete(prompt); "
                f"got {type(summariser).__name__}. The adapters' as_completer makes one of a model."
            )
        if not 0 < wait_seconds < float("inf"):
            raise ConfigError(f"wait_seconds must be above 0, got {wait_seconds!r}.")
        self.store = store
        self._counts = Counts()
        self._behind = Background(seconds=LEASE_SECONDS)
        self._deciding = Deciding(
            model=model,
            summariser=(summariser_model or model) if summariser is not None else "",
            appends=callable(getattr(summariser, "complete_after", None)),
            policy=policy if policy is not None else MemoryPolicy(),
            stated=prices,
            tokens=tokens,
            lengths=tuple(lengths),
        )
        self._folding = Folding(store, self._deciding, summariser, self._counts)
        self._looking = Looking(
            store=store,
            deciding=self._deciding,
            folding=self._folding,
            behind=self._behind,
            recalling=Recalling(embedder, self._deciding.count, self._counts),
            wait_seconds=None if background else wait_seconds,
            counts=self._counts,
        )

    def view(
        self,
        conversation: Conversation,
        messages: Sequence[Message] = (),
        *,
        question: str = "",
        before: int = 0,
    ) -> MemoryView:
        """Store new messages and return what of the conversation goes into the next prompt.

        Never raises for what a store, a summariser or a text does. Starts a fold if one is due.

        Args:
            conversation: Whose and which.
            messages: All of its messages, those from some point on, or only new ones; `matched`
                says how they are told apart. Give ids wherever there are any. System messages are
                neither stored nor folded.
            question: What old messages are recalled for; by default the user's newest message.
            before: Tokens of every prompt that are not among the messages, such as tools.
        """
        return run(self._looking.look(conversation, tuple(messages), question, before))

    async def aview(
        self,
        conversation: Conversation,
        messages: Sequence[Message] = (),
        *,
        question: str = "",
        before: int = 0,
    ) -> MemoryView:
        """Do what `view` does, without blocking the event loop."""
        return await arun(self._looking.look(conversation, tuple(messages), question, before))

    def add(self, conversation: Conversation, messages: Sequence[Message]) -> int:
        """Store messages without asking for a prompt, and return how many there are now.

        Once it returns they are safe. The same message, by its id, is stored once.

        Raises:
            StoreError: if the store cannot take them; then they are not safe.
        """
        return run(self._add(conversation, messages))

    async def aadd(self, conversation: Conversation, messages: Sequence[Message]) -> int:
        """Do what `add` does, without blocking the event loop."""
        return await arun(self._add(conversation, messages))

    def fold(self, conversation: Conversation, *, before: int = 0) -> Summary | None:
        """Fold now what is due, and return the summary as it is then; None if there is none.

        Nothing is done if another thread or replica is folding this conversation. Never raises for
        what a store or a summariser does.
        """
        return run(self._fold(conversation, before))

    async def afold(self, conversation: Conversation, *, before: int = 0) -> Summary | None:
        """Do what `fold` does, without blocking the event loop."""
        return await arun(self._fold(conversation, before))

    def explain(self, conversation: Conversation, *, question: str = "") -> Explained:
        """Return what is folded, kept and recalled of a conversation, why, and what it saved.

        Stores nothing and starts nothing.

        Args:
            conversation: Whose and which.
            question: What to recall for; by default the user's newest message.

        Raises:
            StoreError: if the store cannot be read.
        """
        return run(self._explain(conversation, question))

    async def aexplain(self, conversation: Conversation, *, question: str = "") -> Explained:
        """Do what `explain` does, without blocking the event loop."""
        return await arun(self._explain(conversation, question))

    @property
    def stats(self) -> MemoryStats:
        """All counts so far."""
        return self._counts.stats()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the folds that run behind; False if some still do after so many seconds.

        Not for the thread of an event loop, whose folds would wait for it: `await_` is.
        """
        return self._behind.wait(seconds)

    async def await_(self, seconds: float | None = None) -> bool:
        """Do what `wait` does, without blocking the event loop."""
        return await self._behind.await_(seconds)

    def close(self, seconds: float | None = 5.0) -> None:
        """Start no more folds and wait so long for those that run; views go on to be served."""
        self._behind.close()
        self._behind.wait(seconds)

    async def aclose(self, seconds: float | None = 5.0) -> None:
        """Do what `close` does, without blocking the event loop."""
        self._behind.close()
        await self._behind.await_(seconds)

    # --- written once for both ----------------------------------------------------------------

    def _add(self, conversation: Conversation, messages: Sequence[Message]) -> Flow[int]:
        check(conversation)
        turns = turns_of(messages)
        stored: list[Message] = []
        if not all(one.id for one in turns):
            stored = yield from call(self.store.messages, conversation)
        sized = yield from call(self._deciding.sized, matched(stored, turns)[-len(turns) :])
        return (yield from call(self.store.append, conversation, sized))

    def _fold(self, conversation: Conversation, before: int) -> Flow[Summary | None]:
        check(conversation)
        try:
            stored = yield from call(self.store.messages, conversation)
            history = yield from call(self._deciding.sized, stored)
            live = Live(conversation=conversation, history=history, before=before)
            made = yield from self._folding.fold(live)
            if made is not None:
                return made
            found = yield from call(self.store.summary, conversation)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - folding is a help, never a condition
            self._counts.error(error)
            return None
        summary = standing(found, history)
        return summary if summary.folded else None

    def _explain(self, conversation: Conversation, question: str) -> Flow[Explained]:
        check(conversation)
        stored = yield from call(self.store.messages, conversation)
        history = yield from call(self._deciding.sized, stored)
        found = yield from call(self.store.summary, conversation)
        summary = standing(found, history)
        coming, question = bool(question), question or asked(history)
        recalling = self._looking.recalling
        relevance = yield from recalling.relevance(conversation, history, summary.folded, question)
        plan = yield from call(
            self._deciding.plan, history, summary, before=0, relevance=relevance, coming=coming
        )
        recalled = yield from recalling.recalled(
            conversation, history, summary.folded, question, plan.recall_tokens
        )
        view = view_of(history, summary, recalled, plan)
        view = replace(view, left_out_tokens=self._looking.left_out_tokens(history, view))
        folded = history[: summary.folded]
        priced = self._deciding.prices is not None
        return Explained(
            conversation=conversation,
            folded=folded,
            summary=summary,
            view=view,
            plan=plan,
            lost=tuple(missing(facts_of(folded), summary.text)),
            saved_usd=(self._deciding.saved_usd(history, summary, before=0) if priced else None),
        )
