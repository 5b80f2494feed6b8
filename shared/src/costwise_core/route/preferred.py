"""The order of preference that a fallback follows."""

from collections.abc import Sequence
from dataclasses import dataclass

from costwise_core.route.routes import Ask, Decision, Route

__all__ = ["Preferred"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferred:
    """Chooses the first of the named routes that can answer.

    Args:
        names: Routes, best liked first. Where none of them can answer, the cheapest does.

    Example:
        >>> routes = [Route(name="backup"), Route(name="main")]
        >>> Preferred(names=("main", "backup")).decide(Ask(question="What is RAG?"), routes).model
        'main'
    """

    names: tuple[str, ...]
    blocking = False

    def decide(self, ask: Ask, routes: Sequence[Route]) -> Decision:  # noqa: ARG002 - the protocol
        """Choose one of the routes."""
        there = [route.name for route in routes]
        found = next((name for name in self.names if name in there), there[0])
        why = "the preferred model" if found == self.names[0] else "the next that can answer"
        return Decision(model=found, why=why)
