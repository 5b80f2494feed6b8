"""How much of the input the provider had in its cache, as the ledger saw it."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from costwise_core.display_table import as_html, as_text, usd
from costwise_core.errors import PriceError
from costwise_core.money import dollars, picodollars, total
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.types import CallRecord

__all__ = ["PromptCacheUse", "Use", "gaps_of", "prompt_cache_use"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What the provider's cache did for one feature with one model.

    Args:
        feature: The tag that was grouped by; "" for calls without it.
        model: As the provider names it.
        calls: Paid calls.
        input_tokens: Sent.
        read_tokens: Of these, read from the cache.
        write_tokens: Of these, written to it.
        usd_saved: Dollars that reading saved less what writing cost more; None without a price.

    Example:
        >>> use = Use(
        ...     feature="faq", model="m", calls=1, input_tokens=100, read_tokens=80, write_tokens=0,
        ...     usd_saved=None,
        ... )
        >>> use.read_share
        0.8
    """

    feature: str
    model: str
    calls: int
    input_tokens: int
    read_tokens: int
    write_tokens: int
    usd_saved: Decimal | None

    @property
    def read_share(self) -> float:
        """Share of the input that was read from the cache, in [0, 1]."""
        return self.read_tokens / self.input_tokens if self.input_tokens else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptCacheUse:
    """What the providers' caches did; `print` it for a table.

    Args:
        uses: One for each feature and model, most input first.

    Example:
        >>> print(prompt_cache_use([]))
        No paid calls yet
    """

    uses: tuple[Use, ...]

    def __str__(self) -> str:
        """Return it as a table."""
        return as_text(self._heading(), self._rows(), left=2) if self.uses else self._heading()

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._rows() if self.uses else (), left=2)

    def _heading(self) -> str:
        if not self.uses:
            return "No paid calls yet"
        sent = sum(one.input_tokens for one in self.uses)
        read = sum(one.read_tokens for one in self.uses)
        saved = usd(total(one.usd_saved for one in self.uses))
        return f"Read from the providers' caches: {read / max(sent, 1):.0%} of the input, {saved}"

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            ("feature", "model", "calls", "input tokens", "read", "written", "saved")
        ]
        for one in self.uses:
            written = one.write_tokens / one.input_tokens if one.input_tokens else 0.0
            saved = "?" if one.usd_saved is None else usd(one.usd_saved)
            rows.append(
                (
                    one.feature,
                    one.model,
                    f"{one.calls:,}",
                    f"{one.input_tokens:,}",
                    f"{one.read_share:.0%}",
                    f"{written:.0%}",
                    saved,
                )
            )
        return rows


def prompt_cache_use(
    records: Iterable[CallRecord], *, by: str = "feature", prices: PriceBook | None = None
) -> PromptCacheUse:
    """Return how much of the input was read from providers' caches, and what that saved.

    Args:
        records: Such as those of a ledger or a bill.
        by: The tag to group by, besides the model.
        prices: The price list; by default the one everything in this process prices with.

    Example:
        >>> from costwise_core.types import Usage
        >>> used = Usage(input_tokens=10_000, cache_read_tokens=8_000)
        >>> record = CallRecord(id="1", at=0.0, operation="chat", model="gpt-4o", usage=used)
        >>> print(prompt_cache_use([record]))
        Read from the providers' caches: 80% of the input, $0.010
          feature  model   calls  input tokens  read  written   saved
                   gpt-4o      1        10,000   80%       0%  $0.010
    """
    book = prices or shared_prices()
    groups: dict[tuple[str, str], list[CallRecord]] = {}
    for record in records:
        if not record.tier and record.usage.input_tokens:
            group = (dict(record.tags).get(by, ""), record.model)
            groups.setdefault(group, []).append(record)
    uses = [
        Use(
            feature=feature,
            model=model,
            calls=len(calls),
            input_tokens=sum(one.usage.input_tokens for one in calls),
            read_tokens=sum(one.usage.cache_read_tokens for one in calls),
            write_tokens=sum(one.usage.cache_write_tokens for one in calls),
            usd_saved=_saved(calls, book),
        )
        for (feature, model), calls in groups.items()
    ]
    return PromptCacheUse(uses=tuple(sorted(uses, key=lambda one: -one.input_tokens)))


def gaps_of(records: Iterable[CallRecord], *, feature: str) -> list[float]:
    """Return the seconds between one paid call of a feature and its next with the same model.

    Calls of two tenants are apart, since they share no prefix.

    Example:
        >>> calls = [
        ...     CallRecord(
        ...         id=str(at), at=at, operation="chat", model="m", tags=(("feature", "faq"),)
        ...     )
        ...     for at in (0.0, 60.0, 200.0)
        ... ]
        >>> gaps_of(calls, feature="faq")
        [60.0, 140.0]
    """
    times: dict[tuple[str, str], list[float]] = {}
    for record in records:
        tags = dict(record.tags)
        if not record.tier and tags.get("feature", "") == feature:
            times.setdefault((record.model, tags.get("tenant", "")), []).append(record.at)
    return [after - before for one in times.values() for before, after in pairwise(sorted(one))]


def _saved(calls: Iterable[CallRecord], prices: PriceBook) -> Decimal | None:
    saved = 0
    for one in calls:
        used = one.usage
        try:
            rates = prices.rates(one.model, input_tokens=used.input_tokens, at=one.at or None)
        except PriceError:
            return None
        if rates.input is None:
            return None
        read = rates.input if rates.cache_read is None else rates.cache_read
        write = rates.input if rates.cache_write is None else rates.cache_write
        long = write if rates.cache_write_1h is None else rates.cache_write_1h
        short_tokens = used.cache_write_tokens - used.cache_write_1h_tokens
        saved += (
            used.cache_read_tokens * picodollars(rates.input - read)
            - short_tokens * picodollars(write - rates.input)
            - used.cache_write_1h_tokens * picodollars(long - rates.input)
        )
    return dollars(saved // 1_000_000)
