"""What costwise asks of the objects it is given. Nothing to inherit: any object that fits will do.

A protocol's methods are synchronous. An object that can do better in async code adds a method of
the same name with an "a" in front (`aget`, `aembed`), which is then awaited instead. One that never
blocks (it lives in this process's memory) sets `blocking = False` and is called in place.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from costwise_core.types import CallRecord, Entry, Matrix, Neighbour, Selection, Vector

if TYPE_CHECKING:
    from costwise_core.cache.policy import Verdict
    from costwise_core.memory.messages import Conversation, Message, Summary
    from costwise_core.passages import Compressed, Passage

__all__ = [
    "CacheStore",
    "Completer",
    "Compressor",
    "ConversationStore",
    "Embedder",
    "Journal",
    "Leases",
    "Ledger",
    "NearPolicy",
    "Role",
    "Scorer",
    "TokenCounter",
]

Role: TypeAlias = Literal["query", "document"]
"""What a text is to the embedder: many models prefix queries and documents differently."""


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    @property
    def name(self) -> str:
        """Name and version: two embedders of one name must give the same vectors."""
        ...

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Return one unit row for each text: shape (len(texts), dim), float32."""
        ...


class CacheStore(Protocol):
    """Keeps cache entries. Scope is a filter inside every query, never a check afterwards.

    A `get` that finds its entry is a use of it, and nothing else is: whoever serves a neighbour
    gets it first, and so learns too that it is still there. Uses are counted as well as can be
    without a write on the way of a lookup: a store may write them with its next `put` or `delete`
    and lose those after it.

    Implementations must be safe to share between threads, and acknowledge `put` only when a
    `kill -9` can no longer lose the entries (memory stores excepted).
    """

    def get(self, key: str, scope: str) -> Entry | None:
        """Return the live entry under this key in this scope, with its vector left out.

        That counts as a use of it.
        """
        ...

    def search(self, vector: Vector, k: int, scope: str, embedder: str) -> list[Neighbour]:
        """Return up to `k` live entries of this scope and embedder, most similar first.

        The entries come without their vectors.
        """
        ...

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries, all or none; an entry with the same scope and key is replaced."""
        ...

    def delete(self, selection: Selection) -> int:
        """Delete the selected entries and return how many there were."""
        ...

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the selected live entries with their vectors, oldest first, reading as it goes.

        "Oldest" goes by `created`. Whether entries put or deleted meanwhile are seen is open.
        """
        ...


@runtime_checkable
class Journal(Protocol):
    """Short append-only logs, by which processes that share a store learn from one another.

    A row is at most 4,000 bytes; at least the newest 20,000 rows of a log are kept.
    """

    def append(self, name: str, rows: Sequence[str]) -> None:
        """Add rows at the end of the named log, all or none."""
        ...

    def read(self, name: str, after: str = "") -> tuple[list[str], str]:
        """Return the rows added after a position, oldest first, and the position after them.

        A position is a text that only the store understands; "" is before the oldest row kept.
        """
        ...


@runtime_checkable
class Leases(Protocol):
    """Short exclusive claims, by which processes that share a store do a thing only once."""

    def acquire(self, name: str, owner: str, seconds: float) -> bool:
        """Take or renew the named lease for so long; False while another owner holds it."""
        ...

    def release(self, name: str, owner: str) -> None:
        """Give the lease back, if this owner still holds it."""
        ...


class ConversationStore(Leases, Protocol):
    """Keeps what was said in conversations, word for word, and the summaries of it.

    Two conversations meet in nothing unless id, tenant and user are the same. All state is here,
    so any replica may serve any turn. A conversation is used when something is appended to it,
    and with a store's `ttl` it is deleted so long after that; who only reads keeps nothing alive.
    The lease named `Conversation.key` is deleted with the conversation. A message that is found
    damaged is passed over, counted in `damaged`, and the others keep their numbers.

    Implementations must be safe to share between threads, and return from `append` and `replace`
    only when a `kill -9` can no longer lose what was written (memory stores excepted).

    Run `costwise_core.testing.conversations.ConversationStoreContract` on one of your own.

    Example:
        >>> from costwise_core import Conversation, MemoryConversations, Message, Summary
        >>> store: ConversationStore = MemoryConversations()
        >>> chat = Conversation(id="42", tenant="acme", user="ann")
        >>> store.append(chat, [Message(role="user", text="My order is 4711."),
        ...                     Message(role="assistant", text="Thank you.")])
        2
        >>> store.replace(chat, Summary(text="Ann's order is 4711.", folded=2), version=0)
        True
        >>> store.replace(chat, Summary(text="Somebody else was late.", folded=2), version=0)
        False
    """

    def append(self, conversation: "Conversation", messages: "Sequence[Message]") -> int:
        """Add those of the messages whose ids are new, in their order, all or none.

        What others append at the same time stands before or after them, never between. Messages
        without an id get one as `named` says, so a whole history may be handed over again and
        again. A known id is not written again, whatever the message says now. To append nothing
        is no use of a conversation and begins none.

        Returns:
            How many messages the conversation has now.
        """
        ...

    def messages(
        self, conversation: "Conversation", *, start: int = 0, stop: int | None = None
    ) -> "list[Message]":
        """Return the messages from number `start` to before number `stop`, oldest first.

        Reading the end of a long conversation costs no more than reading a short one.
        """
        ...

    def summary(self, conversation: "Conversation") -> "Summary | None":
        """Return what stands for the first messages, None if nothing does yet."""
        ...

    def replace(self, conversation: "Conversation", summary: "Summary", *, version: int) -> bool:
        """Put a summary in the place of the one with this version, 0 where there is none.

        It gets the next version, whatever its own says.

        Returns:
            False, and nothing is written, if another writer was first, or if the conversation has
            fewer messages than are folded because it was deleted meanwhile.
        """
        ...

    def conversations(
        self,
        *,
        tenant: str | None = None,
        user: str | None = None,
        unused_since: float | None = None,
    ) -> "Iterator[Conversation]":
        """Yield the conversations, of a tenant or of one of its users, in no particular order.

        With `unused_since`, only those to which nothing was appended since.
        """
        ...

    def delete(
        self,
        *,
        conversation: "Conversation | None" = None,
        tenant: str | None = None,
        user: str | None = None,
        unused_since: float | None = None,
    ) -> int:
        """Delete conversations with their messages, summaries and leases.

        Something must be selected. What is appended later begins a conversation anew.

        Returns:
            How many conversations there were.
        """
        ...


class NearPolicy(Protocol):
    """Decides whether the answer to a similar question may be served.

    A policy that learns together with other processes also has `journal`, `due`, `outbox` and
    `absorb` as `RiskControl` does.
    """

    def decide(self, question: str, neighbours: Sequence[Neighbour]) -> "Verdict":
        """Serve, check or refuse; neighbours are sorted by nearness."""
        ...

    def learn(self, verdict: "Verdict", *, same: bool) -> None:
        """Take in whether the candidate's answer turned out the same as a fresh one."""
        ...


class Completer(Protocol):
    """A model that completes a prompt: for summaries and judges; a small, cheap one will do.

    Example:
        >>> class Echo:
        ...     def complete(self, prompt):
        ...         return "What does Nimbus Fibre cost with TV?"
        >>> from costwise_core import Cache, MemoryStore
        >>> cache = Cache(MemoryStore(), rewriter=Echo())
    """

    def complete(self, prompt: str) -> str:
        """Return the model's answer to `prompt`."""
        ...


class Scorer(Protocol):
    """Says how relevant passages are to a question."""

    @property
    def name(self) -> str:
        """What it is called in results, such as "bm25"."""
        ...

    def score(self, question: str, passages: Sequence["Passage"]) -> Sequence[float]:
        """Return one finite number for each passage, higher is more relevant."""
        ...


class Compressor(Protocol):
    """Makes retrieved passages smaller: leaves some out, or parts of them."""

    def compress(self, question: str, passages: Sequence["Passage"]) -> "Compressed":
        """Return what should go into the prompt; input that is better left alone comes back as is.

        Never raises for any text, and never changes what it was given.
        """
        ...


class TokenCounter(Protocol):
    """Counts the tokens of a text; any callable from text to int will do."""

    def __call__(self, text: str) -> int:
        """Return the number of tokens in `text`."""
        ...


class Ledger(Protocol):
    """Keeps what was paid and what was saved."""

    def record(self, records: Sequence[CallRecord]) -> None:
        """Add records; an id that is already there is ignored."""
        ...

    def records(
        self, *, since: float | None = None, tags: Iterable[tuple[str, str]] = ()
    ) -> Iterator[CallRecord]:
        """Yield records at or after `since` that carry all the given tags, oldest first."""
        ...
