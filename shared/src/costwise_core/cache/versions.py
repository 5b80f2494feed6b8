"""Noticing that a document has another version than stored answers were drawn from."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeAlias

from costwise_core.cache.cache import Cache
from costwise_core.drive import Flow, call

__all__ = ["Documents", "Versions"]

Documents: TypeAlias = tuple[tuple[str, str], ...]
"""Ids and versions; a version of "" is not known."""

_KNOWN: Final = 10_000


class Versions:
    """The versions in which documents were last retrieved, by one engine or retriever.

    When a document comes in another one, answers drawn from the version before are deleted.

    Example:
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> from costwise_core.drive import run
        >>> cache, versions = Cache(MemoryStore()), Versions()
        >>> cache.store("Notice period?", Scope(), "30 days", documents=(("terms", "v1"),))
        True
        >>> run(versions.notice(cache, (("terms", "v2"),), since=versions.now()))
        True
        >>> versions.invalidated
        1
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
