"""Where a router stands around a chat model."""

from langchain_core.language_models import BaseChatModel

from costwise_core.prices import PriceBook
from costwise_core.route.routes import AnswerJudge, Router
from langchain_costwise.routers import Cascade, CostRouter

__all__ = ["routed"]


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
