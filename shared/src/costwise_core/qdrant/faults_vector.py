"""The faults of one vector's settings, and of the queries that search it; see `faults`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from costwise_core.qdrant.byte_model import vector_bytes
from costwise_core.qdrant.findings import Asked, Finding
from costwise_core.qdrant.targets import Inspection, VectorSpace

__all__ = ["OF_VECTOR", "kilobytes"]

_NEVER_RESCORED: Final = ("int8", "product", "turbo4", "turbo8")
_COARSE: Final = ("binary", "binary1.5", "turbo1", "turbo1.5")


def _thresholds(seen: Inspection, _: Asked, space: VectorSpace) -> Iterator[Finding]:
    held = seen.points / max(1, seen.segments) * kilobytes(space)
    if seen.indexed_vectors and held < space.full_scan_threshold:
        yield Finding(
            code="below_full_scan_threshold",
            severity="note",
            what=f"{_named(space)}a segment holds {held:,.0f} KB of vectors, less than "
            f"full_scan_threshold ({space.full_scan_threshold:,} KB): its graph is not used, and "
            "recall measured now is that of comparing everything.",
            fix="nothing, as long as it is fast enough.",
        )
    if space.index.m == 0:
        yield Finding(
            code="no_graph",
            severity="warning",
            what=f"{_named(space)}m is 0, so there is no graph over all points: only filters with "
            "a payload index are searched through one, all else is compared one by one.",
            fix="m=16, unless every query filters by tenant; then payload_m must be above 0.",
        )


def _placement(_: Inspection, __: Asked, space: VectorSpace) -> Iterator[Finding]:
    index = space.index
    if index.quantization == "none":
        if index.vectors == "cold":
            yield Finding(
                code="cold_unquantized",
                severity="warning",
                what=f"{_named(space)}the vectors are cold and not quantized: a search reads them "
                "from disk at every step.",
                fix="quantize them and pin that, or keep the vectors cached.",
            )
        return
    if index.vectors != "cold":
        yield Finding(
            code="hot_originals",
            severity="warning",
            what=f"{_named(space)}{index.quantization} lies beside original vectors that are "
            "cached too: it takes more memory than no quantization.",
            fix="make the originals cold (vectors='cold'; on_disk=True before 1.19), and the "
            "machine smaller.",
        )
    if index.quantized == "cold":
        yield Finding(
            code="cold_quantized",
            severity="warning",
            what=f"{_named(space)}the quantized vectors are cold, as they are when nothing is said "
            "and the originals are: a search reads them from disk at every step.",
            fix="pin them (quantized='pinned'; always_ram=True before 1.19).",
        )


def _coarse(_: Inspection, __: Asked, space: VectorSpace) -> Iterator[Finding]:
    if space.index.quantization in _COARSE and space.size < 1024:
        yield Finding(
            code="coarse_for_dims",
            severity="warning",
            what=f"{_named(space)}{space.index.quantization} with {space.size} dimensions loses "
            "too much: binary found 62 % of the nearest at 384 dimensions, 97 % even when it "
            "fetched 8 times as many and rescored.",
            fix="int8, or turbo4 from 1.18 on.",
        )
    if space.datatype == "uint8" and space.distance == "Cosine":
        yield Finding(
            code="uint8_cosine",
            severity="error",
            what=f"{_named(space)}the datatype is uint8, whose values go from 0 to 255: vectors of "
            "unit length are cut to zeros and ones (recall was 0.28).",
            fix="float32 or float16, and int8 quantization to save memory.",
        )


def _overridden(seen: Inspection, _: Asked, space: VectorSpace) -> Iterator[Finding]:
    given = (seen.raw.get("params") or {}).get("vectors") or {}
    own = given if "size" in given else given.get(space.name) or {}
    for name in ("quantization_config", "hnsw_config"):
        whole, part = seen.raw.get(name) or {}, own.get(name) or {}
        if whole and any(whole.get(key) != value for key, value in part.items()):
            yield Finding(
                code="overridden",
                severity="note",
                what=f"{_named(space)}it has a {name} of its own, which wins over the "
                "collection's: changing the collection's does nothing to it.",
                fix="change the vector's own, as IndexConfig.for_client does.",
            )
    graph = {**(seen.raw.get("hnsw_config") or {}), **(own.get("hnsw_config") or {})}
    if graph.get("inline_storage") and space.index.quantization == "none":
        yield Finding(
            code="inline_unquantized",
            severity="error",
            what=f"{_named(space)}inline_storage needs quantized vectors, and there are none: it "
            "has no effect.",
            fix="quantize, or turn it off; it takes three to four times the disk.",
        )
    quantizer: Mapping[str, Any] = next(iter((own.get("quantization_config") or {}).values()), {})
    for part, flag in ((own, "on_disk"), (graph, "on_disk"), (quantizer, "always_ram")):
        placed, old = part.get("memory"), part.get(flag)
        if (
            placed
            and old is not None
            and (placed == "pinned" if flag == "always_ram" else placed == "cold") != old
        ):
            yield Finding(
                code="flag_overruled",
                severity="error",
                what=f"{_named(space)}memory={placed!r} and {flag}={old} disagree: memory wins, "
                "the other has no effect.",
                fix=f"drop {flag}.",
            )


def _searched(seen: Inspection, asked: Asked, space: VectorSpace) -> Iterator[Finding]:
    if space.name != seen.selected:
        return
    quantization, search = space.index.quantization, asked.search
    if quantization == "none":
        if search and (search.rescore or search.oversampling):
            yield Finding(
                code="rescore_unquantized",
                severity="error",
                what="queries ask for rescoring, but nothing is quantized: it has no effect.",
                fix="quantize the vectors, or drop it.",
            )
        return
    by_default = not quantization.startswith(_NEVER_RESCORED)
    rescores = by_default if search is None or search.rescore is None else search.rescore
    plain = search is None or not (search.exact or search.ignore_quantization)
    if plain and not rescores:
        yield Finding(
            code="not_rescored",
            severity="note" if search is None else "warning",
            what=f"{quantization} is only rescored if the query says so, and "
            + ("nothing is known of the queries." if search is None else "these do not."),
            fix="rescore=True, oversampling=1.5 or more, with each query.",
        )
    if search and search.rescore and (search.oversampling or 1) <= 1:
        yield Finding(
            code="rescore_without_oversampling",
            severity="warning",
            what="rescoring without oversampling puts the same points of a segment into another "
            "order: recall does not change.",
            fix="oversampling=1.5 or more.",
        )
    if (
        asked.score_threshold
        and plain
        and (not rescores or ((search and search.oversampling) or 1) < 2)
    ):
        yield Finding(
            code="quantized_scores",
            severity="error",
            what=f"scores of {quantization} are compared to a threshold: they are not those of "
            "the originals (a binary one is up to the number of dimensions, and no cosine).",
            fix="SearchConfig.for_threshold(): rescore=True with oversampling of at least 2.",
        )
    if plain and rescores and space.index.vectors == "cold":
        yield Finding(
            code="rescoring_reads_disk",
            severity="note",
            what="rescoring reads the originals, which are cold: times depend on what memory is "
            "left for the disk cache.",
            fix="measure under the memory limit you will run with.",
        )


def kilobytes(space: VectorSpace) -> float:
    """Return the size of one vector in the unit that Qdrant's thresholds count.

    Example:
        >>> kilobytes(VectorSpace(size=384))
        1.5
    """
    return vector_bytes(space.size, space.datatype) / 1024


def _named(space: VectorSpace) -> str:
    return f"vector {space.name!r}: " if space.name else ""


OF_VECTOR: Final[tuple[Callable[[Inspection, Asked, VectorSpace], Iterator[Finding]], ...]] = (
    _thresholds,
    _placement,
    _coarse,
    _overridden,
    _searched,
)
