"""Replay a log: read it once, find what could have gone, price that so that it adds up."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from costwise_core.errors import ConfigError, PriceError
from costwise_core.money import dollars
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.protocols import Embedder
from costwise_core.replaying import words
from costwise_core.replaying.choices import beyond_cap, dominated_models, no_one_waits
from costwise_core.replaying.context import Sample, Trimmed, trimmed
from costwise_core.replaying.prefixes import Prefix, prefixes_of
from costwise_core.replaying.reading import Seen, calls_in
from costwise_core.replaying.repeats import WrongShare, exact_repeats, near_repeats, wrong_share
from costwise_core.replaying.requests import Request, TokenRates, request_of
from costwise_core.replaying.result import Finding, Replay
from costwise_core.replaying.steps import ORDER, Change, Priced, priced
from costwise_core.replaying.talks import Folded, conversations_of, folded_history
from costwise_core.report.words import usd

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["replay"]

_MEASURED: Final = frozenset(("exact_repeats",))
_LEAST_CONTEXT: Final = 300
_COMPARED: Final = 4
_DAY: Final = 86_400.0


def replay(
    source: Any,
    *,
    prices: PriceBook | None = None,
    embedder: Embedder | None = None,
    model: str = "",
    models: Sequence[str] = (),
    can_wait: Collection[str] = (),
    progress: Callable[[str, int], None] | None = None,
) -> Replay:
    """Say what costwise would have saved on a log of real calls. No model is called.

    Found are: questions asked again in the same scope, questions asked again in other words (with
    the share of wrong answers to expect), passages and history that prompts could do without,
    answers beyond the usual length, models that another undercuts, prefixes that the provider could
    have cached, and calls that could wait. Each is priced on top of the ones before it, so that the
    dollars add up. Tenants never share an answer.

    Args:
        source: The log: a path (JSON lines, also gzipped, a JSON document, or a SQLite ledger), a
            list of dicts, a pandas DataFrame, or a ledger. Rows may be OpenAI-style requests and
            responses, LangSmith runs, Langfuse traces or observations, or questions and answers.
        prices: The price list; by default the one everything in this process prices with.
        embedder: Of questions, to find those in other words. Without one they are told by their
            words, which finds fewer.
        model: Of calls that name none.
        models: Models you could use, the weakest first: what a better one undercuts is dominated.
        can_wait: Features whose answers may come tomorrow.
        progress: Is told of the stage and of how many calls are done, now and then.

    Raises:
        ConfigError: if there is no log, or nothing in it looks like a call.
        PriceError: if one of `models` has no known price.

    Example:
        >>> call = {"model": "gpt-4o", "usage": {"prompt_tokens": 1_000, "completion_tokens": 100},
        ...         "messages": [{"role": "user", "content": "What is RAG?"}],
        ...         "choices": [{"message": {"content": "A method."}, "finish_reason": "stop"}]}
        >>> found = replay([call, call])
        >>> found.paid_usd, found.saved_usd
        (Decimal('0.007'), Decimal('0.0035'))
    """
    if isinstance(can_wait, str) or isinstance(models, str):
        raise ConfigError("models and can_wait are lists of names, not one text.")
    book = prices or shared_prices()
    tell = progress or (lambda _stage, _done: None)
    seen, sample = Seen(), Sample()
    requests = _read(source, seen, sample, model, tell)
    found = _find(requests, sample, book, embedder, models, can_wait, tell)
    tell("pricing", 0)
    each = [priced(one, found.changes[n], book) for n, one in enumerate(requests)]
    return _result(requests, found, each, seen)


def _read(
    source: Any, seen: Seen, sample: Sample, model: str, tell: Callable[[str, int], None]
) -> list[Request]:
    rates = TokenRates()
    requests = []
    for place, call in enumerate(calls_in(source, seen, model=model)):
        request, parts = request_of(call, place, rates)
        requests.append(request)
        if request.context_tokens >= _LEAST_CONTEXT:
            sample.offer(parts.question, parts.context, call.answer)
        if place % 100 == 0:
            tell("reading", place)
    # A log may be in any order; calls without a time keep the one they are in.
    if all(one.at is not None for one in requests):
        requests.sort(key=lambda one: (one.at or 0.0, one.place))
    return requests


@dataclass(frozen=True, kw_only=True)
class _Found:
    changes: list[Change]
    conversations: list[list[int]]
    trimmed: Trimmed
    wrong: WrongShare
    why: dict[str, str]
    unknown: frozenset[str]
    measured: frozenset[str]
    guessed_batch: bool


def _find(
    requests: Sequence[Request],
    sample: Sample,
    book: PriceBook,
    embedder: Embedder | None,
    models: Sequence[str],
    can_wait: Collection[str],
    tell: Callable[[str, int], None],
) -> _Found:
    ledger = bool(requests) and all(one.ledger for one in requests)
    tell("repeats", 0)
    exact = exact_repeats(requests)
    near = near_repeats(requests, exact, embedder)
    wrong = wrong_share(requests, near, exact, embedder)
    tell("conversations", 0)
    talks = conversations_of(requests)
    history = folded_history(requests, talks, book)
    tell("passages", 0)
    cut = trimmed(sample.kept)
    tell("prompts", 0)
    prefixes = prefixes_of(requests)
    longer, caps = beyond_cap(requests)
    better = dominated_models(requests, book, models)
    waits, features = no_one_waits(requests, can_wait)
    repeated = {one.request: "near" for one in near} | {one.request: "exact" for one in exact}
    instead = {(one.feature if not one.ordered else None, one.model): one.by for one in better}
    changes = []
    passages = 0
    for n, one in enumerate(requests):
        context = one.context_tokens if one.context_tokens >= _LEAST_CONTEXT else 0
        passages += bool(context)
        folded = history.get(n, Folded(tokens=0, readable=0))
        other = instead.get((one.feature, one.model)) or instead.get((None, one.model), "")
        changes.append(
            Change(
                model=other if _cheaper(one, other, book) else "",
                context=round(context * (1 - cut.kept_share)) if cut.given else 0,
                history=folded.tokens,
                readable=folded.readable,
                output=longer.get(n, 0),
                prefix=_unread(one, prefixes.get(n, Prefix())),
                batch=n in waits,
                repeat=repeated.get(n, ""),  # type: ignore[arg-type]
            )
        )
    refused = Counter(one.why_not for one in requests if one.why_not)
    name = "" if embedder is None else embedder.name
    cannot_tell = {
        "dominated_model": not better,
        "context": ledger or (bool(sample.kept) and not cut.share),
        "history": ledger,
        "near_repeats": ledger,
        "output": not caps,
        "prompt_cache": all(one.at is None for one in requests),
        "batch": not features and not any(one.feature and one.user for one in requests),
    }
    return _Found(
        changes=changes,
        conversations=talks,
        trimmed=cut,
        wrong=wrong,
        why={
            "exact_repeats": words.why_exact(len(exact), refused, ledger=ledger),
            "near_repeats": words.why_near(len(near), name, wrong, ledger=ledger),
            "context": words.why_context(cut, passages, ledger=ledger),
            "history": _why_history(history, talks, ledger=ledger),
            "output": "; ".join(caps[:3]) or "fewer than 299 answers of one kind: no cap is sure",
            "prompt_cache": _why_prefix(requests, prefixes),
            "dominated_model": words.why_routed(better, _ceiling(requests, book)),
            "batch": words.why_batch(features, features=any(one.feature for one in requests)),
        },
        unknown=frozenset(name for name, told in cannot_tell.items() if told),
        measured=frozenset() if ledger else _MEASURED,
        guessed_batch=not all(features.values()),
    )


def _unread(one: Request, prefix: Prefix) -> Prefix:
    """Leave out what the provider had cached anyway."""
    if prefix.read <= one.usage.cache_read_tokens and not prefix.write:
        return Prefix()
    return Prefix() if one.usage.cache_write_tokens and not prefix.read else prefix


def _cheaper(one: Request, other: str, book: PriceBook) -> bool:
    if not other:
        return False
    try:
        now = book.cost(one.usage, one.model, tier=one.processing).usd
        return book.cost(one.usage, other, tier=one.processing).usd < now
    except PriceError:
        return False


def _ceiling(requests: Sequence[Request], book: PriceBook) -> str:
    """Say what the cheapest other model of the log would have charged for everything."""
    used = Counter(one.model for one in requests if one.model)
    names = sorted(name for name, _ in used.most_common(_COMPARED))
    if len(names) < 2:
        return ""
    known: dict[str, list[Decimal]] = {}
    for name in names:
        try:
            known[name] = [book.cost(one.usage, name).usd for one in requests]
        except PriceError:
            continue
    if len(known) < 2:
        return ""
    cheapest = min(known, key=lambda name: sum(known[name]))
    most = sum(
        max(known[one.model][n] - known[cheapest][n], Decimal(0))
        for n, one in enumerate(requests)
        if one.model in known
    )
    return f" (at most {usd(Decimal(most))}, if {cheapest} answered everything)"


def _why_history(history: dict[int, Folded], talks: list[list[int]], *, ledger: bool) -> str:
    if ledger:
        return "a ledger keeps no messages"
    long = sum(len(talk) > 1 for talk in talks)
    if not long:
        return "no two calls belong to one conversation"
    return f"the planner folds {len(history):,} prompts in {long:,} conversations of several calls"


def _why_prefix(requests: Sequence[Request], prefixes: dict[int, Prefix]) -> str:
    if not any(one.at is not None for one in requests):
        return "the log names no times, so nobody knows what was still cached"
    read = sum(one.usage.cache_read_tokens for one in requests)
    sent = sum(one.usage.input_tokens for one in requests)
    by_itself = sum(bool(one.read) and not one.marked for one in prefixes.values())
    told = f"{read / max(sent, 1):.0%} of the input was read from providers' caches"
    if by_itself:
        told += (
            f"; {by_itself:,} calls went to providers that cache without being asked and promise "
            "nothing, or whose discount the log leaves out"
        )
    return told


# --- adding up ----------------------------------------------------------------------------------


def _result(
    requests: Sequence[Request],
    found: _Found,
    each: Sequence[Priced | None],
    seen: Seen,
) -> Replay:
    from costwise_core.replaying.ranges import Ranges, ranges_of, sampled_factors  # noqa: PLC0415

    known = [one for one in each if one is not None]
    ranges = Ranges()
    if known:
        factors = sampled_factors(found.trimmed.given, found.trimmed.kept)
        ranges = ranges_of(
            _matrix(each),
            _groups(requests, found.conversations),
            scaled=ORDER.index("context"),
            factors=factors,
        )
    findings = tuple(
        _finding(name, found, each, ranges.each[n] if ranges.each else None)
        for n, name in enumerate(ORDER)
    )
    times = [one.at for one in requests if one.at is not None]
    unpriced = Counter(one.model for one, cost in zip(requests, each, strict=True) if cost is None)
    return Replay(
        requests=len(requests),
        paid_usd=dollars(sum(one.paid for one in known)),
        findings=findings if requests else (),
        low=ranges.whole[0] if ranges.whole else None,
        high=ranges.whole[1] if ranges.whole else None,
        since=min(times, default=None),
        until=max(times, default=None),
        input_tokens=sum(one.usage.input_tokens for one in requests),
        output_tokens=sum(one.usage.output_tokens for one in requests),
        formats={name: count for name, count in seen.items() if name not in _COUNTS},
        rows=seen["rows"],
        damaged=seen["damaged"],
        other_rows=seen["other rows"],
        unpriced=dict(unpriced.most_common()),
        estimated=sum(one.usage.estimated for one in requests),
        notes=tuple(_notes(requests, seen)),
    )


_COUNTS: Final = frozenset(("rows", "damaged", "other rows", "calls", "cut short"))


def _finding(
    name: str,
    found: _Found,
    each: Sequence[Priced | None],
    ends: tuple[float, float] | None,
) -> Finding:
    asked = [n for n, change in enumerate(found.changes) if name in change.names()]
    costs = [cost for n in asked if (cost := each[n]) is not None]
    unpriced = len(asked) - len(costs)
    told = name not in found.unknown
    # Calls without a price are dollars that nobody knows, which is not zero dollars.
    priced_any = told and (bool(costs) or not unpriced)
    wrong = found.wrong if name == "near_repeats" and asked else WrongShare(share=None)
    if ends is not None and (name == "prompt_cache" or (name == "batch" and found.guessed_batch)):
        ends = (min(0.0, ends[0]), ends[1])  # the provider, or the user, may say otherwise
    return Finding(
        name=name,
        title=words.TITLES[name],
        confidence="measured on your log" if name in found.measured else "modelled",
        usd=dollars(sum(cost.steps.get(name, 0) for cost in costs)) if priced_any else None,
        alone_usd=dollars(sum(cost.alone.get(name, 0) for cost in costs)) if priced_any else None,
        low=ends[0] if ends and priced_any else None,
        high=ends[1] if ends and priced_any else None,
        requests=len(asked),
        tokens=sum(cost.tokens.get(name, 0) for cost in costs),
        unpriced=unpriced,
        wrong_share=wrong.share,
        wrong_low=wrong.low if wrong.share is not None else None,
        wrong_high=wrong.high if wrong.share is not None else None,
        why=found.why[name],
        formula=words.FORMULAS[name],
    )


def _matrix(each: Sequence[Priced | None]) -> "NDArray[np.float64]":
    import numpy as np  # noqa: PLC0415

    amounts = np.zeros((len(each), len(ORDER)))
    for row, cost in enumerate(each):
        if cost is not None:
            for name, picos in cost.steps.items():
                amounts[row, ORDER.index(name)] = picos / 1e12
    return amounts


def _groups(requests: Sequence[Request], conversations: Sequence[Sequence[int]]) -> list[int]:
    """Number the days, where there are enough to draw from, else the conversations."""
    from costwise_core.replaying.ranges import ENOUGH_DAYS  # noqa: PLC0415

    days = [-1 if one.at is None else int(one.at // _DAY) for one in requests]
    if -1 not in days and len(set(days)) >= ENOUGH_DAYS:
        first = min(days)
        return [day - first for day in days]
    groups = [0] * len(requests)
    for number, places in enumerate(conversations):
        for place in places:
            groups[place] = number
    return groups


def _notes(requests: Sequence[Request], seen: Seen) -> list[str]:
    told: list[str] = []
    if not requests:
        return told
    if all(one.ledger for one in requests):
        told.append("a ledger keeps hashes and tokens, no words: what needs words is not known")
    if not any(one.tenant for one in requests):
        told.append("the log names no tenant, so all calls count as one tenant's")
    if all(one.at is None for one in requests):
        told.append("the log names no times, so its order is taken for theirs")
    elif any(one.at is None for one in requests):
        told.append("some calls have no time, so the order of the log is taken for theirs")
    if any(one.feature == "" and one.mark is not None for one in requests):
        told.append("marks are compared across all calls, since the log names no features")
    if seen["cut short"]:
        told.append("the log was read in part only: it is cut short or larger than the limit")
    days = len({int(one.at // _DAY) for one in requests if one.at is not None})
    drawn = "days" if days >= 10 else "conversations"
    told.append(
        f"intervals: 95 %, by drawing {drawn} anew; they say how far another log of this size may "
        "differ, not whether a model of a finding is right"
    )
    return told
