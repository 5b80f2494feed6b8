"""What routing works on: models, what is asked of them, what was decided, how good an answer is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Protocol

from costwise_core.errors import ConfigError, nearest
from costwise_core.types import Usage, Vector

if TYPE_CHECKING:
    from costwise_core.passages import Passage

__all__ = [
    "CAPABILITIES",
    "AnswerJudge",
    "Ask",
    "Candidate",
    "Decision",
    "Judgement",
    "Route",
    "Router",
]

CAPABILITIES: Final = ("tools", "json", "images", "audio", "reasoning")
"""What a request can need and a model be able to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A model that can answer, and what is known of it.

    Args:
        name: What decisions and bills call it.
        model: What it is priced as, as the provider names it or "provider:model"; "" is `name`.
        context_window: Most tokens of prompt and answer together; None if not known, which lets
            every prompt through.
        capabilities: What it can do, of `CAPABILITIES`; None if not known, which is everything.
        tags: Free labels, such as "local" or the provider.

    Raises:
        ConfigError: if a capability is not known or the window is not positive.

    Example:
        >>> Route(name="small", model="openai:gpt-4o-mini", context_window=128_000).priced_as
        'openai:gpt-4o-mini'
    """

    name: str
    model: str = ""
    context_window: int | None = None
    capabilities: frozenset[str] | None = None
    tags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for one in self.capabilities or ():
            if one not in CAPABILITIES:
                raise ConfigError(
                    f"route {self.name!r} has the unknown capability {one!r}; known are "
                    f"{', '.join(CAPABILITIES)}.{nearest(one, CAPABILITIES)}"
                )
        if self.context_window is not None and self.context_window < 1:
            raise ConfigError(
                f"route {self.name!r} has a context window of {self.context_window} tokens; "
                "give at least 1, or None if it is not known."
            )

    @property
    def priced_as(self) -> str:
        """The name its calls are priced under."""
        return self.model or self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A request as routing sees it: the same from both frameworks.

    Args:
        question: The text of the last thing the user said.
        system: The instructions it came with.
        prompt_tokens: Tokens of the whole prompt, tools and history included.
        output_tokens: Longest answer asked for; None if nothing was said.
        needs: What a model must be able to do, of `CAPABILITIES`.
        passages: What was retrieved for it, if anything.
        conversation: Names the conversation it belongs to; "" is none.
        prefix_tokens: Tokens at the beginning of the prompt that the last request of this
            conversation began with as well, so that its model's provider may have them cached.
        vector: Embedding of the question, if one was made anyway.

    Example:
        >>> Ask(question="What is RAG?", prompt_tokens=12).needs
        frozenset()
    """

    question: str
    system: str = field(default="", repr=False)
    prompt_tokens: int = 0
    output_tokens: int | None = None
    needs: frozenset[str] = frozenset()
    passages: "tuple[Passage, ...]" = field(default=(), repr=False)
    conversation: str = ""
    prefix_tokens: int = 0
    vector: Vector | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Which model answers, and why.

    Args:
        model: Name of the route.
        why: One sentence for a person.
        p: How sure the router is that the cheaper model's answer would not do, in [0, 1]; None
            where it does not estimate that.
        expected_cost: Dollars the call is expected to cost; None if a price is not known.
        abstained: True when the router did not know and chose what is safe.

    Example:
        >>> Decision(model="large", why="long division is hard", p=0.8).abstained
        False
    """

    model: str
    why: str
    p: float | None = None
    expected_cost: Decimal | None = None
    abstained: bool = False

    def _repr_html_(self) -> str:
        from costwise_core.display_table import as_html, usd  # noqa: PLC0415 - only to look

        rows = [("", "")]
        if self.p is not None:
            rows.append(("the cheaper answer would not do", f"{self.p:.0%}"))
        if self.expected_cost is not None:
            rows.append(("expected cost", usd(self.expected_cost)))
        heading = f"{self.model}{' (to be safe)' if self.abstained else ''}"
        return as_html(heading, rows, notes=(self.why,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A model's answer before it is shown to anybody.

    Args:
        text: What it says.
        route: Name of the route that answered.
        tool_calls: Names of the tools it calls.
        finish_reason: "stop", "length", "tool_calls", "content_filter" or "" if nobody said.
        logprobs: Natural logarithms of the probabilities of its tokens, where given.
        usage: Tokens it cost; None if not known.

    Example:
        >>> Candidate(text="Paris.", route="small").finish_reason
        ''
    """

    text: str = field(repr=False)
    route: str = ""
    tool_calls: tuple[str, ...] = ()
    finish_reason: str = ""
    logprobs: tuple[float, ...] = field(default=(), repr=False)
    usage: Usage | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """How good an answer is held to be.

    Args:
        score: From 0, certainly of no use, to 1, certainly good.
        why: One sentence for a person.

    Example:
        >>> Judgement(score=0.0, why="the answer is empty").score
        0.0
    """

    score: float
    why: str


class Router(Protocol):
    """Says, before anything is paid, which model answers."""

    def decide(self, ask: Ask, routes: Sequence[Route]) -> Decision:
        """Choose one of the routes: at least one, cheapest first, all of which can answer."""
        ...


class AnswerJudge(Protocol):
    """Says how good an answer is, without knowing the right one.

    One that calls a model has a twin `ajudge`; one that only computes sets `blocking = False`.
    """

    def judge(self, ask: Ask, answer: Candidate) -> Judgement:
        """Score one answer."""
        ...
