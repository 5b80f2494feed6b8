"""An LLM whose prompts the provider can cache: marked for some, given a key for others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from llama_index.core.base.llms.types import (
    CacheControl,
    CachePoint,
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.llm import LLM
from llama_index.core.tools import BaseTool

from costwise_core.context import current_request
from costwise_core.prompt.layout import prefix_key
from costwise_core.prompt.marks import TOOLS, Mark, Role, Said, marks_in, steady_prefix
from costwise_core.tracking import current_tags
from llamaindex_costwise._forwarding import ForwardingLLM

__all__ = ["PromptCachedLLM", "marked"]

_ANTHROPIC: Final = "Anthropic_LLM"
_MARKED: Final = frozenset({_ANTHROPIC, "Bedrock_Converse_LLM"})
_KEYED: Final = frozenset({"openai_llm", "openai_responses_llm", "azure_openai_llm"})
_ROLES: Final[Mapping[MessageRole, Role]] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


class PromptCachedLLM(ForwardingLLM):
    r"""Wraps an LLM so that its provider caches what can be cached of each chat.

    Claude and Bedrock's Converse are told up to where: the end of the instructions (before anything
    in them that changes with each call), the end of the history, and with tools the end of all.
    OpenAI is given a `prompt_cache_key`, the same for prompts of one tenant that begin alike. Other
    LLMs are called as before; Gemini and DeepSeek cache by themselves. Nothing the caller gave is
    changed, and who marks or gives a key by themselves is left alone.

    Put it next to the LLM, inside `CachedLLM` and the like. LlamaIndex sends Claude's instructions
    as one text that cannot be marked, so here they are also sent in `extra_body`, which Anthropic's
    client puts in their place. `complete` is passed on: a single text has nothing to mark.

    Args:
        llm: The LLM that is paid for.
        ttl: How long Claude's prefixes are kept after their last use: "5m", or "1h" at a higher
            price for writing (`best_lifetime` says which is cheaper).
        key: What `prompt_cache_key` is to be, instead.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> PromptCachedLLM(llm=MockLLM()).chat([ChatMessage("What is RAG?")]).message.content
        'user: What is RAG?\nassistant: '
    """

    ttl: Literal["5m", "1h"] = "5m"
    key: str = Field(default="", exclude=True, repr=False)
    _faults: Counter[str] = PrivateAttr(default_factory=Counter)

    def __init__(self, *, llm: LLM, **kwargs: Any) -> None:
        super().__init__(llm=llm, **kwargs)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises this class under."""
        return "PromptCachedLLM"

    @property
    def faults(self) -> Mapping[str, int]:
        """Prompts that were sent as they were because marking failed, by error."""
        return dict(self._faults)

    # --- plain calls --------------------------------------------------------------------------

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer by the wrapped LLM's `chat`."""
        messages, kwargs = self._prepared(messages, kwargs)
        return self.llm.chat(messages, **kwargs)

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer by the wrapped LLM's `achat`."""
        messages, kwargs = self._prepared(messages, kwargs)
        return await self.llm.achat(messages, **kwargs)

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Stream from the wrapped LLM's `stream_chat`."""
        messages, kwargs = self._prepared(messages, kwargs)
        return self.llm.stream_chat(messages, **kwargs)

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Stream from the wrapped LLM's `astream_chat`."""
        messages, kwargs = self._prepared(messages, kwargs)
        return await self.llm.astream_chat(messages, **kwargs)

    # --- calls with tools ---------------------------------------------------------------------

    def chat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponse:
        """Offer tools, as the wrapped LLM does."""
        args, kwargs = self._with_tools(*args, **kwargs)
        return self._tool_caller().chat_with_tools(*args, **kwargs)

    async def achat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponse:
        """Do what `chat_with_tools` does, without blocking the event loop."""
        args, kwargs = self._with_tools(*args, **kwargs)
        return await self._tool_caller().achat_with_tools(*args, **kwargs)

    def stream_chat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponseGen:
        """Do what `chat_with_tools` does, as a stream."""
        args, kwargs = self._with_tools(*args, **kwargs)
        return self._tool_caller().stream_chat_with_tools(*args, **kwargs)

    async def astream_chat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponseAsyncGen:
        """Do what `chat_with_tools` does, as an asynchronous stream."""
        args, kwargs = self._with_tools(*args, **kwargs)
        return await self._tool_caller().astream_chat_with_tools(*args, **kwargs)

    def _with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: Sequence[ChatMessage] | None = None,
        *options: Any,
        **kwargs: Any,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        messages = list(chat_history or ())
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role="user", content=user_msg)
        if user_msg is not None:
            messages.append(user_msg)
        messages, kwargs = self._prepared(messages, kwargs, tools)
        return (tools, None, messages, *options), kwargs

    # --- marking ------------------------------------------------------------------------------

    def _prepared(
        self,
        messages: Sequence[ChatMessage],
        kwargs: dict[str, Any],
        tools: Sequence[BaseTool] = (),
    ) -> tuple[list[ChatMessage], dict[str, Any]]:
        if current_request().unoptimised:
            return list(messages), kwargs
        try:
            return self._made_cacheable(list(messages), kwargs, tools)
        except Exception as error:  # noqa: BLE001 - dear is better than broken
            self._faults[type(error).__name__] += 1
            return list(messages), kwargs

    def _made_cacheable(
        self, messages: list[ChatMessage], kwargs: dict[str, Any], tools: Sequence[BaseTool]
    ) -> tuple[list[ChatMessage], dict[str, Any]]:
        llm = self.llm
        while isinstance(llm, ForwardingLLM):
            llm = llm.llm
        kind, model = llm.class_name(), self.metadata.model_name
        described = _described(tools)
        if kind in _MARKED:
            own = getattr(llm, "cache_idx", None) is not None
            return (
                (messages, kwargs)
                if own
                else marked(
                    messages,
                    kwargs,
                    model=model,
                    tools=described,
                    ttl=self.ttl,
                    system_apart=kind == _ANTHROPIC,
                )
            )
        if "prompt_cache_key" not in kwargs and (self.key or _takes_key(llm, kind)):
            key = self.key or prefix_key(
                [described, *steady_prefix([_said(one) for one in messages])],
                model,
                current_request().tenant or current_tags().get("tenant", ""),
            )
            return messages, {**kwargs, "prompt_cache_key": key}
        return messages, kwargs


def marked(
    messages: list[ChatMessage],
    kwargs: dict[str, Any],
    *,
    model: str,
    tools: str = "",
    ttl: Literal["5m", "1h"] = "5m",
    system_apart: bool = True,
) -> tuple[list[ChatMessage], dict[str, Any]]:
    """Return messages and call arguments with marks up to which the provider is to cache.

    They are copies where something was marked, and the same objects elsewhere.

    Args:
        messages: In order.
        kwargs: Of the call.
        model: As the provider names it.
        tools: Of the tools' descriptions, which come before all messages.
        ttl: How long a prefix is kept after its last use.
        system_apart: Whether instructions are marked in `extra_body`, as Anthropic's must be;
            else the marks are Bedrock's.

    Example:
        >>> system = ChatMessage(role="system", content="Cite the page of every figure. " * 300)
        >>> history = [system, ChatMessage("Hi"), ChatMessage(role="assistant", content="Hello")]
        >>> asked = [*history, ChatMessage("Why?")]
        >>> found, kwargs = marked(asked, {}, model="claude-sonnet-4-5")
        >>> [type(block).__name__ for block in found[2].blocks]
        ['TextBlock', 'CachePoint']
        >>> kwargs["extra_body"]["system"][0]["cache_control"]
        {'type': 'ephemeral', 'ttl': '5m'}
    """
    if _marked_already(messages, kwargs):
        return messages, kwargs
    said = [_said(one) for one in messages]
    found = list(messages)
    for mark in marks_in(said, model=model, tools=tools):
        if mark.message == TOOLS:
            continue  # LlamaIndex builds them after us
        if said[mark.message].role == "system" and system_apart:
            body = {**kwargs.get("extra_body", {}), "system": _system(messages, mark, ttl)}
            kwargs = {**kwargs, "extra_body": body}
        else:
            kind = "ephemeral" if system_apart else "default"
            control = CacheControl(type=kind, ttl=ttl)
            found[mark.message] = _marked_message(found[mark.message], mark, control)
    return found, kwargs


def _system(messages: Sequence[ChatMessage], mark: Mark, ttl: str) -> list[dict[str, Any]]:
    """Write the instructions as LlamaIndex joins them, cut where the cached part ends."""
    before: list[str] = []
    after: list[str] = []
    for number, message in enumerate(messages):
        if message.role != MessageRole.SYSTEM:
            continue
        texts = [block.text for block in message.blocks if isinstance(block, TextBlock)]
        if number == mark.message and mark.end is not None:
            text = "\n".join(texts)
            before.append(text[: mark.end])
            after.append(text[mark.end :])
        else:
            (before if number <= mark.message else after).extend(texts)
    rest = "\n".join(after)
    control = {"type": "ephemeral", "ttl": ttl}
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "\n".join(before), "cache_control": control}
    ]
    return [*blocks, {"type": "text", "text": rest}] if rest.strip() else blocks


def _marked_message(message: ChatMessage, mark: Mark, control: CacheControl) -> ChatMessage:
    point = CachePoint(cache_control=control)
    blocks = list(message.blocks)
    if mark.end is None:
        return message.model_copy(update={"blocks": [*blocks, point]})
    text = _text(message)
    halves = [TextBlock(text=text[: mark.end]), point, TextBlock(text=text[mark.end :])]
    return message.model_copy(update={"blocks": halves})


def _marked_already(messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> bool:
    return (
        "cache_control" in kwargs
        or "system" in kwargs.get("extra_body", {})
        or any(
            "cache_control" in one.additional_kwargs
            or any(isinstance(block, CachePoint) for block in one.blocks)
            for one in messages
        )
    )


# --- what the core asks of a message ------------------------------------------------------------


def _said(message: ChatMessage) -> Said:
    role = _ROLES.get(message.role, "user")
    last = message.blocks[-1] if message.blocks else None
    markable = (
        bool(last.text.strip()) if isinstance(last, TextBlock) else isinstance(last, ToolCallBlock)
    )
    # Providers take no mark inside a tool's result, and LlamaIndex can put it nowhere else.
    return Said(role=role, text=_text(message), markable=markable and role != "tool")


def _text(message: ChatMessage) -> str:
    return "\n".join(block.text for block in message.blocks if isinstance(block, TextBlock))


def _described(tools: Sequence[BaseTool]) -> str:
    return "\n".join(
        f"{one.metadata.name} {one.metadata.description} {one.metadata.get_parameters_dict()}"
        for one in tools
    )


def _takes_key(llm: LLM, kind: str) -> bool:
    if kind not in _KEYED:
        return False
    elsewhere = getattr(llm, "api_base", None)
    return not elsewhere or "openai" in str(elsewhere).partition("//")[2].split("/")[0]
