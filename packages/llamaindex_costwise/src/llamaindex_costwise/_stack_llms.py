"""Where routers and budgets stand around an LLM."""

from typing import Any

from llama_index.core.llms.llm import LLM

from costwise_core.budget.guard import Budgets
from costwise_core.prices import PriceBook
from costwise_core.route.routes import AnswerJudge, Router
from llamaindex_costwise._forwarding import ForwardingLLM
from llamaindex_costwise._routed import Routed
from llamaindex_costwise.budgets import BudgetedLLM
from llamaindex_costwise.routers import Cascade, CostRouter

__all__ = ["budgeted", "routed"]


def budgeted(llm: LLM, budgets: Budgets | None) -> LLM:
    """Return an LLM that keeps to budgets: itself, or each of a router's."""
    if budgets is None or _held(llm, budgets):
        return llm
    if isinstance(llm, Routed):
        models = {name: budgeted(one, budgets) for name, one in llm.models.items()}
        return llm.model_copy(update={"models": models})
    return BudgetedLLM(llm=llm, budgets=budgets)


def _held(llm: LLM, budgets: Budgets) -> bool:
    if isinstance(llm, BudgetedLLM) and llm.budgets is budgets:
        return True
    return isinstance(llm, ForwardingLLM) and _held(llm.llm, budgets)


def routed(
    llm: LLM,
    cheaper: LLM,
    *,
    router: Router | None,
    judge: AnswerJudge | None,
    threshold: float,
    prices: PriceBook | None,
) -> LLM:
    """Return a cascade where there is a judge, and a router where there is none."""
    settings: dict[str, Any] = {"models": {"cheaper": cheaper, "model": llm}, "prices": prices}
    if judge is None:
        return CostRouter(router=router, **settings)
    return Cascade(router=router, judge=judge, threshold=threshold, **settings)
