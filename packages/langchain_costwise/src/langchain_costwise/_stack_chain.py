"""A chain that looks a question up before it searches, and remembers what was said."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs

from costwise_core.cache.agreement import Turn
from costwise_core.context import scoped
from costwise_core.dedup import InFlight
from costwise_core.dedup_lead import Lead
from costwise_core.dedup_stream import Follow, afan_out, fan_out
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, nearest
from costwise_core.memory.memory import ConversationMemory
from costwise_core.memory.messages import Conversation
from costwise_core.recipe import searched
from costwise_core.tracking import recorder
from langchain_costwise._answers import saved_usage
from langchain_costwise._convert import write_prompt
from langchain_costwise._documents import documents_of
from langchain_costwise._messages import as_message, prompt_of, restored
from langchain_costwise._passages import restore
from langchain_costwise._replay import copied, relayed, replay, told_last
from langchain_costwise._spending import model_name
from langchain_costwise._stack_answers import Drawn, StackAnswers
from langchain_costwise.cache import SAID, ModelCall
from langchain_costwise.memory import conversation_of, said_by
from langchain_costwise.tracking import tags_in

__all__ = ["DEFAULT_PROMPT", "GroundedChain"]

HISTORY: Final = "history"

DEFAULT_PROMPT: Final = ChatPromptTemplate.from_messages(
    [
        (
            "system",
            "Answer from the passages alone. Say that you do not know if the answer is not there.",
        ),
        MessagesPlaceholder(HISTORY, optional=True),
        ("human", "{context}\n\nQuestion: {question}"),
    ]
)


@dataclass(slots=True, kw_only=True)
class _Asked:
    """One question, and whatever is known about it before anything is paid for."""

    question: str
    config: RunnableConfig
    said: dict[str, Any]
    history: Sequence[BaseMessage] = ()
    conversation: Conversation | None = None
    call: ModelCall | None = None
    drawn: Drawn | None = None


class GroundedChain(Runnable[str, AIMessage]):
    """From a question to an answer that is drawn from documents; made by `Stack`.

    Args:
        retriever: Finds what goes into the prompt.
        model: Answers; the cache is this chain's, so it has none.
        prompt: Has the variables `context` and `question`, and a placeholder `history` where there
            is a memory.
        answers: Where answers are kept.
        in_flight: The questions on their way.
        memory: Keeps conversations.

    Raises:
        ConfigError: if the prompt lacks a variable.
    """

    def __init__(
        self,
        *,
        retriever: BaseRetriever,
        model: BaseChatModel,
        prompt: ChatPromptTemplate | None = None,
        answers: StackAnswers | None = None,
        in_flight: InFlight | None = None,
        memory: ConversationMemory | None = None,
    ) -> None:
        self.retriever = retriever
        self.model = model
        self.prompt = checked_prompt(prompt, history=memory is not None)
        self.answers = answers
        self.in_flight = in_flight if in_flight is not None else InFlight()
        self.memory = memory
        self.forgotten = 0
        """Turns that the memory's store could not take."""

    # --- as a runnable ----------------------------------------------------------------------------

    def invoke(
        self,
        input: str,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **_: Any,
    ) -> AIMessage:
        """Answer one question."""

        def answer(question: str, run_manager: Any, config: RunnableConfig) -> AIMessage:  # noqa: ARG001
            return run(self._answer(question, config))

        return self._call_with_config(answer, input, config)

    async def ainvoke(
        self,
        input: str,  # noqa: A002
        config: RunnableConfig | None = None,
        **_: Any,
    ) -> AIMessage:
        """Do what `invoke` does, without blocking the event loop."""

        async def answer(question: str, run_manager: Any, config: RunnableConfig) -> AIMessage:  # noqa: ARG001
            return await arun(self._answer(question, config))

        return await self._acall_with_config(answer, input, config)

    def stream(
        self,
        input: str,  # noqa: A002
        config: RunnableConfig | None = None,
        **_: Any,
    ) -> Iterator[AIMessage]:
        """Answer one question piece by piece."""

        def pieces(
            given: Iterator[str],
            run_manager: Any,  # noqa: ARG001
            config: RunnableConfig,
        ) -> Iterator[AIMessage]:
            for question in given:
                for chunk in self._pieces(question, config):
                    yield _message(chunk)

        yield from self._transform_stream_with_config(iter([input]), pieces, config)

    async def astream(
        self,
        input: str,  # noqa: A002
        config: RunnableConfig | None = None,
        **_: Any,
    ) -> AsyncIterator[AIMessage]:
        """Do what `stream` does, without blocking the event loop."""

        async def pieces(
            given: AsyncIterator[str],
            run_manager: Any,  # noqa: ARG001
            config: RunnableConfig,
        ) -> AsyncIterator[AIMessage]:
            async for question in given:
                async with aclosing(self._apieces(question, config)) as chunks:
                    async for chunk in chunks:
                        yield _message(chunk)

        async def given() -> AsyncIterator[str]:
            yield input

        stream: Any = self._atransform_stream_with_config(given(), pieces, config)
        async with aclosing(stream):
            async for message in stream:
                yield message

    # --- one question -----------------------------------------------------------------------------

    def _answer(self, question: str, config: RunnableConfig) -> Flow[AIMessage]:
        asked = yield from self._asked(question, config)
        claim = yield from self._claim(asked)
        if isinstance(claim, list):
            message = self._served(asked, claim)
        else:
            with claim:
                message = yield from self._paid(asked)
                yield from self._keep(asked, [ChatGeneration(message=message)], claim)
        yield from self._remember(asked, message)
        return message

    def _pieces(self, question: str, config: RunnableConfig) -> Iterator[ChatGenerationChunk]:
        asked = run(self._asked(question, config))
        claim = run(self._claim(asked, live=True))
        chunks: list[ChatGenerationChunk] = []
        if isinstance(claim, list):
            stream: Iterator[ChatGenerationChunk] = replay(_chat(self._served(asked, claim)))
        elif isinstance(claim, Follow):
            stream = self._following(asked, claim)
        else:
            keep = lambda pieces: self._keep(asked, _merged(pieces), claim)  # noqa: E731
            stream = fan_out(claim, self._live(asked), copied, keep)
        for chunk in stream:
            chunks.append(chunk)
            yield chunk
        run(self._remember(asked, _whole(chunks)))

    async def _apieces(
        self, question: str, config: RunnableConfig
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        asked = await arun(self._asked(question, config))
        claim = await arun(self._claim(asked, live=True))
        chunks: list[ChatGenerationChunk] = []
        if isinstance(claim, list):
            stream: Any = _aiter(replay(_chat(self._served(asked, claim))))
        elif isinstance(claim, Follow):
            stream = self._afollowing(asked, claim)
        else:
            keep = lambda pieces: self._keep(asked, _merged(pieces), claim)  # noqa: E731
            stream = afan_out(claim, self._alive(asked), copied, keep)
        async with aclosing(stream):
            async for chunk in stream:
                chunks.append(chunk)
                yield chunk
        await arun(self._remember(asked, _whole(chunks)))

    def _following(self, asked: _Asked, shared: Follow[Any]) -> Iterator[ChatGenerationChunk]:
        for chunk in shared:
            yield relayed(chunk)
        last = told_last(shared.hit)
        self._note(asked, last.message.response_metadata)
        yield last

    async def _afollowing(
        self, asked: _Asked, shared: Follow[Any]
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(aiter(shared)) as chunks:
            async for chunk in chunks:
                yield relayed(chunk)
        last = told_last(shared.hit)
        self._note(asked, last.message.response_metadata)
        yield last

    def _live(self, asked: _Asked) -> Iterator[ChatGenerationChunk]:
        messages = run(self._prompt(asked))
        for message in self.model.stream(messages, asked.config):
            yield ChatGenerationChunk(message=message)

    async def _alive(self, asked: _Asked) -> AsyncIterator[ChatGenerationChunk]:
        messages = await arun(self._prompt(asked))
        stream: Any = self.model.astream(messages, asked.config)
        async with aclosing(stream):
            async for message in stream:
                yield ChatGenerationChunk(message=message)

    # --- before --------------------------------------------------------------------------------

    def _asked(self, question: str, config: RunnableConfig) -> Flow[_Asked]:
        if not isinstance(question, str):
            raise ConfigError(f"the input is a question, a str; got {type(question).__name__}.")
        said = said_by(config)
        fields = dict(said.get(SAID) or {})
        # Routers and judges see the whole prompt, and must know which part of it was asked.
        told: RunnableConfig = {"configurable": {SAID: {**fields, "question": question}}}
        config = merge_configs(config, told)
        asked = _Asked(question=question, config=config, said=fields)
        if self.memory is not None:
            asked.conversation = conversation_of(None, said)
            asked.history = yield from self._said_before(asked.conversation)
            tags = {"conversation": asked.conversation.id}
            if asked.conversation.user:
                tags["user"] = asked.conversation.user
            asked.config = merge_configs(config, {"metadata": tags})
        return asked

    def _said_before(self, conversation: Conversation) -> Flow[list[BaseMessage]]:
        assert self.memory is not None  # noqa: S101
        try:
            kept = yield from call(self.memory.store.messages, conversation)
        except Exception:  # noqa: BLE001 - the view meets it too, and counts it
            return []
        return [restored(one) for one in kept]

    def _claim(self, asked: _Asked, *, live: bool = False) -> Flow[Any]:
        if self.answers is None:
            return self.in_flight.alone("")
        asked.call = ModelCall(
            prompt=write_prompt([*asked.history, HumanMessage(asked.question)]),
            llm_string=self.model._get_llm_string(),  # noqa: SLF001 - LangChain's interface
            said=asked.said,
            tools=False,
        )

        def renew(lead: Lead) -> Flow[None]:
            # A run of its own: that of the question is over by then.
            again = replace(asked, config={**asked.config, "callbacks": None})
            message = yield from self._paid(again)
            yield from self._keep(again, [ChatGeneration(message=message)], lead)

        return (yield from self.answers.claim(asked.call, self.in_flight, renew=renew, live=live))

    # --- paying --------------------------------------------------------------------------------

    def _paid(self, asked: _Asked) -> Flow[AIMessage]:
        messages = yield from self._prompt(asked)
        message: AIMessage = yield from call(self.model.invoke, messages, asked.config)
        return message

    def _prompt(self, asked: _Asked) -> Flow[list[BaseMessage]]:
        since = 0
        if self.answers is not None:
            since = yield from call(self.answers.cache.mark)
        documents = yield from self._found(asked)
        context = "\n\n".join(one.page_content for one in documents)
        given: dict[str, Any] = {"context": context, "question": asked.question}
        if self.memory is not None:
            given[HISTORY] = yield from self._remembered(asked)
        messages = self.prompt.format_messages(**given)
        asked.drawn = Drawn(
            documents=documents_of([restore(one) for one in documents]),
            since=since,
            sent="\n".join(one.text for one in messages),
        )
        return messages

    def _found(self, asked: _Asked) -> Flow[list[Document]]:
        config = asked.config
        with scoped(**asked.said):
            return (
                yield from call(
                    self.retriever.invoke, searched(_turns(asked.history), asked.question), config
                )
            )

    def _remembered(self, asked: _Asked) -> Flow[list[BaseMessage]]:
        assert self.memory is not None  # noqa: S101
        assert asked.conversation is not None  # noqa: S101
        with scoped(**asked.said):
            view = yield from call(
                self.memory.view, asked.conversation, (), question=asked.question
            )
        return prompt_of(view, [])

    # --- after ---------------------------------------------------------------------------------

    def _keep(self, asked: _Asked, generations: Sequence[Generation], lead: Lead) -> Flow[None]:
        if self.answers is not None and asked.call is not None and asked.drawn is not None:
            yield from self.answers.keep_drawn(asked.call, generations, lead, asked.drawn)

    def _remember(self, asked: _Asked, message: AIMessage | None) -> Flow[None]:
        if self.memory is None or asked.conversation is None or message is None:
            return
        said = [
            HumanMessage(asked.question, id=uuid4().hex),
            AIMessage(message.content, id=uuid4().hex),
        ]
        try:
            yield from call(self.memory.add, asked.conversation, [as_message(one) for one in said])
        except Exception:  # noqa: BLE001 - an answer that was paid for is never lost
            self.forgotten += 1

    def _served(self, asked: _Asked, found: Sequence[Generation]) -> AIMessage:
        answer = found[0]
        assert isinstance(answer, ChatGeneration)  # noqa: S101 - a chain stores nothing else
        message = answer.message
        assert isinstance(message, AIMessage)  # noqa: S101
        self._note(asked, message.response_metadata)
        return message

    def _note(self, asked: _Asked, told: Any) -> None:
        """Write a hit on the bill: no model runs, so no callback would."""
        hit, active = told.get(SAID), recorder()
        if active is not None and hit is not None:
            active.tagged(tags_in(asked.config.get("metadata", {}))).record(
                operation="chat",
                model=str(told.get("model_name") or model_name(self.model, {})),
                tier=hit["hit"],
                usage_then=saved_usage(hit),
                why=hit["why"],
            )


def _turns(history: Sequence[BaseMessage]) -> list[Turn]:
    return [
        Turn(role="user" if isinstance(one, HumanMessage) else "assistant", text=one.text)
        for one in history
        if isinstance(one, HumanMessage | AIMessage)
    ]


def checked_prompt(prompt: ChatPromptTemplate | None, *, history: bool) -> ChatPromptTemplate:
    """Return a prompt that has all it must have.

    Raises:
        ConfigError: if it lacks a variable.
    """
    if prompt is None:
        return DEFAULT_PROMPT
    names = {*prompt.input_variables, *prompt.optional_variables}
    for name in ("context", "question", *((HISTORY,) if history else ())):
        if name not in names:
            raise ConfigError(
                f"the prompt has no variable {name!r}, only {', '.join(sorted(names)) or 'none'}."
                f"{nearest(name, names)}"
            )
    return prompt


def _message(chunk: ChatGenerationChunk) -> AIMessage:
    assert isinstance(chunk.message, AIMessage)  # noqa: S101 - models stream nothing else
    return chunk.message


def _chat(message: AIMessage) -> ChatGeneration:
    return ChatGeneration(message=message)


def _merged(chunks: list[ChatGenerationChunk]) -> list[ChatGeneration]:
    whole = merge_chat_generation_chunks(chunks)
    return [whole] if whole else []


def _whole(chunks: list[ChatGenerationChunk]) -> AIMessage | None:
    whole = merge_chat_generation_chunks(chunks)
    return _message(whole) if whole else None


async def _aiter(chunks: Iterator[ChatGenerationChunk]) -> AsyncIterator[ChatGenerationChunk]:
    for chunk in chunks:
        yield chunk
