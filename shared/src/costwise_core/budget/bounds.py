"""The longest answer that a call or a model allows, under whatever name it goes by."""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeGuard

__all__ = ["bound_in", "is_bound", "setting_in", "thinks", "without_empty_bounds"]

# As settings of a model, and as arguments of a call.
_NAMES: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "num_predict",
    "max_new_tokens",
    "n_predict",
)
_THINKS: Final = re.compile(
    r"\bo[1-9]\b|gpt-[5-9]|gpt-oss|thinking|reason|magistral|\br[1-9]\b|qwq|gemini-(2\.5|[3-9])"
    r"|grok-[3-9]",
    re.IGNORECASE,
)


def bound_in(settings: Mapping[str, object]) -> int | None:
    """Return how many tokens an answer may have by these settings, None if they do not say.

    Example:
        >>> bound_in({"temperature": 0, "max_completion_tokens": 50})
        50
    """
    return next((value for name in _NAMES if is_bound(value := settings.get(name))), None)


def setting_in(names: Collection[str]) -> str:
    """Return which of these names is that of a bound, "" if none is.

    Example:
        >>> setting_in({"model", "max_new_tokens"})
        'max_new_tokens'
    """
    return next((name for name in _NAMES if name in names), "")


def without_empty_bounds(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without a bound that is none, which would undo the model's own.

    Example:
        >>> without_empty_bounds({"max_tokens": None, "stop": None})
        {'stop': None}
    """
    return {
        name: value for name, value in settings.items() if name not in _NAMES or is_bound(value)
    }


def is_bound(value: object) -> TypeGuard[int]:
    """Tell whether a setting's value is a bound.

    Example:
        >>> [is_bound(value) for value in (50, 0, -1, None, True)]
        [True, False, False, False, False]
    """
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def thinks(model: str) -> bool:
    """Tell from its name whether a model may think before it answers.

    It is paid for words that no piece of a stream shows, so a stream cannot be held bit by bit.

    Example:
        >>> [thinks(name) for name in ("gpt-5-mini", "openai/o3", "deepseek-r1", "gpt-4o")]
        [True, True, True, False]
    """
    return _THINKS.search(model) is not None
