"""Which documents nodes come from, in which version."""

from collections.abc import Iterable

from llama_index.core.schema import BaseNode

from costwise_core.cache.versions import Documents
from llamaindex_costwise._passages import restored

__all__ = ["documents_of"]


def documents_of(nodes: Iterable[BaseNode]) -> Documents:
    """Return the documents of nodes, each once, in order.

    The version is the metadata's "version", else the hash that the document had when it was split.
    A node whose document's hash is not known stands for itself too, with its own.
    """
    found: dict[tuple[str, str], None] = {}
    for node in map(restored, nodes):  # compressed text differs from question to question
        source = node.source_node
        stated = node.metadata.get("version")
        version = str(stated) if stated not in (None, "") else ""
        if source is None:
            found[node.node_id, version or node.hash] = None
        else:
            version = version or source.hash or ""
            found[source.node_id, version] = None
            if not version:
                found[node.node_id, node.hash] = None
    return tuple(found)
