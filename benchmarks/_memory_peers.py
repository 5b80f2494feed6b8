"""The frameworks' own memories, driven as their agents and chat engines drive them.

The classes are the real ones; only the model that writes their summaries is a stand-in. It answers
with the last words of what it was asked to summarise, so that all tokens are those of real text.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks._memory_calls import Call
from costwise_core.memory.messages import Message

LIMIT = 4000
SUMMARY_CHARACTERS = 1000  # some 250 tokens; neither framework limits what a summary may have

Count = Callable[[str], int]
Policy = Callable[[Sequence[Message]], list[Call]]


@dataclass
class Writer:
    """Stands in for the model that writes summaries, and counts what it is paid for."""

    count: Count
    sent: int = 0
    made: int = 0

    def write(self, prompt: str) -> str:
        summary = prompt[-SUMMARY_CHARACTERS:].partition(" ")[2]
        self.sent += self.count(prompt)
        self.made += self.count(summary)
        return summary

    def paid(self) -> tuple[int, int]:
        """Tokens sent and made since this was last asked."""
        paid, self.sent, self.made = (self.sent, self.made), 0, 0
        return paid


def peers(count: Count) -> dict[str, Policy]:
    """Return by name what of the frameworks is installed."""
    found: dict[str, Policy] = {}
    if importlib.util.find_spec("langchain"):
        found["LangChain SummarizationMiddleware"] = lambda talk: langchain(talk, count)
    if importlib.util.find_spec("llama_index"):
        found["LlamaIndex ChatSummaryMemoryBuffer"] = lambda talk: llamaindex_buffer(talk, count)
        found["LlamaIndex Memory"] = lambda talk: llamaindex_memory(talk, count)
    return found


def langchain(talk: Sequence[Message], count: Count) -> list[Call]:
    """`SummarizationMiddleware` at 4,000 tokens, with its default of 20 messages kept."""
    from langchain.agents.middleware import SummarizationMiddleware
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage
    from langchain_core.outputs import ChatGeneration, ChatResult

    writer = Writer(count)

    class Summariser(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "stand-in"

        def _generate(self, messages: list[BaseMessage], *_: object, **__: object) -> ChatResult:
            text = writer.write("\n".join(str(one.text) for one in messages))
            return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    middleware = SummarizationMiddleware(Summariser(), trigger=("tokens", LIMIT))
    known = {one.id: one.tokens for one in talk}
    state: list[BaseMessage] = []
    calls = []
    for one in talk:
        said = f"{one.name}: {one.text}"
        if one.role == "assistant":
            update: dict[str, Any] | None = middleware.before_model(
                {"messages": state},  # type: ignore[typeddict-item]
                None,  # type: ignore[arg-type]
            )
            if update is not None:
                state = [new for new in update["messages"] if not isinstance(new, RemoveMessage)]
            calls.append(_call(state, known, count, one.tokens, writer))
            state.append(AIMessage(said, id=one.id))
        else:
            state.append(HumanMessage(said, id=one.id))
    return calls


def llamaindex_buffer(talk: Sequence[Message], count: Count) -> list[Call]:
    """`ChatSummaryMemoryBuffer` at 4,000 tokens."""
    from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
    from llama_index.core.memory import ChatSummaryMemoryBuffer

    writer = Writer(count)

    class Summariser(CustomLLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata()

        def complete(self, prompt: str, *_: object, **__: object) -> CompletionResponse:
            return CompletionResponse(text=writer.write(prompt))

        def stream_complete(self, prompt: str, *_: object, **__: object) -> Any:
            raise NotImplementedError

    memory = ChatSummaryMemoryBuffer.from_defaults(
        llm=Summariser(), token_limit=LIMIT, tokenizer_fn=lambda text: [0] * count(text)
    )
    return _chatted(memory, talk, count, writer)


def llamaindex_memory(talk: Sequence[Message], count: Count) -> list[Call]:
    """`Memory` at 4,000 tokens, without memory blocks: what is flushed is gone."""
    from llama_index.core.memory import Memory

    memory = Memory.from_defaults(token_limit=LIMIT, tokenizer_fn=lambda text: [0] * count(text))
    return _chatted(memory, talk, count, Writer(count))


def _chatted(memory: Any, talk: Sequence[Message], count: Count, writer: Writer) -> list[Call]:
    from llama_index.core.llms import ChatMessage

    known = {one.id: one.tokens for one in talk}
    calls = []
    for one in talk:
        if one.role == "assistant":
            calls.append(_call(memory.get(), known, count, one.tokens, writer))
        text = f"{one.name}: {one.text}"
        memory.put(ChatMessage(role=one.role, content=text, additional_kwargs={"id": one.id}))
    return calls


def _call(
    prompt: Sequence[Any], known: dict[str, int], count: Count, answer: int, writer: Writer
) -> Call:
    """Read a framework's prompt: its own messages by their text, ours by their ids."""
    pieces = []
    for one in prompt:
        key = getattr(one, "id", "") or getattr(one, "additional_kwargs", {}).get("id", "")
        text = str(getattr(one, "text", None) or getattr(one, "content", ""))
        pieces.append((key, known[key]) if key in known else (text, count(text)))
    sent, made = writer.paid()
    return Call(prompt=tuple(pieces), answer=answer, summary_sent=sent, summary_made=made)
