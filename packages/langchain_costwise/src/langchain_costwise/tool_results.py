"""What an agent's tools return, compressed for what the user asked."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, ToolMessage

from costwise_core.compress.provenance import TOLD
from costwise_core.compress.tool_text import asked_for, shorten_texts
from costwise_core.compress.watched import CompressionStats, Watched
from costwise_core.context import current_request
from costwise_core.drive import Flow, arun, run
from costwise_core.errors import ConfigError, MissingExtraError
from costwise_core.passages import Compressed
from costwise_core.protocols import Compressor

try:
    from langchain.agents.middleware import AgentMiddleware
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.types import Command
except ImportError as error:  # pragma: no cover - a test runs this in an environment without it
    raise MissingExtraError(
        "CompressionMiddleware", "agents", package="langchain-costwise"
    ) from error

__all__ = ["CompressionMiddleware"]


class CompressionMiddleware(AgentMiddleware[Any, Any, Any]):
    """Compress what the listed tools return, once, before the agent's model reads it.

    Each result is compressed for the user's last question and the words of the tool's call. The
    message keeps its id, tool call, status and artifact; its `response_metadata["costwise"]` holds
    the original content. A result written from the documents in its artifact (a retriever tool's
    with `response_format="content_and_artifact"`) is compressed document by document.

    Left whole are errors, JSON, what is not text, results that go straight to the user
    (`return_direct`), and commands.

    Args:
        compressor: Any costwise compressor, an `ExtractiveCompressor` for one.
        tools: Names of the tools whose results may be compressed.
        json_too: Whether results that are JSON may be cut; they are no JSON any more then.
        on_compressed: Is shown every result.

    Raises:
        ConfigError: if no tool is named, or `compressor` has no method `compress`.
        MissingExtraError: on import, if langchain is not installed.

    Example:
        >>> class Short:
        ...     def compress(self, question, passages):
        ...         return Compressed.unchanged(passages, tokens=1, reason="short")
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import FakeListChatModel
        >>> shorter = CompressionMiddleware(Short(), tools=["search"])
        >>> agent = create_agent(FakeListChatModel(responses=["Hello."]), middleware=[shorter])
        >>> agent.invoke({"messages": [("user", "Hi")]})["messages"][-1].text
        'Hello.'
    """

    def __init__(
        self,
        compressor: Compressor,
        *,
        tools: Collection[str],
        json_too: bool = False,
        on_compressed: Callable[[Compressed], object] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(tools, str) or not tools:
            raise ConfigError(f"tools must list the names of tools, got {tools!r}.")
        self._compressor = Watched(compressor, on_compressed=on_compressed)
        # LangChain adds what is in `self.tools` to the agent.
        self._names = frozenset(tools)
        self._json_too = json_too

    @property
    def stats(self) -> CompressionStats:
        """Results by the reason they were compressed or not, faults, tokens before and after."""
        return self._compressor.stats

    def wrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]],
    ) -> ToolMessage | Command[Any]:
        """Run the tool and compress what it returns."""
        return run(self._shorter(request, handler(request)))

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Do what `wrap_tool_call` does, without blocking the event loop."""
        return await arun(self._shorter(request, await handler(request)))

    def _shorter(
        self, request: ToolCallRequest, result: ToolMessage | Command[Any]
    ) -> Flow[ToolMessage | Command[Any]]:
        if (
            request.tool_call["name"] not in self._names
            or not isinstance(result, ToolMessage)
            or result.status == "error"
            or getattr(request.tool, "return_direct", False)
        ):
            return result
        blocks = [result.content] if isinstance(result.content, str) else result.content
        texts = [_text(block) for block in blocks]
        shorter, found = yield from shorten_texts(
            self._compressor,
            asked_for(_question(request.state), request.tool_call["args"].values()),
            texts,
            documents=_documents(result.artifact),
            json_too=self._json_too,
        )
        if shorter == texts:
            return result
        pairs = zip(blocks, texts, shorter, strict=True)
        content = [
            _with_text(block, after) for block, before, after in pairs if after or not before
        ]
        return result.model_copy(
            update={
                "content": content[0] if isinstance(result.content, str) else content,
                "response_metadata": {
                    **result.response_metadata,
                    TOLD: {"why": found.why, "original": result.content},
                },
            }
        )


def _question(state: Any) -> str:
    """Return what the user asked last, in the agent's state or as `scoped` says."""
    messages = state["messages"] if isinstance(state, dict) else getattr(state, "messages", state)
    asked = (message.text for message in reversed(messages) if isinstance(message, HumanMessage))
    return current_request().question or next(asked, "")


def _documents(artifact: object) -> list[str]:
    if not isinstance(artifact, list) or not all(isinstance(one, Document) for one in artifact):
        return []
    return [document.page_content for document in artifact]


def _text(block: str | dict[Any, Any]) -> str:
    """Return a block's text, "" for one that is none."""
    if isinstance(block, str):
        return block
    text = block.get("text") if block.get("type") == "text" else None
    return text if isinstance(text, str) else ""


def _with_text(block: str | dict[Any, Any], text: str) -> str | dict[Any, Any]:
    if isinstance(block, str):
        return text
    return {**block, "text": text} if text else block
