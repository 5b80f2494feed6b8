"""Ready-made arguments for a cascade."""

from typing import TypedDict

from costwise_core.errors import ConfigError
from costwise_core.route.judges.all_of import AllOf
from costwise_core.route.judges.grounded import GroundedJudge
from costwise_core.route.judges.rules import RuleJudge
from costwise_core.route.routes import AnswerJudge, Route

__all__ = ["CascadeArguments", "local_first"]


class CascadeArguments(TypedDict):
    """What `local_first` fills in of a `Cascade`."""

    routes: tuple[Route, ...]
    judge: AnswerJudge


def local_first(*names: str) -> CascadeArguments:
    """Have your own machine answer first, and a hosted model only where that answer is no good.

    No labels are needed: an answer goes up when a rule finds a fault in it or the passages do not
    hold it. Without passages the rules alone decide. What is no good but looks good is shown, so
    measure it, and train a judge once you have labels.

    Args:
        *names: The models that run here, as the cascade's `models` names them.

    Returns:
        `routes` and `judge`, as keyword arguments.

    Raises:
        ConfigError: if no name is given.

    Example:
        >>> preset = local_first("small")
        >>> preset["routes"][0].tags
        frozenset({'local'})
        >>> preset["judge"]
        AllOf(RuleJudge(), GroundedJudge())
    """
    if not names:
        raise ConfigError("local_first needs the name of at least one model that runs here.")
    routes = tuple(Route(name=name, tags=frozenset({"local"})) for name in names)
    return CascadeArguments(routes=routes, judge=AllOf(RuleJudge(), GroundedJudge()))
