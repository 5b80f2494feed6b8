"""Bring every provider's and framework's usage report to one shape."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, Final

from costwise_core.types import Usage
from costwise_core.usage_shapes import SHAPES, WRAPPERS, Shape

__all__ = ["StreamUsage", "at_least", "estimate_usage", "processing_of", "usage_of"]


_COUNTED: Final = 20_000
_PROCESSING: Final = ("batch", "flex", "priority")


def usage_of(report: object) -> Usage | None:
    """Return what a usage report says, or None when it is of no known shape or makes no sense.

    Args:
        report: A mapping or object: the provider's usage itself, or a response, message or event
            that holds one. Known are OpenAI (chat, responses, embeddings, speech) and who speaks
            like it, Anthropic, Google, Bedrock, Mistral, Cohere, DeepSeek, xAI, Ollama, llama.cpp
            and LangChain.

    Example:
        >>> usage_of({"prompt_tokens": 9, "completion_tokens": 2}).input_tokens
        9
        >>> anthropic = {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 90}
        >>> usage_of(anthropic).input_tokens
        99
        >>> usage_of({"words": 3}) is None
        True
    """
    for found in _held(report):
        for shape in SHAPES:
            if all(_at(found, field) is not None for field in shape.known_by):
                return _read(found, shape)
    return None


def processing_of(report: object) -> str:
    """Return how a provider says it worked, where that has a price of its own, else "".

    Args:
        report: A response, or what is told of it, with `service_tier` in it or in its usage.

    Example:
        >>> processing_of({"service_tier": "flex"}), processing_of({"service_tier": "default"})
        ('flex', '')
    """
    for path in ("service_tier", "usage.service_tier"):
        if (tier := _at(report, path)) in _PROCESSING:
            return str(tier)
    return ""


class StreamUsage:
    """What a stream used, from the reports its pieces carry.

    LangChain's pieces hold shares that add up. Those of every provider hold what was used so far:
    the last word on each number counts, and what a later piece leaves out stays as it was
    (Anthropic says the input at the start and the output at the end). Not thread-safe.

    Example:
        >>> stream = StreamUsage()
        >>> stream.add({"message": {"usage": {"input_tokens": 25, "output_tokens": 1}}})
        >>> stream.add({"usage": {"output_tokens": 15}})
        >>> stream.usage.input_tokens, stream.usage.output_tokens
        (25, 15)
    """

    def __init__(self) -> None:
        self._latest: dict[str, Any] = {}
        self._shares: Usage | None = None

    def add(self, piece: object) -> None:
        """Take note of one piece; most carry no report, which costs little."""
        shares = _at(piece, "usage_metadata")
        if _at(shares, "input_tokens") is not None and (usage := usage_of(shares)) is not None:
            self._shares = usage if self._shares is None else self._shares + usage
            return
        for found in _held(piece):
            names = found.keys() & _FIELDS if isinstance(found, Mapping) else _FIELDS
            told = {name: value for name in names if (value := _at(found, name)) is not None}
            if told:
                self._latest |= told
                return

    @property
    def usage(self) -> Usage | None:
        """What was used so far, or None when nobody said."""
        return self._shares or usage_of(self._latest)


def estimate_usage(prompt: str, answer: str, model: str) -> Usage:
    """Count what nobody reported, marked as an estimate.

    Of a long text only the beginning is counted, so that this takes milliseconds at most.

    Args:
        prompt: The text that was sent.
        answer: The text that came, up to where it broke off.
        model: The model's name, which decides the tokenizer.

    Example:
        >>> estimate_usage("What is RAG?", "A method.", "gpt-4o").estimated
        True
    """
    return Usage(
        input_tokens=_estimate(prompt, model),
        output_tokens=_estimate(answer, model),
        estimated=True,
    )


def _estimate(text: str, model: str) -> int:
    from costwise_core.tokens import count_tokens  # noqa: PLC0415 - reads tokenizer files

    counted = count_tokens(text[:_COUNTED], model).tokens
    return counted if len(text) <= _COUNTED else math.ceil(counted * len(text) / _COUNTED)


def at_least(reported: Usage | None, estimate: Usage) -> Usage:
    """Return what a stream that broke off used: of report and estimate the larger numbers.

    Some providers report the input first and the output at the end, so the report of a stream that
    was not read to its end says too little.

    Example:
        >>> early = Usage(input_tokens=25, output_tokens=1)
        >>> at_least(early, Usage(input_tokens=20, output_tokens=40, estimated=True)).total_tokens
        65
    """
    if reported is None:
        return estimate
    return replace(
        reported,
        input_tokens=max(reported.input_tokens, estimate.input_tokens),
        output_tokens=max(reported.output_tokens, estimate.output_tokens),
        estimated=True,
    )


# --- reading --------------------------------------------------------------------------------------


def _held(report: object) -> Iterable[object]:
    yield report
    for wrapper in WRAPPERS:
        if (found := _at(report, wrapper)) is not None:
            yield found


def _read(report: object, shape: Shape) -> Usage | None:
    def count(paths: tuple[str, ...]) -> int:
        return sum(_number(_at(report, path)) for path in paths)

    try:
        sent, produced, total = count(shape.input), count(shape.output), count(shape.total)
        read, write = count(shape.cache_read), count(shape.cache_write)
        write_1h, reasoning = count(shape.cache_write_1h), count(shape.reasoning)
        heard, heard_before = count(shape.audio_input), count(shape.audio_cache_read)
        spoken = count(shape.audio_output)
    except ValueError:
        return None
    cached, beyond = read + write, total - sent - produced
    if cached > sent or 0 < cached == beyond != reasoning:
        sent += cached
    elif beyond > 0:
        produced, reasoning = produced + beyond, max(reasoning, beyond)
    if reasoning > produced:
        produced += reasoning
    # Where the report does not say which of the cached tokens were sound, as few as can be.
    heard = min(heard, sent - write)
    heard_before = min(max(heard_before, heard + cached - sent), heard, read)
    return Usage(
        input_tokens=sent,
        output_tokens=produced,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=min(write_1h, write),
        reasoning_tokens=reasoning,
        audio_input_tokens=heard,
        audio_cache_read_tokens=heard_before,
        audio_output_tokens=min(spoken, produced - reasoning),
    )


@cache
def _steps(path: str) -> tuple[tuple[str, str], ...]:
    """Split "a.b[WORD].c" into names, each with the word its items must say."""
    parts = (part.rstrip("]").partition("[") for part in path.split("."))
    return tuple((name, word) for name, _, word in parts)


def _at(report: object, path: str) -> object:
    return _follow(report, _steps(path))


def _follow(report: object, steps: tuple[tuple[str, str], ...]) -> object:
    for place, (name, word) in enumerate(steps, 1):
        report = report.get(name) if isinstance(report, Mapping) else getattr(report, name, None)
        if report is None:
            return None
        if word:
            items = report if isinstance(report, list | tuple) else ()
            rest = steps[place:]
            return sum(_number(_follow(item, rest)) for item in items if _says(item, word))
    return report


def _says(item: object, word: str) -> bool:
    """Tell whether an item of a list is of a kind; enumerations print as "Modality.AUDIO"."""
    kinds = (_follow(item, ((name, ""),)) for name in ("modality", "ttl"))
    return any(str(kind).rpartition(".")[2] == word for kind in kinds)


def _number(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(value)
    if not float(value).is_integer():
        raise ValueError(value)
    return int(value)


_FIELDS: Final = frozenset(
    _steps(path)[0][0]
    for shape in SHAPES
    for field in fields(shape)
    for path in getattr(shape, field.name)
)
