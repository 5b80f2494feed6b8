"""Which of a model's parts budgets stand around."""

from typing import Any

from langchain_core.language_models import BaseChatModel

from costwise_core.budget.guard import Budgets
from langchain_costwise._routed import Routed
from langchain_costwise._wrapper import ChatWrapper
from langchain_costwise.budgets import BudgetedChatModel

__all__ = ["budgeted"]


def budgeted(model: BaseChatModel, budgets: Budgets | None, **settings: Any) -> BaseChatModel:
    """Return a model that keeps to budgets: itself, or each of a router's models."""
    if budgets is None or _held(model, budgets):
        return model
    if isinstance(model, Routed):
        return model.over(lambda one: budgeted(one, budgets, **settings))
    return BudgetedChatModel(model=model, budgets=budgets, **settings)


def _held(model: BaseChatModel, budgets: Budgets) -> bool:
    """Tell whether a model, or one that it wraps, keeps to these budgets already."""
    if isinstance(model, BudgetedChatModel) and model.budgets is budgets:
        return True
    return isinstance(model, ChatWrapper) and _held(model.model, budgets)
