"""Which documents nodes come from, in which version; and noticing that a version is another."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from llama_index.core.schema import BaseNode

from costwise_core.cache import Cache
from costwise_core.drive import Flow, call

__all__ = ["Documents", "Versions", "documents_of"]

Documents: TypeAlias = tuple[tuple[str, str], ...]
"""Ids and versions; a version of "" is not known."""

_KNOWN = 10_000


def documents_of(nodes: Iterable[BaseNode]) -> Documents:
    """Return the documents of nodes, each once, in order.

    The version is the metadata's "version", else the hash that the document had when it was split.
    A node whose document's hash is not known stands for itself too, with its own.
    """
    found: dict[tuple[str, str], None] = {}
    for node in nodes:
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


class Versions:
    """The versions in which documents were last retrieved, by one engine or retriever.

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
        """Delete what was drawn from other versions; tell whether an answer from these is current.

        Args:
            cache: Where answers are deleted.
            documents: Of a fresh answer.
            since: The mark from when the answer was asked for. If another request has brought
                another version since, this one was retrieved before the change.
        """
        changed = self._changed(documents, since)
        if changed:
            try:
                self.invalidated += yield from call(cache.invalidate, changed)
            except Exception as error:  # noqa: BLE001 - a cache fails open
                cache.count_error(error)
                self._forget(list(changed))
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

    def _forget(self, ids: Sequence[str]) -> None:
        with self._lock:
            for one in ids:
                self._seen.pop(one, None)
