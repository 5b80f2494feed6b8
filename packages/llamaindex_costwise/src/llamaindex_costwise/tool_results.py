"""What an agent's tools return, compressed for what the tool was called for."""

from typing import Any

from llama_index.core.base.llms.types import TextBlock
from llama_index.core.schema import BaseNode, NodeWithScore
from llama_index.core.tools import FunctionTool, ToolMetadata, ToolOutput
from llama_index.core.tools.types import AsyncBaseTool, BaseTool, adapt_to_async_tool

from costwise_core.compress.tool_text import asked_for, shorten_texts
from costwise_core.compress.watched import Watched
from costwise_core.context import current_request
from costwise_core.drive import Flow, arun, run
from costwise_core.protocols import Compressor

__all__ = ["compressed_tool"]


def compressed_tool(
    tool: BaseTool, compressor: Compressor, *, json_too: bool = False
) -> AsyncBaseTool:
    """Return a tool whose output is compressed before the agent's model reads it.

    The output is compressed for the words the tool was called with, and for the user's question
    where `scoped(question=...)` says it. Name, schema, raw input and raw output are the tool's own;
    a `FunctionTool` stays one, with its context. Nodes in the raw output (a `RetrieverTool`'s) are
    compressed node by node.

    Left whole are errors, JSON and Python's data, what is not text, and results that go straight to
    the user (`return_direct`).

    Args:
        tool: Any tool.
        compressor: Any costwise compressor; a `CostwiseCompressor` counts what it does.
        json_too: Whether outputs that are JSON or data may be cut; they are neither any more then.

    Example:
        >>> from costwise_core import Compressed, Passage
        >>> class FirstWord:
        ...     def compress(self, question, passages):
        ...         kept = (Passage(id=passages[0].id, text=passages[0].text.split()[0]),)
        ...         return Compressed(
        ...             passages=kept, given=tuple(passages), reason="compressed",
        ...             tokens_before=20, tokens_after=1,
        ...         )
        >>> def search(query: str) -> str:
        ...     return "Oslo is in Norway."
        >>> output = compressed_tool(FunctionTool.from_defaults(search), FirstWord())(query="Oslo")
        >>> output.content, output.raw_output
        ('Oslo', 'Oslo is in Norway.')
    """
    watched = Watched(compressor)
    if isinstance(tool, FunctionTool):
        return _CompressedFunctionTool(tool, watched, json_too=json_too)
    return _CompressedTool(adapt_to_async_tool(tool), watched, json_too=json_too)


class _CompressedTool(AsyncBaseTool):
    def __init__(self, tool: AsyncBaseTool, compressor: Watched, *, json_too: bool) -> None:
        self._tool = tool
        self._compressor = compressor
        self._json_too = json_too

    @property
    def metadata(self) -> ToolMetadata:
        return self._tool.metadata

    def __call__(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return self.call(*args, **kwargs)

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return run(self._shorter(self._tool.call(*args, **kwargs), args, kwargs))

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return await arun(self._shorter(await self._tool.acall(*args, **kwargs), args, kwargs))

    def _shorter(
        self, output: ToolOutput, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Flow[ToolOutput]:
        if output.is_error or self.metadata.return_direct:
            return output
        if not self._json_too and _is_data(output.raw_output):
            return output
        texts = [block.text if isinstance(block, TextBlock) else "" for block in output.blocks]
        shorter, _ = yield from shorten_texts(
            self._compressor,
            asked_for(current_request().question, [*args, *kwargs.values()]),
            texts,
            documents=_documents(output.raw_output),
            json_too=self._json_too,
        )
        if shorter == texts:
            return output
        pairs = zip(output.blocks, texts, shorter, strict=True)
        blocks = [
            block.model_copy(update={"text": after}) if after else block
            for block, before, after in pairs
            if after or not before
        ]
        return output.model_copy(update={"blocks": blocks})


class _CompressedFunctionTool(_CompressedTool, FunctionTool):
    """Agents hand their context to function tools only, and look at the function's signature."""

    def __init__(self, tool: FunctionTool, compressor: Watched, *, json_too: bool) -> None:
        self.__dict__.update(vars(tool))
        super().__init__(tool, compressor, json_too=json_too)


def _documents(raw_output: object) -> list[str]:
    """Return the texts of the nodes a tool returned, if that is what it did."""
    if not isinstance(raw_output, list):
        return []
    nodes = [one.node if isinstance(one, NodeWithScore) else one for one in raw_output]
    return [node.get_content() for node in nodes if isinstance(node, BaseNode)]


def _is_data(raw_output: object) -> bool:
    """Return whether LlamaIndex wrote the output as Python writes data, which looks like JSON."""
    if isinstance(raw_output, list):
        return not all(
            isinstance(one, NodeWithScore | BaseNode) or hasattr(one, "block_type")
            for one in raw_output
        )
    return isinstance(raw_output, dict | tuple | set)
