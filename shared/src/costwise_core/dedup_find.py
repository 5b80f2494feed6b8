"""The cache first, then the requests in flight, then the right to pay."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, overload

from costwise_core.cache.agreement import Turn
from costwise_core.cache.cache import Cache
from costwise_core.cache.cacheable import CallFacts
from costwise_core.cache.key import fingerprint
from costwise_core.dedup import InFlight
from costwise_core.dedup_lead import Lead
from costwise_core.dedup_refresh import Renew, refresh
from costwise_core.dedup_stream import Follow
from costwise_core.drive import Flow, call
from costwise_core.types import Hit, Scope

__all__ = ["find_or_lead"]

_LOOKED: Final = frozenset({"no_entry", "store_error", "embedder_error"})
_PLAIN: Final = CallFacts()


@overload
def find_or_lead(
    cache: Cache,
    in_flight: InFlight | None,
    question: str,
    scope: Scope,
    *,
    turns: Sequence[Turn] = ...,
    facts: CallFacts = ...,
    near: bool = ...,
    renew: Renew | None = ...,
    live: Literal[False] = ...,
) -> Flow[Hit | Lead]: ...
@overload
def find_or_lead(
    cache: Cache,
    in_flight: InFlight | None,
    question: str,
    scope: Scope,
    *,
    turns: Sequence[Turn] = ...,
    facts: CallFacts = ...,
    near: bool = ...,
    renew: Renew | None = ...,
    live: bool,
) -> Flow[Hit | Lead | Follow[Any]]: ...
def find_or_lead(
    cache: Cache,
    in_flight: InFlight | None,
    question: str,
    scope: Scope,
    *,
    turns: Sequence[Turn] = (),
    facts: CallFacts = _PLAIN,
    near: bool = True,
    renew: Renew | None = None,
    live: bool = False,
) -> Flow[Hit | Lead | Follow[Any]]:
    """Look an answer up, else wait for the same request in flight, else get the right to pay.

    Args:
        cache: Where answers are looked up; it also decides between questions in flight.
        in_flight: The requests on their way; None to share none.
        question: The question alone, not the prompt around it.
        scope: Everything else the answer depends on.
        turns: The conversation before the question; then not part of `scope`. Requests in flight
            share only within the same conversation.
        facts: What is known about the model call.
        near: Whether a similar question's answer may serve.
        renew: Pays for the answer with the lead it is given, stores it and shares it. With it an
            answer past its time is served once more, and renewed behind.
        live: Whether to follow the stream of another request.

    Returns:
        A flow that gives a `Hit` to serve; a `Lead` to pay with (store the answer before it is
        shared, then nobody can miss both); or, if `live`, a `Follow` to read.

    Raises:
        Exception: a copy of what the request that was waited for raised.

    Example:
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> from costwise_core.dedup import InFlight
        >>> from costwise_core.drive import run
        >>> cache, flights, scope = Cache(MemoryStore()), InFlight(), Scope(tenant="acme")
        >>> with run(find_or_lead(cache, flights, "What is RAG?", scope)) as lead:
        ...     stored = cache.store("What is RAG?", scope, "A method.")
        ...     lead.share("A method.")
        >>> run(find_or_lead(cache, flights, "what is RAG?", scope)).answer
        'A method.'
    """
    since = 0.0 if in_flight is None else in_flight.clock()
    found = yield from call(
        cache.lookup,
        question,
        scope,
        turns=turns,
        facts=facts,
        near=near,
        stale=renew is not None and in_flight is not None,
    )
    said = [part for turn in turns for part in (turn.role, turn.text)]
    together = scope
    if said:
        together = replace(scope, context=fingerprint(scope.context, *said, volatile=()))

    def peek() -> Flow[Hit | None]:
        return call(cache.peek, question, scope, turns=turns, facts=facts)

    if isinstance(found, Hit):
        if found.stale and in_flight is not None and renew is not None:
            lead = in_flight.claim_refresh(question, together, since=since)
            if lead is not None:
                yield from refresh(cache, in_flight, lead, renew, peek)
        return found
    # A miss with a vector got as far as the near tier. Before that, only these found nothing; any
    # other says that the answer is nobody else's.
    fit = found.vector is not None or found.reason in _LOOKED
    if in_flight is None or not fit:
        return (in_flight or InFlight()).alone(question, found.vector)
    return (
        yield from in_flight.claim(
            question,
            together,
            vector=found.vector,
            match=cache.match_in_flight if near and found.reason != "check" else None,
            look=peek,
            since=since,
            live=live,
        )
    )
