"""Which documents a result holds, in which version."""

from collections.abc import Iterable

from langchain_core.documents import Document

from costwise_core.cache import fingerprint
from costwise_core.cache.versions import Documents
from langchain_costwise._passages import restore

__all__ = ["documents_of"]


def documents_of(documents: Iterable[Document]) -> Documents:
    """Return what an answer from these documents depends on, each once, in order.

    A chunk counts under its own id and under its metadata's "source" (or "id"), since ingestion
    sees sources and retrieval sees chunks. The version is the metadata's "version", else of a
    chunk its content. One without any name counts under its content.
    """
    found: dict[tuple[str, str], None] = {}
    for document in map(restore, documents):  # compressed text differs from question to question
        stated = document.metadata.get("version")
        version = "" if stated is None else str(stated)
        source = str(document.metadata.get("source") or document.metadata.get("id") or "")
        content = fingerprint(document.page_content, volatile=())
        if source and source != document.id:
            found[source, version] = None
        if document.id or not source:
            found[document.id or content, version or content] = None
    return tuple(found)
