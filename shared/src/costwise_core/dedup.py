"""In-flight dedup: requests that are the same, or mean the same, share one paid call.

The first to ask leads and pays; whoever asks the same in the meantime gets the leader's answer as a
cache hit. Threads, tasks of any event loop and, through leases, other processes wait alike.
Waiting never costs more than time: it has a bound, and whoever may not wait pays as if alone.
"""

import asyncio
import os
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias

from costwise_core.cache.key import canonical, question_key
from costwise_core.cache.policy import Verdict
from costwise_core.dedup_flight import Flight, fresh_error
from costwise_core.dedup_lead import Lead, Lease
from costwise_core.dedup_stream import Follow
from costwise_core.drive import Flow, call
from costwise_core.errors import ConfigError
from costwise_core.protocols import Leases
from costwise_core.types import Entry, Hit, Neighbour, Scope, Usage, Vector

__all__ = ["InFlight", "InFlightStats", "Match"]

Match: TypeAlias = Callable[[str, Sequence[Neighbour]], Verdict]
"""What `NearPolicy.decide` is; only "serve" lets two questions share an answer."""

POLL: Final = 0.05
"""Seconds between two looks at what another process has stored."""

_KEPT = 1_024  # ended flights kept for those who asked before they ended
_KEPT_SECONDS = 10.0
_NEIGHBOURS = 4

_leading: ContextVar[tuple[Flight, ...]] = ContextVar("costwise_leading", default=())


@dataclass(frozen=True, kw_only=True, slots=True)
class InFlightStats:
    """What an `InFlight` did since it was made.

    Args:
        led: Requests that paid while others could share their answer.
        shared: Requests that were answered by another's paid call.
        reworded: How many of them asked in other words.
        refreshed: Answers past their time that were paid for behind.
        handed_over: Requests that led after the one they waited for was cancelled.
        timed_out: Requests that waited as long as they may and then paid.
        alone: Requests that paid because they may not wait: for themselves, in a circle, or for an
            answer that turned out not to be fit for others.
        errors: Faults in leases or in the comparison of questions that were passed over.
    """

    led: int = 0
    shared: int = 0
    reworded: int = 0
    refreshed: int = 0
    handed_over: int = 0
    timed_out: int = 0
    alone: int = 0
    errors: int = 0


class InFlight:
    """The requests that are on their way right now, in one process or in several.

    Args:
        window: Seconds for which a finished answer is still shared with new requests.
        max_wait: Seconds to wait for another request, or for the next piece of its stream, before
            paying oneself. It is also how long a process that died keeps its lease.
        leases: A store that other processes share; their identical requests then wait too. It
            should be the cache's own store, since that is where they look for the answer.
        match: Decides between similar questions in flight; None leaves it to the cache's policy.
        clock: Returns seconds and never goes back.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> from costwise_core import Scope
        >>> from costwise_core.drive import run
        >>> flights, scope = InFlight(window=1.0), Scope(tenant="acme")
        >>> with run(flights.claim("What is RAG?", scope)) as lead:
        ...     lead.share("A method.", Usage(output_tokens=3))
        >>> run(flights.claim("what is RAG?", scope)).answer
        'A method.'
    """

    def __init__(
        self,
        *,
        window: float = 0.0,
        max_wait: float = 60.0,
        leases: Leases | None = None,
        match: Match | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not window >= 0:
            raise ConfigError(f"window is in seconds, 0 or more, got {window!r}.")
        if not max_wait > 0:
            raise ConfigError(f"max_wait is in seconds and must be above 0, got {max_wait!r}.")
        self.window = window
        self.max_wait = max_wait
        self.leases = leases
        self.match = match
        self.clock = clock
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._flights: dict[str, dict[str, Flight]] = {}
        self._ended: deque[Flight] = deque()
        self._counts: Counter[str] = Counter()

    def claim(
        self,
        question: str,
        scope: Scope,
        *,
        vector: Vector | None = None,
        match: Match | None = None,
        look: Callable[[], Flow[Hit | None]] | None = None,
        since: float | None = None,
        live: bool = False,
    ) -> Flow[Hit | Lead | Follow[Any]]:
        """Wait for the answer of the same request in flight, or get the right to pay for it.

        Args:
            question: The question alone, not the prompt around it.
            scope: Everything else the answer depends on; only equal scopes share.
            vector: The question's embedding, to share with similar questions too.
            match: Decides between similar questions in flight, as a `NearPolicy` does.
            look: Looks for the answer where other processes store theirs.
            since: When this request began to look for an answer, by the same clock: answers that
                came while it looked are shared. None is now.
            live: Whether to follow another request's stream; without it, its end is waited for.

        Returns:
            A flow that gives a `Hit` to serve, a `Lead` if the caller is to pay, or a `Follow`.

        Raises:
            Exception: a copy of what the other request raised.
        """
        text = canonical(question)
        now = self.clock()
        asked = self._flight(text, scope, question, vector, now)
        key = asked.key
        since = now if since is None else since
        deadline = now + self.max_wait
        handed_over = False
        while True:
            flight, cosine = self._join_or_enter(asked, text, self.match or match, since)
            if flight is asked:
                self._count("handed_over" if handed_over else "led")
                _leading.set((*_led_here(), asked))
                return (yield from self._first_of_all(self._lead(asked), look, deadline))
            if not (yield from self._wait(flight, deadline, live=live)):
                return self.alone(question, vector)
            outcome = flight.outcome
            if outcome is None or outcome.kind == "shared":
                self._count("shared")
                if flight.key != key:
                    self._count("reworded")
                served = partial(_served, cosine=cosine, exact=flight.key == key, clock=self.clock)
                if outcome is None:
                    return Follow(flight, max_wait=self.max_wait, served=served)
                return served(flight)
            if outcome.error is not None:
                self._count("shared")
                raise fresh_error(outcome.error) from outcome.error
            if outcome.kind == "declined":
                self._count("alone")
                return self.alone(question, vector)
            handed_over = True

    def claim_refresh(self, question: str, scope: Scope, *, since: float) -> Lead | None:
        """Get the right to renew an answer that is served meanwhile; None if somebody else has it.

        Args:
            question: The question alone.
            scope: Everything else the answer depends on.
            since: When this request began to look, as for `claim`.
        """
        now = self.clock()
        asked = self._flight(canonical(question), scope, question, None, now)
        with self._lock:
            here = self._flights.setdefault(asked.scope, {})
            same = here.get(asked.key)
            if same is not None and self._is_open(same, since, now):
                return None
            here[asked.key] = asked
        self._count("refreshed")
        return self._lead(asked)

    def take_over(self, lead: Lead) -> Flow[bool]:
        """Pay for a lead from here, a thread or task of its own; False if another process does."""
        lead.flight.move_here()
        _leading.set((*_led_here(), lead.flight))
        if self.leases is None:
            return True
        try:
            return (yield from self._acquire(self.leases, lead, uuid.uuid4().hex))
        except Exception:  # noqa: BLE001 - no leases, so every process pays for itself
            self._count("errors")
            return True

    def alone(self, question: str, vector: Vector | None = None) -> Lead:
        """Return a lead that nobody follows, for a request that must not be shared."""
        return self._lead(
            Flight(key="", scope="", question=question, vector=vector, now=self.clock())
        )

    @property
    def stats(self) -> InFlightStats:
        """Counts since this object was made."""
        with self._lock:
            return InFlightStats(**self._counts)

    # --- finding the flight to wait for -----------------------------------------------------------

    def _join_or_enter(
        self, asked: Flight, text: str, match: Match | None, since: float
    ) -> tuple[Flight, float]:
        """Return an open flight and its similarity, or `asked` itself once it is entered."""
        compared: set[Flight] = set()
        while True:
            with self._lock:
                now = self.clock()
                self._forget(now)
                here = self._flights.setdefault(asked.scope, {})
                same = here.get(asked.key)
                if same is not None and self._is_open(same, since, now):
                    return same, 1.0
                others = [
                    flight
                    for flight in list(here.values())
                    if flight not in compared and self._is_open(flight, since, now)
                ]
                if asked.vector is None or match is None or not others:
                    asked.moved = now
                    here[asked.key] = asked
                    return asked, 1.0
            # Outside the lock, since guards take a while; what has come since is compared next.
            near = self._nearest(asked, text, match, others)
            if near is not None:
                return near
            compared.update(others)

    def _is_open(self, flight: Flight, since: float, now: float) -> bool:
        outcome = flight.outcome
        if outcome is None:
            return now - flight.moved < self.max_wait
        return outcome.kind == "shared" and flight.moved >= since - self.window

    def _nearest(
        self, asked: Flight, text: str, match: Match, others: Sequence[Flight]
    ) -> tuple[Flight, float] | None:
        try:
            neighbours = sorted(_neighbours(asked, others), key=lambda n: -n.cosine)
            verdict = match(text, neighbours[:_NEIGHBOURS]) if neighbours else None
        except Exception:  # noqa: BLE001 - it then pays for itself, as it would without us
            self._count("errors")
            return None
        if verdict is None or verdict.candidate is None or verdict.action != "serve":
            return None
        key = verdict.candidate.entry.key
        return next(flight for flight in others if flight.key == key), verdict.candidate.cosine

    def _forget(self, now: float) -> None:
        keep = max(self.window, _KEPT_SECONDS)
        while self._ended and (len(self._ended) > _KEPT or now - self._ended[0].moved > keep):
            self._remove(self._ended.popleft())

    def _remove(self, flight: Flight) -> None:
        here = self._flights.get(flight.scope, {})
        if here.get(flight.key) is flight:
            del here[flight.key]
        if not here:
            self._flights.pop(flight.scope, None)

    # --- waiting ----------------------------------------------------------------------------------

    def _wait(self, flight: Flight, deadline: float, *, live: bool) -> Flow[bool]:
        """Wait for the end, or if `live` for the first piece; False if the caller must pay."""
        led = _led_here()
        after = 0 if live and not flight.overlong else None
        if flight.outcome is None:
            possible = yield from call(flight.reachable)
            if not possible or flight.needs(led):
                self._count("alone")
                return False
        for mine in led:
            mine.waits_on.append(flight)
        try:
            ended = yield from flight.wait(deadline - self.clock(), after=after)
        finally:
            for mine in led:
                mine.waits_on.remove(flight)
        if not ended:
            self._count("timed_out")
        return ended

    def _first_of_all(
        self, lead: Lead, look: Callable[[], Flow[Hit | None]] | None, deadline: float
    ) -> Flow[Hit | Lead]:
        """Be the first of all processes too, or wait for what another one stores."""
        if self.leases is None or look is None:
            return lead
        owner = uuid.uuid4().hex
        try:
            while True:
                first = yield from self._acquire(self.leases, lead, owner)
                # Even the first looks again: another may have stored and left just before.
                hit = yield from look()
                if hit is not None:
                    lead.share(hit.answer, hit.usage_then)
                    self._count("shared")
                    return replace(hit, why="shared with a request in flight in another process")
                if first:
                    return lead
                if self.clock() >= deadline:
                    self._count("timed_out")
                    return lead
                yield from call(_pause.sleep, POLL)
        except Exception:  # noqa: BLE001 - no leases, so every process pays for itself
            self._count("errors")
            return lead
        except BaseException:
            lead.abandon()
            raise

    def _acquire(self, leases: Leases, lead: Lead, owner: str) -> Flow[bool]:
        name = f"{lead.flight.scope}:{lead.flight.key}"
        first = yield from call(leases.acquire, name, owner, self.max_wait)
        if first:
            lead.lease = Lease(leases=leases, name=name, owner=owner)
        return first

    # --- small things -----------------------------------------------------------------------------

    def _flight(
        self, text: str, scope: Scope, question: str, vector: Vector | None, now: float
    ) -> Flight:
        if os.getpid() != self._pid:  # forked: nobody here will ever settle the parent's flights
            self._start()
        key = question_key(text)
        return Flight(key=key, scope=scope.key, question=question, vector=vector, now=now)

    def _lead(self, flight: Flight) -> Lead:
        return Lead(
            flight,
            landed=self._landed,
            count_error=lambda: self._count("errors"),
            clock=self.clock,
        )

    def _landed(self, flight: Flight) -> None:
        with self._lock:
            self._remove(flight)
            if flight.outcome is None or flight.outcome.kind != "shared":
                return
            # Without the pieces, which only those who read them now still need.
            kept = Flight(
                key=flight.key,
                scope=flight.scope,
                question=flight.question,
                vector=flight.vector,
                now=flight.moved,
            )
            kept.settle(flight.outcome, flight.moved)
            if flight.key:
                self._flights.setdefault(flight.scope, {}).setdefault(flight.key, kept)
                self._ended.append(kept)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def _led_here() -> tuple[Flight, ...]:
    return tuple(flight for flight in _leading.get() if flight.outcome is None)


def _neighbours(asked: Flight, others: Iterable[Flight]) -> Iterator[Neighbour]:
    for flight in others:
        if asked.vector is None or flight.vector is None:
            continue
        if flight.vector.shape == asked.vector.shape:
            entry = Entry(
                key=flight.key, scope=flight.scope, question=canonical(flight.question), answer=""
            )
            yield Neighbour(entry=entry, cosine=float(flight.vector @ asked.vector))


def _served(flight: Flight, *, cosine: float, exact: bool, clock: Callable[[], float]) -> Hit:
    outcome = flight.outcome
    same = "" if exact else f" in similar words (cosine {cosine:.3f})"
    return Hit(
        answer=outcome.answer if outcome else "",
        usage_then=outcome.usage if outcome else Usage(),
        tier="exact" if exact else "near",
        question=flight.question,
        cosine=cosine,
        age=max(0.0, clock() - flight.moved) if outcome else 0.0,
        why=f"shared with a request in flight{same}",
    )


class _Pause:
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


_pause = _Pause()
