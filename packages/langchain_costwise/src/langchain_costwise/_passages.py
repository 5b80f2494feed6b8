"""LangChain documents as passages, and what a compressor made of them as documents again."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from langchain_core.documents import Document

from costwise_core.compress.provenance import TOLD, Told, number, read_told, write_told
from costwise_core.errors import VectorError
from costwise_core.passages import Compressed, Passage
from costwise_core.types import Vector

__all__ = ["documents_from", "passages_of", "restore"]

_HEADINGS: Final = tuple(f"Header {level}" for level in range(1, 7))


def restore(document: Document) -> Document:
    """Return a document as it was retrieved, before any of our compressors had it.

    A document that none of them had comes back itself.

    Example:
        >>> shortened = Document(
        ...     "Oslo.",
        ...     id="1",
        ...     metadata={"costwise": {"why": "", "original": "Hi. Oslo.", "spans": [[4, 9]]}},
        ... )
        >>> restore(shortened)
        Document(id='1', metadata={}, page_content='Hi. Oslo.')
    """
    told = read_told(document.metadata)
    if told is None:
        return document
    return Document(
        id=document.id,
        page_content=document.page_content if told.original is None else told.original,
        metadata={name: value for name, value in document.metadata.items() if name != TOLD},
    )


def passages_of(documents: Sequence[Document]) -> list[Passage]:
    """Return a passage for each document, in order, as costwise compressors take them.

    Example:
        >>> from costwise_core import LabelledQuestion
        >>> found = [Document("Oslo is in Norway.", id="1", metadata={"title": "Oslo"})]
        >>> asked = LabelledQuestion(
        ...     question="Where is Oslo?", passages=passages_of(found), answers=("Norway",)
        ... )
        >>> asked.passages[0].title
        'Oslo'
    """
    return [_passage(document) for document in documents]


def documents_from(result: Compressed, given: Sequence[Passage]) -> list[Document]:
    """Return the documents that should go into the prompt.

    What was passed through is the very document that was given; all else are new ones.
    """
    untouched = {id(passage): passage.ref for passage in given}
    return [untouched.get(id(passage)) or _document(passage) for passage in result.passages]


def _passage(document: Document) -> Passage:
    told = read_told(document.metadata) or Told()
    # Rerankers write their score under this name; what "score" means differs between stores.
    score = number(document.metadata.get("relevance_score")) if told.score is None else told.score
    return Passage(
        text=document.page_content,
        id=document.id or "",
        title=_title(document.metadata),
        score=score,
        vector=_vector(getattr(document, "state", None)),
        metadata=document.metadata,
        original=told.original,
        spans=told.spans,
        why=told.why,
        ref=document,
    )


def _document(passage: Passage) -> Document:
    # A plain one: what other steps attach to documents of their own holds for the whole text only.
    return Document(
        id=passage.id or None,
        page_content=passage.text,
        metadata={**passage.metadata, TOLD: write_told(passage)},
    )


def _title(metadata: Mapping[str, Any]) -> str:
    title = metadata.get("title")
    if isinstance(title, str) and title.strip():
        return title
    return " > ".join(metadata[name] for name in _HEADINGS if isinstance(metadata.get(name), str))


def _vector(state: object) -> Vector | None:
    """Return the vector that LangChain's own filters attach to a document, if there is one."""
    vector = state.get("embedded_doc") if isinstance(state, Mapping) else None
    if vector is None:
        return None
    from costwise_core.embed.rows import unit_rows  # noqa: PLC0415 - imports numpy

    try:
        unit: Vector = unit_rows([vector])[0]
    except (VectorError, TypeError, ValueError):
        return None
    return unit
