"""Which errors another model may answer after, and how long the failed one wants to be left alone.

Providers' packages are not imported: their errors are known by what they carry, such as a status
code, and by name.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from costwise_core.errors import CostwiseError

__all__ = ["Failure", "failure_of"]

FailureKind = Literal["rate_limit", "timeout", "overload", "connection", "context_overflow"]

_STATUS: Final[Mapping[int, FailureKind]] = {
    408: "timeout",
    409: "overload",
    413: "context_overflow",
    429: "rate_limit",
    500: "overload",
    502: "overload",
    503: "overload",
    504: "timeout",
    529: "overload",  # Anthropic's "overloaded"
}
_NAMES: Final[Mapping[str, FailureKind]] = {
    "APIConnectionError": "connection",
    "APITimeoutError": "timeout",
    "ConnectError": "connection",
    "ConnectTimeout": "timeout",
    "ContextOverflowError": "context_overflow",
    "InternalServerError": "overload",
    "ModelAPIError": "overload",
    "ModelConnectionError": "connection",
    "ModelRateLimitError": "rate_limit",
    "ModelTimeoutError": "timeout",
    "PoolTimeout": "timeout",
    "RateLimitError": "rate_limit",
    "ReadError": "connection",
    "ReadTimeout": "timeout",
    "RemoteProtocolError": "connection",
    "ResourceExhausted": "rate_limit",
    "ServiceUnavailable": "overload",
    "ThrottlingException": "rate_limit",
    "WriteTimeout": "timeout",
}
_OVERFLOWS: Final = (
    "context_length_exceeded",
    "maximum context length",
    "prompt is too long",
    "exceeds the available context size",
    "input token count exceeds",
)
_DEEPEST: Final = 8
_LONGEST: Final = 3600.0
_READ: Final = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An error that says nothing against the request itself.

    Args:
        kind: "rate_limit", "timeout", "overload", "connection", or "context_overflow", after which
            only a model with a larger window helps.
        retry_after: Seconds the provider asks to wait, at most an hour; None if it does not say.

    Example:
        >>> Failure(kind="timeout").retry_after is None
        True
    """

    kind: FailureKind
    retry_after: float | None = None


def failure_of(error: BaseException) -> Failure | None:
    """Return what failed if another model may answer instead; None if the error must be raised.

    Wrong keys, malformed requests and refusals are raised, and so is everything costwise raises
    itself: a budget that says no says it for every model.

    Example:
        >>> failure_of(TimeoutError())
        Failure(kind='timeout', retry_after=None)
        >>> failure_of(ValueError("temperature must be below 2")) is None
        True
    """
    chain = list(_chain(error))
    if any(isinstance(one, CostwiseError) for one in chain):
        return None
    for one in chain:
        if kind := _kind(one):
            return Failure(kind=kind, retry_after=_retry_after(one))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from: retrying wrappers hide the provider's own."""
    one: BaseException | None = error
    for _ in range(_DEEPEST):
        if one is None:
            return
        yield one
        one = one.__cause__


def _kind(error: BaseException) -> FailureKind | None:
    if not isinstance(error, Exception):
        return None
    if any(phrase in str(error)[:_READ].lower() for phrase in _OVERFLOWS):
        return "context_overflow"
    status = _status(error)
    if status is not None:
        return _STATUS.get(status) or ("overload" if 500 <= status < 600 else None)
    for base in type(error).__mro__:
        if found := _NAMES.get(base.__name__):
            return found
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionError):
        return "connection"
    return "overload" if getattr(error, "is_retryable", False) is True else None


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    holders: tuple[Any, ...] = (
        getattr(error, "status_code", None),
        getattr(response, "status_code", None),
        getattr(error, "status", None),
        getattr(error, "code", None),
    )
    return next((one for one in holders if isinstance(one, int) and 100 <= one < 600), None)


def _retry_after(error: BaseException) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        return None
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return _seconds(float(milliseconds) / 1000)
        text = headers.get("retry-after")
        if not text:
            return None
        try:
            return _seconds(float(text))
        except ValueError:
            return _seconds(parsedate_to_datetime(text).timestamp() - time.time())
    except Exception:  # noqa: BLE001 - a header that cannot be read says nothing
        return None


def _seconds(value: float) -> float | None:
    return min(max(value, 0.0), _LONGEST) if value == value else None  # noqa: PLR0124 - not a number
