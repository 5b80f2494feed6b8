"""The ways in which a collection quietly does not do what its settings say, one rule each.

Every rule is a pure function of what the collection says of itself and of how an app searches it.
Qdrant reports none of these as an error. The figures are of MiniLM vectors (384 dimensions) on
Qdrant's engine; `docs/qdrant.md` says how they were measured.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from costwise_core.qdrant.faults_vector import OF_VECTOR, kilobytes
from costwise_core.qdrant.findings import Asked, Finding
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.target_local import LOCAL_MODE
from costwise_core.qdrant.targets import Inspection

__all__ = ["faults"]


def faults(seen: Inspection, asked: Asked | None = None) -> tuple[Finding, ...]:
    """Return what is wrong, the worst first.

    Example:
        >>> from costwise_core.qdrant import VectorSpace
        >>> seen = Inspection(where="remote", collection="docs", version="1.19.0", points=100_000,
        ...                   vectors=(VectorSpace(size=384),), indexed_vectors=60_000)
        >>> [finding.code for finding in faults(seen)]
        ['unindexed', 'no_payload_index']
    """
    asked = asked or Asked()
    if seen.where == "local":
        return (_local(seen),)
    found = [finding for rule in _OF_COLLECTION for finding in rule(seen, asked)]
    for space in seen.vectors:
        if space.kind == "dense":
            found += [finding for rule in OF_VECTOR for finding in rule(seen, asked, space)]
    return tuple(sorted(found, key=lambda finding: _ORDER.index(finding.severity)))


_ORDER: Final = ("error", "warning", "note")
_SEARCH_WORDS: Final = frozenset(
    {"rescore", "oversampling", "hnsw_ef", "ef_search", "ignore", "exact", "indexed_only"}
)
_INDEXED: Final = 0.95
_SMALL: Final = 10_000


def _local(seen: Inspection) -> Finding:
    return Finding(
        code="local_mode",
        severity="error",
        what=f"{seen.collection!r} is in local mode. {LOCAL_MODE[0].upper()}{LOCAL_MODE[1:]}.",
        fix="tune a sample in the sandbox, and use a server or EdgeQdrantClient.",
    )


# --- the collection -----------------------------------------------------------------------------


def _empty(seen: Inspection, _: Asked) -> Iterator[Finding]:
    if not seen.points:
        yield Finding(
            code="empty",
            severity="note",
            what="it has no points, so nothing can be measured.",
            fix="fill it first.",
        )


def _state(seen: Inspection, _: Asked) -> Iterator[Finding]:
    if seen.fault or seen.status == "red":
        yield Finding(
            code="optimizer_failed",
            severity="error",
            what=f"the optimizer failed ({seen.fault or 'status red'}), and nothing is built.",
            fix="see the server's log; it is often a full disk.",
        )
    if seen.status == "yellow":
        yield Finding(
            code="optimizing",
            severity="note",
            what="it is being optimized: what is measured now will not hold.",
            fix="wait until its status stays green.",
        )
    if seen.status == "grey":
        yield Finding(
            code="grey",
            severity="warning",
            what="optimizations are due and wait for a write (status grey), as after a restart.",
            fix="update_collection(name, optimizers_config=models.OptimizersConfigDiff()) starts "
            "them.",
        )
    if seen.deferred:
        yield Finding(
            code="deferred",
            severity="error",
            what=f"{seen.deferred:,} points are left out of searches until they are optimized.",
            fix="wait, or turn prevent_unoptimized off.",
        )
    for warning in seen.warnings:
        yield Finding(
            code="server_warning", severity="warning", what=warning, fix="as the server says."
        )


def _unindexed(seen: Inspection, _: Asked) -> Iterator[Finding]:
    dense = [space for space in seen.vectors if space.kind == "dense" and space.index.m]
    wanted = seen.points * len(dense)
    if seen.indexing_threshold == 0 and dense:
        yield Finding(
            code="indexing_off",
            severity="error",
            what="indexing_threshold is 0: what has an index keeps it, new points never get one.",
            fix="set it above 0; 10000 is Qdrant's default.",
        )
    elif wanted and seen.indexed_vectors < _INDEXED * wanted:
        largest = max(kilobytes(space) for space in dense)
        held = seen.points / max(1, seen.segments) * largest
        if held < seen.indexing_threshold and not seen.indexed_vectors:
            yield Finding(
                code="below_indexing_threshold",
                severity="note",
                what=f"no vector has an index: indexing_threshold counts kilobytes of a segment, "
                f"not vectors, and {seen.indexing_threshold:,} KB are "
                f"{int(seen.indexing_threshold / largest):,} vectors here. Recall measured now is "
                "that of comparing everything.",
                fix="nothing, as long as it is fast enough; a lower threshold builds an index.",
            )
            return
        yield Finding(
            code="unindexed",
            severity="warning",
            what=f"only {seen.indexed_vectors:,} of about {wanted:,} vectors have an index (it "
            "counts vectors, not points); the others are compared one by one and are not "
            "quantized.",
            fix="wait until it is optimized; if it stays so, lower indexing_threshold, which "
            "counts kilobytes per segment.",
        )


def _unfiltered(seen: Inspection, asked: Asked) -> Iterator[Finding]:
    missing = [field for field in asked.filters_on if field not in seen.payload_indexes]
    refused = seen.strict.get("unindexed_filtering_retrieve") is False
    for field in missing:
        yield Finding(
            code="missing_payload_index",
            severity="error" if refused else "warning",
            what=f"queries filter on {field!r}, which has no payload index: "
            + (
                "strict mode refuses them."
                if refused
                else "every candidate's payload is read from disk, and the graph has no links "
                "along it."
            ),
            fix=f"create_payload_index(name, {field!r}, ...). Links along a field are only made "
            "when the graph is built after that, so have the index rebuilt.",
        )
    if not asked.filters_on and not seen.payload_indexes and seen.points > _SMALL:
        yield Finding(
            code="no_payload_index",
            severity="note",
            what="no payload field has an index.",
            fix="if queries filter, say on which fields (filters_on), and index those.",
        )


def _strict(seen: Inspection, asked: Asked) -> Iterator[Finding]:
    limits, search = seen.strict, asked.search or SearchConfig()
    if limits.get("search_allow_exact") is False:
        yield Finding(
            code="strict_no_exact",
            severity="warning",
            what="strict mode forbids exact search, so recall cannot be measured here.",
            fix="allow search_allow_exact while it is measured, or use the sandbox.",
        )
    for limit, setting, value in (
        ("search_max_hnsw_ef", "hnsw_ef", search.hnsw_ef),
        ("search_max_oversampling", "oversampling", search.oversampling),
    ):
        most = limits.get(limit)
        if most is None:
            continue
        refused = value is not None and value > most
        yield Finding(
            code=f"strict_{setting}",
            severity="error" if refused else "note",
            what=f"strict mode allows {setting} up to {most:g}"
            + (f", so queries with {value:g} are refused." if refused else "."),
            fix=f"raise {limit}, or tune below it.",
        )


def _misplaced(seen: Inspection, asked: Asked) -> Iterator[Finding]:
    for where, settings in (("the collection's", seen.raw), ("your", asked.settings)):
        for word in sorted(set(_words(settings)) & _SEARCH_WORDS):
            yield Finding(
                code="search_setting_in_collection",
                severity="error",
                what=f"{where} settings have {word!r}, which belongs to a query: there it is "
                "dropped without a word.",
                fix="give it with each query; SearchConfig.for_langchain() and for_llamaindex() "
                "say how.",
            )


def _untunable(seen: Inspection, _: Asked) -> Iterator[Finding]:
    for space in seen.vectors:
        if space.kind != "dense":
            reason = (
                "its index is exact"
                if space.kind == "sparse"
                else "its queries are many vectors each"
            )
            yield Finding(
                code=f"{space.kind}_vector",
                severity="note",
                what=f"vector {space.name!r} is {space.kind}: it is not tuned, since {reason}.",
                fix="tune the dense vectors.",
            )


def _words(settings: object) -> Iterator[str]:
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if name != "metadata" and value is not None and value is not False:
                yield str(name)
                yield from _words(value)


_OF_COLLECTION: Final[tuple[Callable[[Inspection, Asked], Iterator[Finding]], ...]] = (
    _empty,
    _state,
    _unindexed,
    _unfiltered,
    _strict,
    _misplaced,
    _untunable,
)
