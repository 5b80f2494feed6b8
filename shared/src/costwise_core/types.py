"""The values that travel between stages: frozen, keyword-only, and each says why."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:  # numpy takes longer to import than all of costwise
    import numpy as np
    from numpy.typing import NDArray

    FloatArray: TypeAlias = NDArray[np.float32]
else:
    FloatArray = Any

__all__ = [
    "CallRecord",
    "Entry",
    "Hit",
    "Matrix",
    "Miss",
    "Neighbour",
    "Saving",
    "Scope",
    "Selection",
    "Usage",
    "Vector",
]

Vector: TypeAlias = FloatArray
"""One embedding: shape (dim,), float32, unit length."""

Matrix: TypeAlias = FloatArray
"""Several embeddings: shape (n, dim), float32, rows of unit length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one or more model calls, in the shape every provider's report is brought to.

    Args:
        input_tokens: All tokens sent, cached ones included.
        output_tokens: All tokens produced, reasoning included.
        cache_read_tokens: The part of `input_tokens` the provider read from its prompt cache.
        cache_write_tokens: The part of `input_tokens` the provider wrote to its prompt cache.
        cache_write_1h_tokens: The part of `cache_write_tokens` kept for an hour, which costs more.
        reasoning_tokens: The part of `output_tokens` spent on hidden reasoning.
        audio_input_tokens: The part of `input_tokens` that is sound.
        audio_cache_read_tokens: The part of both `audio_input_tokens` and `cache_read_tokens`.
        audio_output_tokens: The part of `output_tokens` that is sound.
        estimated: True when any of the numbers was estimated here and not reported.

    Example:
        >>> (Usage(input_tokens=10, output_tokens=2) + Usage(input_tokens=1)).total_tokens
        13
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_cache_read_tokens: int = 0
    audio_output_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Tokens sent plus tokens produced."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            audio_input_tokens=self.audio_input_tokens + other.audio_input_tokens,
            audio_cache_read_tokens=self.audio_cache_read_tokens + other.audio_cache_read_tokens,
            audio_output_tokens=self.audio_output_tokens + other.audio_output_tokens,
            estimated=self.estimated or other.estimated,
        )


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Everything besides the question that decides an answer; matched exactly, never by similarity.

    Two requests may share an answer only if their scopes are equal. Fields hold the text itself or
    a fingerprint of it, as the caller likes; stores only ever see `key` and the three fields that
    entries are selected by (`tenant`, `model`, `corpus`).

    Args:
        tenant: Whose data the answer may contain. Tenants never share entries.
        model: The model and every parameter that changes its answers.
        system: The system prompt.
        tools: Tools and response formats the model was offered.
        template: The prompt template around question and context.
        corpus: Name and version of the corpus the answer was drawn from.
        context: The retrieved passages or the conversation so far.
        kind: The shape of the stored answer, so that frameworks never read each other's.

    Example:
        >>> Scope(tenant="a").key == Scope(tenant="b").key
        False
    """

    tenant: str = ""
    model: str = ""
    system: str = ""
    tools: str = ""
    template: str = ""
    corpus: str = ""
    context: str = ""
    kind: str = ""

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits that differ whenever any field differs."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        canonical = json.dumps(values, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One stored answer.

    Args:
        key: Digest of the canonical question, 32 hexadecimal digits; unique within a scope.
        scope: `Scope.key` of the request that was answered.
        question: The question as it was asked.
        answer: The answer as the adapter wrote it (text; usually JSON).
        vector: Embedding of the question, or None when only the exact tier may serve the entry.
        embedder: Name of the embedder that made `vector`, "" without one.
        usage: What the answer cost when it was paid for.
        tenant: Copied from the scope so that entries can be selected by it.
        model: Likewise.
        corpus: Likewise.
        tags: Free labels to select entries by.
        created: Seconds since the epoch.
        expires: Seconds since the epoch after which the entry is never served; None is never.
        text: The answer as a person reads it, where `answer` is a dump of a framework's objects;
            "" where `answer` is that already.
        group: Entries of one scope whose answers were judged equal share it; "" is not judged.
        documents: Ids and versions (or content hashes) of the documents the answer was drawn from.
        worth: Dollars that serving the entry once saves.
        uses: How often it was served, as far as the store was told; stores count it themselves.
    """

    key: str
    scope: str
    question: str
    answer: str
    vector: Vector | None = field(default=None, compare=False)
    embedder: str = ""
    usage: Usage = Usage()
    tenant: str = ""
    model: str = ""
    corpus: str = ""
    tags: tuple[str, ...] = ()
    created: float = 0.0
    expires: float | None = None
    text: str = ""
    group: str = ""
    documents: tuple[tuple[str, str], ...] = ()
    worth: float = 0.0
    uses: int = 0

    @property
    def plain(self) -> str:
        """The answer as a person reads it."""
        return self.text or self.answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """An entry near a question, with the cosine similarity of the two, in [-1, 1]."""

    entry: Entry
    cosine: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which entries are meant: those for which every given field matches; none given is all.

    Args:
        scope: Key of an exact scope.
        keys: Digests of canonical questions.
        tenant: Of the scope; likewise `model` and `corpus`.
        model: Likewise.
        corpus: Likewise.
        tag: A label the entry carries.
        changed: Documents by id with their version now; meant are entries that used any of them in
            another version. A version of "" is no entry's: the document is gone.
        created_before: Seconds since the epoch.
        unused_since: Seconds since the epoch; entries neither stored nor served since then.

    Example:
        >>> Selection(tenant="acme", changed=(("handbook.pdf", "v8"),)).tenant
        'acme'
    """

    scope: str | None = None
    keys: tuple[str, ...] | None = None
    tenant: str | None = None
    model: str | None = None
    corpus: str | None = None
    tag: str | None = None
    changed: tuple[tuple[str, str], ...] | None = None
    created_before: float | None = None
    unused_since: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A stored answer that may be served, and why.

    Args:
        answer: The stored answer as the adapter wrote it.
        usage_then: What the answer cost when it was paid for, so what serving it saves.
        tier: "exact" (same canonical question) or "near" (a similar one).
        question: The question the answer was given to.
        cosine: Similarity of the two questions; 1.0 in the exact tier.
        age: Seconds since the answer was stored.
        why: One sentence for a person.
        stale: Whether the answer is past its time and is to be refreshed behind.
    """

    answer: str
    usage_then: Usage
    tier: Literal["exact", "near"]
    question: str
    cosine: float
    age: float
    why: str
    stale: bool = False

    def __bool__(self) -> bool:
        return True

    def _repr_html_(self) -> str:
        rows = {"question": self.question, "answer": self.answer, "age": f"{self.age:,.0f} s"}
        return _shown(f"Hit ({self.tier}, cosine {self.cosine:.2f})", rows, self.why)


@dataclass(frozen=True, kw_only=True, slots=True)
class Miss:
    """No answer, and why; false in a condition.

    Args:
        reason: One of a small set of words that are counted: "no_entry", "below_threshold",
            "empty_question", "no_scope", "bypass", "store_error", "embedder_error".
        why: One sentence for a person.
        nearest: The closest question found, "" if none was looked for or found.
        cosine: Its similarity, None likewise.
        vector: The question's embedding if one was made, so that storing needs no second one.
    """

    reason: str
    why: str
    nearest: str = ""
    cosine: float | None = None
    vector: Vector | None = field(default=None, compare=False, repr=False)

    def __bool__(self) -> bool:
        return False

    def _repr_html_(self) -> str:
        near = {} if self.cosine is None else {"nearest": self.nearest}
        cosine = {} if self.cosine is None else {"cosine": f"{self.cosine:.2f}"}
        return _shown(f"Miss ({self.reason})", {**near, **cosine}, self.why)


SavingKind: TypeAlias = Literal["measured", "modelled", "sampled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """What one stage saved on one request; negative when it cost more than it saved.

    Args:
        stage: One of `costwise_core.waterfall.STAGES`, such as "response_cache".
        usd: Dollars, exact; None when the model has no known price.
        tokens: Input plus output tokens not paid for.
        kind: "measured" (both numbers were counted), "modelled" or "sampled".
        why: One sentence for a person.
    """

    stage: str
    usd: Decimal | None
    tokens: int = 0
    kind: SavingKind = "measured"
    why: str = ""


SERVING: Final = frozenset({"embedding", "rerank", "vector_query"})


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRecord:
    """One line of the ledger: a paid call, or one that costwise made unnecessary.

    Args:
        id: Unique; recording the same id twice counts once.
        at: Seconds since the epoch.
        operation: "chat", "completion", "embedding", "rerank", "vector_query" or another word for
            what was called.
        model: The model as the provider names it.
        usage: Tokens paid for; zero for a cache hit.
        usd: Dollars paid, exact; None when the model has no known price.
        tags: Sorted pairs, such as (("feature", "faq"), ("tenant", "acme")).
        savings: What was not paid, by stage.
        overhead: True for a call costwise itself made (a judge, a summary).
        tier: "exact" or "near" for a cache hit, "" for a paid call.
        seconds: Wall time of the call.
        why: One sentence for a person.
        prompt_hash: Tells prompts apart without their text: equal for equal prompts of one tenant
            to one model; "" is not known.
        prefix_hash: Likewise of the first `costwise_core.prompt_hash.PREFIX` characters, which
            calls that could share a provider's prompt cache have in common; "" if it is shorter.
    """

    id: str
    at: float
    operation: str
    model: str
    usage: Usage = Usage()
    usd: Decimal | None = Decimal(0)
    tags: tuple[tuple[str, str], ...] = ()
    savings: tuple[Saving, ...] = ()
    overhead: bool = False
    tier: Literal["exact", "near", ""] = ""
    seconds: float = 0.0
    why: str = ""
    prompt_hash: str = ""
    prefix_hash: str = ""

    @property
    def answers(self) -> bool:
        """Whether a request was answered by this, from a model or the cache.

        Not so for what serves to answer one: embeddings, reranking, searches, costwise's own calls.
        """
        return not self.overhead and self.operation not in SERVING


def frozen_tags(tags: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Sort tags into the form a record keeps them in.

    Example:
        >>> frozen_tags({"team": "x", "feature": "faq"})
        (('feature', 'faq'), ('team', 'x'))
    """
    return tuple(sorted(tags.items()))


def _shown(heading: str, rows: Mapping[str, str], why: str) -> str:
    from costwise_core.display_table import as_html  # noqa: PLC0415 - only when somebody looks

    cells = [("", ""), *((name, text[:500]) for name, text in rows.items() if text)]
    return as_html(heading, cells, left=2, notes=(why,) if why else ())
