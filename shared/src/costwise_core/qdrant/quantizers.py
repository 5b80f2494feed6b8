"""The ways to quantize, by one name each, for the client and for the engine."""

import re
from collections.abc import Mapping
from typing import Any, Final

from costwise_core.errors import ConfigError
from costwise_core.qdrant.extras import client_models, edge_module

__all__ = [
    "QUANTIZATIONS",
    "client_quantization",
    "edge_quantization",
    "quantizations_of",
    "server_version",
]

QUANTIZATIONS: Final[Mapping[str, tuple[int, int]]] = {
    "none": (0, 0),
    "int8": (1, 1),
    "product4": (1, 2),
    "product8": (1, 2),
    "product16": (1, 2),
    "product32": (1, 2),
    "product64": (1, 2),
    "binary": (1, 5),
    "binary1.5": (1, 15),
    "binary2": (1, 15),
    "turbo1": (1, 18),
    "turbo1.5": (1, 18),
    "turbo2": (1, 18),
    "turbo4": (1, 18),
    "turbo8": (1, 20),
}
"""Each way to quantize, and the server version that brought it."""

_ENCODINGS: Final = {
    "binary": ("one_bit", "OneBit"),
    "binary1.5": ("one_and_half_bits", "OneAndHalfBits"),
    "binary2": ("two_bits", "TwoBits"),
}
"""What the client calls a binary quantization, and what the engine does."""


def server_version(version: str) -> tuple[int, int]:
    """Return the two numbers of a server's version that say what it can do.

    Raises:
        ConfigError: if it is no version.

    Example:
        >>> server_version("1.19.0-dev")
        (1, 19)
    """
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if not found:
        raise ConfigError(f"{version!r} is no version; one looks like '1.19.0'.")
    return int(found[1]), int(found[2])


def quantizations_of(version: str) -> tuple[str, ...]:
    """Return the ways to quantize that a server of this version has.

    Raises:
        ConfigError: if it is no version.

    Example:
        >>> quantizations_of("1.4.0")
        ('none', 'int8', 'product4', 'product8', 'product16', 'product32', 'product64')
    """
    release = server_version(version)
    return tuple(name for name, since in QUANTIZATIONS.items() if since <= release)


def client_quantization(name: str, quantile: float | None, placed: Mapping[str, Any]) -> Any:
    """Return the client's model of a quantization, None for "none".

    Args:
        name: One of `QUANTIZATIONS`.
        quantile: For int8.
        placed: Where it lies, as `memory` or `always_ram`.

    Example:
        >>> client_quantization("turbo1.5", None, {}).turbo.bits.value
        'bits1_5'
    """
    models = client_models()
    if name == "none":
        return None
    if name == "int8":
        scalar = models.ScalarQuantizationConfig(
            type=models.ScalarType.INT8, quantile=quantile, **placed
        )
        return models.ScalarQuantization(scalar=scalar)
    if name.startswith("product"):
        ratio = models.CompressionRatio(f"x{name.removeprefix('product')}")
        product = models.ProductQuantizationConfig(compression=ratio, **placed)
        return models.ProductQuantization(product=product)
    if name.startswith("binary"):
        # Servers before 1.15 know one encoding and refuse to be told which.
        encoding = models.BinaryQuantizationEncoding(_ENCODINGS[name][0])
        said = {} if name == "binary" else {"encoding": encoding}
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(**said, **placed))
    bits = models.TurboQuantBitSize(f"bits{_bits(name)}")
    return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, **placed))


def edge_quantization(name: str, quantile: float | None, memory: Any) -> Any:
    """Return the engine's configuration of a quantization, None for "none".

    Example:
        >>> import qdrant_edge
        >>> edge_quantization("turbo4", None, qdrant_edge.Memory.Pinned).bits
        TurboQuantBitSize.Bits4
    """
    edge = edge_module()
    if name == "none":
        return None
    if name == "int8":
        return edge.ScalarQuantizationConfig(
            type=edge.ScalarType.Int8, quantile=quantile, memory=memory
        )
    if name.startswith("product"):
        ratio = getattr(edge.CompressionRatio, f"X{name.removeprefix('product')}")
        return edge.ProductQuantizationConfig(compression=ratio, memory=memory)
    if name.startswith("binary"):
        encoding = getattr(edge.BinaryQuantizationEncoding, _ENCODINGS[name][1])
        return edge.BinaryQuantizationConfig(encoding=encoding, memory=memory)
    bits = getattr(edge.TurboQuantBitSize, f"Bits{_bits(name)}")
    return edge.TurboQuantQuantizationConfig(bits=bits, memory=memory)


def _bits(name: str) -> str:
    return name.removeprefix("turbo").replace(".", "_")
