"""The middleware of a stack, in its order."""

from collections.abc import Collection, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel

from costwise_core.budget.guard import Budgets
from costwise_core.dedup import InFlight
from costwise_core.memory.memory import ConversationMemory
from costwise_core.prices import PriceBook
from costwise_core.protocols import Compressor
from costwise_core.recipe import in_order
from costwise_core.route.routes import AnswerJudge, Router
from langchain_costwise.budget_middleware import BudgetMiddleware
from langchain_costwise.cache import SemanticCache
from langchain_costwise.memory_middleware import RollingSummaryMiddleware
from langchain_costwise.middleware import SemanticCacheMiddleware
from langchain_costwise.router_middleware import RouterMiddleware
from langchain_costwise.tool_results import CompressionMiddleware

__all__ = ["agent_middleware"]


def agent_middleware(
    *,
    answers: SemanticCache | None,
    in_flight: InFlight | None,
    memory: ConversationMemory | None,
    compressors: Sequence[Compressor],
    tools: Collection[str],
    cheaper: BaseChatModel | None,
    router: Router | None,
    judge: AnswerJudge | None,
    threshold: float,
    prices: PriceBook | None,
    budgets: Budgets | None,
) -> list[Any]:
    """Return what there is of cache, memory, compression, router and budgets, outermost first."""
    found: list[Any] = []
    if answers is not None:
        found.append(SemanticCacheMiddleware(answers, in_flight=in_flight))
    if memory is not None:
        found.append(RollingSummaryMiddleware(memory))
    if tools and compressors:
        found.append(CompressionMiddleware(in_order(compressors), tools=tools))
    if cheaper is not None:
        found.append(
            RouterMiddleware(
                {"cheaper": cheaper}, router=router, judge=judge, threshold=threshold, prices=prices
            )
        )
    if budgets is not None:
        found.append(BudgetMiddleware(budgets))
    return found
