"""A chat engine that looks a question up, with the conversation before it, before it searches."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    StreamingResponse,
)
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.chat_engine.types import (
    AgentChatResponse,
    BaseChatEngine,
    StreamingAgentChatResponse,
)
from llama_index.core.llms.llm import LLM
from llama_index.core.memory import BaseMemory
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import ToolOutput
from llama_index.core.types import Thread
from llama_index_instrumentation.dispatcher import active_instrument_tags, instrument_tags

from costwise_core.cache import fingerprint
from costwise_core.cache.agreement import Turn
from costwise_core.context import current_request, scoped
from costwise_core.drive import Flow, arun, call, run
from costwise_core.memory.messages import Conversation
from costwise_core.recipe import searched
from costwise_core.types import Scope
from llamaindex_costwise._request import settings_of
from llamaindex_costwise._response import areplay, replay
from llamaindex_costwise._scoped import given
from llamaindex_costwise._stack_engine import StackQueryEngine

__all__ = ["AnswersInContext", "CachedTurns", "Context", "StackChatEngine"]


@dataclass
class _Asked(QueryBundle):
    """A question in a conversation."""

    turns: tuple[Turn, ...] = ()
    streamed: bool = False


class Context(ContextChatEngine):
    """LlamaIndex's `ContextChatEngine`, one step of which can be taken without its memory."""

    @property
    def llm(self) -> LLM:
        """What answers."""
        return self._llm

    @property
    def wording(self) -> list[str]:
        """Whatever the prompt holds beside question, context and history."""
        templates = [self._context_template, self._context_refine_template]
        return [
            *(one.get_template() for one in templates),
            *(f"{one.role}\0{one.content}" for one in self._prefix_messages),
        ]

    def answer(self, query: QueryBundle) -> RESPONSE_TYPE:
        """Answer a question of the conversation; it and the answer are not remembered."""
        nodes = self._get_nodes(_searched(query))
        history = self._memory.get(input=query.query_str)
        synthesizer = self._get_response_synthesizer(history, streaming=_streamed(query))
        return synthesizer.synthesize(query.query_str, nodes)

    async def aanswer(self, query: QueryBundle) -> RESPONSE_TYPE:
        """Do what `answer` does, without blocking the event loop."""
        nodes = await self._aget_nodes(_searched(query))
        history = await self._memory.aget(input=query.query_str)
        synthesizer = self._get_response_synthesizer(history, streaming=_streamed(query))
        return await synthesizer.asynthesize(query.query_str, nodes)


class AnswersInContext(BaseQueryEngine):
    """Answers one question of a conversation.

    Args:
        context: Whose retriever, prompts, LLM and memory are used.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(callback_manager=context.callback_manager)
        self.context = context

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return self.context.answer(query_bundle)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return await self.context.aanswer(query_bundle)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}


class CachedTurns(StackQueryEngine):
    """A `StackQueryEngine` for `AnswersInContext`, whose questions lean on a conversation."""

    engine: AnswersInContext

    def _llm(self) -> LLM:
        return self.engine.context.llm

    def _turns(self, query: QueryBundle) -> tuple[Turn, ...]:
        return query.turns if isinstance(query, _Asked) else ()

    def _plain_scope(self, query: QueryBundle) -> Scope:
        llm = self._llm()
        return Scope(
            corpus=self.corpus,
            model=llm.metadata.model_name,
            template=fingerprint(settings_of(llm), *self.engine.context.wording, volatile=()),
            context=given(query),
            kind="llama_index.chat",
        )


class StackChatEngine(BaseChatEngine):
    """Chats in one conversation over a query engine and a memory; made by `Stack`.

    Args:
        engine: Answers one question.
        memory: What was said; it must be the one that the engine reads.
        conversation: Whose and which: its tenant is that of each request that names none.
    """

    def __init__(
        self, engine: BaseQueryEngine, *, memory: BaseMemory, conversation: Conversation
    ) -> None:
        self.engine = engine
        self.memory = memory
        self.conversation = conversation

    def chat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> AgentChatResponse:
        """Answer a message."""
        query = run(self._begin(message, chat_history))
        with self._whose():
            response = self.engine.query(query)
        text = str(response)
        run(self._end(message, text))
        return AgentChatResponse(text, **_told(message, response))

    async def achat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> AgentChatResponse:
        """Do what `chat` does, without blocking the event loop."""
        query = await arun(self._begin(message, chat_history))
        with self._whose():
            response = await self.engine.aquery(query)
        text = str(response)
        await arun(self._end(message, text))
        return AgentChatResponse(text, **_told(message, response))

    def stream_chat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> StreamingAgentChatResponse:
        """Answer a message word by word."""
        query = run(self._begin(message, chat_history, streamed=True))
        with self._whose():
            response = self.engine.query(query)
        self.memory.put(_said(MessageRole.USER, message))
        told = _told(message, response)
        told.pop("metadata")  # LlamaIndex's streamed responses have none
        answer = StreamingAgentChatResponse(chat_stream=_chats(_words(response)), **told)
        answer.write_response_to_history_thread = Thread(
            target=answer.write_response_to_history, args=(self.memory,)
        )
        answer.write_response_to_history_thread.start()
        return answer

    async def astream_chat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> StreamingAgentChatResponse:
        """Do what `stream_chat` does, without blocking the event loop."""
        query = await arun(self._begin(message, chat_history, streamed=True))
        with self._whose():
            response = await self.engine.aquery(query)
        await self.memory.aput(_said(MessageRole.USER, message))
        told = _told(message, response)
        told.pop("metadata")
        answer = StreamingAgentChatResponse(achat_stream=_achats(_awords(response)), **told)
        answer.awrite_response_to_history_task = asyncio.create_task(
            answer.awrite_response_to_history(self.memory)
        )
        return answer

    def reset(self) -> None:
        """Forget the conversation."""
        self.memory.reset()

    @property
    def chat_history(self) -> list[ChatMessage]:
        """All that was said."""
        return self.memory.get_all()

    def _begin(
        self, message: str, history: list[ChatMessage] | None, *, streamed: bool = False
    ) -> Flow[_Asked]:
        if history is not None:
            yield from call(self.memory.set, history)
        said = yield from call(self.memory.get_all)
        turns = tuple(
            Turn(role="user" if one.role == MessageRole.USER else "assistant", text=one.content)
            for one in said
            if one.role in {MessageRole.USER, MessageRole.ASSISTANT} and one.content
        )
        return _Asked(message, turns=turns, streamed=streamed)

    def _end(self, message: str, text: str) -> Flow[None]:
        said = [_said(MessageRole.USER, message), _said(MessageRole.ASSISTANT, text)]
        yield from call(self.memory.put_messages, said)

    @contextmanager
    def _whose(self) -> Iterator[None]:
        tags = {"conversation": self.conversation.id, **active_instrument_tags.get()}
        tenant = current_request().tenant or self.conversation.tenant
        with scoped(tenant=tenant), instrument_tags(tags):
            yield


def _searched(query: QueryBundle) -> str:
    turns = query.turns if isinstance(query, _Asked) else ()
    return searched(turns, query.query_str)


def _streamed(query: QueryBundle) -> bool:
    return isinstance(query, _Asked) and query.streamed


def _said(role: MessageRole, text: str) -> ChatMessage:
    return ChatMessage(role=role, content=text)


def _told(message: str, response: RESPONSE_TYPE) -> dict[str, Any]:
    nodes = response.source_nodes
    source = ToolOutput(
        tool_name="retriever",
        content=str(nodes),
        raw_input={"message": message},
        raw_output=nodes,
    )
    return {"sources": [source], "source_nodes": nodes, "metadata": response.metadata}


def _words(response: RESPONSE_TYPE) -> Iterator[str]:
    if isinstance(response, StreamingResponse):
        return iter(response.response_gen)
    return iter(replay(str(response)))


def _awords(response: RESPONSE_TYPE) -> AsyncIterator[str]:
    if isinstance(response, AsyncStreamingResponse):
        return aiter(response.async_response_gen())
    return aiter(areplay(str(response)))


def _chats(words: Iterator[str]) -> Generator[ChatResponse, None, None]:
    text = ""
    for word in words:
        text += word
        yield ChatResponse(message=_said(MessageRole.ASSISTANT, text), delta=word)


async def _achats(words: AsyncIterator[str]) -> AsyncGenerator[ChatResponse, None]:
    text = ""
    async for word in words:
        text += word
        yield ChatResponse(message=_said(MessageRole.ASSISTANT, text), delta=word)
