"""What a setting may be: checked where a value is made, and where one is read back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from costwise_core.errors import ConfigError, nearest

__all__ = ["check_whole", "known_fields"]


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """Refuse what is no whole number of a range.

    Raises:
        ConfigError: if it is none.

    Example:
        >>> check_whole("m", 2.5, 0, 2_000)
        Traceback (most recent call last):
        costwise_core.errors.ConfigError: m must be a whole number from 0 to 2,000, got 2.5.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high:,}, got {value!r}.")


def known_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a dataclass, if it has fields of all these names.

    Raises:
        ConfigError: if it has not.
    """
    names = [field.name for field in fields(cls)]
    if unknown := [name for name in values if name not in names]:
        raise ConfigError(f"{cls.__name__} has no {unknown[0]!r}.{nearest(str(unknown[0]), names)}")
    return dict(values)
