"""Noticing that a document has another version than stored answers were drawn from."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from costwise_core.cache.cache import Cache
from costwise_core.cache.changes import Documents
from costwise_core.drive import Flow, call
from costwise_core.types import Selection

__all__ = ["Documents", "Versions"]

_KNOWN: Final = 10_000


class Versions:
    """The versions in which documents were last retrieved, by one engine or retriever.

    When a document comes in another one, answers drawn from the version before are deleted.

    Example:
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> from costwise_core.drive import run
        >>> cache, versions = Cache(MemoryStore()), Versions()
        >>> _ = cache.store("Notice period?", Scope(), "30 days", documents=(("terms", "v1"),))
        >>> run(versions.notice(cache, (("terms", "v2"),), since=cache.mark()))
        True
        >>> versions.invalidated
        1
    """

    def __init__(self) -> None:
        self.invalidated = 0
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def notice(self, cache: Cache, documents: Documents, *, since: int) -> Flow[bool]:
        """Delete what was drawn from other versions; tell whether an answer from these is current.

        Args:
            cache: Where answers are deleted.
            documents: Of a fresh answer.
            since: The cache's mark from before they were retrieved: what another request, or an
                ingestion, has changed since was retrieved before the change.
        """
        if (yield from cache.changes.outdated(documents, since=since)):
            return False
        changed, known = self._changed(cache, documents)
        if changed:
            try:
                if known:
                    yield from cache.changes.announce(known, lags=False)
                self.invalidated += yield from call(cache.clear, Selection(changed=changed))
            except Exception as error:  # noqa: BLE001 - a cache fails open
                cache.count_error(error)
                self._forget([one for one, _ in changed])
        return True

    def _changed(self, cache: Cache, documents: Documents) -> tuple[Documents, Documents]:
        """Return what has another version than was seen last, and which of it was ever seen."""
        ids = [one for one, _ in documents]
        with self._lock:
            changed = tuple(
                (one, version)
                for one, version in documents
                if version and ids.count(one) == 1 and self._seen.get(one) != version
            )
            known = tuple((one, version) for one, version in changed if one in self._seen)
            self._seen.update(changed)
            for one, _ in changed:
                self._seen.move_to_end(one)
            while len(self._seen) > _KNOWN:
                self._seen.popitem(last=False)
            if changed:  # before anybody else sees the new versions here
                cache.changes.remember(changed)
        return changed, known

    def _forget(self, ids: Sequence[str]) -> None:
        with self._lock:
            for one in ids:
                self._seen.pop(one, None)
