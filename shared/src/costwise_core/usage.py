"""Bring every provider's and framework's usage report to one shape.

The reports disagree in one point that costs money: OpenAI and LangChain count cached tokens inside
the input tokens, Anthropic counts them beside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from costwise_core.types import Usage

__all__ = ["usage_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shape:
    """One kind of report: how to know it, and the dotted paths of its numbers (several add up)."""

    known_by: tuple[str, ...]
    input: str
    output: str
    cache_read: tuple[str, ...] = ()
    cache_write: tuple[str, ...] = ()
    cache_write_1h: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    cache_beside_input: bool = False


# The first shape whose `known_by` fields are all there is taken.
_SHAPES: Final = (
    # LangChain's UsageMetadata; with a service tier, langchain-openai prefixes the details.
    _Shape(
        known_by=("input_tokens", "total_tokens", "input_token_details"),
        input="input_tokens",
        output="output_tokens",
        cache_read=(
            "input_token_details.cache_read",
            "input_token_details.flex_cache_read",
            "input_token_details.priority_cache_read",
        ),
        # langchain-anthropic reports writes by lifetime and leaves `cache_creation` at zero then.
        cache_write=(
            "input_token_details.cache_creation",
            "input_token_details.flex_cache_creation",
            "input_token_details.priority_cache_creation",
            "input_token_details.ephemeral_5m_input_tokens",
            "input_token_details.ephemeral_1h_input_tokens",
        ),
        cache_write_1h=("input_token_details.ephemeral_1h_input_tokens",),
        reasoning=(
            "output_token_details.reasoning",
            "output_token_details.flex_reasoning",
            "output_token_details.priority_reasoning",
        ),
    ),
    # Anthropic's own; either of the two cache fields may be left out.
    *(
        _Shape(
            known_by=("input_tokens", field),
            input="input_tokens",
            output="output_tokens",
            cache_read=("cache_read_input_tokens",),
            cache_write=("cache_creation_input_tokens",),
            cache_write_1h=("cache_creation.ephemeral_1h_input_tokens",),
            cache_beside_input=True,
        )
        for field in ("cache_read_input_tokens", "cache_creation_input_tokens")
    ),
    # OpenAI's responses, and without details LangChain's and Anthropic's shortest forms.
    _Shape(
        known_by=("input_tokens", "output_tokens"),
        input="input_tokens",
        output="output_tokens",
        cache_read=("input_tokens_details.cached_tokens",),
        cache_write=("input_tokens_details.cache_write_tokens",),
        reasoning=(
            "output_tokens_details.reasoning_tokens",
            "output_token_details.reasoning",
        ),
    ),
    # OpenAI's chat completions and embeddings, and the many servers that speak like them.
    _Shape(
        known_by=("prompt_tokens",),
        input="prompt_tokens",
        output="completion_tokens",
        cache_read=("prompt_tokens_details.cached_tokens",),
        cache_write=("prompt_tokens_details.cache_write_tokens",),
        reasoning=("completion_tokens_details.reasoning_tokens",),
    ),
    # Ollama's own.
    _Shape(
        known_by=("eval_count", "prompt_eval_count"),
        input="prompt_eval_count",
        output="eval_count",
    ),
    # llama.cpp's own.
    _Shape(
        known_by=("tokens_evaluated", "tokens_predicted"),
        input="tokens_evaluated",
        output="tokens_predicted",
    ),
)

_WRAPPERS: Final = ("usage_metadata", "usage", "token_usage")


def usage_of(report: object) -> Usage | None:
    """Return what a usage report says, or None when it is of no known shape or makes no sense.

    Known are LangChain's `UsageMetadata`, the usage of OpenAI (chat completions, responses,
    embeddings), Anthropic, Ollama and llama.cpp, as dictionaries or objects, and whatever holds one
    of them as `usage_metadata`, `usage` or `token_usage`. Cached tokens bigger than the input they
    should be part of can only have been counted beside it, and are added; the same holds for
    reasoning and output. So the parts never exceed the whole.

    Args:
        report: A dictionary or object from a provider or framework.

    Returns:
        Usage with `estimated=False`, or None: the caller then estimates, and marks it.

    Example:
        >>> usage_of({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}).input_tokens
        9
        >>> anthropic = {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 90}
        >>> usage_of(anthropic).input_tokens
        99
        >>> usage_of({"words": 3}) is None
        True
    """
    for found in (report, *(_at(report, wrapper) for wrapper in _WRAPPERS)):
        for shape in _SHAPES:
            if all(_at(found, field) is not None for field in shape.known_by):
                return _read(found, shape)
    return None


def _read(report: object, shape: _Shape) -> Usage | None:
    try:
        sent = _number(_at(report, shape.input))
        produced = _number(_at(report, shape.output))
        read, write, write_1h, reasoning = (
            sum(_number(_at(report, path)) for path in paths)
            for paths in (
                shape.cache_read,
                shape.cache_write,
                shape.cache_write_1h,
                shape.reasoning,
            )
        )
    except ValueError:
        return None
    cached = read + write
    return Usage(
        input_tokens=sent + cached if shape.cache_beside_input or cached > sent else sent,
        output_tokens=produced + reasoning if reasoning > produced else produced,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=min(write_1h, write),
        reasoning_tokens=reasoning,
    )


def _at(report: object, path: str) -> object:
    for name in path.split("."):
        report = report.get(name) if isinstance(report, Mapping) else getattr(report, name, None)
    return report


def _number(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(value)
    if not float(value).is_integer():
        raise ValueError(value)
    return int(value)
