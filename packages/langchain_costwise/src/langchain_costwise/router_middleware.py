"""A cheaper model for the turns of an agent that one can take."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel

from costwise_core.errors import ConfigError, MissingExtraError
from costwise_core.prices import PriceBook
from costwise_core.route.health import Health
from costwise_core.route.routes import AnswerJudge, Route, Router
from costwise_core.route.session import Sessions
from langchain_costwise._routed import Routed
from langchain_costwise.routers import Cascade, CostRouter

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ImportError as error:  # pragma: no cover - a test runs this in an environment without it
    raise MissingExtraError("RouterMiddleware", "agents", package="langchain-costwise") from error

__all__ = ["RouterMiddleware"]

OWN = "agent"


class RouterMiddleware(AgentMiddleware[Any, Any, Any]):
    """Let other models take an agent's turns; its own model is the route "agent".

    Each turn is routed anew, with the tools and the response format it has. With a judge it is a
    `Cascade`, without one a `CostRouter`. An agent that is given one of these as its model needs no
    middleware.

    Args:
        models: Other chat models by name.
        router: As for `CostRouter`.
        judge: As for `Cascade`.
        threshold: As for `Cascade`.
        routes: As for `CostRouter`; "agent" is the agent's own model.
        deadline: As for `CostRouter`, for one turn.
        prices: As for `CostRouter`.

    Raises:
        ConfigError: if a model is called "agent".
        MissingExtraError: on import, if langchain is not installed.

    Example:
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import FakeListChatModel
        >>> cheap = FakeListChatModel(responses=["A method."])
        >>> dear = FakeListChatModel(responses=["It is a method that ..."])
        >>> agent = create_agent(dear, middleware=[RouterMiddleware({"small": cheap})])
        >>> agent.invoke({"messages": "What is RAG?"})["messages"][-1].text
        'A method.'
    """

    def __init__(
        self,
        models: Mapping[str, BaseChatModel],
        *,
        router: Router | None = None,
        judge: AnswerJudge | None = None,
        threshold: float = 0.5,
        routes: Sequence[Route] = (),
        deadline: float | None = None,
        prices: PriceBook | None = None,
    ) -> None:
        super().__init__()
        if OWN in models:
            raise ConfigError(f"{OWN!r} is the agent's own model; give yours another name.")
        self.models = dict(models)
        self._settings: dict[str, Any] = {
            "router": router,
            "routes": tuple(routes),
            "deadline": deadline,
            "prices": prices,
            "health": Health(),
            "sessions": Sessions(),
        }
        if judge is not None:
            self._settings |= {"judge": judge, "threshold": threshold}

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Make the call with the model that the router chooses."""
        return handler(request.override(model=self._routed(request.model)))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Do what `wrap_model_call` does, without blocking the event loop."""
        return await handler(request.override(model=self._routed(request.model)))

    def _routed(self, own: BaseChatModel) -> Routed:
        kind = Cascade if "judge" in self._settings else CostRouter
        return kind(models={**self.models, OWN: own}, **self._settings)
