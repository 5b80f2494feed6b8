"""One model call through the cache: look up, else call and keep; and the same for streams."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse

from costwise_core.cache import Cache, Question
from costwise_core.drive import Flow, arun, call, run
from costwise_core.types import Miss, Scope, Usage, Vector
from llamaindex_costwise._convert import Tail, pack, pieces, text_of, unfit_answer, unpack
from llamaindex_costwise._usage import estimated_usage, reported_usage
from llamaindex_costwise.events import announce

__all__ = ["Request", "Through"]

AnswerT = TypeVar("AnswerT", ChatResponse, CompletionResponse)


@dataclass(slots=True)
class Request:
    """One call that may be answered from the cache; `vector` is filled in by the lookup."""

    question: Question
    scope: Scope
    operation: str
    prompt: str | Sequence[ChatMessage]
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class Through:
    """Takes calls through a cache. Without a request, a call goes straight to the model."""

    cache: Cache

    def answer(
        self,
        request: Request | None,
        kind: type[AnswerT],
        fn: Callable[..., AnswerT],
        *args: Any,
        **kwargs: Any,
    ) -> Flow[AnswerT]:
        """Return the stored answer, or what `fn` answers, kept if it may be."""
        served = yield from self._find(request, kind)
        if served is not None:
            return served
        answer = yield from call(fn, *args, **kwargs)
        if request is not None:
            yield from self._keep(request, answer)
        return answer

    def _find(self, request: Request | None, kind: type[AnswerT]) -> Flow[AnswerT | None]:
        if request is None:
            return None
        asked = request.question
        found = yield from call(self.cache.lookup, asked.text, request.scope, near=asked.near)
        if isinstance(found, Miss):
            request.vector = found.vector
            return None
        try:
            answer = unpack(found, kind)
            announce(found, operation=request.operation, model=request.scope.model)
        except Exception as error:  # noqa: BLE001 - a cache fails open
            self.cache.count_error(error)
            self.cache.count_miss("damaged", "a stored answer could not be read")
            return None
        return answer

    def _keep(
        self,
        request: Request,
        answer: ChatResponse | CompletionResponse,
        reported: Usage | None = None,
    ) -> Flow[None]:
        try:
            reason = unfit_answer(answer)
            if reason:
                self.cache.count_not_stored(reason)
                return
            packed = pack(answer)
            usage = (
                reported
                or reported_usage(answer)
                or estimated_usage(request.prompt, text_of(answer), request.scope.model)
            )
        except Exception as error:  # noqa: BLE001
            self.cache.count_error(error)
            self.cache.count_not_stored("unreadable")
            return
        yield from call(
            self.cache.store,
            request.question.text,
            request.scope,
            packed,
            usage=usage,
            vector=request.vector,
            near=request.question.near,
        )

    def _keep_stream(self, request: Request, tail: Tail) -> Flow[None]:
        whole = tail.finished()
        if isinstance(whole, str):
            self.cache.count_not_stored(whole)
        else:
            yield from self._keep(request, *whole)

    def stream(
        self,
        request: Request | None,
        kind: type[AnswerT],
        fn: Callable[..., Generator[AnswerT, None, None]],
        *args: Any,
        **kwargs: Any,
    ) -> Generator[AnswerT, None, None]:
        """Return the stored answer in pieces, or the stream of `fn`, kept if read to its end."""
        served = run(self._find(request, kind))
        if served is not None:
            return cast("Generator[AnswerT, None, None]", pieces(served))
        stream = fn(*args, **kwargs)
        return stream if request is None else self._tee(request, stream)

    async def astream(
        self,
        request: Request | None,
        kind: type[AnswerT],
        fn: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> AsyncGenerator[AnswerT, None]:
        """Do what `stream` does with an asynchronous `fn`."""
        served = await arun(self._find(request, kind))
        if served is not None:
            return _areplay(served)
        stream = await fn(*args, **kwargs)
        return stream if request is None else self._atee(request, stream)

    def _tee(
        self, request: Request, stream: Generator[AnswerT, None, None]
    ) -> Generator[AnswerT, None, None]:
        tail = Tail()
        try:
            with closing(stream):
                for piece in stream:
                    tail.add(piece)
                    yield piece
        except BaseException:
            self.cache.count_not_stored("unfinished")
            raise
        run(self._keep_stream(request, tail))

    async def _atee(
        self, request: Request, stream: AsyncGenerator[AnswerT, None]
    ) -> AsyncGenerator[AnswerT, None]:
        tail = Tail()
        try:
            async with aclosing(stream):
                async for piece in stream:
                    tail.add(piece)
                    yield piece
        except BaseException:
            self.cache.count_not_stored("unfinished")
            raise
        await arun(self._keep_stream(request, tail))


async def _areplay(answer: AnswerT) -> AsyncGenerator[AnswerT, None]:
    for piece in pieces(answer):
        yield piece
