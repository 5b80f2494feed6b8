"""What the dispatcher is told when a stored answer was served in place of a model call."""

from typing import Any, Literal

from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher

from costwise_core.types import Hit, Usage

__all__ = ["CacheHitEvent", "RouteEvent", "announce", "marker"]

_dispatcher = get_dispatcher(__name__)


class CacheHitEvent(BaseEvent):
    """A stored answer was served; carries no prompt text.

    Args:
        operation: "chat", "completion" or "query".
        model: The model that was not called.
        tier: "exact" or "near".
        cosine: Similarity of the two questions; 1.0 in the exact tier.
        why: One sentence for a person.
        usage_then: What the answer cost when it was paid for.

    Example:
        >>> event = CacheHitEvent(operation="chat", model="m", tier="exact", cosine=1.0, why="")
        >>> event.class_name()
        'CacheHitEvent'
    """

    operation: str
    model: str
    tier: Literal["exact", "near"]
    cosine: float
    why: str
    usage_then: Usage = Usage()

    @classmethod
    def class_name(cls) -> str:
        """Return the name events are told apart by."""
        return "CacheHitEvent"


class RouteEvent(BaseEvent):
    """A routed request was answered; carries no prompt text.

    Args:
        model: Name of the route that answered.
        why: One sentence for a person.
        told: The decision and every step, as in the response's
            `additional_kwargs["costwise"]["route"]`.

    Example:
        >>> RouteEvent(model="small", why="the cheapest that can answer", told={}).class_name()
        'RouteEvent'
    """

    model: str
    why: str
    told: dict[str, Any]

    @classmethod
    def class_name(cls) -> str:
        """Return the name events are told apart by."""
        return "RouteEvent"


def announce(hit: Hit, *, operation: str, model: str) -> None:
    """Tell whoever listens about a hit, inside the span of the call it spared."""
    _dispatcher.event(
        CacheHitEvent(
            operation=operation,
            model=model,
            tier=hit.tier,
            cosine=hit.cosine,
            why=hit.why,
            usage_then=hit.usage_then,
        )
    )


def marker(hit: Hit) -> dict[str, Any]:
    """Return what a served response says about itself.

    The usage of then is named `saved_usage` and never `usage`, which trackers would bill again.
    """
    return {
        "hit": hit.tier,
        "cosine": hit.cosine,
        "question": hit.question,
        "age": hit.age,
        "why": hit.why,
        "saved_usage": {
            "input_tokens": hit.usage_then.input_tokens,
            "output_tokens": hit.usage_then.output_tokens,
        },
    }
