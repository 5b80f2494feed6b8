"""A user's own prices: what may be written, and what is said when something else is."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from costwise_core.errors import ConfigError, nearest
from costwise_core.rates import Rates, RateSheet, stand_in

__all__ = ["OwnPrice", "checked_alias", "checked_price", "read_price_file"]

_MAX_BYTES: Final = 1_000_000
_RATES: Final = tuple(field.name for field in fields(Rates))


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnPrice:
    """One model's price as its user gave it.

    Args:
        rates: The standard rates; None to multiply the listed ones.
        batch: The batch rates, if given.
        multiplier: On every rate.

    Example:
        >>> OwnPrice(multiplier=Decimal("0.9")).sheet("gpt-4o", "standard") is None
        True
    """

    rates: Rates | None = None
    batch: Rates | None = None
    multiplier: Decimal = Decimal(1)

    def sheet(self, model: str, tier: str) -> RateSheet | None:
        """Return the rates of a tier, or None to multiply the listed ones.

        Raises:
            PriceError: if the tier costs more than standard and has no price here.
        """
        if self.rates is None:
            return None
        sheet = RateSheet(bands=((0, self.rates),), source="your prices")
        if tier == "batch" and self.batch is not None:
            sheet = RateSheet(bands=((0, self.batch),), source="your prices, batch")
        elif tier != "standard":
            sheet = stand_in(sheet, model, tier, ["batch"] if self.batch else [])
        return sheet.times(self.multiplier)


def read_price_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the tables `models` and `alias` of a TOML or JSON file, numbers exact.

    Raises:
        ConfigError: if the file cannot be read or is not of that form.
    """
    if path.suffix not in {".toml", ".json"}:
        raise ConfigError(f"a price file ends in .toml or .json, got {path.name!r}.")
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the price file {path}: {error.strerror}.") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path.name} is larger than {_MAX_BYTES:,} bytes.")
    load = json.loads if path.suffix == ".json" else tomllib.loads
    try:
        table = load(data.decode(), parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} is not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{path.name} must hold a table, got a {type(table).__name__}.")
    _check_names(table, ("models", "alias"), path.name)
    models, alias = table.get("models", {}), table.get("alias", {})
    if not isinstance(models, dict) or not isinstance(alias, dict):
        raise ConfigError(f"{path.name}: 'models' and 'alias' must be tables.")
    return models, alias


def checked_alias(alias: Mapping[str, object]) -> dict[str, str]:
    """Return aliases with lower-case names.

    Raises:
        ConfigError: if one does not name a model.

    Example:
        >>> checked_alias({"Mine": "openai:gpt-4o"})
        {'mine': 'openai:gpt-4o'}
    """
    for name, model in alias.items():
        if not isinstance(model, str) or not model:
            raise ConfigError(f"alias[{name!r}] must be the name of a model, got {model!r}.")
    return {name.lower(): str(model) for name, model in alias.items()}


def checked_price(model: str, row: object) -> OwnPrice:
    """Return one model's price from its table.

    Raises:
        ConfigError: if a field is unknown, missing or no sensible number.

    Example:
        >>> checked_price("mine", {"input": 0.5, "multiplier": 2}).multiplier
        Decimal('2')
    """
    where = f"the price of {model!r}"
    given = _checked_rates(row, where, also=("batch", "multiplier"))
    assert isinstance(row, Mapping)  # noqa: S101 - just checked
    batch = row.get("batch")
    if given and not given.keys() & {"input", "request"}:
        raise ConfigError(f"{where} has neither 'input' nor 'request'.")
    if not given and (batch is not None or "multiplier" not in row):
        raise ConfigError(
            f"{where} must have at least 'input' or 'request', or only a 'multiplier'."
        )
    if "input" not in given and "request" in given:
        given = {"input": Decimal(0), "output": Decimal(0), **given}  # paid by the call alone
    # What a batch price leaves out costs what it costs otherwise.
    reduced = {} if batch is None else _checked_rates(batch, f"the batch price of {model!r}")
    return OwnPrice(
        rates=Rates(**given) if given else None,
        batch=Rates(**(given | reduced)) if reduced else None,
        multiplier=_number(row.get("multiplier", 1), f"the multiplier of {model!r}"),
    )


def _checked_rates(row: object, where: str, also: tuple[str, ...] = ()) -> dict[str, Decimal]:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where} must be a table, got {row!r}.")
    _check_names(row, (*_RATES, *also), where)
    return {name: _number(row[name], f"{name!r} in {where}") for name in _RATES if name in row}


def _number(value: object, where: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ConfigError(f"{where} must be a number, got {value!r}.")
    number = Decimal(str(value))
    if not number.is_finite() or not 0 <= number <= 1_000_000:
        raise ConfigError(f"{where} must be between 0 and 1,000,000, got {value!r}.")
    return number


def _check_names(table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(
                f"{where} has an unknown field {name!r}; known are {', '.join(known)}."
                f"{nearest(str(name), known)}"
            )
