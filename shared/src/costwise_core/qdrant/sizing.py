"""What a collection takes in memory, on disk and in dollars, before it is built.

Memory that is pinned must be there; what is cached is only fast while it is there, and is thrown
out first. Quantization adds to the disk and saves memory only where the originals are cold.
"""

import math
from dataclasses import asdict, dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from costwise_core.display_table import as_html, as_text, usd
from costwise_core.errors import ConfigError
from costwise_core.money import dollars, picodollars
from costwise_core.qdrant import byte_model as model
from costwise_core.qdrant.amounts import as_seconds, as_size, exact_text
from costwise_core.qdrant.index_config import IndexConfig, Memory
from costwise_core.qdrant.prices import QdrantPrices

__all__ = ["PARTS", "Part", "Sizing", "estimate"]

_GIB: Final = 2**30
_MONTH_SECONDS: Final = 730 * 3600
_REBUILD: Final = 2
"""While a segment is rebuilt, the old one still answers: both are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a collection, all its points together, one copy.

    Args:
        name: What it is.
        lies: "pinned" (must be in memory), "cached" (is fast while it is) or "cold".
        ram: Bytes of memory, if it is wholly there.
        disk: Bytes on disk.
        source: Where the figure comes from.
    """

    name: str
    lies: Memory
    ram: float
    disk: float
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizing:
    """What a collection takes; `print` it for a table. All bytes are of one copy.

    Args:
        points: How many points.
        dims: Dimensions of a vector.
        config: How it is indexed.
        parts: What there is.
        graph_formula: Bytes of the graph by Qdrant's own formula, which plans for more.
        build_cpu_seconds: Of building the index once: an order of magnitude.
        replication: Copies.
        headroom: Share of memory and disk to keep free, in what is bought.
        prices: What that costs, if known.

    Example:
        >>> sizing = estimate(1_000_000, 384, IndexConfig(quantization="int8", vectors="cold"))
        >>> round(sizing.hot_bytes_per_vector)
        453
    """

    points: int
    dims: int
    config: IndexConfig
    parts: tuple[Part, ...]
    graph_formula: float
    build_cpu_seconds: float
    replication: int = 1
    headroom: float = 0.2
    prices: QdrantPrices | None = None

    @property
    def ram_least(self) -> float:
        """Bytes of memory that must be there: what is pinned."""
        return sum(part.ram for part in self.parts if part.lies == "pinned")

    @property
    def ram_fast(self) -> float:
        """Bytes of memory with which nothing but cold parts is read from disk."""
        return sum(part.ram for part in self.parts if part.lies != "cold")

    @property
    def disk(self) -> float:
        """Bytes on disk."""
        return sum(part.disk for part in self.parts)

    @property
    def disk_peak(self) -> float:
        """Bytes on disk while the whole index is rebuilt."""
        return sum(part.disk * (1 if part.name == _WAL else _REBUILD) for part in self.parts)

    @property
    def ram_peak(self) -> float:
        """Bytes of memory for the same without reading from disk: originals are read to build."""
        return _REBUILD * (self.ram_fast + sum(p.ram for p in self.parts if _is_cold_vectors(p)))

    @property
    def hot_bytes_per_vector(self) -> float:
        """Bytes that a search touches in memory for each vector: all that is not cold, less ids."""
        hot = sum(p.ram for p in self.parts if p.lies != "cold" and p.name in _SEARCHED)
        return hot / self.points if self.points else 0.0

    @property
    def usd_month(self) -> Decimal | None:
        """Dollars a month for `ram_fast` and `disk` of all copies, headroom included."""
        return None if self.prices is None else _rent(self, self.ram_fast, self.prices)

    @property
    def usd_month_least(self) -> Decimal | None:
        """The same with `ram_least`, where cached parts come from the disk."""
        return None if self.prices is None else _rent(self, self.ram_least, self.prices)

    @property
    def usd_build(self) -> Decimal | None:
        """Dollars for building the index once, in all copies."""
        if self.prices is None or self.prices.vcpu is None:
            return None
        spent = Fraction(str(self.build_cpu_seconds)) * self.replication / _MONTH_SECONDS
        return dollars(round(picodollars(Decimal(self.prices.vcpu)) * spent))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it; dollars are strings, to stay exact."""
        return {
            "points": self.points,
            "dims": self.dims,
            "config": self.config.to_dict(),
            "parts": [asdict(part) for part in self.parts],
            "ram_least": self.ram_least,
            "ram_fast": self.ram_fast,
            "ram_peak": self.ram_peak,
            "disk": self.disk,
            "disk_peak": self.disk_peak,
            "graph_formula": self.graph_formula,
            "hot_bytes_per_vector": self.hot_bytes_per_vector,
            "build_cpu_seconds": self.build_cpu_seconds,
            "replication": self.replication,
            "headroom": self.headroom,
            "prices": self.prices and self.prices.to_dict(),
            "usd_month": exact_text(self.usd_month),
            "usd_month_least": exact_text(self.usd_month_least),
            "usd_build": exact_text(self.usd_build),
        }

    def __str__(self) -> str:
        """Return it as a table."""
        return as_text(self._heading(), self._rows(), left=2, notes=self._notes())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._rows(), left=2, notes=self._notes())

    def _heading(self) -> str:
        return (
            f"{self.points:,} vectors of {self.dims} dimensions need at least "
            f"{as_size(self.ram_least)} of memory and run fastest with {as_size(self.ram_fast)}"
        )

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("", "lies", "memory", "disk")]
        rows += [
            (
                part.name,
                part.lies,
                "-" if part.lies == "cold" else as_size(part.ram),
                as_size(part.disk),
            )
            for part in self.parts
        ]
        rows.append(("at least", "", as_size(self.ram_least), as_size(self.disk)))
        rows.append(("fastest", "", as_size(self.ram_fast), as_size(self.disk)))
        rows.append(("while rebuilt", "", as_size(self.ram_peak), as_size(self.disk_peak)))
        return rows

    def _notes(self) -> list[str]:
        notes = [
            f"graph: {as_size(self.graph_formula)} by Qdrant's formula, which plans for the most",
            f"building takes about {as_seconds(self.build_cpu_seconds)} of CPU, as on one Xeon",
        ]
        if self.config.quantization != "none" and self.config.vectors != "cold":
            notes.append("quantization saves no memory here: the original vectors are not cold")
        if self.prices is None:
            return [*notes, "no dollars: give prices=QdrantPrices(...) of your own"]
        copies = f"{self.replication} cop{'y' if self.replication == 1 else 'ies'}"
        notes.append(
            f"{usd(self.usd_month or Decimal(0))} a month ({copies}, {self.headroom:.0%} kept "
            f"free), or {usd(self.usd_month_least or Decimal(0))} with the least memory"
        )
        if self.usd_build is not None:
            notes.append(f"{usd(self.usd_build)} of CPU to build it once")
        return notes


def estimate(
    points: int,
    dims: int,
    config: IndexConfig | None = None,
    prices: QdrantPrices | None = None,
    *,
    datatype: str = "float32",
    payload_bytes: float = 0,
    payload: Memory = "cold",
    payload_index_bytes: float = 0,
    replication: int = 1,
    segments: int = 1,
    headroom: float = 0.2,
) -> Sizing:
    """Return what a collection takes in memory, on disk and in dollars.

    Args:
        points: How many points.
        dims: Dimensions of a vector.
        config: How it is indexed; as Qdrant does by default if not said.
        prices: What a machine's parts cost you.
        datatype: How the originals are stored: "float32", "float16", "uint8", "turbo4", ...
        payload_bytes: Of a point's payload, as JSON. It takes half as much again on disk.
        payload: Where payloads lie.
        payload_index_bytes: Of the values of one point that have an index. It takes twice as much.
        replication: Copies of each point.
        segments: Parts of a copy.
        headroom: Share of memory and disk to keep free.

    Raises:
        ConfigError: if a number is out of its range or the datatype is unknown.

    Example:
        >>> cheap = IndexConfig(quantization="int8", vectors="cold")
        >>> print(estimate(1_000_000, 384, cheap, QdrantPrices(ram_gib=4, disk_gib="0.1")))
        1,000,000 vectors of 384 dimensions need at least 420 MiB of memory and run fastest with \
482 MiB
                             lies      memory      disk
          original vectors   cold           -  1.43 GiB
          quantized vectors  pinned   370 MiB   370 MiB
          graph              cached  62.3 MiB  62.3 MiB
          ids                pinned  49.6 MiB    20 MiB
          write-ahead log    cold           -    64 MiB
          at least                    420 MiB  1.93 GiB
          fastest                     482 MiB  1.93 GiB
          while rebuilt               3.8 GiB  3.81 GiB
          graph: 146 MiB by Qdrant's formula, which plans for the most
          building takes about 4 min of CPU, as on one Xeon
          $2.59 a month (1 copy, 20% kept free), or $2.29 with the least memory
    """
    config = config or IndexConfig()
    _check(
        points,
        dims,
        replication,
        segments,
        headroom,
        datatype,
        payload_bytes,
        payload_index_bytes,
        payload,
    )
    original = points * model.vector_bytes(dims, datatype)
    quantized = points * model.quantized_bytes(dims, config.quantization)
    codebook = segments * model.codebook_bytes(dims, config.quantization)
    graph = points * model.graph_bytes(
        math.ceil(points / segments), config.m, config.ef_construct, config.quantization
    )
    values, indexed = points * payload_bytes * 1.5, points * payload_index_bytes * 2
    parts = [
        Part(
            name=_VECTORS, lies=config.vectors, ram=original, disk=original, source="dims x bytes"
        ),
        Part(
            name="quantized vectors",
            lies=config.quantized,
            ram=quantized,
            disk=quantized + codebook,
            source="the engine's padding, checked on 15 quantizers",
        ),
        Part(name="graph", lies=config.graph, ram=graph, disk=graph, source="fitted to 30 graphs"),
        Part(
            name="ids",
            lies="pinned",
            ram=points * model.ID_RAM,
            disk=points * model.ID_BYTES,
            source="Qdrant's sizing notes, disk measured",
        ),
        Part(name="payload", lies=payload, ram=values, disk=values, source="Qdrant's sizing notes"),
        Part(
            name="payload indexes",
            lies="pinned",
            ram=indexed,
            disk=indexed,
            source="Qdrant's sizing notes",
        ),
        Part(name=_WAL, lies="cold", ram=0, disk=model.WAL_BYTES, source="measured"),
    ]
    return Sizing(
        points=points,
        dims=dims,
        config=config,
        parts=tuple(part for part in parts if part.disk),
        graph_formula=points * model.graph_formula(config.m),
        build_cpu_seconds=model.build_seconds(
            points,
            dims,
            m=config.m,
            ef_construct=config.ef_construct,
            quantization=config.quantization,
        ),
        replication=replication,
        headroom=headroom,
        prices=prices,
    )


_VECTORS: Final = "original vectors"
_WAL: Final = "write-ahead log"
_SEARCHED: Final = (_VECTORS, "quantized vectors", "graph")
PARTS: Final = (*_SEARCHED, "ids", "payload", "payload indexes", _WAL)


def _is_cold_vectors(part: Part) -> bool:
    return part.name == _VECTORS and part.lies == "cold"


def _rent(sizing: Sizing, ram: float, prices: QdrantPrices) -> Decimal:
    bought = Fraction(sizing.replication) / (1 - Fraction(str(sizing.headroom))) / _GIB
    memory = picodollars(Decimal(prices.ram_gib)) * round(ram) * bought
    disk = picodollars(Decimal(prices.disk_gib)) * round(sizing.disk) * bought
    return dollars(round(memory + disk))


def _check(
    points: int,
    dims: int,
    replication: int,
    segments: int,
    headroom: float,
    datatype: str,
    payload_bytes: float,
    payload_index_bytes: float,
    payload: str,
) -> None:
    for name, value, least in (
        ("points", points, 0),
        ("dims", dims, 1),
        ("replication", replication, 1),
        ("segments", segments, 1),
        ("payload_bytes", payload_bytes, 0),
        ("payload_index_bytes", payload_index_bytes, 0),
    ):
        if not value >= least:
            raise ConfigError(f"{name} must be at least {least}, got {value!r}.")
    if not 0 <= headroom < 1:
        raise ConfigError(f"headroom must be from 0 up to 1, got {headroom!r}.")
    if payload not in ("cold", "cached"):
        raise ConfigError(f"payload must be 'cold' or 'cached', got {payload!r}.")
    try:
        model.vector_bytes(dims, datatype)
    except KeyError:
        raise ConfigError(f"datatype {datatype!r} is unknown.") from None
