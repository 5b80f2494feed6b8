"""LLMLingua's three methods on today's transformers, with ids, scores and citations kept."""

import asyncio
import importlib.util
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, get_args

from costwise_core.compress.lingua_model import (
    Loaded,
    Method,
    ModelSource,
    checked_source,
    load_model,
)
from costwise_core.compress.lingua_protect import PROTECTED, protected_spans, trimmed
from costwise_core.errors import ConfigError, MissingExtraError, nearest
from costwise_core.passages import Compressed, Dropped, Passage, tokens_of
from costwise_core.protocols import TokenCounter
from costwise_core.tokens import shared_tokens

if TYPE_CHECKING:
    from costwise_core.compress.lingua_engine import Engine

__all__ = ["LLMLinguaCompressor"]

_LEAST: Final = 0.05
"""Share of a passage that stays at least, so that something of it does."""


class LLMLinguaCompressor:
    """Deletes tokens from passages with llmlingua 0.2.2 and a model of yours.

    Every passage is compressed by itself and keeps its id, score, metadata and title. What is kept
    is verbatim: `spans` say where in the original it stands. Numbers, ids, URLs, citation markers,
    quotations, tables and code are not touched.

    Whatever goes wrong, the passages come back as they were and `reason` says why: "timeout",
    "error", "no_saving", "short", "no_question", "no_passages". A model that cannot be loaded is
    tried once; call `load()` at start-up to see its error. Thread-safe: one model serves one
    request at a time, and waiting for it counts as time. `Watched` counts the reasons.

    Deleting tokens loses more answers than leaving out sentences: measure it on your questions with
    `calibrate_share` first.

    Args:
        model: A folder, a GGUF file, a name on the hub (which transformers downloads on first use),
            or (model, tokenizer) that are loaded already. Code that comes with a model is never
            run.
        method: "llmlingua2" (Pan et al., 2403.12968) needs a token classifier with two classes;
            "llmlingua" (Jiang et al., 2310.05736) and "longllmlingua" (Jiang et al., 2310.06839) a
            small causal language model. The last one goes by the question and may leave out
            whole passages.
        share: Share of the tokens to keep, above 0 and below 1; what is kept comes near it.
        max_tokens: How many tokens to keep instead, headers or titles included; approached as
            `share` is.
        device: Where the model runs, such as "cuda:1"; None is a GPU where CUDA works, else the
            CPU.
        protect: What matches is kept as it is; None protects nothing.
        timeout: Seconds one request may take once the model is loaded. A pass through the model is
            not broken off, so it may take that much longer.
        min_tokens: Fewer tokens than this are passed through.
        min_saving: Share of the tokens that must be saved at least.
        counter: Counts tokens, such as `Tokens().counter("gpt-4o")`.

    Raises:
        MissingExtraError: if llmlingua or torch is not installed.
        ConfigError: if a number is out of range, or there is no model where `model` points to.

    Example:
        >>> from contextlib import suppress
        >>> with suppress(MissingExtraError):  # nothing is loaded before it is needed
        ...     name = "microsoft/llmlingua-2-bert-base-multilingual-cased-meetingbank"
        ...     short = LLMLinguaCompressor(name, share=0.5).compress("", [Passage(text="Hello.")])
        ...     assert short.reason == "short"
    """

    def __init__(
        self,
        model: ModelSource,
        *,
        method: Method = "llmlingua2",
        share: float = 0.5,
        max_tokens: int | None = None,
        device: str | None = None,
        protect: re.Pattern[str] | None = PROTECTED,
        timeout: float = 30.0,
        min_tokens: int = 200,
        min_saving: float = 0.1,
        counter: TokenCounter | None = None,
    ) -> None:
        if method not in get_args(Method):
            known = get_args(Method)
            raise ConfigError(
                f"method must be one of {', '.join(known)}, got {method!r}."
                + nearest(str(method), known)
            )
        if not 0 < share < 1:
            raise ConfigError(f"share must be above 0 and below 1, got {share!r}.")
        if not 0 <= min_saving < 1:
            raise ConfigError(f"min_saving must be at least 0 and below 1, got {min_saving!r}.")
        if not timeout > 0:
            raise ConfigError(f"timeout must be above 0 seconds, got {timeout!r}.")
        if max_tokens is not None and max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {max_tokens!r}.")
        if any(importlib.util.find_spec(module) is None for module in ("llmlingua", "torch")):
            raise MissingExtraError("LLMLinguaCompressor", "llmlingua")
        self.method: Method = method
        self._source = checked_source(model)
        self._share = share
        self._max_tokens = max_tokens
        self._device = device
        self._protect = protect
        self._timeout = timeout
        self._min_tokens = min_tokens
        self._min_saving = min_saving
        self._counter = counter
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._broken: Exception | None = None

    def load(self) -> None:
        """Load the model now, if it is not loaded, rather than on first use.

        Raises:
            ConfigError: if the model is of the wrong kind for the method.
            OSError: if its files are missing.
        """
        with self._lock:
            self._broken = None
            self._ready()

    async def aload(self) -> None:
        """Do what `load` does, in a thread."""
        await asyncio.to_thread(self.load)

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Return the passages with tokens deleted, in the order given; never raises for any text.

        Args:
            question: What the passages are to answer; only "longllmlingua" needs it.
            passages: Not changed.
        """
        given = tuple(passages)
        before = self._count(given)
        reason, why = self._excuse(question, given, before)
        if not reason:
            began = time.monotonic()
            try:
                found = self._compressed(question, given)
            except TimeoutError:
                reason, why = "timeout", f"left alone, as it took more than {self._timeout:g} s"
            except Exception as error:  # noqa: BLE001 - a compressor fails open
                reason, why = "error", f"left alone, as it raised {type(error).__name__}"
            else:
                after = self._count(found.passages)
                why = f"{before:,} tokens to {after:,} in {time.monotonic() - began:.2f} s"
                if found.failed:
                    why += f"; {found.failed} passages left alone, as they raised an error"
                if after <= before * (1 - self._min_saving):
                    return Compressed(
                        passages=found.passages,
                        given=given,
                        dropped=found.dropped,
                        tokens_before=before,
                        tokens_after=after,
                        reason="compressed",
                        why=why,
                    )
                reason = "error" if found.failed else "no_saving"
        return Compressed.unchanged(given, tokens=before, reason=reason, why=why)

    async def acompress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Do what `compress` does, in a thread."""
        return await asyncio.to_thread(self.compress, question, passages)

    def _count(self, passages: Sequence[Passage]) -> int:
        return sum(tokens_of(passages, self._counter or shared_tokens().counter()))

    def _excuse(self, question: str, given: tuple[Passage, ...], before: int) -> tuple[str, str]:
        if not given:
            return "no_passages", "there are no passages"
        if self.method == "longllmlingua" and not question.strip():
            return "no_question", "longllmlingua goes by the question"
        if before < self._min_tokens:
            return "short", f"{before:,} tokens are fewer than {self._min_tokens:,}"
        if self._max_tokens is not None and before <= self._max_tokens:
            return "short", f"{before:,} tokens are within {self._max_tokens:,}"
        return "", ""

    def _ready(self) -> "Engine":
        """Return the engine, loading the model if need be; the lock is held."""
        from costwise_core.compress.lingua_engine import Engine  # noqa: PLC0415

        if self._broken is not None:
            raise self._broken
        if self._engine is None:
            try:
                loaded: Loaded = load_model(self._source, self.method, self._device)
                self._engine = Engine(loaded)
            except Exception as error:
                self._broken = error
                raise
        return self._engine

    @contextmanager
    def _turn(self) -> Iterator["Engine"]:
        end = time.monotonic() + self._timeout
        if not self._lock.acquire(timeout=self._timeout):
            raise TimeoutError
        try:
            began = time.monotonic()
            engine = self._ready()
            engine.forward.deadline = end + time.monotonic() - began  # loading is not in the time
            yield engine
        finally:
            self._lock.release()

    def _compressed(self, question: str, given: tuple[Passage, ...]) -> "_Found":
        kept: list[Passage] = []
        dropped: list[Dropped] = []
        failed = 0
        with self._turn() as engine:
            shares = self._shares(engine, question, given)
            for index, passage in enumerate(given):
                if not passage.text.strip():
                    kept.append(passage)
                elif index not in shares:
                    why = f"{self.method}: the question follows from others more than from it"
                    dropped.append(Dropped(passage=passage, why=why))
                else:
                    try:
                        kept.append(self._one(engine, question, passage, shares[index]))
                    except TimeoutError:
                        raise
                    except Exception:  # noqa: BLE001 - one odd text must not stop the others
                        failed += 1
                        kept.append(passage)
        return _Found(passages=tuple(kept), dropped=tuple(dropped), failed=failed)

    def _shares(
        self, engine: "Engine", question: str, given: tuple[Passage, ...]
    ) -> dict[int, float]:
        """Return what to keep of each passage that is to stay."""
        count = self._counter or shared_tokens().counter()
        share = self._share
        if self._max_tokens is not None:
            texts = sum(count(passage.text) for passage in given)
            share = (self._max_tokens - self._count(given) + texts) / max(texts, 1)
        share = min(max(share, _LEAST), 1.0)
        texts_at = [index for index, passage in enumerate(given) if passage.text.strip()]
        if self.method != "longllmlingua" or len(texts_at) < 2:
            return dict.fromkeys(texts_at, share)
        texts_of = [given[index].text for index in texts_at]
        lengths = [engine.tokens(text) for text in texts_of]
        budget = share * sum(lengths)
        raised = engine.rank(question, texts_of, budget)
        # What the passages that were left out have saved already need not be saved again.
        rest = budget / sum(lengths[at] for at in raised)
        return {texts_at[at]: min(max(rest + extra, _LEAST), 1.0) for at, extra in raised.items()}

    def _one(self, engine: "Engine", question: str, passage: Passage, share: float) -> Passage:
        text = passage.text
        protected = protected_spans(text, self._protect)
        if self.method == "llmlingua2":
            spans = engine.by_class(text, share=share, protected=protected)
        else:
            asked = question if self.method == "longllmlingua" else ""
            spans = engine.by_perplexity(text, share=share, protected=protected, question=asked)
        spans = list(trimmed(spans, text))
        if not spans or spans == [(0, len(text))]:  # of a word or two nothing may be left
            return passage
        kept = "".join(text[start:end] for start, end in spans)
        return replace(
            passage,
            text=kept,
            original=text if passage.original is None else passage.original,
            # Of a text that somebody else has cut already they would say where in that.
            spans=tuple(spans) if passage.original is None else (),
            why=f"{self.method}: {len(kept) / len(text):.0%} of its characters",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    passages: tuple[Passage, ...]
    dropped: tuple[Dropped, ...]
    failed: int
