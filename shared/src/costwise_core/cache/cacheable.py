"""What may be reused at all: asked before a lookup and again before an answer is stored.

Some faults no similarity can see: the answer to "what's the weather?" is wrong an hour later, the
one to "cancel my order" does nothing, the one to "what's my balance?" is somebody else's, and a
refusal or half an answer would be served for as long as it is kept. The rules here only read text
and what is known about the call. Each verdict names one reason of `REASONS`, to be counted.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from re import Pattern
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from costwise_core.cache.personal import personal
from costwise_core.cache.signs import MAX_CHARS, abstains, acts, dated, failed, random, volatile
from costwise_core.cache.words import words
from costwise_core.errors import ConfigError, nearest

__all__ = [
    "REASONS",
    "TTL",
    "CachePolicy",
    "Cacheability",
    "CallFacts",
    "ExtraRule",
    "TtlClass",
    "before_lookup",
    "before_store",
    "day",
]

TtlClass: TypeAlias = Literal["static", "daily", "volatile"]
"""How soon an answer goes out of date: not by itself, at the end of the day, at once."""

DAY: Final = 86_400.0
TTL: Final[Mapping[TtlClass, float | None]] = MappingProxyType(
    {"static": None, "daily": DAY, "volatile": 0.0}
)
"""Seconds an answer of each class may be kept: None is as long as the cache keeps any, 0 not."""

REASONS: Final = (
    "freshness",
    "action",
    "personal",
    "random",
    "tool_derived",
    "tool_calls",
    "structured",
    "modality",
    "temperature",
    "refusal",
    "truncated",
    "empty",
    "error",
)
"""Every word a verdict may give as its reason."""

_TRUNCATED: Final = frozenset(
    ("length", "max_tokens", "max_output_tokens", "model_length", "incomplete", "pause_turn")
)
_REFUSED: Final = frozenset(
    words(
        "content_filter content_filtered safety refusal recitation blocklist prohibited_content "
        "spii guardrail_intervened"
    )
)
_CALLED: Final = frozenset(("tool_calls", "tool_use", "function_call"))
_BROKEN: Final = frozenset(("error", "cancelled", "canceled", "aborted", "abort"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Cacheability:
    """Whether something may be looked up or stored.

    Args:
        allowed: Whether it may.
        reason: One of `REASONS`; "" when nothing spoke against it. An answer that is allowed with
            a reason has a remark, such as a shorter life.
        why: One sentence for a person.
        ttl_class: "static", "daily" or "volatile".
    """

    allowed: bool
    reason: str = ""
    why: str = "nothing speaks against it"
    ttl_class: TtlClass = "static"


@dataclass(frozen=True, kw_only=True, slots=True)
class CallFacts:
    """What is known about a model call beside its words.

    Args:
        temperature: As sent; None if it was not.
        structured: Whether a schema or response format was asked for.
        tool_calls: Whether the answer calls tools.
        tool_derived: Whether tool results are among the messages the answer was drawn from.
        text_only: False if question or answer holds an image, audio or a file.
        finish_reason: In the provider's words, in any case; "" if unknown.
        by_model: False for what no model wrote, such as retrieved documents: that it sounds like a
            refusal then says nothing.
    """

    temperature: float | None = None
    structured: bool = False
    tool_calls: bool = False
    tool_derived: bool = False
    text_only: bool = True
    finish_reason: str = ""
    by_model: bool = True


def _check_reasons(reasons: frozenset[str] | tuple[str, ...]) -> None:
    for reason in sorted(set(reasons) - set(REASONS)):
        raise ConfigError(
            f"unknown reason {reason!r}; known are {', '.join(REASONS)}.{nearest(reason, REASONS)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtraRule:
    """One more expression that keeps questions out, under a reason that is counted already.

    Args:
        reason: One of `REASONS`.
        pattern: Looked for in the question.
    """

    reason: str
    pattern: Pattern[str]

    def __post_init__(self) -> None:
        _check_reasons((self.reason,))


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePolicy:
    """Which reasons count, how long answers are kept, and what else keeps a question out.

    Temperature above zero is no reason by default. Most providers' default is 1, so refusing there
    would switch the cache off for whoever never set one; and who adds a response cache has chosen
    the same answer twice over another one. Put "temperature" into `deny` where variety is wanted.

    Args:
        allow: Reasons that are passed over: `frozenset({"structured"})` opts structured output in.
        deny: Reasons that keep an answer out although they do not by default ("temperature").
        ttl: Seconds for the classes named; the others keep those of `TTL`.
        extra_rules: Looked for before all others.

    Raises:
        ConfigError: if a reason or class is unknown or a number of seconds is negative.

    Example:
        >>> policy = CachePolicy(allow=frozenset({"personal"}))
        >>> before_lookup("What's my balance?", policy=policy).allowed
        True
    """

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    ttl: Mapping[TtlClass, float | None] = field(default_factory=dict)
    extra_rules: tuple[ExtraRule, ...] = ()

    def __post_init__(self) -> None:
        _check_reasons(self.allow | self.deny)
        for name, seconds in self.ttl.items():
            if name not in TTL:
                raise ConfigError(
                    f"unknown TTL class {name!r}; known are {', '.join(TTL)}.{nearest(name, TTL)}"
                )
            if seconds is not None and not seconds >= 0:
                raise ConfigError(f"ttl[{name!r}] is in seconds and at least 0, got {seconds!r}.")

    def seconds(self, verdict: Cacheability) -> float | None:
        """Return how long an answer may be kept; None is as long as the cache keeps any.

        Example:
            >>> CachePolicy().seconds(Cacheability(allowed=True, ttl_class="daily"))
            86400.0
        """
        return self.ttl.get(verdict.ttl_class, TTL[verdict.ttl_class])


DEFAULT: Final = CachePolicy()
_PASSED_OVER: Final = frozenset(("temperature",))
_PLAIN: Final = CallFacts()
_STATIC: Final = Cacheability(allowed=True)


def before_lookup(
    question: str, *, call: CallFacts = _PLAIN, policy: CachePolicy = DEFAULT
) -> Cacheability:
    """Say whether a stored answer may be looked for at all.

    Args:
        question: The question alone, without the text a template puts around it.
        call: What is known about the call; what only its answer will show is not looked at.
        policy: What counts.

    Example:
        >>> before_lookup("How do I cancel an order?").allowed
        True
        >>> before_lookup("Cancel my order").reason
        'action'
        >>> before_lookup("What is on the menu today?").ttl_class
        'daily'
    """
    against = _first_that_counts(chain(_question(question, policy), _call(call)), policy)
    return against or _lifetime(question, policy)


def before_store(
    question: str, answer: str, *, call: CallFacts = _PLAIN, policy: CachePolicy = DEFAULT
) -> Cacheability:
    """Say whether an answer may be stored; whatever keeps a question from lookup keeps it out too.

    Args:
        question: The question alone.
        answer: The answer's text.
        call: What is known about the call.
        policy: What counts.

    Example:
        >>> before_store("Who is the CEO?", "The context does not mention the CEO.").reason
        'refusal'
    """
    about_answer = _answer(answer) if call.by_model else ()
    against = _first_that_counts(chain(_ending(call), about_answer), policy)
    return against or before_lookup(question, call=call, policy=policy)


def day(verdict: Cacheability, now: float) -> str:
    """Return what belongs into the scope of an answer that is good for a day: the date (UTC).

    Args:
        verdict: Of the question.
        now: Seconds since the epoch.

    Example:
        >>> day(Cacheability(allowed=True, ttl_class="daily"), 0.0)
        '1970-01-01'
    """
    if verdict.ttl_class != "daily":
        return ""
    return datetime.fromtimestamp(now, tz=UTC).date().isoformat()


# --- the rules: what speaks against it, as (reason, why), cheapest first --------------------------

_Finding: TypeAlias = tuple[str, str]


def _question(question: str, policy: CachePolicy) -> Iterator[_Finding]:
    for rule in policy.extra_rules:
        if rule.pattern.search(question[:MAX_CHARS]):
            yield rule.reason, "one of your own rules matches the question"
    if found := acts(question):
        yield "action", f"{found!r} asks for an action"
    if found := random(question):
        yield "random", f"{found!r} wants another answer each time"
    if found := personal(question):
        yield "personal", f"it holds {found}"


def _call(call: CallFacts) -> Iterator[_Finding]:
    if call.tool_derived:
        yield "tool_derived", "it was drawn from tool results"
    if call.structured:
        yield "structured", "structured output was asked for"
    if not call.text_only:
        yield "modality", "it is not text alone"
    if call.temperature:
        yield "temperature", f"the temperature is {call.temperature:g}"


def _ending(call: CallFacts) -> Iterator[_Finding]:
    ended = call.finish_reason.lower().rpartition(".")[2]
    if ended in _TRUNCATED:
        yield "truncated", "the answer was cut off"
    if ended in _REFUSED:
        yield "refusal", "the provider held the answer back"
    if ended in _BROKEN:
        yield "error", f"the call ended with {ended!r}"
    if call.tool_calls or ended in _CALLED:
        yield "tool_calls", "the answer calls tools"


def _answer(answer: str) -> Iterator[_Finding]:
    if not answer or answer.isspace():
        yield "empty", "the answer is empty"
    if found := abstains(answer):
        yield "refusal", f"the answer says {found!r}"
    if found := failed(answer):
        yield "error", f"the answer begins with {found!r}"
    if found := personal(answer, secrets_only=True):
        yield "personal", f"the answer holds {found}"


def _first_that_counts(findings: Iterable[_Finding], policy: CachePolicy) -> Cacheability | None:
    passed_over = (policy.allow | _PASSED_OVER) - policy.deny
    for reason, why in findings:
        if reason not in passed_over:
            return Cacheability(allowed=False, reason=reason, why=why)
    return None


def _lifetime(question: str, policy: CachePolicy) -> Cacheability:
    """Say how long the answer is good for, which may be no time at all."""
    if "freshness" in policy.allow:
        return _STATIC
    ttl_class: TtlClass
    if found := volatile(question):
        ttl_class, why = "volatile", f"{found!r} changes by the minute"
    elif found := dated(question):
        ttl_class, why = "daily", f"{found!r} means something else tomorrow"
    else:
        return _STATIC
    verdict = Cacheability(allowed=True, reason="freshness", why=why, ttl_class=ttl_class)
    return replace(verdict, allowed=policy.seconds(verdict) != 0)
