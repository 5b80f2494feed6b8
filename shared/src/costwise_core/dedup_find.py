"""The cache first, then the requests in flight, then the right to pay."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, overload

from costwise_core.cache.agreement import Turn
from costwise_core.cache.cache import Cache
from costwise_core.cache.cacheable import CallFacts
from costwise_core.cache.control import RiskControl
from costwise_core.cache.key import fingerprint, question_key
from costwise_core.cache.policy import Verdict
from costwise_core.dedup import InFlight
from costwise_core.dedup_lead import Lead
from costwise_core.dedup_stream import Follow
from costwise_core.drive import Flow, call
from costwise_core.types import Hit, Neighbour, Scope

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
    live: bool = False,
) -> Flow[Hit | Lead | Follow[Any]]:
    """Look an answer up, else wait for the same request in flight, else get the right to pay.

    Args:
        cache: Where answers are looked up; its policy also decides between questions in flight.
        in_flight: The requests on their way; None to share none.
        question: The question alone, not the prompt around it.
        scope: Everything else the answer depends on.
        turns: The conversation before the question; then not part of `scope`. Requests in flight
            share only within the same conversation.
        facts: What is known about the model call.
        near: Whether a similar question's answer may serve.
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
    found = yield from call(cache.lookup, question, scope, turns=turns, facts=facts, near=near)
    if isinstance(found, Hit):
        return found
    # A miss with a vector got as far as the near tier. Before that, only these found nothing; any
    # other says that the answer is nobody else's.
    fit = found.vector is not None or found.reason in _LOOKED
    if in_flight is None or not fit:
        return (in_flight or InFlight()).alone(question, found.vector)

    def look() -> Flow[Hit | None]:
        # The store is asked first: it counts no miss, and this may be the hundredth look.
        stored = yield from call(cache.backend.get, question_key(question), scope.key)
        if stored is None:
            return None
        again = yield from call(cache.lookup, question, scope, facts=facts, near=False)
        return again if isinstance(again, Hit) else None

    def decide(text: str, neighbours: Sequence[Neighbour]) -> Verdict:
        policy = cache.policy
        look_at = policy.peek if isinstance(policy, RiskControl) else policy.decide
        return look_at(text, neighbours)

    said = [part for turn in turns for part in (turn.role, turn.text)]
    return (
        yield from in_flight.claim(
            question,
            replace(scope, context=fingerprint(scope.context, *said, volatile=()))
            if said
            else scope,
            vector=found.vector,
            match=decide if near and found.reason != "check" else None,
            # Of a conversation, other processes store what only a lookup can name.
            look=None if said else look,
            since=since,
            live=live,
        )
    )
