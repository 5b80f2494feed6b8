"""Which settings a sweep may try: few, and in the order of what a change costs."""

import math
from dataclasses import dataclass
from typing import Final, Self

from costwise_core.errors import ConfigError
from costwise_core.qdrant.quantizers import QUANTIZATIONS
from costwise_core.qdrant.search_config import SearchConfig

__all__ = ["Space"]

# How many times k is fetched before rescoring; coarser codes need more to hold the true nearest.
_OVERSAMPLING: Final = {
    "int8": (None, 1.5),
    "turbo8": (None, 1.5),
    "turbo4": (1.5, 2.0),
    "turbo2": (2.0, 4.0),
    "turbo1.5": (4.0, 8.0),
    "turbo1": (4.0, 8.0),
    "product4": (1.5, 2.0),
    "product8": (2.0, 4.0),
    "product16": (2.0, 4.0),
    "product32": (4.0, 8.0),
    "product64": (4.0, 8.0),
    "binary": (4.0, 8.0),
    "binary1.5": (4.0, 8.0),
    "binary2": (4.0, 8.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Settings to try.

    Args:
        efs: How widely graphs are searched; needs no rebuild.
        quantizations: In this order; what the server's version lacks is left out.
        ef_constructs: Tried on the best ways to quantize.
        ms: Links of a point, tried on the best of these.
        sample: Vectors a sandbox holds at most. Fewer than all flatter the recall, so give it the
            whole collection where the machine can hold that.
        max_oversampling: What a collection's strict mode allows.

    Raises:
        ConfigError: if there is nothing to try.

    Example:
        >>> [str(way) for way in Space(efs=(64,)).searches("int8", 10)]
        ['ef 64, no rescore', 'ef 64, rescore, oversampling 1.5']
    """

    efs: tuple[int, ...] = (32, 48, 64, 96, 128, 192, 256, 384, 512)
    quantizations: tuple[str, ...] = ("none", "int8", "turbo4", "turbo2", "turbo1", "binary")
    ef_constructs: tuple[int, ...] = (100, 200)
    ms: tuple[int, ...] = (16, 8, 32)
    sample: int = 100_000
    max_oversampling: float = math.inf

    def __post_init__(self) -> None:
        for name in ("efs", "quantizations", "ef_constructs", "ms"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; give at least one value to try.")
        for name in self.quantizations:
            if name not in QUANTIZATIONS:
                raise ConfigError(f"{name!r} is no quantization: {', '.join(QUANTIZATIONS)}.")
        if self.sample < 1:
            raise ConfigError(f"sample must be at least 1, got {self.sample}.")

    @classmethod
    def default(cls) -> Self:
        """Return what finds a cheap configuration in some minutes.

        Example:
            >>> "int8" in Space.default().quantizations
            True
        """
        return cls()

    @classmethod
    def thorough(cls) -> Self:
        """Return that and what rarely wins: product quantization, which builds for minutes, too.

        Example:
            >>> "product16" in Space.thorough().quantizations
            True
        """
        return cls(
            efs=(*cls().efs, 768, 1024),
            quantizations=(*cls().quantizations, "turbo8", "turbo1.5", "binary2", "product16"),
            ef_constructs=(100, 200, 400),
            ms=(16, 8, 12, 24, 32, 48),
        )

    def searches(self, quantization: str, k: int) -> tuple[SearchConfig, ...]:
        """Return the ways to search such an index, each from narrow to wide.

        A search narrower than what is fetched would be widened by the engine, so none is tried.

        Args:
            quantization: As in `IndexConfig`.
            k: How many are wanted.
        """
        if quantization == "none":
            wide = [ef for ef in sorted(self.efs) if ef >= k] or [k]
            return tuple(SearchConfig(hnsw_ef=ef) for ef in wide)
        ways = []
        for times in _OVERSAMPLING[quantization]:
            if (times or 1) > self.max_oversampling:
                continue
            least = math.ceil(k * (times or 1))
            wide = [ef for ef in sorted(self.efs) if ef >= least] or [least]
            rescore = times is not None
            ways += [SearchConfig(hnsw_ef=ef, rescore=rescore, oversampling=times) for ef in wide]
        return tuple(ways)
