"""How an answer came about, as plain data that travels with it."""

from typing import Any

from costwise_core.route.answering import Outcome

__all__ = ["as_metadata"]


def as_metadata(outcome: Outcome[Any]) -> dict[str, Any]:
    """Return what an answer says about the route it took; JSON can hold it.

    Returns:
        `name` of the route that answered, `why` in one sentence, the `decision` before the first
        call and every step in `steps`. Dollars are text, so that none is rounded.

    Example:
        >>> from costwise_core import Decision
        >>> decision = Decision(model="small", why="the cheapest that can answer")
        >>> as_metadata(Outcome(answer="Hi.", route="small", decision=decision))["decision"]
        {'model': 'small', 'why': 'the cheapest that can answer'}
    """
    decision = outcome.decision
    cost = decision.expected_cost
    told = {
        "model": decision.model,
        "why": decision.why,
        "p": decision.p,
        "expected_cost": None if cost is None else f"{cost:f}",
        "abstained": decision.abstained or None,
    }
    steps = [
        {
            "route": step.route,
            "why": step.why or None,
            "failure": step.failure or None,
            "score": step.score,
            "seconds": round(step.seconds, 3),
        }
        for step in outcome.steps
    ]
    return {
        "name": outcome.route,
        "why": outcome.why,
        "decision": _known(told),
        "steps": [_known(step) for step in steps],
    }


def _known(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if value is not None}
