"""A second net: budgets for models that cannot be wrapped."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult

from costwise_core.budget.guard import Budgets
from costwise_core.budget.payment import Payment
from costwise_core.drive import run
from costwise_core.errors import ConfigError
from costwise_core.usage import usage_of as read_usage
from langchain_costwise._spending import HELD_BY, is_hit, payment_from_run, produced, reported

__all__ = ["BudgetCallback"]


class BudgetCallback(BaseCallbackHandler):
    """Refuse a model call that does not fit into a budget, where a model can only be watched.

    For models that somebody else makes and calls. Where you make the model, wrap it in
    `BudgetedChatModel`: a callback cannot put a bound on the answer, so one that is longer than
    expected passes the budget by the difference; it cannot end a stream, downgrade or queue; and it
    is called before a cache is asked, so a hit holds its place until it is served. Of several
    prompts in one call of `generate`, those before a refused one are held until they expire. A
    model that is wrapped with the same budgets is left to its wrapper.

    Args:
        budgets: The limits.
        max_output_tokens: The longest answer to expect, where the call's settings do not say.

    Raises:
        ConfigError: if `max_output_tokens` is not positive.
        BudgetExceededError: from a model call that does not fit; nothing was sent.

    Example:
        >>> from costwise_core import Budget, Budgets
        >>> from langchain_core.language_models import FakeListChatModel
        >>> budgets = Budgets(Budget(limit=1, unit="calls", window="day"))
        >>> model = FakeListChatModel(responses=["A method."])
        >>> guarded = {"callbacks": [BudgetCallback(budgets)]}
        >>> model.invoke("What is RAG?", guarded).text
        'A method.'
        >>> model.invoke("What is RAG?", guarded)
        Traceback (most recent call last):
            ...
        costwise_core.errors.BudgetExceededError: the budget "1 calls a day" has 0 calls left ...
    """

    raise_error = True

    def __init__(self, budgets: Budgets, *, max_output_tokens: int = 4_096) -> None:
        super().__init__()
        if max_output_tokens < 1:
            raise ConfigError(f"max_output_tokens must be positive, got {max_output_tokens!r}.")
        self.budgets = budgets
        self.max_output_tokens = max_output_tokens
        self._open: dict[UUID, Payment] = {}
        self._lock = threading.Lock()

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's signature
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        """Hold what the call may cost."""
        self._begin(run_id, messages[0], kwargs)

    def on_llm_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002
        prompts: list[str],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        """Hold what the call of a text model may cost."""
        self._begin(run_id, [HumanMessage(prompt) for prompt in prompts], kwargs)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Book what the call did cost."""
        self._end(run_id, response, None)

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, response: LLMResult | None = None, **_: Any
    ) -> None:
        """Give back what was held, or book what was produced before."""
        self._end(run_id, response, error)

    def _begin(
        self, run_id: UUID, messages: Sequence[BaseMessage], told: Mapping[str, Any]
    ) -> None:
        if id(self.budgets) in (told.get("invocation_params") or {}).get(HELD_BY, ()):
            return
        payment = payment_from_run(self.budgets, messages, told, self.max_output_tokens)
        run(payment.begin())
        with self._lock:
            self._open[run_id] = payment

    def _end(self, run_id: UUID, response: LLMResult | None, error: BaseException | None) -> None:
        with self._lock:
            payment = self._open.pop(run_id, None)
        if payment is None:
            return
        answers = [item for row in response.generations for item in row] if response else []
        text = "".join(
            produced(item.message) if hasattr(item, "message") else item.text for item in answers
        )
        output = (response.llm_output if response else None) or {}
        payment.note(text, reported(answers) or read_usage(output))
        if error is None:
            payment.complete()
            if is_hit(answers):
                payment.free()
        payment.__exit__(type(error) if error else None, error, None)
