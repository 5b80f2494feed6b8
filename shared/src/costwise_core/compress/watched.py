"""A compressor under watch: it breaks no request, and what it does is counted and on the bill."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from costwise_core.context import current_request
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, PriceError
from costwise_core.notes import pieces_of
from costwise_core.passages import Compressed, Passage, tokens_of
from costwise_core.protocols import Compressor
from costwise_core.tokens import count_tokens
from costwise_core.tracking import left_out
from costwise_core.waterfall import LeftOut

__all__ = ["CompressionStats", "Watched", "note_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressionStats:
    """What a compressor did since it was made.

    Args:
        calls: Requests by the reason of their result: "compressed", "short", "error" and so on.
        errors: Faults that were passed over, by the name of the error's class.
        tokens_before: Tokens of all passages given to it.
        tokens_after: Tokens of all passages it kept.
    """

    calls: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    tokens_before: int = 0
    tokens_after: int = 0

    @property
    def tokens_saved(self) -> int:
        """Tokens that were not sent."""
        return self.tokens_before - self.tokens_after

    @property
    def share_kept(self) -> float:
        """Tokens kept of all tokens, 1.0 when there were none."""
        return self.tokens_after / self.tokens_before if self.tokens_before else 1.0


class Watched:
    """Any compressor, with what it does counted; when it fails, the passages come back whole.

    In a `track` block, what was left out counts as saved on every call that is sent the rest.

    Args:
        compressor: Does the work.
        on_compressed: Is shown every result, passed-through input too. It is called where the
            request runs, so it should be quick; what it raises is counted and passed over.

    Raises:
        ConfigError: if `compressor` has no method `compress`.

    Example:
        >>> class Broken:
        ...     def compress(self, question, passages):
        ...         raise RuntimeError("no model")
        >>> watched = Watched(Broken())
        >>> watched.compress("Why?", [Passage(text="Because.")]).passages[0].text
        'Because.'
        >>> dict(watched.stats.calls), dict(watched.stats.errors)
        ({'error': 1}, {'RuntimeError': 1})
    """

    def __init__(
        self,
        compressor: Compressor,
        *,
        on_compressed: Callable[[Compressed], object] | None = None,
    ) -> None:
        if not callable(getattr(compressor, "compress", None)):
            raise ConfigError(
                "a compressor has a method compress(question, passages); "
                f"got {type(compressor).__name__}."
            )
        self.compressor = compressor
        self._on_compressed = on_compressed
        self._calls: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._before = self._after = 0
        self._lock = threading.Lock()

    @property
    def stats(self) -> CompressionStats:
        """All counts so far."""
        with self._lock:
            return CompressionStats(
                calls=MappingProxyType(dict(sorted(self._calls.items()))),
                errors=MappingProxyType(dict(sorted(self._errors.items()))),
                tokens_before=self._before,
                tokens_after=self._after,
            )

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Return what the compressor makes of the passages, or all of them if it fails.

        Raises:
            ConfigError: if the compressor lacks a package, or cannot work as it is set.
            PriceError: if it has a budget in dollars and no price for them.
        """
        return run(self.flow(question, passages))

    async def acompress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Do what `compress` does, without blocking the event loop."""
        return await arun(self.flow(question, passages))

    def flow(self, question: str, passages: Sequence[Passage]) -> Flow[Compressed]:
        """Do what `compress` does, as a step of another flow."""
        given = tuple(passages)
        if current_request().unoptimised:
            return _untouched(given, "holdout", "the request runs unoptimised")
        try:
            result = yield from call(self.compressor.compress, question, given)
        except (ConfigError, PriceError):
            # It would fail the same way on every request, and nobody would look at the counts.
            raise
        except Exception as error:  # noqa: BLE001 - a compressor fails open
            self._count_error(error)
            result = _untouched(
                given,
                "error",
                f"the compressor failed with {type(error).__name__}, so all was kept",
            )
        with self._lock:
            self._calls[result.reason] += 1
            self._before += result.tokens_before
            self._after += result.tokens_after
        if result.reason == "compressed":
            before = "\n".join(one.text for one in given if one.why)
            left_out(note_of(question, result), shortened=before)
        if self._on_compressed is not None:
            try:
                self._on_compressed(result)
            except Exception as error:  # noqa: BLE001 - who watches must not break the request
                self._count_error(error)
        return result

    def _count_error(self, error: Exception) -> None:
        with self._lock:
            self._errors[type(error).__name__] += 1


def _untouched(given: tuple[Passage, ...], reason: str, why: str) -> Compressed:
    tokens = sum(tokens_of(given, lambda text: count_tokens(text).tokens))
    return Compressed.unchanged(given, tokens=tokens, reason=reason, why=why)


def note_of(question: str, result: Compressed) -> LeftOut:
    """Return what a compressor left out for a question, as the bill wants to be told.

    Example:
        >>> kept = Passage(id="1", text="RAG is a method.")
        >>> note = note_of("What is RAG?", Compressed(
        ...     passages=(kept,), given=(kept, kept), reason="compressed",
        ...     tokens_before=10, tokens_after=5,
        ... ))
        >>> note.tokens, note.pieces
        (5, ('RAG is a method.',))
    """
    # A tool is called for more than the user asked; that stands in the first line.
    (asked,) = pieces_of(question.splitlines()[:1]) or ("",)
    pieces = pieces_of(passage.text for passage in result.passages)
    kept = "\n".join(passage.text for passage in result.passages)
    lines = (line for passage in result.given for line in passage.text.splitlines())
    gone = pieces_of(line for line in lines if line not in kept)
    return LeftOut(
        stage="compress",
        tokens=result.tokens_saved,
        pieces=pieces,
        absent=tuple(piece for piece in gone if piece not in kept),
        source="\n".join((asked, *sorted(pieces))),
        question=asked,
        why=result.why,
    )
