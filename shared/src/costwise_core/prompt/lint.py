"""What a prompt costs for nothing, with the dollars of each finding in a month."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from costwise_core.display_table import as_html, as_text, usd
from costwise_core.errors import ConfigError, PriceError
from costwise_core.money import dollars, picodollars, total
from costwise_core.passages import Span
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.prompt.filler import fillers
from costwise_core.prompt.provider_cache import (
    Piece,
    gain,
    least_cacheable,
    lost_to,
    warm_share,
)
from costwise_core.prompt.repeated import repeats
from costwise_core.prompt.volatile import Changing, changing
from costwise_core.prompt.worked import worked_examples
from costwise_core.rates import Rates
from costwise_core.tokens import shared_tokens

__all__ = ["Finding", "LintReport", "lint_prompt"]

Kind: TypeAlias = Literal["filler", "repeated", "volatile", "long_example", "short_prefix"]
Message: TypeAlias = Mapping[str, Any] | tuple[str, str]

_LONG_EXAMPLE: Final = 200
_VERY_LONG_EXAMPLE: Final = 500
_WORTH_MOVING: Final = 32
"""Fewer tokens than this behind a piece of changing text are where they belong."""

_DAYS: Final = 30
_SHOWN: Final = 44


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that costs money and does no work.

    Args:
        kind: "filler", "repeated", "volatile" (text that changes stands before text that does not),
            "long_example" or "short_prefix" (too short for the provider to cache).
        message: Which message it is in, from 0.
        span: Where in the message, in characters.
        text: What stands there.
        tokens: Tokens of each call that are paid in vain, or without a cache's discount.
        usd_per_month: Dollars; None when no price is known.
        suggestion: What to do instead.

    Example:
        >>> report = lint_prompt("In order to help, be brief.", model="gpt-4o")
        >>> report.findings[0].text, report.findings[0].tokens > 0
        ('In order to', True)
    """

    kind: Kind
    message: int
    span: Span
    text: str
    tokens: int
    usd_per_month: Decimal | None
    suggestion: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LintReport:
    """What was found in a prompt, the dearest first; `print` it for a table.

    Args:
        findings: What costs money and does no work.
        tokens: Of the whole prompt.
        usd_per_month: What its tokens cost, the cached ones at their price; None when no price is
            known.
        model: Whose tokens and prices these are.
        calls_per_month: At this volume.

    Example:
        >>> print(lint_prompt("Answer in one sentence.", model="gpt-4o"))
        Nothing to object to in ... tokens
    """

    findings: tuple[Finding, ...]
    tokens: int
    usd_per_month: Decimal | None
    model: str
    calls_per_month: int

    def __str__(self) -> str:
        """Return the findings as a table."""
        if not self.findings:
            return self._heading()
        return as_text(self._heading(), self._rows(), left=3, notes=self._notes())

    def _repr_html_(self) -> str:
        rows = self._rows() if self.findings else ()
        return as_html(self._heading(), rows, left=3, notes=self._notes())

    def _heading(self) -> str:
        if not self.findings:
            return f"Nothing to object to in {self.tokens:,} tokens"
        calls = f"{self.calls_per_month:,} calls a month of {self.model}"
        found = f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
        if self.usd_per_month is None:
            return f"{found} in {self.tokens:,} tokens, {calls} (no price known)"
        saved = usd(total(one.usd_per_month for one in self.findings))
        return f"{found}, {saved} of {usd(self.usd_per_month)} a month, for {calls}"

    def _rows(self) -> list[tuple[str, ...]]:
        many = len({one.message for one in self.findings}) > 1
        rows: list[tuple[str, ...]] = [("", "where", "what", "tokens", "$ a month")]
        for one in self.findings:
            where = f"{one.message}:{one.span[0]}" if many else f"{one.span[0]}"
            text = " ".join(one.text.split())
            short = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."
            dollars_ = "?" if one.usd_per_month is None else usd(one.usd_per_month)
            rows.append((one.kind.replace("_", " "), where, short, f"{one.tokens:,}", dollars_))
        return rows

    def _notes(self) -> list[str]:
        said = [
            f"{one.kind.replace('_', ' ')} at {one.span[0]}: {one.suggestion}"
            for one in self.findings
        ]
        if any(one.kind in ("volatile", "short_prefix") for one in self.findings):
            warm = warm_share(self.calls_per_month)
            said += [
                f"calls spread over the month find the prompt cache warm {warm:.0%} of the time"
            ]
        return said


def lint_prompt(
    prompt: str | Sequence[Message],
    *,
    model: str,
    calls_per_month: int = 10_000,
    prices: PriceBook | None = None,
) -> LintReport:
    """Find what a prompt costs for nothing.

    Rules would rather miss something than object to a good prompt. What a provider's prompt cache
    would save counts for the part of the prompt that comes before the question: a prompt given as
    one text, or all messages before the last one of the user.

    Args:
        prompt: A text or template, or messages: dicts with "role" and "content" as OpenAI takes
            them, or pairs of role and text.
        model: As the provider names it.
        calls_per_month: How often the prompt is sent.
        prices: The price list; by default the one everything in this process prices with.

    Raises:
        ConfigError: if `calls_per_month` is negative or a message is not understood.

    Example:
        >>> prompt = "Request id: 7f3a9c21d0. " + "Cite the page of every figure you use. " * 150
        >>> report = lint_prompt(prompt, model="gpt-4o", calls_per_month=100_000)
        >>> [one.kind for one in report.findings if one.span[0] == 0]
        ['volatile']
    """
    if calls_per_month < 0:
        raise ConfigError(f"calls_per_month must be at least 0, got {calls_per_month!r}.")
    messages = [("system", prompt)] if isinstance(prompt, str) else list(map(_message, prompt))
    meter = _Meter(model, calls_per_month, prices or shared_prices())
    prefix = _Prefix.of(messages, meter)
    findings = [
        finding
        for number, (role, text) in enumerate(messages)
        if role in ("system", "developer")
        for finding in _in_text(number, text, meter, prefix)
    ]
    findings += _in_prefix(prefix, meter)
    findings.sort(key=lambda one: (-(one.usd_per_month or 0), -one.tokens, one.message, one.span))
    tokens = sum(meter.tokens(text) for _, text in messages)
    fresh = tokens - prefix.cached
    return LintReport(
        findings=tuple(findings),
        tokens=tokens,
        usd_per_month=meter.sum(meter.usd(fresh), meter.usd(prefix.cached, cached=True)),
        model=model,
        calls_per_month=calls_per_month,
    )


class _Meter:
    """Counts tokens and prices them for a month; dollars are None when no price is known."""

    def __init__(self, model: str, calls: int, prices: PriceBook) -> None:
        self.least = least_cacheable(model) or 1024
        self.tokens = shared_tokens().counter(model)
        self._calls = calls
        try:
            rates = prices.rates(model)
        except PriceError:
            rates = Rates()
        self._input = rates.input
        self._gain = gain(rates, warm_share(calls))

    def usd(self, tokens: int, *, cached: bool = False) -> Decimal | None:
        """Return what so many tokens in each call cost, at the full price or from the cache."""
        if self._input is None:
            return None
        rate = self._input - max(self._gain, Decimal(0)) if cached else self._input
        return self._month(rate, tokens, self._calls)

    def uncached(self, tokens: int, each: str) -> Decimal | None:
        """Return what is lost when they are not read from the cache, each "call" or "day"."""
        if self._input is None:
            return None
        calls = min(self._calls, _DAYS) if each == "day" else self._calls
        return self._month(self._gain, tokens, calls)

    def sum(self, *amounts: Decimal | None) -> Decimal | None:
        return None if self._input is None else total(amounts)

    def _month(self, rate: Decimal, tokens: int, calls: int) -> Decimal:
        return dollars(picodollars(rate) * tokens * calls // 1_000_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prefix:
    """What comes before the question: the messages, what changes in them, what is cached."""

    messages: Sequence[tuple[str, str]]
    placed: Sequence[tuple[int, Changing, Piece]]
    tokens: int
    cached: int

    @classmethod
    def of(cls, messages: Sequence[tuple[str, str]], meter: _Meter) -> "_Prefix":
        asked = (n for n, (role, _) in enumerate(messages) if role in ("user", "human"))
        before = messages[: max(asked, default=len(messages))]
        placed = []
        tokens = 0
        for number, (_, text) in enumerate(before):
            done = 0
            for one in changing(text):
                start, end = one.span
                tokens += meter.tokens(text[done:start])
                own = meter.tokens(text[start:end])
                placed.append((number, one, Piece(start=tokens, tokens=own)))
                tokens += own
                done = end
            tokens += meter.tokens(text[done:])
        # What changes once a day hardly ever ends what is cached.
        steady = min([tokens, *(piece.start for _, one, piece in placed if one.each == "call")])
        return cls(
            messages=before,
            placed=placed,
            tokens=tokens,
            cached=steady if steady >= meter.least else 0,
        )

    def caches(self, number: int, start: int) -> bool:
        """Say whether a position in a message is in the part that is cached."""
        if not self.cached or number >= len(self.messages):
            return False
        ends = [(n, one.span[0]) for n, one, _ in self.placed if one.each == "call"]
        return (number, start) < min(ends, default=(len(self.messages), 0))


def _message(message: Message) -> tuple[str, str]:
    match message:
        case (str(role), str(text)):
            return role, text
        case {"role": str(role), "content": str(text)}:
            return role, text
        case {"role": str(role), "content": [*parts]}:
            texts = (part.get("text", "") if isinstance(part, Mapping) else part for part in parts)
            return role, "\n".join(text for text in texts if isinstance(text, str))
        case {"role": str(role)}:
            return role, ""
    raise ConfigError(
        f"a message must be a dict with role and content or a pair of texts, "
        f"got {type(message).__name__}."
    )


# --- in the text of one message -------------------------------------------------------------------


def _in_text(number: int, text: str, meter: _Meter, prefix: _Prefix) -> Iterator[Finding]:
    def found(kind: Kind, span: Span, tokens: int, suggestion: str) -> Finding:
        return Finding(
            kind=kind,
            message=number,
            span=span,
            text=text[slice(*span)],
            tokens=tokens,
            usd_per_month=meter.usd(tokens, cached=prefix.caches(number, span[0])),
            suggestion=suggestion,
        )

    for span, instead in fillers(text):
        tokens = meter.tokens(text[slice(*span)]) - meter.tokens(instead)
        yield found(
            "filler", span, max(tokens, 1), f"write {instead!r}" if instead else "leave it out"
        )
    for span, first in repeats(text):
        tokens = meter.tokens(text[slice(*span)])
        yield found("repeated", span, tokens, f"leave it out, as {first[0]} says it already")
    yield from (found("long_example", *one) for one in _long_examples(text, meter))


def _long_examples(text: str, meter: _Meter) -> Iterator[tuple[Span, int, str]]:
    spans = worked_examples(text)
    sizes = [meter.tokens(text[slice(*span)]) for span in spans]
    usual = statistics.median_low(sizes) if sizes else 0
    for span, size in zip(spans, sizes, strict=True):
        stands_out = len(sizes) > 2 and size > max(_LONG_EXAMPLE, 3 * usual)
        if stands_out or size > _VERY_LONG_EXAMPLE:
            allowed = max(usual, _LONG_EXAMPLE) if stands_out else _VERY_LONG_EXAMPLE
            advice = (
                f"shorten it to what shows the pattern ({allowed:,} tokens are counted as needed), "
                f"or pick examples for each question with FewShot(max_tokens=...)"
            )
            yield span, size - allowed, advice


# --- in what a provider could cache ---------------------------------------------------------------


def _in_prefix(prefix: _Prefix, meter: _Meter) -> Iterator[Finding]:
    if prefix.messages and not prefix.placed:
        yield from _short_prefix(prefix, meter)
    steady = prefix.tokens
    # What changes with each call first: behind it nothing is cached for a day either.
    for each in ("call", "day"):
        changes = [one for one in prefix.placed if one[1].each == each and one[2].start < steady]
        lost = lost_to([piece for _, _, piece in changes], steady, meter.least)
        for (number, one, _), vain in zip(changes, lost, strict=True):
            cost = meter.uncached(vain, each)
            if vain >= _WORTH_MOVING and (cost is None or cost > 0):
                yield Finding(
                    kind="volatile",
                    message=number,
                    span=one.span,
                    text=prefix.messages[number][1][slice(*one.span)],
                    tokens=vain,
                    usd_per_month=cost,
                    suggestion=f"this is {one.what}: put it behind what is the same in each call",
                )
        steady = min([steady, *(piece.start for _, _, piece in changes)])


def _short_prefix(prefix: _Prefix, meter: _Meter) -> Iterator[Finding]:
    missing = meter.least - prefix.tokens
    full, filled = meter.usd(prefix.tokens), meter.usd(meter.least, cached=True)
    # Who is far from it has nothing to bring; and filling up must cost less than it saves.
    if 0 < missing <= prefix.tokens and full is not None and filled is not None and full > filled:
        text = prefix.messages[-1][1]
        yield Finding(
            kind="short_prefix",
            message=len(prefix.messages) - 1,
            span=(0, len(text)),
            text=text,
            tokens=prefix.tokens,
            usd_per_month=total((full, -filled)),
            suggestion=(
                f"{missing:,} tokens short of the {meter.least:,} that the provider caches: move "
                f"what is the same in each call (tools, examples, documents) in front"
            ),
        )
