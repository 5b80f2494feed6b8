"""A router that runs here as the classifier of LangChain's own `ModelRouterMiddleware`."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from pydantic import Field

from costwise_core.errors import ConfigError, nearest
from costwise_core.route.routes import Ask, Decision, Route, Router

__all__ = ["decision_model"]


def decision_model(router: Router, *, name: str = "costwise-router") -> Any:
    """Return a LangChain decision model that asks a costwise router: no call, no key, no network.

    It answers `Choice` questions, whose labels are the routes, cheapest first. The text is what the
    user said last. A router that is not sure says so in the confidence, as it does elsewhere in
    `Decision.abstained`.

    Args:
        router: Chooses.
        name: What traces call it.

    Returns:
        A `langchain_core.decisions.BaseDecisionModel`. It raises `ConfigError` for another kind of
        question, or if the router chooses what is no label.

    Raises:
        ConfigError: if langchain-core is older than 1.8, which has no decision models.

    Example:
        >>> from costwise_core import Decision
        >>> class Cheapest:
        ...     def decide(self, ask, routes):
        ...         return Decision(model=routes[0].name, why="the cheapest")
        >>> model = decision_model(Cheapest())  # doctest: +SKIP
        >>> ModelRouterMiddleware(
        ...     choices={"small": ..., "large": ...}, instructions="Cheap.", classifier=model
        ... )  # doctest: +SKIP
    """
    return _kind()(router=router, model=name)


@cache
def _kind() -> Any:
    try:
        decisions = import_module("langchain_core.decisions")
    except ImportError as error:
        raise ConfigError(
            "decision_model needs langchain-core 1.8 or newer; CostRouter and RouterMiddleware "
            "route with any version."
        ) from error
    base: Any = decisions.BaseDecisionModel

    class RouterDecisionModel(base):  # type: ignore[misc]
        router: Any = Field(exclude=True)

        @property
        def _provider(self) -> str:
            return "costwise"

        def _classify(self, state: Any, questions: Mapping[str, Any]) -> Any:
            asked = Ask(question=_said(state))
            return decisions.ClassifierResponse(
                model=self.model,
                answers={
                    name: decisions.ChoiceAnswer(**_answer(self.router, asked, name, one))
                    for name, one in questions.items()
                },
            )

    return RouterDecisionModel


def _answer(router: Router, asked: Ask, name: str, question: Any) -> dict[str, Any]:
    if question.type != "choice":
        raise ConfigError(
            f"question {name!r} is a {type(question).__name__}; a router answers Choice only."
        )
    labels = list(question.criteria)
    decision = router.decide(asked, [Route(name=label) for label in labels])
    if decision.model not in labels:
        raise ConfigError(
            f"the router chose {decision.model!r}; labels are {', '.join(labels)}."
            f"{nearest(decision.model, labels)}"
        )
    sure = _confidence(decision, labels)
    rest = (1 - sure) / max(1, len(labels) - 1)
    return {
        "type": "choice",
        "choice": decision.model,
        "probabilities": {label: sure if label == decision.model else rest for label in labels},
        "confidence": sure,
    }


def _confidence(decision: Decision, labels: Sequence[str]) -> float:
    if decision.abstained or len(labels) == 1:
        return 1 / len(labels)
    if decision.p is None:
        return 1.0
    return 1 - decision.p if decision.model == labels[0] else decision.p


def _said(state: object) -> str:
    """Return the text of a state: of messages, what the user said last."""
    if isinstance(state, str):
        return state
    if isinstance(state, BaseMessage):
        return state.text
    if isinstance(state, Mapping):
        return _said(state.get("messages", [str(value) for value in state.values()]))
    if isinstance(state, Sequence):
        last = next((one for one in reversed(state) if isinstance(one, HumanMessage)), None)
        return last.text if last else "\n".join(map(_said, state))
    return str(state)
