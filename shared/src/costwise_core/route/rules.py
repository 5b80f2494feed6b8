"""Which model answers, by the kind of task and the length of the request: no training, no model.

Rules are a place to start, not a promise. Of all signals that need no labels, the number of words
told best which questions the dearer model is needed for, and that was little better than chance
(see docs/routing.md). Train a router on your own outcomes once there are a hundred.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from costwise_core.errors import ConfigError
from costwise_core.route.routes import Ask, Decision, Route

__all__ = ["TASKS", "RuleRouter", "Task", "route_at"]

_WORD: Final = re.compile(r"\w+")
_MOST_CHARS: Final = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A kind of request, the words it is known by, and how strong a model it takes.

    Args:
        name: What decisions call it.
        words: Words or phrases, one of which the question or its instructions hold; case does not
            count. Text in a script without spaces is searched as it is.
        tier: From 0, the cheapest model will do, to 1, the dearest.

    Raises:
        ConfigError: if there are no words or the tier is out of range.

    Example:
        >>> Task(name="contract", words=("clause", "liability"), tier=1.0).found("Read clause 4.")
        'clause'
    """

    name: str
    words: tuple[str, ...]
    tier: float

    def __post_init__(self) -> None:
        if not self.words or not all(word.strip() for word in self.words):
            raise ConfigError(f"task {self.name!r} needs words it is known by, got {self.words!r}.")
        if not 0 <= self.tier <= 1:
            raise ConfigError(
                f"task {self.name!r} has the tier {self.tier}; give 0 for the cheapest model to 1 "
                "for the dearest."
            )

    def found(self, text: str) -> str:
        """Return the first of the words that a text holds; "" for none."""
        match = _pattern(self.words).search(text)
        return match[0] if match else ""


TASKS: Final = (
    Task(
        name="classify",
        words=(
            *("classify", "categorize", "categorise", "sentiment", "spam", "true or false"),
            *("yes or no", "which category", "which label"),
        ),
        tier=0.0,
    ),
    Task(
        name="extract",
        words=("extract", "list all", "list the", "find the", "pick out", "parse"),
        tier=0.0,
    ),
    Task(
        name="summarise",
        words=("summarize", "summarise", "summary", "tl;dr", "shorten", "key points"),
        tier=0.0,
    ),
    Task(
        name="answer",
        words=("who is", "who was", "what is", "what are", "when did", "when was", "where is"),
        tier=0.0,
    ),
    Task(
        name="reason",
        words=(
            *("prove", "proof", "derive", "step by step", "analyze", "analyse", "compare"),
            *("trade-off", "trade-offs", "evaluate", "explain why", "reason about", "calculate"),
            *("how many", "how much", "strategy", "implications"),
        ),
        tier=1.0,
    ),
    Task(
        name="code",
        words=(
            *("refactor", "debug", "traceback", "unit test", "write a function", "implement"),
            *("algorithm", "def", "regex", "sql query", "stack trace"),
        ),
        tier=1.0,
    ),
)
"""Kinds of requests that are told apart without being asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleRouter:
    """Chooses by the kind of task, then by length; says which word or number decided.

    Of several kinds found, the one that takes the strongest model counts. A long request takes the
    strongest model whatever its kind; one of no kind goes by its length.

    Args:
        tasks: Kinds of requests. Give `(*TASKS, Task(...))` to add your own.
        short: A request of no known kind with at most so many words goes to the cheapest model.
        long: One of more words goes to the dearest; in between lies the middle.

    Raises:
        ConfigError: if two tasks have one name or the lengths are not in order.

    Example:
        >>> router = RuleRouter()
        >>> routes = [Route(name="small"), Route(name="large")]
        >>> decision = router.decide(Ask(question="Prove that 7 is prime."), routes)
        >>> decision.model, decision.why
        ('large', "reason: it says 'Prove'")
        >>> router.decide(Ask(question="Summarise the report."), routes).model
        'small'
    """

    tasks: Sequence[Task] = field(default=TASKS)
    short: int = 30
    long: int = 150
    blocking = False

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"two tasks are called {name!r}; leave one out, such as with "
                    f"[task for task in TASKS if task.name != {name!r}]."
                )
        if not 0 <= self.short <= self.long:
            raise ConfigError(
                f"short must be at least 0 and at most long, got {self.short} and {self.long}."
            )

    def decide(self, ask: Ask, routes: Sequence[Route]) -> Decision:
        """Choose one of the routes, cheapest first."""
        tier, why = self.tier(ask)
        return Decision(model=route_at(tier, routes).name, why=why)

    def tier(self, ask: Ask) -> tuple[float, str]:
        """Return how strong a model a request takes, from 0 to 1, and why."""
        question = ask.question[:_MOST_CHARS]
        count = len(_WORD.findall(question))
        if count > self.long:
            return 1.0, f"long: {count:,} words, more than {self.long:,}"
        for text, where in ((question, "it says"), (ask.system[:_MOST_CHARS], "its task says")):
            found = [(task.tier, task.name, task.found(text)) for task in self.tasks]
            found = [one for one in found if one[2]]
            if found:
                tier, name, word = max(found, key=lambda one: one[0])
                return tier, f"{name}: {where} {word!r}"
        if count <= self.short:
            return 0.0, f"short: {count:,} words, at most {self.short:,}"
        return 0.5, f"of no known kind, {count:,} words"


def route_at(tier: float, routes: Sequence[Route]) -> Route:
    """Return the route at a tier from 0, the first, to 1, the last; between two the dearer.

    Example:
        >>> route_at(0.5, [Route(name="small"), Route(name="large")]).name
        'large'
    """
    return routes[math.ceil(tier * (len(routes) - 1))]


@lru_cache(maxsize=256)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Return what finds any of the words, longest first; ends must be those of words."""
    ordered = sorted(words, key=len, reverse=True)
    return re.compile(
        "|".join(rf"{_edge(word[0])}{re.escape(word)}{_edge(word[-1])}" for word in ordered),
        re.IGNORECASE,
    )


def _edge(sign: str) -> str:
    """Return a border of words where the sign belongs to a script that has them."""
    return r"\b" if sign.isalnum() and sign < "\u0e00" else ""
