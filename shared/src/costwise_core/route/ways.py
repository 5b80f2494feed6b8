"""What tells one routed model from another, whichever framework it is a model of."""

from collections.abc import Sequence
from dataclasses import dataclass

from costwise_core.prices import PriceBook
from costwise_core.route.answering import Routing
from costwise_core.route.health import Health
from costwise_core.route.routes import AnswerJudge, Route, Router
from costwise_core.route.session import Sessions
from costwise_core.route.watch import PromiseWatch

__all__ = ["Rules"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a routed model goes about it.

    Args:
        router: Chooses the first model; None for the cheapest.
        judge: Scores answers; None to show the first one.
        threshold: Lowest score at which an answer is shown, in [0, 1].
        commits: Whether a stream is shown as it comes, unjudged.
        saves: Whether a dearer model would have answered without it, so that the rest is saved.
        baseline: What answers where a request runs unoptimised; "" is the dearest that can.
        watch: Compares a share of the answers with the baseline's; None for no checks.

    Example:
        >>> routes = [Route(name="gpt-4o"), Route(name="gpt-4o-mini")]
        >>> routing, unjudged = Rules(baseline="gpt-4o").routings(
        ...     routes, deadline=None, prices=None, health=Health(), sessions=Sessions()
        ... )
        >>> routing.health is unjudged.health
        True
    """

    router: Router | None = None
    judge: AnswerJudge | None = None
    threshold: float = 0.5
    commits: bool = False
    saves: bool = True
    baseline: str = ""
    watch: PromiseWatch | None = None

    def routings(
        self,
        routes: Sequence[Route],
        *,
        deadline: float | None,
        prices: PriceBook | None,
        health: Health,
        sessions: Sessions,
    ) -> tuple[Routing, Routing]:
        """Return what requests go through, and what streams do that are shown as they come.

        The arguments are those of `Routing`.

        Raises:
            ConfigError: as `Routing` does.
        """

        def routing(judge: AnswerJudge | None) -> Routing:
            return Routing(
                routes,
                router=self.router,
                judge=judge,
                threshold=self.threshold,
                deadline=deadline,
                prices=prices,
                health=health,
                sessions=sessions,
                baseline=self.baseline,
                watch=self.watch,
            )

        return routing(self.judge), routing(None)
