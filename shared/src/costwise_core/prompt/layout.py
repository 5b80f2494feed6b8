"""The order in which a prompt is cached best, and where a provider is told to cache it."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, TypeAlias, get_args

from costwise_core.display_table import as_html, as_text, usd
from costwise_core.errors import ConfigError, PriceError, nearest
from costwise_core.money import dollars, picodollars
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.prompt.provider_cache import CacheTerms, terms_of
from costwise_core.prompt.volatile import changing
from costwise_core.tokens import shared_tokens

__all__ = ["Layout", "Part", "PartKind", "Placed", "plan_layout"]

PartKind: TypeAlias = Literal[
    "static", "tools", "examples", "summary", "history", "documents", "question"
]
_ORDER: Final[tuple[PartKind, ...]] = get_args(PartKind)
_CHANGES: Final = {
    "static": "never",
    "tools": "never",
    "examples": "never",
    "summary": "now and then",
    "history": "grows",
    "documents": "with each call",
    "question": "with each call",
}
_STEADY: Final = ("never", "now and then", "grows")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A piece of a prompt.

    Args:
        kind: "static" (instructions), "tools", "examples", "summary" (of the conversation),
            "history", "documents" (retrieved) or "question".
        text: What stands there; for tools their JSON.
        name: What it is called in results.

    Raises:
        ConfigError: if there is no such kind.

    Example:
        >>> Part(kind="static", text="You sell bikes.").name
        'static'
    """

    kind: PartKind
    text: str
    name: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _ORDER:
            raise ConfigError(
                f"kind must be one of {', '.join(_ORDER)}, got {self.kind!r}."
                f"{nearest(self.kind, _ORDER)}"
            )
        if not self.name:
            object.__setattr__(self, "name", self.kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A part in its place.

    Args:
        part: The part.
        was: Its place before, from 0.
        tokens: Of its text.
        changes: "never", "now and then", "grows" or "with each call".
        mark: Whether the provider is to be told to cache up to its end.
        why: Why it stands here, "" where it stood before.

    Example:
        >>> part = Part(kind="static", text="Be brief.")
        >>> Placed(part=part, was=0, tokens=3, changes="never", mark=False, why="").was
        0
    """

    part: Part
    was: int
    tokens: int
    changes: str
    mark: bool
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A prompt in the order in which it is cached best; `print` it for a table.

    Args:
        parts: In that order.
        model: For which it is planned.
        tokens: Of the whole prompt.
        cacheable: How many of them, from the beginning, the provider can cache.
        cacheable_before: How many it could in the order given.
        usd_saved: Dollars that a call saves whose cacheable tokens were all cached already; None
            when no price is known.
        key: The same for prompts that begin alike: OpenAI's and Mistral's `prompt_cache_key`.
        notes: What there is to know.

    Example:
        >>> layout = plan_layout(
        ...     [Part(kind="question", text="Which one?"), Part(kind="static", text="Be brief.")],
        ...     model="gpt-4o",
        ... )
        >>> [one.part.kind for one in layout.parts]
        ['static', 'question']
    """

    parts: tuple[Placed, ...]
    model: str
    tokens: int
    cacheable: int
    cacheable_before: int
    usd_saved: Decimal | None
    key: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Return it as a table."""
        return as_text(self._heading(), self._rows(), left=2, notes=self.notes)

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._rows(), left=2, notes=self.notes)

    def _heading(self) -> str:
        saved = "" if self.usd_saved is None else f", {usd(self.usd_saved)} a warm call"
        return (
            f"{self.cacheable:,} of {self.tokens:,} tokens can be cached for {self.model}, "
            f"{self.cacheable_before:,} before{saved}"
        )

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("part", "changes", "tokens", "cache up to here", "moved")]
        rows += [
            (
                one.part.name,
                one.changes,
                f"{one.tokens:,}",
                "yes" if one.mark else "",
                one.why,
            )
            for one in self.parts
        ]
        return rows


def plan_layout(
    parts: Iterable[Part], *, model: str, tenant: str = "", prices: PriceBook | None = None
) -> Layout:
    """Put a prompt's parts in the order in which they are cached best, and mark where.

    What never changes comes first, then what changes now and then, then what grows, then what
    changes with each call: a provider caches the beginning up to the first difference. A part that
    holds something of the call (a time, an id, a name; see `changing`) changes with each call,
    whatever its kind.

    Args:
        parts: As the prompt has them now.
        model: As the provider names it.
        tenant: Kept in the key, so that tenants do not share a cache.
        prices: The price list; by default the one everything in this process prices with.

    Raises:
        ConfigError: if there are no parts.

    Example:
        >>> layout = plan_layout(
        ...     [
        ...         Part(kind="static", text="Request id: 7f3a9c21d0.", name="id"),
        ...         Part(kind="static", text="Cite the page of every figure. " * 300, name="rules"),
        ...         Part(kind="question", text="What does it weigh?"),
        ...     ],
        ...     model="claude-sonnet-4-5",
        ... )
        >>> [(one.part.name, one.mark) for one in layout.parts]
        [('rules', True), ('id', False), ('question', False)]
        >>> layout.cacheable_before
        0
    """
    given = list(parts)
    if not given:
        raise ConfigError("parts must have at least one part.")
    count = shared_tokens().counter(model)
    terms = terms_of(model)
    found = []
    for was, part in enumerate(given):
        volatile = [one for one in changing(part.text) if one.each == "call"]
        steady = _CHANGES[part.kind] in _STEADY
        changes = "with each call" if volatile and part.kind != "history" else _CHANGES[part.kind]
        why = f"it holds {volatile[0].what}" if steady and changes == "with each call" else ""
        found.append((was, part, count(part.text), changes, why))
    before = _steady_tokens(found)
    found.sort(key=lambda one: _place(one[1].kind, one[3]))
    after = _steady_tokens(found)
    marks, notes = _marks(found, terms)
    cacheable = _cacheable(after, terms)
    return Layout(
        parts=tuple(
            Placed(
                part=part,
                was=was,
                tokens=tokens,
                changes=changes,
                mark=place in marks,
                why=why or (f"from {was + 1}" if was != place else ""),
            )
            for place, (was, part, tokens, changes, why) in enumerate(found)
        ),
        model=model,
        tokens=sum(tokens for _, _, tokens, _, _ in found),
        cacheable=cacheable,
        cacheable_before=_cacheable(before, terms),
        usd_saved=_saved(cacheable, model, prices or shared_prices()),
        key=prefix_key(
            [part.text for _, part, _, changes, _ in found if changes == "never"], model, tenant
        ),
        notes=tuple(notes),
    )


def prefix_key(texts: Sequence[str], model: str, tenant: str) -> str:
    """Return a key that prompts share which begin with the same texts, of one tenant.

    Example:
        >>> prefix_key(["a"], "m", "x") == prefix_key(["a"], "m", "y")
        False
    """
    framed = b"".join(
        b"%d:%b" % (len(part), part)
        for part in (text.encode("utf-8", "surrogatepass") for text in (tenant, model, *texts))
    )
    return f"costwise-{hashlib.sha256(framed).hexdigest()[:32]}"


_Found: TypeAlias = tuple[int, Part, int, str, str]


def _place(kind: PartKind, changes: str) -> int:
    # What was thought to be steady and is not goes in front of the documents, not behind them:
    # instructions about documents are read before them.
    if changes == "with each call" and _CHANGES[kind] in _STEADY:
        return 2 * _ORDER.index("documents") - 1
    return 2 * _ORDER.index(kind)


def _steady_tokens(found: Sequence[_Found]) -> int:
    steady = 0
    for _, _, tokens, changes, _ in found:
        if changes not in _STEADY:
            break
        steady += tokens
    return steady


def _cacheable(tokens: int, terms: CacheTerms | None) -> int:
    if terms is None or tokens < terms.least:
        return 0
    return tokens - tokens % terms.step


def _marks(found: Sequence[_Found], terms: CacheTerms | None) -> tuple[set[int], list[str]]:
    """Mark the last part that never changes, the last summary, and the end of the history."""
    if terms is None:
        return set(), ["it is not known whether the provider caches prompts of this model"]
    last: dict[str, tuple[int, int]] = {}
    reached = 0
    for place, (_, _, tokens, changes, _) in enumerate(found):
        if changes not in _STEADY:
            break
        reached += tokens
        last[changes] = (place, reached)
    if reached < terms.least:
        missing = terms.least - reached
        return set(), [f"{missing:,} tokens short of the {terms.least:,} that can be cached"]
    if terms.how == "automatic":
        return set(), ["the provider caches by itself: nothing is to be marked"]
    return {place for place, tokens in last.values() if tokens >= terms.least}, []


def _saved(tokens: int, model: str, prices: PriceBook) -> Decimal | None:
    try:
        rates = prices.rates(model)
    except PriceError:
        return None
    if rates.input is None:
        return None
    read = rates.input if rates.cache_read is None else rates.cache_read
    return dollars(picodollars(rates.input - read) * tokens // 1_000_000)
