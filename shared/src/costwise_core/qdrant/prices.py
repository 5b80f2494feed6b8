"""What machines cost the user, who has to say: no list of prices is public."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Self

from costwise_core.errors import ConfigError
from costwise_core.qdrant.settings_checks import known_fields

__all__ = ["QdrantPrices"]


@dataclass(frozen=True, kw_only=True, slots=True)
class QdrantPrices:
    """What a month of a machine's parts costs you; there are no defaults, since nobody lists them.

    Args:
        ram_gib: Dollars a month for a GiB (2^30 bytes) of memory.
        disk_gib: Dollars a month for a GiB of disk.
        vcpu: Dollars a month for a virtual CPU, to price builds; None leaves them without a price.

    Raises:
        ConfigError: if one is negative, or no number.

    Example:
        >>> QdrantPrices(ram_gib="3.50", disk_gib="0.10").ram_gib
        Decimal('3.50')
    """

    ram_gib: Decimal | str | int
    disk_gib: Decimal | str | int
    vcpu: Decimal | str | int | None = None

    def __post_init__(self) -> None:
        for name in ("ram_gib", "disk_gib", "vcpu"):
            given = getattr(self, name)
            if given is None and name == "vcpu":
                continue
            try:
                amount = Decimal(str(given))
            except ArithmeticError:
                amount = Decimal("NaN")
            if not amount.is_finite() or amount < 0:
                raise ConfigError(f"{name} must be a price of at least 0, got {given!r}.")
            object.__setattr__(self, name, amount)

    def to_dict(self) -> dict[str, str | None]:
        """Return it as JSON can hold it."""
        return {name: None if price is None else str(price) for name, price in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: if a name or a value is wrong.
        """
        known = known_fields(cls, values)
        if missing := [name for name in ("ram_gib", "disk_gib") if known.get(name) is None]:
            raise ConfigError(f"QdrantPrices needs {missing[0]!r}.")
        return cls(**known)
