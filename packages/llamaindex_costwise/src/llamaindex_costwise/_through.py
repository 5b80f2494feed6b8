"""One model call through the cache: look up, else call and keep; and the same for streams."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast, overload

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse

from costwise_core.cache import Cache
from costwise_core.cache.cacheable import CallFacts
from costwise_core.dedup import InFlight
from costwise_core.dedup_find import find_or_lead
from costwise_core.dedup_lead import Lead
from costwise_core.dedup_refresh import Renew
from costwise_core.dedup_stream import Follow, afan_out, fan_out
from costwise_core.drive import Flow, arun, call, run
from costwise_core.types import Hit, Scope, Usage
from llamaindex_costwise._convert import Tail, pack, pieces, text_of, unfit_answer, unpack
from llamaindex_costwise._ending import finish_reason
from llamaindex_costwise._relay import copied, relayed
from llamaindex_costwise._request import Asked
from llamaindex_costwise._usage import estimated_usage, reported_usage
from llamaindex_costwise.events import announce

__all__ = ["Request", "Through"]

AnswerT = TypeVar("AnswerT", ChatResponse, CompletionResponse)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One call that may be answered from the cache."""

    asked: Asked
    scope: Scope
    facts: CallFacts
    operation: str
    prompt: str | Sequence[ChatMessage]


@dataclass(frozen=True, slots=True)
class Through:
    """Takes calls through a cache. Without a request, a call goes straight to the model."""

    cache: Cache
    in_flight: InFlight

    def answer(
        self,
        request: Request | None,
        kind: type[AnswerT],
        fn: Callable[..., AnswerT],
        *args: Any,
        **kwargs: Any,
    ) -> Flow[AnswerT]:
        """Return the stored answer, or what `fn` answers, kept if it may be."""
        if request is None:
            return (yield from call(fn, *args, **kwargs))

        def paid(lead: Lead) -> Flow[AnswerT]:
            with lead:
                answer = yield from call(fn, *args, **kwargs)
                yield from self._keep(request, lead, answer)
            return answer

        claim = yield from self._claim(request, kind, paid)
        return (yield from paid(claim)) if isinstance(claim, Lead) else claim

    @overload
    def _claim(
        self, request: Request, kind: type[AnswerT], renew: Renew
    ) -> Flow[AnswerT | Lead]: ...
    @overload
    def _claim(
        self, request: Request, kind: type[AnswerT], renew: Renew, *, live: bool
    ) -> Flow[AnswerT | Lead | Follow[AnswerT]]: ...
    def _claim(
        self, request: Request, kind: type[AnswerT], renew: Renew, *, live: bool = False
    ) -> Flow[AnswerT | Lead | Follow[AnswerT]]:
        """Return an answer to serve, the right to pay for one, or somebody else's stream."""
        asked = request.asked
        found = yield from find_or_lead(
            self.cache,
            self.in_flight,
            asked.text,
            request.scope,
            turns=asked.turns,
            facts=request.facts,
            near=asked.near,
            renew=renew,
            live=live,
        )
        if not isinstance(found, Hit):
            return found
        try:
            answer = unpack(found, kind)
            announce(found, operation=request.operation, model=request.scope.model)
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self.cache.count_error(error)
            self.cache.take_back(found, "damaged", "a stored answer could not be read")
            return self.in_flight.alone(asked.text)
        return answer

    def _keep(
        self,
        request: Request,
        lead: Lead,
        answer: ChatResponse | CompletionResponse,
        finish: str = "",
        reported: Usage | None = None,
    ) -> Flow[None]:
        try:
            finish = finish or finish_reason(answer.raw)
            reason = unfit_answer(answer, finish)
            if reason:
                self.cache.count_not_stored(reason)
                return
            packed, text = pack(answer), text_of(answer)
            usage = (
                reported
                or reported_usage(answer)
                or estimated_usage(request.prompt, text, request.scope.model)
            )
        except Exception as error:  # noqa: BLE001
            self.cache.count_error(error)
            self.cache.count_not_stored("unreadable")
            return
        kept = yield from call(
            self.cache.store,
            request.asked.text,
            request.scope,
            packed,
            turns=request.asked.turns,
            facts=replace(request.facts, finish_reason=finish),
            near=request.asked.near,
            text=text,
            usage=usage,
            vector=lead.vector,
        )
        if kept.fit:
            lead.share(packed, usage)

    def _keep_stream(self, request: Request, lead: Lead, stream: Sequence[Any]) -> Flow[None]:
        tail = Tail()
        for piece in stream:
            tail.add(piece)
        whole = tail.finished()
        if isinstance(whole, str):
            self.cache.count_not_stored(whole)
        else:
            yield from self._keep(request, lead, *whole)

    def stream(
        self,
        request: Request | None,
        kind: type[AnswerT],
        fn: Callable[..., Generator[AnswerT, None, None]],
        *args: Any,
        **kwargs: Any,
    ) -> Generator[AnswerT, None, None]:
        """Return the stored answer in pieces, or the stream of `fn`, kept if read to its end."""
        if request is None:
            return fn(*args, **kwargs)
        whole = _Whole(partial(fn, *args, **kwargs))
        renew = partial(self._renew_stream, request, whole)
        claim = run(self._claim(request, kind, renew, live=True))
        if isinstance(claim, Follow):
            return self._follow(request, claim)
        if not isinstance(claim, Lead):
            return cast("Generator[AnswerT, None, None]", pieces(claim))
        with ExitStack() as duties:
            duties.enter_context(claim)
            stream = fn(*args, **kwargs)
            duties.pop_all()
        return self._lead(request, claim, stream)

    async def astream(
        self,
        request: Request | None,
        kind: type[AnswerT],
        fn: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> AsyncGenerator[AnswerT, None]:
        """Do what `stream` does with an asynchronous `fn`."""
        if request is None:
            return cast("AsyncGenerator[AnswerT, None]", await fn(*args, **kwargs))
        whole = _Whole(partial(fn, *args, **kwargs))
        renew = partial(self._renew_stream, request, whole)
        claim = await arun(self._claim(request, kind, renew, live=True))
        if isinstance(claim, Follow):
            return self._afollow(request, claim)
        if not isinstance(claim, Lead):
            return _areplay(claim)
        with ExitStack() as duties:
            duties.enter_context(claim)
            stream = await fn(*args, **kwargs)
            duties.pop_all()
        return self._alead(request, claim, stream)

    def _renew_stream(self, request: Request, whole: "_Whole", lead: Lead) -> Flow[None]:
        yield from self._keep_stream(request, lead, (yield from call(whole.read)))

    # --- a stream that others may follow, and somebody else's ------------------------------------

    def _lead(
        self, request: Request, lead: Lead, stream: Generator[AnswerT, None, None]
    ) -> Generator[AnswerT, None, None]:
        try:
            yield from fan_out(lead, stream, copied, partial(self._keep_stream, request, lead))
        except BaseException:
            self._count_unfinished(lead)
            raise

    async def _alead(
        self, request: Request, lead: Lead, stream: AsyncGenerator[AnswerT, None]
    ) -> AsyncGenerator[AnswerT, None]:
        finish = partial(self._keep_stream, request, lead)
        try:
            async with aclosing(afan_out(lead, stream, copied, finish)) as paid:
                async for piece in paid:
                    yield piece
        except BaseException:
            self._count_unfinished(lead)
            raise

    def _count_unfinished(self, lead: Lead) -> None:
        if not lead.flight.wanted:  # else it is read to its end for others
            self.cache.count_not_stored("unfinished")

    def _follow(self, request: Request, shared: Follow[AnswerT]) -> Generator[AnswerT, None, None]:
        for piece in shared:
            yield relayed(piece, shared.hit)
        announce(shared.hit, operation=request.operation, model=request.scope.model)

    async def _afollow(
        self, request: Request, shared: Follow[AnswerT]
    ) -> AsyncGenerator[AnswerT, None]:
        async with aclosing(aiter(shared)) as stream:
            async for piece in stream:
                yield relayed(piece, shared.hit)
        announce(shared.hit, operation=request.operation, model=request.scope.model)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A stream that is read to its end at once."""

    stream: Callable[[], Any]

    def read(self) -> list[Any]:
        return list(self.stream())

    async def aread(self) -> list[Any]:
        return [piece async for piece in await self.stream()]


async def _areplay(answer: AnswerT) -> AsyncGenerator[AnswerT, None]:
    for piece in pieces(answer):
        yield piece
