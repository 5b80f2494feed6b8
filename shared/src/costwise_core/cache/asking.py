"""From a request to what is looked up: whether, as which question, in which scope, how long."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from costwise_core.cache.agreement import Turn
from costwise_core.cache.cacheable import DAY, CachePolicy, CallFacts, before_lookup, day
from costwise_core.cache.conversation import Standalone, self_contained
from costwise_core.cache.key import canonical, fingerprint
from costwise_core.drive import Flow
from costwise_core.protocols import Completer
from costwise_core.types import Miss, Scope

__all__ = ["Asked", "Asking", "Request", "ask"]

# Rewritten follow-ups whose answers have not come yet.
_REWRITTEN: Final = 2_000
_PLAIN: Final = CallFacts()


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question as a caller has it.

    Args:
        question: The question alone, not the prompt around it.
        scope: Everything else the answer depends on, without the conversation in `turns`.
        turns: The conversation before the question, oldest first.
        facts: What is known about the model call.
        near: Whether a similar question's answer would do.
        stale: Whether an answer past its time would do, because the caller refreshes it.
    """

    question: str
    scope: Scope
    turns: tuple[Turn, ...] = ()
    facts: CallFacts = _PLAIN
    near: bool = True
    stale: bool = False

    @property
    def name(self) -> str:
        """A digest of all that decides what is looked up."""
        said = (part for turn in self.turns for part in (turn.role, turn.text))
        # Only the answer shows these, and it must be stored as what its question was looked up as.
        facts = replace(self.facts, finish_reason="", tool_calls=False)
        return fingerprint(
            self.scope.key, self.question, str(self.near), repr(facts), *said, volatile=()
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is looked up.

    Args:
        text: The canonical question; a follow-up with a digest of its conversation.
        scope: The scope with what the conversation and the day add to it.
        near: Whether a similar question's answer would do.
        ttl: Seconds the answer may be kept; None is as long as the cache keeps any.
        alone: Whether the question was looked up without its conversation.
    """

    text: str
    scope: Scope
    near: bool
    ttl: float | None
    alone: bool


def ask(
    request: Request, *, policy: CachePolicy, rewriter: Completer | None, now: float
) -> Flow[Asked | Miss]:
    """Decide what a request is looked up as, or why it is not.

    Example:
        >>> from costwise_core.drive import run
        >>> request = Request(question="What is  RAG?", scope=Scope())
        >>> run(ask(request, policy=CachePolicy(), rewriter=None, now=0.0)).text
        'what is RAG?'
        >>> request = Request(question="Cancel my order 4711.", scope=Scope())
        >>> run(ask(request, policy=CachePolicy(), rewriter=None, now=0.0)).reason
        'action'
    """
    text = canonical(request.question)
    if not text:
        return Miss(reason="empty_question", why="the question is empty")
    verdict = before_lookup(text, call=request.facts, policy=policy)
    if not verdict.allowed:
        return Miss(reason=verdict.reason, why=verdict.why)
    scope, near, alone = request.scope, request.near, True
    if request.turns:
        found = yield from self_contained(request.turns, text, rewriter)
        context = f"{scope.context}\x00{found.context}" if found.context else scope.context
        scope = replace(scope, context=context)
        if isinstance(found, Standalone):
            text, alone = canonical(found.text), found.how != "digest"
        else:
            near = alone = False
    today = day(verdict, now)
    if today:
        scope = replace(scope, context=f"{scope.context}\x00{today}")
    return Asked(text=text, scope=scope, near=near, ttl=policy.seconds(verdict), alone=alone)


class Asking:
    """Decides what requests are looked up as, and says the same again when their answers come.

    Args:
        rewriter: Makes follow-ups self-contained, if there is one.
    """

    def __init__(self, rewriter: Completer | None) -> None:
        self._rewriter = rewriter
        self._rewritten: OrderedDict[str, Asked] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, request: Request, policy: CachePolicy, now: float) -> Flow[Asked | Miss]:
        """Decide what a request is looked up as, or why it is not."""
        if self._rewriter is None or not request.turns:
            return (yield from ask(request, policy=policy, rewriter=None, now=now))
        # A rewriter is not asked twice, and what it said must hold when the answer comes.
        name = f"{request.name} {now // DAY}"
        known = self._rewritten.get(name)
        if known is not None:
            return known
        found = yield from ask(request, policy=policy, rewriter=self._rewriter, now=now)
        if isinstance(found, Asked):
            with self._lock:
                self._rewritten[name] = found
                while len(self._rewritten) > _REWRITTEN:
                    self._rewritten.popitem(last=False)
        return found
