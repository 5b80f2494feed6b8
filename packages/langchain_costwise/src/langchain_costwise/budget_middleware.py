"""Budgets for an agent's model calls, with its tools and whatever model each turn uses."""

from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.language_models import BaseChatModel

from costwise_core.budget.guard import Budgets
from costwise_core.errors import ConfigError, MissingExtraError
from langchain_costwise._budgeting import budgeted
from langchain_costwise.budgets import Queue

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ImportError as error:  # pragma: no cover - a test runs this in an environment without it
    raise MissingExtraError("BudgetMiddleware", "agents", package="langchain-costwise") from error

__all__ = ["BudgetMiddleware"]


class BudgetMiddleware(AgentMiddleware[Any, Any, Any]):
    """Hold what each model call of an agent may cost, before it is made.

    Whatever model a turn uses is wrapped in `BudgetedChatModel` for that turn, so what holds there
    holds here: tags, streams, structured output. A model that is wrapped already, with the same
    budgets, is left as it is. A hit of a cache in the list of middleware reserves nothing, and each
    attempt of a retry counts, wherever they stand.

    Args:
        budgets: The limits. Give all models and middleware the same one.
        max_output_tokens: As for `BudgetedChatModel`.
        cheaper: As for `BudgetedChatModel`.
        queue: As for `BudgetedChatModel`.
        wait: As for `BudgetedChatModel`.

    Raises:
        ConfigError: if `max_output_tokens` is not positive.
        MissingExtraError: on import, if langchain is not installed.

    Example:
        >>> from costwise_core import Budget, Budgets
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import FakeListChatModel
        >>> budgets = Budgets(Budget(limit=1, unit="calls", window="day"))
        >>> paid = FakeListChatModel(responses=["A method."])
        >>> agent = create_agent(paid, middleware=[BudgetMiddleware(budgets)])
        >>> agent.invoke({"messages": "What is RAG?"})["messages"][-1].text
        'A method.'
        >>> agent.invoke({"messages": "What is RAG?"})
        Traceback (most recent call last):
            ...
        costwise_core.errors.BudgetExceededError: the budget "1 calls a day" has 0 calls left ...
    """

    def __init__(
        self,
        budgets: Budgets,
        *,
        max_output_tokens: int = 4_096,
        cheaper: BaseChatModel | None = None,
        queue: Queue | None = None,
        wait: float = 0.0,
    ) -> None:
        super().__init__()
        if max_output_tokens < 1:
            raise ConfigError(f"max_output_tokens must be positive, got {max_output_tokens!r}.")
        self.budgets = budgets
        self.max_output_tokens = max_output_tokens
        self.cheaper = cheaper
        self.queue = queue
        self.wait = wait

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Make the call with a model that keeps to the budgets."""
        return handler(self._guarded(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Do what `wrap_model_call` does, without blocking the event loop."""
        return await handler(self._guarded(request))

    def _guarded(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        model = budgeted(
            request.model,
            self.budgets,
            max_output_tokens=self.max_output_tokens,
            cheaper=self.cheaper,
            queue=self.queue,
            wait=self.wait,
        )
        return request.override(model=model)
