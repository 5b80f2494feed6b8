"""A chat model whose prompts the provider can cache: marked for some, given a key for others."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import Field, PrivateAttr

from costwise_core.prompt.layout import prefix_key
from costwise_core.prompt.marks import TOOLS, Mark, Role, Said, marks_in, steady_prefix
from costwise_core.tracking import current_tags
from langchain_costwise._wrapper import TOLD_TAGS, ChatWrapper, aask, alive, ask, live
from langchain_costwise.cache import SAID, request_context

__all__ = ["PromptCachedChatModel", "marked"]

_Style: TypeAlias = Literal["anthropic", "converse"]
_STYLES: Final[Mapping[str, _Style]] = {
    "anthropic-chat": "anthropic",
    "anthropic-chat-vertexai": "anthropic",
    "amazon_bedrock_converse_chat": "converse",
}
_KEYED: Final = frozenset({"openai-chat", "azure-openai-chat", "mistralai-chat"})
_OWN_MARKS: Final = ("cache_control", "cachePoint")


class PromptCachedChatModel(ChatWrapper):
    """Wrap a chat model so that its provider caches what can be cached of each prompt.

    Claude (through Anthropic, Vertex and Bedrock's Converse) and Nova are told up to where: the end
    of the instructions (before anything in them that changes with each call), the end of the
    history, and with tools the end of all. OpenAI, Azure and Mistral are given a
    `prompt_cache_key`, the same for prompts of one tenant that begin alike. Other models are called
    as before; Gemini and DeepSeek cache by themselves. Nothing the caller gave is changed, and who
    marks or gives a key by themselves is left alone.

    Put it next to the model, inside `CachedChatModel` and the like. A server that only speaks like
    OpenAI gets no key unless you give one.

    Args:
        model: The chat model that is paid for.
        ttl: How long Claude's prefixes are kept after their last use: "5m", or "1h" at a higher
            price for writing (`best_lifetime` says which is cheaper).
        key: What `prompt_cache_key` is to be, instead.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> model = PromptCachedChatModel(model=FakeListChatModel(responses=["A method."]))
        >>> model.invoke("What is RAG?").text
        'A method.'
    """

    ttl: Literal["5m", "1h"] = "5m"
    key: str = Field(default="", repr=False)
    _faults: Counter[str] = PrivateAttr(default_factory=Counter)

    @property
    def faults(self) -> Mapping[str, int]:
        """Prompts that were sent as they were because marking failed, by error."""
        return dict(self._faults)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        messages, kwargs = self._prepared(messages, kwargs)
        return ask(self.model, messages, stop, run_manager, kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        messages, kwargs = self._prepared(messages, kwargs)
        return await aask(self.model, messages, stop, run_manager, kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        messages, kwargs = self._prepared(messages, kwargs)
        yield from live(self.model, messages, stop, run_manager, kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        messages, kwargs = self._prepared(messages, kwargs)
        async for chunk in alive(self.model, messages, stop, run_manager, kwargs):
            yield chunk

    def _prepared(
        self, messages: list[BaseMessage], kwargs: dict[str, Any]
    ) -> tuple[list[BaseMessage], dict[str, Any]]:
        if request_context(kwargs.get(SAID)).unoptimised:
            return messages, kwargs
        try:
            return self._made_cacheable(messages, kwargs)
        except Exception as error:  # noqa: BLE001 - dear is better than broken
            self._faults[type(error).__name__] += 1
            return messages, kwargs

    def _made_cacheable(
        self, messages: list[BaseMessage], kwargs: dict[str, Any]
    ) -> tuple[list[BaseMessage], dict[str, Any]]:
        style = _STYLES.get(self._llm_type)
        if style is not None:
            return marked(messages, kwargs, model=self.model_name, style=style, ttl=self.ttl)
        if "prompt_cache_key" not in kwargs and (self.key or self._takes_key()):
            key = self.key or prefix_key(
                [_tools(kwargs), *steady_prefix([_said(one) for one in messages])],
                self.model_name,
                _tenant(kwargs),
            )
            return messages, {**kwargs, "prompt_cache_key": key}
        return messages, kwargs

    def _takes_key(self) -> bool:
        model: Any = self.model
        while isinstance(model, ChatWrapper):
            model = model.model
        elsewhere = getattr(model, "openai_api_base", None)
        return self._llm_type in _KEYED and (
            not isinstance(elsewhere, str) or "openai" in elsewhere.partition("//")[2].split("/")[0]
        )


def marked(
    messages: list[BaseMessage],
    kwargs: dict[str, Any],
    *,
    model: str,
    style: _Style = "anthropic",
    ttl: Literal["5m", "1h"] = "5m",
) -> tuple[list[BaseMessage], dict[str, Any]]:
    """Return messages and call arguments with marks up to which the provider is to cache.

    They are copies where something was marked, and the same objects elsewhere.

    Args:
        messages: In order.
        kwargs: Of the call; "tools" as the model was bound to them.
        model: As the provider names it.
        style: "anthropic" (`cache_control` on a block) or "converse" (a `cachePoint` behind it).
        ttl: How long a prefix is kept after its last use.

    Example:
        >>> system = SystemMessage("Cite the page of every figure. " * 300)
        >>> (first,), _ = marked([system], {}, model="claude-sonnet-4-5")
        >>> first.content[-1]["cache_control"], isinstance(system.content, str)
        ({'type': 'ephemeral', 'ttl': '5m'}, True)
    """
    if _marked_already(messages, kwargs):
        return messages, kwargs
    marks = marks_in([_said(one) for one in messages], model=model, tools=_tools(kwargs))
    found = list(messages)
    for mark in marks:
        if mark.message == TOOLS:
            kwargs = {**kwargs, "tools": _marked_tools(kwargs["tools"], style, ttl)}
        else:
            found[mark.message] = _marked_message(found[mark.message], mark, style, ttl)
    return found, kwargs


def _marked_message(message: BaseMessage, mark: Mark, style: _Style, ttl: str) -> BaseMessage:
    content = message.content
    blocks: list[Any] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    )
    blocks = [{"type": "text", "text": one} if isinstance(one, str) else one for one in blocks]
    place = len(blocks) - 1
    if mark.end is not None:
        place, blocks = _split(blocks, mark.end)
    if style == "anthropic":
        blocks[place] = {**blocks[place], "cache_control": {"type": "ephemeral", "ttl": ttl}}
    else:
        blocks.insert(place + 1, _cache_point(ttl))
    return message.model_copy(update={"content": blocks})


def _split(blocks: list[Any], end: int) -> tuple[int, list[Any]]:
    """Cut the text of blocks into two, and return where the block before the cut is."""
    done = 0
    for place, block in enumerate(blocks):
        text = block.get("text", "") if block.get("type") == "text" else ""
        if done + len(text) > end > done:
            halves = ({**block, "text": text[: end - done]}, {**block, "text": text[end - done :]})
            return place, [*blocks[:place], *halves, *blocks[place + 1 :]]
        done += len(text)
        if done >= end:
            return place, blocks
    return len(blocks) - 1, blocks


def _marked_tools(tools: Sequence[Any], style: _Style, ttl: str) -> list[Any]:
    if style == "converse":
        return [*tools, _cache_point(ttl)]
    return [*tools[:-1], {**tools[-1], "cache_control": {"type": "ephemeral", "ttl": ttl}}]


def _cache_point(ttl: str) -> dict[str, Any]:
    # Models that know no other lifetime than five minutes refuse a request that names one.
    return {"cachePoint": {"type": "default"} | ({"ttl": ttl} if ttl != "5m" else {})}


def _marked_already(messages: Sequence[BaseMessage], kwargs: Mapping[str, Any]) -> bool:
    if any(name in kwargs for name in _OWN_MARKS):
        return True
    blocks = [
        block
        for message in messages
        if isinstance(message.content, list)
        for block in message.content
    ]
    tools = kwargs.get("tools") or ()
    return any(
        name in one for one in (*blocks, *tools) if isinstance(one, dict) for name in _OWN_MARKS
    )


# --- what the core asks of a message ------------------------------------------------------------


def _said(message: BaseMessage) -> Said:
    role: Role = (
        "system"
        if isinstance(message, SystemMessage)
        else "assistant"
        if isinstance(message, AIMessage)
        else "tool"
        if isinstance(message, ToolMessage)
        else "user"
    )
    content = message.content
    if isinstance(content, str):
        return Said(role=role, text=content, markable=bool(content.strip()))
    texts = [one if isinstance(one, str) else one.get("text", "") for one in content]
    last = content[-1] if content else ""
    markable = bool(last.strip()) if isinstance(last, str) else _markable(last)
    return Said(role=role, text="".join(map(str, texts)), markable=markable)


def _markable(block: Mapping[str, Any]) -> bool:
    kind = block.get("type")
    if kind == "text":
        return bool(str(block.get("text", "")).strip())
    return kind in {"image", "image_url", "document", "file"}


def _tools(kwargs: Mapping[str, Any]) -> str:
    tools = kwargs.get("tools") or ()
    return json.dumps(tools, default=repr, sort_keys=True) if tools else ""


def _tenant(kwargs: Mapping[str, Any]) -> str:
    tags = {**current_tags(), **kwargs.get(TOLD_TAGS, {})}
    return request_context(kwargs.get(SAID)).tenant or tags.get("tenant", "")
