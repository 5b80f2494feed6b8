"""What an audit is asked, and one thing that it found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from costwise_core.qdrant.search_config import SearchConfig

__all__ = ["Asked", "Finding"]

Severity: TypeAlias = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is not as it seems.

    Args:
        code: What kind, in a word for programs.
        severity: "error" (a setting is without effect, or answers are wrong or missing), "warning"
            (it costs memory, time or recall) or "note" (to know before anything is measured).
        what: What was found.
        fix: What to do about it.

    Example:
        >>> print(Finding(code="grey", severity="warning", what="It waits.", fix="Write."))
        warning grey: It waits. Fix: Write.
    """

    code: str
    severity: Severity
    what: str
    fix: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.severity} {self.code}: {self.what} Fix: {self.fix}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """How an app searches the collection, as far as it is known.

    Args:
        search: The parameters of its queries; None if it gives none, or they are not known.
        filters_on: The payload fields it filters on.
        score_threshold: Whether it compares scores to a threshold.
        settings: What it gives `create_collection` or `update_collection`, as JSON.

    Example:
        >>> Asked(filters_on=("tenant",)).score_threshold
        False
    """

    search: SearchConfig | None = None
    filters_on: tuple[str, ...] = ()
    score_threshold: bool = False
    settings: Mapping[str, Any] | None = None
