"""What a call cost: as the provider reported it, else a marked estimate."""

from collections.abc import Mapping, Sequence
from typing import Final

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse

from costwise_core.types import Usage

__all__ = ["estimated_usage", "reported_usage", "reports_usage"]


# Where the pieces of a provider's stream hold what was used so far.
_REPORTS: Final = (
    "usage",
    "usage_metadata",
    "usageMetadata",
    "token_usage",
    "eval_count",
    "tokens_predicted",
    "message",
    "response",
    "metadata",
    "delta",
    "timings",
)


def reports_usage(raw: object) -> bool:
    """Tell cheaply whether a piece of a stream may hold a usage report; most do not."""
    return any(
        (raw.get(name) if isinstance(raw, Mapping) else getattr(raw, name, None)) is not None
        for name in _REPORTS
    )


def reported_usage(answer: ChatResponse | CompletionResponse) -> Usage | None:
    """Return the provider's own numbers, or None if it reported none."""
    from costwise_core.usage import usage_of  # noqa: PLC0415 - only where something is counted

    return usage_of(answer.raw) or usage_of(answer.additional_kwargs)


def estimated_usage(
    prompt: str | Sequence[ChatMessage], answer: str, model: str, *, reported: Usage | None = None
) -> Usage:
    """Count prompt and answer here, and mark the result as an estimate.

    Args:
        prompt: What was sent.
        answer: What came back, up to where it was abandoned.
        model: The model's name, which decides the tokenizer.
        reported: What was reported up to there, which may be too little.
    """
    from costwise_core.usage import at_least, estimate_usage  # noqa: PLC0415 - likewise

    sent = prompt if isinstance(prompt, str) else "\n".join(m.content or "" for m in prompt)
    return at_least(reported, estimate_usage(sent, answer, model))
