"""The parts that both adapters' `Stack.recommended` puts together."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

from costwise_core.cache.agreement import Turn
from costwise_core.cache.dependence import dependence
from costwise_core.dedup import InFlight
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, PriceError, nearest
from costwise_core.memory.economics import MemoryPrices
from costwise_core.memory.memory import ConversationMemory

if TYPE_CHECKING:
    from costwise_core.cache.cache import Cache
    from costwise_core.ledger_sqlite import SQLiteLedger
    from costwise_core.passages import Compressed, Passage
    from costwise_core.prices import PriceBook
    from costwise_core.protocols import Compressor, Embedder

__all__ = [
    "Parts",
    "check_required",
    "close_all",
    "in_order",
    "recommended_parts",
    "searched",
]

# Shares multiply: five passages of twenty, and a tenth of those, lose a third of the answers. So
# trimming only caps what a retriever may send, and the sentences are chosen among all of it.
_PASSAGES: Final = 20
_SHARE: Final = 0.3


class Parts(TypedDict):
    """What `recommended_parts` fills in of a `Stack`."""

    cache: "Cache"
    in_flight: InFlight
    trim: "Compressor"
    compress: "Compressor"
    memory: ConversationMemory
    ledger: "SQLiteLedger"


def recommended_parts(
    folder: Path, *, embedder: "Embedder | None", model: str, prices: "PriceBook | None"
) -> Parts:
    """Return parts that are safe without being tuned, and share one folder and one embedder.

    Args:
        folder: Where their files go; it is made if it is not there, and nothing in it is opened.
        embedder: Makes similarity possible; None is the model of `costwise-models`.
        model: Whose prices decide when compressing and folding pay.
        prices: The price list; by default the one everything in this process prices with.

    Example:
        >>> from tempfile import mkdtemp
        >>> from costwise_core.testing.fakes import HashingEmbedder
        >>> parts = recommended_parts(
        ...     Path(mkdtemp()), embedder=HashingEmbedder(), model="gpt-4o", prices=None
        ... )
        >>> sorted(parts)
        ['cache', 'compress', 'in_flight', 'ledger', 'memory', 'trim']
    """
    # Each of these brings numpy or a database along, and only who asks for a recipe needs them.
    from costwise_core.cache.cache import Cache  # noqa: PLC0415
    from costwise_core.compress.extractive import ExtractiveCompressor  # noqa: PLC0415
    from costwise_core.compress.worth import WhenWorthIt  # noqa: PLC0415
    from costwise_core.embed.cached import CachedEmbedder  # noqa: PLC0415
    from costwise_core.embed.onnx import OnnxEmbedder  # noqa: PLC0415
    from costwise_core.ledger_sqlite import SQLiteLedger  # noqa: PLC0415
    from costwise_core.memory.stores.sqlite import SQLiteConversations  # noqa: PLC0415
    from costwise_core.score.fusion import hybrid  # noqa: PLC0415
    from costwise_core.stores.sqlite import SQLiteStore  # noqa: PLC0415
    from costwise_core.trim import RerankTrim  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    shared = CachedEmbedder(OnnxEmbedder() if embedder is None else embedder)
    answers = SQLiteStore(folder / "answers.db")
    stated = None
    if prices is not None:
        with suppress(PriceError):  # a memory that knows no price folds nothing before it must
            stated = MemoryPrices.of(prices, model)
    return Parts(
        cache=Cache(answers, embedder=shared),
        in_flight=InFlight(leases=answers),
        trim=RerankTrim(scorer=hybrid(shared), top_k=_PASSAGES),
        compress=WhenWorthIt(
            ExtractiveCompressor(embedder=shared, share=_SHARE), model=model, prices=prices
        ),
        memory=ConversationMemory(
            SQLiteConversations(folder / "conversations.db"),
            model=model,
            prices=stated,
            embedder=shared,
        ),
        ledger=SQLiteLedger(folder / "ledger.db"),
    )


def close_all(parts: Iterable[object]) -> None:
    """Close each of the parts that can be closed, once; those closed before stay closed.

    Example:
        >>> close_all([None, object()])
    """
    for part in {id(part): part for part in parts}.values():
        close = getattr(part, "close", None)
        if callable(close):
            close()


def check_required(names: Sequence[str]) -> None:
    """Refuse scope fields that a stack cannot require.

    Raises:
        ConfigError: if there is one.

    Example:
        >>> check_required(("tenant",))
    """
    known = ("tenant", "corpus")
    for name in names:
        if name not in known:
            raise ConfigError(
                f"require names {name!r}; a stack can require {' and '.join(known)}."
                f"{nearest(name, known)}"
            )


def searched(turns: Sequence[Turn], question: str) -> str:
    """Return what to search for: a question that leans on the one before takes it along.

    Args:
        turns: The conversation before the question, oldest first.
        question: The user's last message.

    Example:
        >>> turns = [Turn(role="user", text="What does Nimbus Fibre cost?")]
        >>> searched(turns, "And with TV?")
        'What does Nimbus Fibre cost? And with TV?'
        >>> searched(turns, "What is the capital of France?")
        'What is the capital of France?'
    """
    before = next((one.text for one in reversed(turns) if one.role == "user"), "")
    leans = before and dependence(turns, question).dependent
    return f"{before} {question}" if leans else question


def in_order(compressors: Sequence["Compressor"]) -> "Compressor":
    """Return one compressor that is several, each given what the one before left.

    Args:
        compressors: At least one.

    Example:
        >>> from costwise_core import Passage, RerankTrim
        >>> both = in_order([RerankTrim(top_k=2), RerankTrim(top_k=1)])
        >>> passages = [Passage(text=text) for text in ("Oslo.", "Rome.", "Bonn.")]
        >>> len(both.compress("Where is Rome?", passages).passages)
        1
    """
    return compressors[0] if len(compressors) == 1 else _InOrder(steps=tuple(compressors))


@dataclass(frozen=True, kw_only=True)
class _InOrder:
    steps: tuple["Compressor", ...]

    def compress(self, question: str, passages: Sequence["Passage"]) -> "Compressed":
        return run(self._compress(question, passages))

    async def acompress(self, question: str, passages: Sequence["Passage"]) -> "Compressed":
        return await arun(self._compress(question, passages))

    def _compress(self, question: str, passages: Sequence["Passage"]) -> "Flow[Compressed]":
        results: list[Compressed] = []
        for step in self.steps:
            results.append((yield from call(step.compress, question, passages)))
            passages = results[-1].passages
        return _joined(results)


def _joined(results: Sequence["Compressed"]) -> "Compressed":
    first, last = results[0], results[-1]
    telling = next((one for one in reversed(results) if one.reason == "compressed"), last)
    return replace(
        last,
        given=first.given,
        tokens_before=first.tokens_before,
        reason=telling.reason,
        why=telling.why,
        dropped=tuple(one for result in results for one in result.dropped),
    )
