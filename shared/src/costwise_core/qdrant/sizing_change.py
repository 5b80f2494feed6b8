"""What a collection takes before and after a change, side by side."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from costwise_core.display_table import as_html, as_text, usd
from costwise_core.money import dollars, picodollars
from costwise_core.qdrant.amounts import as_change, as_seconds, as_size, exact_text
from costwise_core.qdrant.sizing import PARTS, Sizing

__all__ = ["SizingChange"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SizingChange:
    """Two sizings beside each other; `print` it for a table.

    Example:
        >>> from costwise_core.qdrant import IndexConfig, QdrantPrices, estimate
        >>> prices = QdrantPrices(ram_gib=4, disk_gib="0.1")
        >>> cheap = IndexConfig(quantization="int8", vectors="cold")
        >>> after = estimate(1_000_000, 384, cheap, prices)
        >>> before = estimate(1_000_000, 384, prices=prices)
        >>> print(SizingChange(before=before, after=after))
        int8, m 16, ef_construct 100, vectors cold saves $5.30 a month
                                       before            after  change
          original vectors    1.43 GiB cached    1.43 GiB cold     +0%
          quantized vectors                 -   370 MiB pinned
          graph               62.3 MiB cached  62.3 MiB cached     +0%
          ids                 49.6 MiB pinned  49.6 MiB pinned     +0%
          write-ahead log         64 MiB cold      64 MiB cold     +0%
          memory at least            49.6 MiB          420 MiB   +746%
          memory, fastest            1.54 GiB          482 MiB    -69%
          disk                       1.57 GiB         1.93 GiB    +23%
          disk while rebuilt         3.08 GiB         3.81 GiB    +23%
          CPU to build                9.9 min            4 min    -60%
          a month                       $7.90            $2.59    -67%
          memory becomes money only when the machine is made smaller
          dollars are for 1 copy, 20% kept free
    """

    before: Sizing
    after: Sizing

    @property
    def ram_share(self) -> float:
        """Memory to run fastest afterwards, as a share of that before."""
        return self.after.ram_fast / self.before.ram_fast if self.before.ram_fast else 1.0

    @property
    def saved(self) -> Decimal | None:
        """Dollars a month; negative where it would cost more, None without prices for both."""
        before, after = self.before.usd_month, self.after.usd_month
        if before is None or after is None:
            return None
        return dollars(picodollars(before) - picodollars(after))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "ram_share": self.ram_share,
            "saved_usd_month": exact_text(self.saved),
        }

    def __str__(self) -> str:
        """Return it as a table."""
        return as_text(self._heading(), self._rows(), notes=self._notes())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._rows(), notes=self._notes())

    def _heading(self) -> str:
        if self.saved is None:
            return f"Memory to run fastest: {self.ram_share:.0%} of what it is"
        word = "saves" if self.saved >= 0 else "costs"
        return f"{self.after.config} {word} {usd(abs(self.saved))} a month"

    def _rows(self) -> list[tuple[str, ...]]:
        both = (self.before, self.after)
        rows: list[tuple[str, ...]] = [("", "before", "after", "change")]
        named = {part.name for sizing in both for part in sizing.parts}
        for name in (name for name in PARTS if name in named):
            sizes = [
                sum(p.ram or p.disk for p in sizing.parts if p.name == name) for sizing in both
            ]
            lies = [next((p.lies for p in s.parts if p.name == name), "") for s in both]
            shown = [
                f"{as_size(size)} {where}" if where else "-"
                for size, where in zip(sizes, lies, strict=True)
            ]
            rows.append((name, *shown, as_change(*sizes)))
        for label, field in (
            ("memory at least", "ram_least"),
            ("memory, fastest", "ram_fast"),
            ("disk", "disk"),
            ("disk while rebuilt", "disk_peak"),
        ):
            sizes = [getattr(sizing, field) for sizing in both]
            rows.append((label, *map(as_size, sizes), as_change(*sizes)))
        built = [sizing.build_cpu_seconds for sizing in both]
        rows.append(("CPU to build", *map(as_seconds, built), as_change(*built)))
        costs = [sizing.usd_month for sizing in both if sizing.usd_month is not None]
        if len(costs) == len(both):
            rows.append(("a month", *map(usd, costs), as_change(*map(float, costs))))
        return rows

    def _notes(self) -> list[str]:
        after = self.after
        if after.config.quantization == "none" or after.config.vectors == "cold":
            notes = ["memory becomes money only when the machine is made smaller"]
        else:
            notes = ["the original vectors stay cached: quantization adds memory and saves none"]
        if self.saved is not None:
            copies = f"{after.replication} cop{'y' if after.replication == 1 else 'ies'}"
            notes.append(f"dollars are for {copies}, {after.headroom:.0%} kept free")
        return notes
