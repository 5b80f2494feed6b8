"""What an alert says: what happened, how far, and why. Never what was asked or answered."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

__all__ = ["Alert", "AlertKind", "Cause", "Sink"]

AlertKind: TypeAlias = Literal["budget", "refused", "cost", "tokens", "prompt_cache"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """What one cause contributes to a change of the cost per request.

    Args:
        name: "calls" (per request), "hit rate" (of the response cache), "input tokens" and "output
            tokens" (of a paid call), "prompt cache" (share of the input that the provider had) or
            "price".
        usd: Dollars per request, exact; positive made it dearer.
        before: The cause itself in the baseline; for "price" what today's request would
            have cost then.
        after: The same now.

    Example:
        >>> Cause(name="calls", usd=Decimal("0.01"), before=1.0, after=2.0).usd
        Decimal('0.01')
    """

    name: str
    usd: Decimal
    before: float
    after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """Something to look at, and why.

    Args:
        kind: "budget" (a share of it is gone), "refused" (it has no room for a call), "cost" (a
            request costs more than it used to), "tokens" (unusually many) or "prompt_cache" (the
            provider finds less in its cache than it used to).
        key: The same whoever notices it: a budget's threshold has one for each window, anything
            else one for each hour.
        at: Seconds since the epoch.
        subject: Which budget, or which feature and model.
        value: What was seen: dollars, tokens, calls, or a share.
        limit: What it is compared with: the budget's limit, or the baseline.
        unit: "usd", "tokens", "calls" or "share".
        level: The threshold that was reached, as a share of `limit`; else `value` over `limit`.
        why: One sentence for a person.
        causes: What a change of the cost per request comes from, largest first. They add up to it.
        tags: Of the calls that are meant, as sorted pairs.

    Example:
        >>> alert = Alert(
        ...     kind="budget", key="k", at=0.0, subject="5 usd a day", value=4.0, limit=5.0,
        ...     unit="usd", level=0.8, why="80 % of it is gone",
        ... )
        >>> alert.to_dict()["text"]
        '5 usd a day: 80 % of it is gone'
    """

    kind: AlertKind
    key: str
    at: float
    subject: str
    value: float
    limit: float
    unit: str
    level: float
    why: str
    causes: tuple[Cause, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Return it in one line."""
        return f"{self.subject}: {self.why}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it; dollars of causes are strings, to stay exact.

        `text` is the line that chat services such as Slack show.
        """
        return {
            "text": str(self),
            "kind": self.kind,
            "key": self.key,
            "at": datetime.fromtimestamp(self.at, UTC).isoformat(),
            "subject": self.subject,
            "value": self.value,
            "limit": self.limit,
            "unit": self.unit,
            "level": self.level,
            "causes": [
                {
                    "name": one.name,
                    "usd": f"{one.usd:f}",
                    "before": one.before,
                    "after": one.after,
                }
                for one in self.causes
            ],
            "tags": dict(self.tags),
        }


Sink: TypeAlias = Callable[[Alert], object]
"""Is given each alert, in a thread of its own; what it raises is counted."""
