"""What providers call differently, in one form: ids of tool calls, and why an answer ended."""

import hashlib
import string
from collections.abc import Mapping
from typing import Final

__all__ = ["ending", "plain_id"]

_ALPHABET: Final = string.digits + string.ascii_letters
_ID_LENGTH: Final = 9  # exactly what the strictest provider (Mistral) asks for
_ENDINGS: Final[Mapping[str, str]] = {
    "stop": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "eos": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "refusal": "content_filter",
}


def plain_id(ident: str) -> str:
    """Return an id that every provider takes: nine letters and digits, always the same for one.

    Example:
        >>> plain_id("call_1") == plain_id("call_1"), len(plain_id("toolu_01A"))
        (True, 9)
    """
    if len(ident) == _ID_LENGTH and ident.isascii() and ident.isalnum():
        return ident
    number = int.from_bytes(hashlib.sha256(ident.encode("utf-8", "surrogatepass")).digest())
    found = ""
    for _ in range(_ID_LENGTH):
        number, rest = divmod(number, len(_ALPHABET))
        found += _ALPHABET[rest]
    return found


def ending(reason: str) -> str:
    """Return a provider's word for why an answer ended as `Candidate` has it; "" if not known.

    Example:
        >>> ending("END_TURN"), ending("max_tokens")
        ('stop', 'length')
    """
    return _ENDINGS.get(reason.lower(), "")
