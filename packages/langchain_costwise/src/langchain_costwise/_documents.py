"""Which documents a result holds, in which version; and noticing that a version is another."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeAlias

from langchain_core.documents import Document

from costwise_core.cache import Cache, fingerprint
from costwise_core.drive import Flow, call

__all__ = ["Documents", "Versions", "documents_of"]

Documents: TypeAlias = tuple[tuple[str, str], ...]
"""Ids and versions; a version of "" is not known, and counts as changed whenever it is asked."""

_KNOWN = 10_000


def documents_of(documents: Iterable[Document]) -> Documents:
    """Return what an answer from these documents depends on, each once, in order.

    A chunk counts under its own id and under its metadata's "source" (or "id"), since ingestion
    sees sources and retrieval sees chunks. The version is the metadata's "version", else of a
    chunk its content. One without any name counts under its content.
    """
    found: dict[tuple[str, str], None] = {}
    for document in documents:
        stated = document.metadata.get("version")
        version = "" if stated is None else str(stated)
        source = str(document.metadata.get("source") or document.metadata.get("id") or "")
        content = fingerprint(document.page_content, volatile=())
        if source and source != document.id:
            found[source, version] = None
        if document.id or not source:
            found[document.id or content, version or content] = None
    return tuple(found)


class Versions:
    """The versions in which documents were last found, by one retriever.

    When a document comes in another one, answers drawn from the version before are deleted.
    """

    def __init__(self) -> None:
        self.invalidated = 0
        self._seen: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._clock = 0
        self._lock = threading.Lock()

    def now(self) -> int:
        """Return a mark to compare later changes with."""
        return self._clock

    def notice(self, cache: Cache, documents: Documents, *, since: int) -> Flow[bool]:
        """Delete what was drawn from other versions; tell whether these may be kept themselves.

        Args:
            cache: Where answers are deleted.
            documents: What was found.
            since: The mark from when the search began. If another search has brought another
                version since, this one was made before the change.
        """
        changed = self._changed(documents, since)
        if changed:
            try:
                self.invalidated += yield from call(cache.invalidate, changed)
            except Exception as error:  # noqa: BLE001 - a cache fails open
                cache.count_error(error)
                with self._lock:
                    for one in changed:
                        self._seen.pop(one, None)
        return changed is not None

    def _changed(self, documents: Documents, since: int) -> dict[str, str] | None:
        ids = [one for one, _ in documents]
        changed = {}
        with self._lock:
            for one, version in documents:
                known, noticed = self._seen.get(one, ("", 0))
                if known == version or not version or ids.count(one) > 1:
                    continue
                if noticed > since:
                    return None
                changed[one] = version
            if changed:
                self._clock += 1
            for one, version in changed.items():
                self._seen[one] = (version, self._clock)
                self._seen.move_to_end(one)
            while len(self._seen) > _KNOWN:
                self._seen.popitem(last=False)
        return changed
