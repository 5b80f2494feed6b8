"""How many bytes each part of a collection takes, and how much work its index is.

Formulas are Qdrant's own where it gives one (its documentation, and the sizing notes of its
`skills` repository), and measured on its engine (qdrant-edge 0.9) where that is closer.
"""

import math
from typing import Final

__all__ = [
    "ID_BYTES",
    "ID_RAM",
    "WAL_BYTES",
    "build_seconds",
    "codebook_bytes",
    "graph_bytes",
    "graph_formula",
    "quantized_bytes",
    "vector_bytes",
]

ID_RAM: Final = 52
"""Bytes in memory for the id of a point, by Qdrant's sizing notes."""
ID_BYTES: Final = 21
"""Bytes on disk for it, as measured with whole numbers; UUIDs take 8 more."""
WAL_BYTES: Final = 64 * 2**20
"""Bytes on disk for what was written last, for each shard: two files of 32 MiB."""

_DATATYPES: Final = {
    "float32": 4.0,
    "float16": 2.0,
    "uint8": 1.0,
    "turbo4": 0.5,
    "turbo8": 1.0,
    "turbo16": 2.0,
}

_MORE_LINKS: Final = {
    "binary": 1.15,
    "turbo1": 1.17,
    "turbo1.5": 1.1,
    "binary1.5": 1.1,
    "binary2": 1.1,
    "turbo2": 1.07,
    "product16": 1.08,
    "product32": 1.08,
    "product64": 1.08,
}
"""Coarse distances tell neighbours apart badly. 1.5 bits and product above 16 are assumed."""


def vector_bytes(dims: int, datatype: str = "float32") -> float:
    """Return the bytes of an original vector.

    Example:
        >>> vector_bytes(384), vector_bytes(384, "float16")
        (1536.0, 768.0)
    """
    return dims * _DATATYPES[datatype]


def quantized_bytes(dims: int, quantization: str) -> int:
    """Return the bytes of a quantized vector, exactly as the engine pads it.

    Example:
        >>> [quantized_bytes(384, name) for name in ("none", "int8", "turbo4", "binary")]
        [0, 388, 200, 48]
    """
    name, bits = _split(quantization)
    if name == "none":
        return 0
    if name == "int8":
        return _up(dims, 16) + 4
    if name == "product":
        return math.ceil(dims * 4 / bits)
    if name == "binary":
        return _up(math.ceil(dims * bits), 128) // 8
    return math.ceil(dims * bits / 8) + (4 if bits == 8 else 8)


def codebook_bytes(dims: int, quantization: str) -> int:
    """Return the bytes on disk of what a segment needs to read its quantized vectors.

    Example:
        >>> codebook_bytes(384, "int8"), codebook_bytes(384, "product16")
        (170, 1228800)
    """
    name, bits = _split(quantization)
    if name == "product":
        return 3_200 * dims
    if name == "binary":
        return 79 * dims if bits > 1 else 83
    if name == "turbo" and bits < 8:
        return (34 if bits == 1.5 else 23) * dims
    return 0 if name == "none" else 170


def graph_formula(m: int) -> float:
    """Return the bytes a point's links take by Qdrant's formula, which is on the safe side.

    It takes 2 x m links of 4 bytes and a fifth more for the upper layers.

    Example:
        >>> graph_formula(16)
        153.6
    """
    return m * 2 * 4 * 1.2


def graph_bytes(points: int, m: int, ef_construct: int, quantization: str = "none") -> float:
    """Return the bytes a point's links take as measured: less, since they are packed.

    A link takes as many bits as it takes to count the points of its segment, and a point has fewer
    links than it may have. How many was fitted to 30 graphs of 3,000 to 50,000 text vectors (m 8 to
    64, ef_construct 50 to 400); the largest error was 12 % of the links. Coarse quantizers make
    more links, as measured with 10,000 and 50,000 vectors.

    Example:
        >>> round(graph_bytes(20_000, 16, 100)), graph_bytes(20_000, 0, 100)
        (52, 0.0)
    """
    if points < 2 or m < 1:
        return 0.0
    by_m, by_ef, power = 4.427 * m**0.6953, 11.57 * ef_construct**0.174, 2.631
    links: float = (by_m**-power + by_ef**-power) ** (-1 / power)
    links *= _MORE_LINKS.get(quantization, 1.0)
    return 12 + links * math.ceil(math.log2(points)) / 8


def build_seconds(points: int, dims: int, *, m: int, ef_construct: int, quantization: str) -> float:
    """Return the CPU seconds that building an index takes: an order of magnitude.

    Fitted to builds of 3,000 to 50,000 text vectors on one Xeon with AVX-512. A graph is built by
    quantized distances, so quantization makes it faster; product must find its codebook first
    (measured for product8 and product16).

    Example:
        >>> round(build_seconds(50_000, 384, m=16, ef_construct=100, quantization="none"))
        19
    """
    if points < 2 or m < 1:
        return 0.0
    name, bits = _split(quantization)
    wide, steps = dims / 384, max(1.0, math.log2(points) - 8)
    factor = {"none": 1.0, "int8": 0.4, "binary": 0.35}.get(name, 0.47)
    graph = points * 5e-5 * steps * (0.47 + 0.53 * wide) * ef_construct / 100 * factor
    if name != "product":
        return graph
    codebook = 17 * min(1.0, points / 10_000) + 6e-4 * points
    return graph + codebook * wide * 16 / bits


def _split(quantization: str) -> tuple[str, float]:
    """Tell "turbo1.5" apart into what it is and its number of bits, or its ratio."""
    if quantization in ("none", "int8"):
        return quantization, 8.0
    name = quantization.rstrip("0123456789.")
    return name, float(quantization[len(name) :] or 1)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
