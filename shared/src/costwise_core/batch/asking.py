"""What a batch provider is asked, and what it says: the values and the protocol between them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

__all__ = [
    "BatchAnswer",
    "BatchProvider",
    "BatchRequest",
    "Ending",
    "Found",
    "Outcome",
    "Progress",
    "Sent",
]

Ending: TypeAlias = Literal["answered", "failed", "transient", "expired", "cancelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest:
    """One model call that can wait, as the provider's own endpoint takes it.

    Args:
        body: What is posted, as JSON values, with a "model" and without streaming.
        endpoint: The path it is posted to, such as "/v1/chat/completions" or "/v1/messages".
    """

    body: Mapping[str, Any]
    endpoint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchAnswer:
    """How a request ended.

    Args:
        id: The request's, as `BatchQueue.submit` returned it.
        body: The response as the endpoint gives it, or None if there is none.
        error: Why there is none, "" if there is one.
        processing: "batch", or "standard" if it was asked in real time after all.
        tries: How often it was sent.
    """

    id: str
    body: Mapping[str, Any] | None
    error: str = ""
    processing: str = "batch"
    tries: int = 1

    @property
    def ok(self) -> bool:
        """Whether there is a response."""
        return self.body is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """One request on its way into a batch.

    Args:
        custom_id: What the provider gives back with its answer: at most 64 letters, digits and "-".
        endpoint: The path.
        body: The request as JSON, UTF-8.
    """

    custom_id: str
    endpoint: str
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a provider says about one request.

    Args:
        ending: "answered"; "failed" for good; "transient" if trying again may help; "expired" or
            "cancelled" if it was never run, and so costs nothing.
        custom_id: Which request is meant.
        body: The response, if it was answered.
        error: Why not, in the provider's words.
    """

    ending: Ending
    custom_id: str = ""
    body: Mapping[str, Any] | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a batch is.

    Args:
        state: "running"; "ended" when there are results; "refused" when none of it was run;
            "gone" when the provider knows no such batch any more.
        error: Why it was refused.
        full: Whether it was refused only because too much is waiting at the provider already.
        bad: Places of the requests it was refused for, if the provider says so.
    """

    state: Literal["running", "ended", "refused", "gone"]
    error: str = ""
    full: bool = False
    bad: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A batch that was looked for.

    Args:
        batch: The provider's id of it, "" if it was not found.
        unsure: Whether one that is still running may be it.
    """

    batch: str = ""
    unsure: bool = False


class BatchProvider(Protocol):
    """Somebody who answers many requests later, for less.

    Faults that may pass are raised as they come. A `BatchError` says that nothing was taken.
    """

    @property
    def name(self) -> str:
        """Such as "openai"."""
        ...

    @property
    def max_requests(self) -> int:
        """How many requests a batch may hold."""
        ...

    @property
    def max_bytes(self) -> int:
        """How large a batch may be."""
        ...

    def submit(self, token: str, requests: Sequence[Sent]) -> str:
        """Hand in a batch, once, and return the provider's id of it.

        Raises:
            BatchError: if it was certainly not taken.
            Exception: anything else leaves open whether it was.
        """
        ...

    def find(self, token: str, since: float, count: int, known: Collection[str]) -> Found:
        """Look for a batch of `count` requests handed in under a token at or after `since`.

        `known` are batches that are certainly others.
        """
        ...

    def poll(self, batch: str) -> Progress:
        """Say how far a batch is."""
        ...

    def results(self, batch: str) -> Iterator[Outcome]:
        """Yield what became of the requests of a batch that ended, in any order."""
        ...

    def cancel(self, batch: str) -> None:
        """Ask the provider to run no more of a batch."""
        ...

    def answer(self, request: Sent) -> Outcome:
        """Ask one request in real time. Never raises for what the provider says to it."""
        ...
