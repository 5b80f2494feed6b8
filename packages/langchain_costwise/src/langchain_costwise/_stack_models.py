"""Where routers and budgets stand around a chat model."""

from typing import Any

from langchain_core.language_models import BaseChatModel

from costwise_core.budget.guard import Budgets
from costwise_core.prices import PriceBook
from costwise_core.route.routes import AnswerJudge, Router
from langchain_costwise._routed import Routed
from langchain_costwise._wrapper import ChatWrapper
from langchain_costwise.budgets import BudgetedChatModel
from langchain_costwise.routers import Cascade, CostRouter

__all__ = ["budgeted", "held", "routed"]


def held(model: BaseChatModel, budgets: Budgets) -> bool:
    """Tell whether a model, or one that it wraps, keeps to these budgets already."""
    if isinstance(model, BudgetedChatModel) and model.budgets is budgets:
        return True
    return isinstance(model, ChatWrapper) and held(model.model, budgets)


def budgeted(model: BaseChatModel, budgets: Budgets | None, **settings: Any) -> BaseChatModel:
    """Return a model that keeps to budgets: itself, or each of a router's models."""
    if budgets is None or held(model, budgets):
        return model
    if isinstance(model, Routed):
        return model.over(lambda one: budgeted(one, budgets, **settings))
    return BudgetedChatModel(model=model, budgets=budgets, **settings)


def routed(
    model: BaseChatModel,
    cheaper: BaseChatModel,
    *,
    router: Router | None,
    judge: AnswerJudge | None,
    threshold: float,
    prices: PriceBook | None,
) -> BaseChatModel:
    """Return a cascade where there is a judge, and a router where there is none."""
    models = {"cheaper": cheaper, "model": model}
    if judge is None:
        return CostRouter(models=models, router=router, prices=prices)
    return Cascade(models=models, router=router, judge=judge, threshold=threshold, prices=prices)
