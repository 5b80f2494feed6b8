"""LlamaIndex nodes as passages, and what a compressor made of them as nodes again."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    NodeWithScore,
    TextNode,
)

from costwise_core.compress.provenance import TOLD, Told, number, read_told, write_told
from costwise_core.errors import VectorError
from costwise_core.passages import Compressed, Passage
from costwise_core.types import Vector

__all__ = ["is_text", "nodes_from", "passages_of", "restore", "restored"]

N = TypeVar("N", bound=BaseNode)


def restore(node: NodeWithScore) -> NodeWithScore:
    """Return a node as it was retrieved, before any of our compressors had it.

    Its score is the last one it was given. A node that none of them had comes back itself.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from costwise_core import Compressed, Passage
        >>> from llamaindex_costwise import CostwiseCompressor
        >>> class Last:
        ...     def compress(self, question, passages):
        ...         kept = Passage(
        ...             text="Oslo.", original="Hi. Oslo.", spans=((4, 9),), ref=passages[0].ref
        ...         )
        ...         return Compressed(
        ...             passages=(kept,), given=tuple(passages), reason="compressed",
        ...             tokens_before=4, tokens_after=2,
        ...         )
        >>> given = NodeWithScore(node=TextNode(text="Hi. Oslo."))
        >>> (kept,) = CostwiseCompressor(Last()).postprocess_nodes([given], query_str="Oslo?")
        >>> kept.text, restore(kept).text, restore(kept).node == given.node
        ('Oslo.', 'Hi. Oslo.', True)
    """
    node_before = restored(node.node)
    return node if node_before is node.node else NodeWithScore(node=node_before, score=node.score)


def restored(node: BaseNode) -> BaseNode:
    """Return the node itself as it was retrieved."""
    told = read_told(node.metadata)
    if told is None:
        return node
    text = node.get_content(MetadataMode.NONE) if told.original is None else told.original
    return _copy(
        node,
        text,
        metadata={name: value for name, value in node.metadata.items() if name != TOLD},
        excluded_llm_metadata_keys=_without(node.excluded_llm_metadata_keys),
        excluded_embed_metadata_keys=_without(node.excluded_embed_metadata_keys),
    )


def is_text(node: BaseNode) -> bool:
    """Return whether a node is text and nothing else.

    An `IndexNode` stands for something else, and a picture's text describes it.
    """
    if isinstance(node, Node):
        others = (node.image_resource, node.audio_resource, node.video_resource)
        return node.text_resource is not None and not any(others)
    return isinstance(node, TextNode) and not isinstance(node, ImageNode | IndexNode)


def passages_of(nodes: Sequence[NodeWithScore]) -> list[Passage]:
    """Return a passage for each text node, in order, as costwise compressors take them.

    Example:
        >>> from costwise_core import LabelledQuestion
        >>> from llama_index.core.schema import TextNode
        >>> node = TextNode(text="Oslo is in Norway.", metadata={"title": "Oslo"})
        >>> asked = LabelledQuestion(
        ...     question="Where is Oslo?",
        ...     passages=passages_of([NodeWithScore(node=node)]),
        ...     answers=("Norway",),
        ... )
        >>> asked.passages[0].title
        'Oslo'
    """
    return [_passage(node) for node in nodes if is_text(node.node)]


def nodes_from(
    result: Compressed, passages: Sequence[Passage], given: Sequence[NodeWithScore]
) -> list[NodeWithScore]:
    """Return the nodes that should go into the prompt.

    What was passed through is the very node that was given; all else are new ones. Nodes that are
    no text keep their places.
    """
    untouched = {id(passage): passage.ref for passage in passages}
    found = [untouched.get(id(passage)) or _node(passage) for passage in result.passages]
    for place, node in enumerate(given):
        if not is_text(node.node):
            found.insert(place, node)
    return found


def _passage(given: NodeWithScore) -> Passage:
    node = given.node
    told = read_told(node.metadata) or Told()
    return Passage(
        text=node.get_content(MetadataMode.NONE),
        id=node.node_id,
        title=_title(node.metadata),
        header=node.get_metadata_str(MetadataMode.LLM).strip(),
        score=number(given.score),
        vector=_vector(node.embedding),
        metadata=node.metadata,
        original=told.original,
        spans=told.spans,
        why=told.why,
        ref=given,
    )


def _title(metadata: Mapping[str, Any]) -> str:
    # The rest of what the model reads with the text says little of what it is about: judged by all
    # of it, passages of several hops are not found by name any more.
    for name in ("title", "document_title", "header_path"):
        title = metadata.get(name)
        if isinstance(title, str) and title.strip(" /"):
            return title.strip("/")
    return ""


def _node(passage: Passage) -> NodeWithScore:
    given = passage.ref
    # A compressor may merge several passages into one of its own.
    node = given.node if isinstance(given, NodeWithScore) else TextNode()
    return NodeWithScore(
        node=_copy(
            node,
            passage.text,
            id_=passage.id or node.node_id,
            metadata={**passage.metadata, TOLD: write_told(passage)},
            # What we say about a text must never be sent with it.
            excluded_llm_metadata_keys=[*_without(node.excluded_llm_metadata_keys), TOLD],
            excluded_embed_metadata_keys=[*_without(node.excluded_embed_metadata_keys), TOLD],
        ),
        score=passage.score,
    )


def _copy(node: N, text: str, **update: Any) -> N:
    if isinstance(node, Node):
        resource = node.text_resource
        update["text_resource"] = resource and resource.model_copy(update={"text": text})
    else:
        update["text"] = text
    return node.model_copy(update={**update, "relationships": dict(node.relationships)})


def _without(names: Sequence[str]) -> list[str]:
    return [name for name in names if name != TOLD]


def _vector(embedding: Sequence[float] | None) -> Vector | None:
    if not embedding:
        return None
    from costwise_core.embed.rows import unit_rows  # noqa: PLC0415 - imports numpy

    try:
        unit: Vector = unit_rows([embedding])[0]
    except (VectorError, TypeError, ValueError):
        return None
    return unit
