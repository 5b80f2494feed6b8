"""Query engine responses to stored text and back, sources included."""

import json
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from typing import Any

from llama_index.core.base.response.schema import Response
from llama_index.core.schema import Document, NodeWithScore, TextNode
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc

from costwise_core.types import Hit
from llamaindex_costwise._convert import DamagedError, load, slices
from llamaindex_costwise.events import marker

__all__ = [
    "areplay",
    "pack_nodes",
    "pack_response",
    "replay",
    "unfit_nodes",
    "unfit_response",
    "unpack_nodes",
    "unpack_response",
]

# What synthesizers say when retrieval brought nothing: no answer to keep.
_EMPTY = frozenset({"", "Empty Response", "None"})
# Other node types hold paths and addresses that a reader would open.
_NODES = (TextNode, Document)


def unfit_response(response: Response) -> str:
    """Return why a response must not be stored, or "" if it may be."""
    if (response.response or "").strip() in _EMPTY:
        return "empty_answer"
    return unfit_nodes(response.source_nodes)


def unfit_nodes(nodes: Iterable[NodeWithScore]) -> str:
    """Return why nodes must not be stored, or "" if they may be."""
    return "node_type" if any(type(one.node) not in _NODES for one in nodes) else ""


def pack_nodes(nodes: Sequence[NodeWithScore]) -> str | None:
    """Return nodes as text to store, or None if they would not come back exactly."""
    try:
        text = json.dumps({"v": 1, "sources": _plain(nodes)})
    except (TypeError, ValueError):
        return None
    return text if _equal(_sources(load(text)), nodes) else None


def unpack_nodes(hit: Hit) -> list[NodeWithScore]:
    """Return fresh nodes made from a hit.

    Raises:
        DamagedError: if the stored text cannot be read.
    """
    try:
        return _sources(load(hit.answer))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError("stored nodes do not have the expected shape.") from error


def pack_response(response: Response, *, streamed: bool) -> str | None:
    """Return a response as text to store, or None if it would not come back exactly as it was.

    Args:
        response: The response.
        streamed: Whether it came as a stream.
    """
    try:
        text = json.dumps(
            {
                "v": 1,
                "response": response.response,
                "streamed": streamed,
                "metadata": response.metadata,
                "sources": _plain(response.source_nodes),
            }
        )
    except (TypeError, ValueError):
        return None
    restored, _ = _read(text)
    same = restored.metadata == response.metadata and _equal(
        restored.source_nodes, response.source_nodes
    )
    return text if same else None


def unpack_response(hit: Hit) -> tuple[Response, bool]:
    """Return a fresh response made from a hit, and whether it was stored from a stream.

    Its metadata gains the entry "costwise", which says why it was served.

    Raises:
        DamagedError: if the stored text cannot be read.
    """
    try:
        response, streamed = _read(hit.answer)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError("a stored response does not have the expected shape.") from error
    response.metadata = {**(response.metadata or {}), "costwise": marker(hit)}
    return response, streamed


def replay(text: str) -> Generator[str, None, None]:
    """Yield a text in several pieces."""
    yield from slices(text)


async def areplay(text: str) -> AsyncGenerator[str, None]:
    """Do what `replay` does, asynchronously."""
    for piece in slices(text):
        yield piece


def _read(text: str) -> tuple[Response, bool]:
    body = load(text)
    sources = _sources(body)
    if not isinstance(body["response"], str):
        raise DamagedError("a stored response has no text.")
    response = Response(body["response"], source_nodes=sources, metadata=body["metadata"])
    return response, bool(body["streamed"])


def _plain(nodes: Iterable[NodeWithScore]) -> list[dict[str, Any]]:
    return [
        {"node": doc_to_json(one.node), "score": None if one.score is None else float(one.score)}
        for one in nodes
    ]


def _sources(body: dict[str, Any]) -> list[NodeWithScore]:
    return [_source(item) for item in body["sources"]]


def _source(item: dict[str, Any]) -> NodeWithScore:
    node = json_to_doc(item["node"])
    if type(node) not in _NODES:
        raise DamagedError("a stored response holds a source that is not text.")
    return NodeWithScore(node=node, score=item["score"])


def _equal(one: Sequence[NodeWithScore], other: Sequence[NodeWithScore]) -> bool:
    return len(one) == len(other) and all(
        a.node == b.node and a.score == b.score for a, b in zip(one, other, strict=True)
    )
