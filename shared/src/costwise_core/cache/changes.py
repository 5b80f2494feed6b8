"""Which documents changed a moment ago, so that no answer drawn from before is kept after.

Deleting the answers drawn from a changed document leaves two gaps: an answer that is on its way
comes after the deletion, and ingestion may announce a document before retrieval can find it. So
changes are remembered for a while and looked at before an answer is kept, and once more after.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from costwise_core.cache.counts import Counts
from costwise_core.cache.key import fingerprint
from costwise_core.drive import Flow, call
from costwise_core.errors import ConfigError
from costwise_core.protocols import CacheStore, Journal

__all__ = ["Changes", "Documents", "changed"]

Documents: TypeAlias = tuple[tuple[str, str], ...]
"""Ids and versions; a version of "" is not known."""

_LOG: Final = "changes-1"
_KEPT: Final = 10_000
# For so long after an announcement retrieval may still find the version before.
_LAG: Final = 300.0
_ROW_DOCUMENTS: Final = 50


@dataclass(frozen=True, slots=True)
class _Change:
    version: str
    mark: int
    lags_until: float


class Changes:
    """The latest changes of documents, of all processes that share the store.

    Args:
        backend: Where processes tell one another, if it keeps journals.
        counts: Where faults are counted.
        clock: Returns seconds since the epoch.

    Example:
        >>> import time
        >>> from costwise_core import MemoryStore
        >>> from costwise_core.cache.counts import Counts
        >>> from costwise_core.drive import run
        >>> changes = Changes(MemoryStore(), Counts(), time.time)
        >>> asked = run(changes.mark())
        >>> run(changes.announce((("terms", "v2"),)))
        >>> run(changes.outdated((("terms", "v1"),), since=asked))
        True
    """

    def __init__(self, backend: CacheStore, counts: Counts, clock: Callable[[], float]) -> None:
        self._backend = backend
        self._counts = counts
        self._clock = clock
        self._latest: OrderedDict[str, _Change] = OrderedDict()
        self._mark = 0
        self._position = ""
        self._lock = threading.Lock()

    def mark(self) -> Flow[int]:
        """Return the present; taken before documents are read, it tells later changes apart."""
        yield from self._catch_up()
        return self._mark

    def announce(self, documents: Documents, *, lags: bool = True) -> Flow[None]:
        """Remember that documents have these versions from now on, and tell the other processes.

        Args:
            documents: Ids and versions.
            lags: Whether retrieval may still find the versions before for a while.
        """
        self.remember(documents, lags=lags)
        if not isinstance(self._backend, Journal):
            return
        pairs = _digests(documents)
        rows = [
            json.dumps([lags, pairs[start : start + _ROW_DOCUMENTS]], separators=(",", ":"))
            for start in range(0, len(pairs), _ROW_DOCUMENTS)
        ]
        try:
            yield from call(self._backend.append, _LOG, rows)
        except Exception as error:  # noqa: BLE001 - the others may then keep an old answer
            self._counts.add("error", type(error).__name__)

    def remember(self, documents: Documents, *, lags: bool = False) -> None:
        """Do what `announce` does, for this process alone."""
        with self._lock:
            self._take(_digests(documents), lags=lags)

    def outdated(self, documents: Documents, *, since: int | None) -> Flow[bool]:
        """Return whether an answer from these documents may be older than a change of one of them.

        Args:
            documents: What the answer was drawn from.
            since: The mark from before they were read; None if there is none.
        """
        if not documents:
            return False
        yield from self._catch_up()
        now = self._clock()
        with self._lock:
            return any(
                self._is_outdated(_digest(one), _digest(version), since, now)
                for one, version in documents
            )

    def _is_outdated(self, one: str, version: str, since: int | None, now: float) -> bool:
        change = self._latest.get(one)
        if change is None or (version and version == change.version):
            return False
        if since is not None and change.mark > since:
            return True
        return bool(version and change.version) and now < change.lags_until

    def _take(self, pairs: Sequence[tuple[str, str]], *, lags: bool) -> None:
        until = self._clock() + _LAG if lags else 0.0
        self._mark += 1
        for one, version in pairs:
            self._latest[one] = _Change(version, self._mark, until)
            self._latest.move_to_end(one)
        while len(self._latest) > _KEPT:
            self._latest.popitem(last=False)

    def _catch_up(self) -> Flow[None]:
        """Read what other processes announced; own rows come back and change nothing."""
        while isinstance(self._backend, Journal):
            start = self._position
            try:
                rows, end = yield from call(self._backend.read, _LOG, start)
            except Exception as error:  # noqa: BLE001 - a cache fails open
                self._counts.add("error", type(error).__name__)
                return
            with self._lock:
                # Another thread may have been quicker; what came after that is still to be read.
                if self._position == start:
                    self._position = end
                    for row in rows:
                        self._read(row)
                    return

    def _read(self, row: str) -> None:
        try:
            lags, pairs = json.loads(row)
            self._take([(str(one), str(version)) for one, version in pairs], lags=bool(lags))
        except (ValueError, TypeError, RecursionError):
            self._counts.add("error", "damaged_change")


def changed(documents: Mapping[str, str] | Sequence[str]) -> Documents:
    """Return what a caller says of changed documents as ids and versions.

    Raises:
        ConfigError: if it is one text, which would count as a list of letters.

    Example:
        >>> changed(["terms"]), changed({"terms": "v2"})
        ((('terms', ''),), (('terms', 'v2'),))
    """
    if isinstance(documents, str):
        raise ConfigError(f"documents is a list of ids or a mapping, got the text {documents!r}.")
    if isinstance(documents, Mapping):
        return tuple(documents.items())
    return tuple((one, "") for one in documents)


def _digests(documents: Documents) -> list[tuple[str, str]]:
    return [(_digest(one), _digest(version)) for one, version in documents]


def _digest(text: str) -> str:
    """Names may be long and private; "" stays what it is, not known."""
    return fingerprint(text, volatile=()) if text else ""
