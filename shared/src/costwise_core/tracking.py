"""Who a call is made for, and where its cost is written: `with track(feature="faq") as bill:`.

The block travels in a context variable, which asyncio tasks and the threads that frameworks start
inherit. What it holds never changes, so a call that outlives the block still knows its own.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Literal

from costwise_core.bill import Bill
from costwise_core.context import current_request, scoped
from costwise_core.errors import ConfigError, PriceError, nearest
from costwise_core.holdout import HOLDOUT, HoldOut
from costwise_core.notes import Notes
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.prompt_hash import prompt_hashes
from costwise_core.protocols import Ledger
from costwise_core.types import CallRecord, Saving, Usage, frozen_tags
from costwise_core.waterfall import LeftOut, savings_of

__all__ = [
    "TAGS",
    "Recorder",
    "calling",
    "current_tags",
    "left_out",
    "record_call",
    "recorder",
    "recording",
    "track",
]

TAGS: Final = (
    "feature",
    "team",
    "user",
    "tenant",
    "endpoint",
    "conversation",
    "request",
    "arm",
)
"""The tags a call can carry."""


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Writes calls to the bills and ledgers that were around when it was asked for.

    Args:
        bills: Those of every block around, outermost first.
        ledgers: Likewise.
        prices: What calls are priced with.
        tags: What the calls are tagged with.
        notes: What was left out of prompts lately.
        baseline_model: What would have answered without a router; "" is the model that does.
        processing: How the provider is asked to work: "standard", "batch", "flex", "priority".
        overhead: True where costwise itself calls.
        priced_as: Under which name a model is written down and priced, by the name it has itself.

    Example:
        >>> with track() as bill:
        ...     writer = recorder()
        >>> call = writer.record(operation="chat", model="gpt-4o", usage=Usage(input_tokens=400))
        >>> bill.usd
        Decimal('0.001')
    """

    bills: tuple[Bill, ...]
    ledgers: tuple[Ledger, ...]
    prices: PriceBook
    tags: Mapping[str, str]
    notes: Notes
    baseline_model: str = ""
    processing: str = "standard"
    overhead: bool = False
    priced_as: Mapping[str, str] = field(default_factory=dict)

    def tagged(self, tags: Mapping[str, str]) -> "Recorder":
        """Return one whose calls carry these tags, too; they win over those it has."""
        added = {name: value for name, value in tags.items() if name in TAGS}
        return replace(self, tags=MappingProxyType({**self.tags, **added})) if added else self

    def record(
        self,
        *,
        operation: str,
        model: str,
        usage: Usage | None = None,
        tier: Literal["exact", "near", ""] = "",
        usage_then: Usage | None = None,
        seconds: float = 0.0,
        id: str | None = None,  # noqa: A002 - the field's name
        overhead: bool = False,
        prompt: str = "",
        processing: str = "",
        why: str = "",
    ) -> CallRecord:
        """Price a call and write it down. Never raises: a fault is counted on the bills.

        A model without a known price is recorded with `usd=None`, never with a price of zero; only
        what is rarely paid by the call, a "vector_query" or "rerank", costs nothing until the price
        book says otherwise.
        With a SQLite ledger this waits for a transaction, for as long as another process holds the
        file at worst (`busy_timeout`).

        Args:
            operation: "chat", "completion", "embedding", "rerank", "vector_query" or another word.
            model: As the provider names it, or "provider:model".
            usage: Tokens paid for; None, if nobody knows, leaves the call unpriced.
            tier: "exact" or "near" if the cache answered; nothing was paid then.
            usage_then: For a hit, what the answer cost when it was paid for: what it saves now.
            seconds: Wall time of the call.
            id: Unique; None to make one. A call reported twice under one id counts once.
            overhead: True for a call costwise itself made, whatever was said around it.
            prompt: The text sent, to find what was left out of it. Only hashes of it are kept.
            processing: How the provider says it worked, if it says so: "batch", "flex", "priority".
            why: One sentence for a person.

        Returns:
            The record as it was written.
        """
        at = time.time()
        model = self.priced_as.get(model, model)
        overhead = overhead or self.overhead
        processing = processing or self.processing
        usd: Decimal | None = None
        reason = ""
        savings: tuple[Saving, ...] = ()
        known = usage_then if tier else usage
        if usage is not None and not tier:
            usd, reason = self._price(model, usage, at, processing)
        if known is not None and not overhead:
            savings = self._savings(known, model, usd, prompt, at, processing, hit=bool(tier))
        if tier:
            usage, usd = Usage(), Decimal(0)
            if known is None:
                savings = (_UNKNOWN,)
        elif usage is None:
            usage, reason = Usage(estimated=True), "not priced: nobody reported the tokens"
        elif usd is None and operation in _OFTEN_FREE:
            usd, reason = Decimal(0), "no price per query is stated"
        whole, prefix = prompt_hashes(prompt, model, self.tags.get("tenant", ""))
        record = CallRecord(
            id=id if id is not None else uuid.uuid4().hex,
            at=at,
            operation=operation,
            model=model,
            usage=usage,
            usd=usd,
            tags=frozen_tags(self.tags),
            savings=savings,
            overhead=overhead,
            tier=tier,
            seconds=seconds,
            why="; ".join(filter(None, (why, reason))),
            prompt_hash=whole,
            prefix_hash=prefix,
        )
        for bill in self.bills:
            bill.add(record)
        for ledger in self.ledgers:
            try:
                ledger.record([record])
            except Exception as error:  # noqa: BLE001 - bookkeeping never breaks the user's call
                self._count_fault(error)
        return record

    def _price(
        self, model: str, usage: Usage, at: float, processing: str
    ) -> tuple[Decimal | None, str]:
        try:
            price = self.prices.cost(usage, model, tier=processing, at=at)
        except PriceError as error:
            return None, f"not priced: {error}"
        except Exception as error:  # noqa: BLE001 - somebody else's price book may fail anyhow
            self._count_fault(error)
            return None, f"not priced: {type(error).__name__}"
        return price.usd, price.why

    def _savings(
        self,
        usage: Usage,
        model: str,
        paid: Decimal | None,
        prompt: str,
        at: float,
        processing: str,
        *,
        hit: bool,
    ) -> tuple[Saving, ...]:
        def quote(used: Usage, name: str, tier: str) -> Decimal:
            if paid is not None and (used, name, tier) == (usage, model, processing):
                return paid
            return self.prices.cost(used, name, tier=tier, at=at).usd

        try:
            return savings_of(
                usage,
                model,
                quote,
                baseline_model=self.baseline_model,
                # Held-out requests may hold what stayed for others, and all the rest as well.
                left_out=() if self.tags.get("arm") == HOLDOUT else self.notes.of(prompt),
                processing=processing,
                hit=hit,
            )
        except Exception as error:  # noqa: BLE001 - likewise
            self._count_fault(error)
            return ()

    def _count_fault(self, error: Exception) -> None:
        for bill in self.bills:
            bill.count_fault(error)


# Paid by the hour where they are paid at all, so an unknown price is no gap in the bill.
_OFTEN_FREE: Final = frozenset({"vector_query", "rerank"})
_UNKNOWN: Final = Saving(stage="response_cache", usd=None, why="what the answer cost is not known")
_current: ContextVar[Recorder | None] = ContextVar("costwise_recorder", default=None)


@contextmanager
def track(
    *,
    ledger: Ledger | None = None,
    prices: PriceBook | None = None,
    holdout: HoldOut | None = None,
    **tags: str,
) -> Iterator[Bill]:
    """Collect what the calls inside the block cost and save; blocks nest.

    An inner block's calls carry the tags of both (its own win) and are on both bills and in the
    ledgers of both.

    Args:
        ledger: Where calls are kept beyond the block.
        prices: What calls are priced with; that of the block around, or the list, if not given.
        holdout: Makes the block one request, which by the hash of its tag `request` (made up if
            there is none) runs unoptimised or not; its calls carry that as the tag `arm`. A request
            whose arm is decided keeps it.
        **tags: `feature`, `team`, `user`, `tenant`, `endpoint`, `conversation`, `request` (an id
            that all calls of one request share), `arm` (of an experiment).

    Yields:
        The bill, which fills while the block runs and stays afterwards.

    Raises:
        ConfigError: if a tag has another name or is not text.

    Example:
        >>> with track(feature="faq") as bill:
        ...     _ = record_call(operation="chat", model="gpt-4o", usage=Usage(input_tokens=400))
        >>> bill.usd
        Decimal('0.001')
    """
    for name, value in tags.items():
        if name not in TAGS:
            raise ConfigError(
                f"unknown tag {name!r}; known are {', '.join(TAGS)}."
                f"{nearest(name, (*TAGS, 'ledger', 'prices', 'holdout'))}"
            )
        if not isinstance(value, str):
            raise ConfigError(f"tag {name!r} must be text, got {type(value).__name__}.")
    around = _current.get()
    bill = Bill(tags=tags)
    tags = {**(around.tags if around else {}), **tags}
    if holdout is not None and "arm" not in tags:
        request = tags.setdefault("request", uuid.uuid4().hex)
        tags["arm"] = holdout.arm(request)
    outer_ledgers = around.ledgers if around else ()
    inner = Recorder(
        bills=(*(around.bills if around else ()), bill),
        ledgers=(
            outer_ledgers
            if ledger is None or any(ledger is one for one in outer_ledgers)
            else (*outer_ledgers, ledger)
        ),
        prices=prices or (around.prices if around else shared_prices()),
        tags=MappingProxyType(tags),
        notes=around.notes if around else Notes(),
        baseline_model=around.baseline_model if around else "",
        processing=around.processing if around else "standard",
        overhead=around.overhead if around else False,
        priced_as=around.priced_as if around else {},
    )
    token = _current.set(inner)
    untouched = scoped(unoptimised=True) if tags.get("arm") == HOLDOUT else nullcontext()
    try:
        with untouched:
            yield bill
    finally:
        # A generator may be closed in another context, where there is nothing to set back.
        with suppress(ValueError):
            _current.reset(token)


@contextmanager
def calling(
    *, baseline_model: str = "", processing: str = "", overhead: bool = False
) -> Iterator[None]:
    """Say how the calls inside the block came about; does nothing outside every `track` block.

    Args:
        baseline_model: What would have answered if nothing had been routed.
        processing: How the provider was asked to work: "standard", "batch", "flex", "priority".
        overhead: True if costwise itself calls, for a judge, a rewriting or a summary.

    Example:
        >>> with track() as bill, calling(baseline_model="gpt-4o"):
        ...     _ = record_call(operation="chat", model="gpt-4o-mini", usage=Usage(input_tokens=40))
        >>> bill.savings
        {'route': Decimal('0.000094')}
    """
    around = _current.get()
    if around is None:
        yield
        return
    token = _current.set(
        replace(
            around,
            baseline_model=baseline_model or around.baseline_model,
            processing=processing or around.processing,
            overhead=overhead or around.overhead,
        )
    )
    try:
        yield
    finally:
        with suppress(ValueError):
            _current.reset(token)


@contextmanager
def recording(by: Recorder) -> Iterator[None]:
    """Have the calls inside the block written down by this recorder.

    Example:
        >>> with track() as bill:
        ...     writer = recorder()
        >>> with recording(writer):
        ...     _ = record_call(operation="chat", model="gpt-4o", usage=Usage(input_tokens=400))
        >>> bill.usd
        Decimal('0.001')
    """
    token = _current.set(by)
    try:
        yield
    finally:
        with suppress(ValueError):
            _current.reset(token)


def left_out(note: LeftOut, *, shortened: str = "") -> None:
    """Tell the bills around that something was kept out of a prompt that is yet to be sent.

    It counts as saved on every call whose prompt holds the pieces that stayed.

    Args:
        note: What was left out.
        shortened: Text it was left out of that an earlier step had shortened; what that step left
            out is counted with this.

    Example:
        >>> note = LeftOut(stage="compress", tokens=1000, pieces=("RAG is a method",), source="1")
        >>> with track() as bill:
        ...     left_out(note)
        ...     _ = record_call(
        ...         operation="chat", model="gpt-4o", usage=Usage(), prompt="RAG is a method."
        ...     )
        >>> bill.savings
        {'compress': Decimal('0.0025')}
    """
    active = _current.get()
    if active is not None:
        active.notes.add(note, shortened=shortened)


def recorder() -> Recorder | None:
    """Return what writes calls down here and now, or None outside every `track` block.

    Ask before a call begins and record when it has ended: a stream that is read to its end after
    the block, or in another thread, is then still written to the right bills.

    Example:
        >>> recorder() is None
        True
    """
    active = _current.get()
    # `scoped` says whose a request is where `track` does not.
    if active is None or "tenant" in active.tags or not (tenant := current_request().tenant):
        return active
    return active.tagged({"tenant": tenant})


def record_call(**call: Any) -> CallRecord | None:
    """Price a call and write it down, or do nothing outside every `track` block.

    Args:
        **call: As for `Recorder.record`.

    Example:
        >>> record_call(operation="chat", model="gpt-4o") is None
        True
    """
    active = recorder()
    return active.record(**call) if active is not None else None


def current_tags() -> Mapping[str, str]:
    """Return the tags a call made here would carry; `scoped(tenant=...)` counts, too.

    Example:
        >>> with track(feature="faq", team="support"), track(feature="search"):
        ...     dict(current_tags())
        {'feature': 'search', 'team': 'support'}
    """
    active = recorder()
    if active is not None:
        return active.tags
    tenant = current_request().tenant
    return MappingProxyType({"tenant": tenant} if tenant else {})
