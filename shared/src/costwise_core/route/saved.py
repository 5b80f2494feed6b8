"""Learned models as JSON: plain words and numbers, read back with suspicion."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, TypeVar

from costwise_core.errors import ConfigError

__all__ = ["from_saved", "to_saved"]

_MAX_CHARS: Final = 64_000_000

M = TypeVar("M")


def to_saved(model: Any, form: str) -> str:
    """Return a dataclass as one JSON object that names its form.

    Example:
        >>> from costwise_core import Judgement
        >>> to_saved(Judgement(score=1.0, why=""), "judgement-1")
        '{"format": "judgement-1", "score": 1.0, "why": ""}'
    """
    return json.dumps({"format": form, **asdict(model)}, ensure_ascii=False)


def from_saved(
    text: str, form: str, make: Callable[[dict[str, Any]], M | None], *, what: str, by: str
) -> M:
    """Read what `to_saved` wrote.

    Args:
        text: The JSON.
        form: The form it must name.
        make: Makes the model of the object's fields; None, or an error, if they do not fit.
        what: What it should be, for the error.
        by: What writes such a text.

    Raises:
        ConfigError: if it is anything else.

    Example:
        >>> from costwise_core import Judgement
        >>> text = to_saved(Judgement(score=1.0, why=""), "judgement-1")
        >>> read = lambda fields: Judgement(**fields)
        >>> from_saved(text, "judgement-1", read, what="judgement", by="to_saved").score
        1.0
        >>> from_saved("{}", "judgement-1", read, what="judgement", by="to_saved")
        Traceback (most recent call last):
            ...
        costwise_core.errors.ConfigError: this is no judgement; give what to_saved returned.
    """
    wrong = ConfigError(f"this is no {what}; give what {by} returned.")
    if len(text) > _MAX_CHARS:
        raise wrong
    try:
        fields = json.loads(text)
        model = make(fields) if fields.pop("format") == form else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise wrong from error
    if model is None:
        raise wrong
    return model
