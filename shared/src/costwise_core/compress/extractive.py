"""The sentences that answer the question, word for word; the rest left out."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.compress.filling import Room
from costwise_core.compress.fusion import Scores, relevance
from costwise_core.compress.hops import asks_several, bridged, name_of
from costwise_core.compress.pieces import Piece, cut, shortened
from costwise_core.compress.pins import answers_wh, pinned
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, VectorError
from costwise_core.passages import GAP, Compressed, Dropped, Passage, tokens_of
from costwise_core.protocols import Embedder, TokenCounter
from costwise_core.score.bm25 import bm25_words
from costwise_core.text.segments import Segment
from costwise_core.text.words import words
from costwise_core.tokens import shared_tokens
from costwise_core.types import Matrix

__all__ = ["ExtractiveCompressor"]

_ALONE: Final = 0.1
"""Share of all tokens that goes by the question alone; what one passage answers is found in it."""

_ALONE_IF_SEVERAL: Final = 0.05

_PINS: Final = 0.25
"""Share of the budget that pins may take, lest a number in every row of a log push all else out."""

_EMBED_AT_MOST: Final = 1_000
"""Pieces embedded for one request: with more, those that share the least words go without."""

_EMBED_AT_ONCE: Final = 256
_MAX_CHARS: Final = 2_000


@dataclass(frozen=True, kw_only=True)
class ExtractiveCompressor:
    """Keeps the sentences that matter to the question, verbatim, from all passages together.

    Passages are cut into sentences, list items, headings, tables and code, the last two kept or
    left out whole. A piece is as likely to answer as its passage, by words and meaning, times the
    piece's part in it, titles included (RECOMP's extractive idea, Xu et al. 2023, with eight
    fitted numbers instead of a trained model). One budget
    for all passages is filled from the best piece down; what is kept stands in its original place
    and order, with " [...] " where something is missing. Pieces that hold a number, identifier,
    quote or URL of the question go first; a piece that was said before is left out.

    Beyond a tenth of the tokens, passages that likely pieces name count as likely too, because the
    second half of a question over several hops shares no word with it. When a question seems to
    need several passages, that begins at half of it, and the budget is `several_share`.

    Every kept passage has `spans`, offsets into its `original`, so citations stay valid. The same
    input gives the same bytes. What cannot be judged comes back as it was given, and `reason` says
    why: "no_question", "no_passages", "short", "no_saving" or "error". An embedder that fails is
    done without, and `why` says so.

    Args:
        embedder: Measures meaning; None for words alone, which finds less. In a `CachedEmbedder`
            whose cache was filled by `ingest`, a request embeds nothing but the question.
        share: Share of the passages' tokens to keep, above 0 up to 1. Titles are counted.
        several_share: The same for a question that seems to need several passages, if it is more;
            None to treat all questions alike.
        max_tokens: The most tokens to keep, whatever the share; None is no cap. If not even one
            piece fits, the best one is kept.
        keep_per_passage: How many of its best pieces each passage keeps whatever the budget. It
            costs recall elsewhere (docs/compress.md), so the default is 0.
        min_tokens: Passages with fewer tokens than this together are passed through.
        model: The model that will read the passages; counts its tokens.
        counter: Counts tokens instead, such as `Tokens().counter(model)`.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> passages = [
        ...     Passage(id="a", text="We began in 1999. The notice period is 30 days. Do call us."),
        ...     Passage(id="b", text="Fibre comes with a router. It is white."),
        ... ]
        >>> compressor = ExtractiveCompressor(share=0.3, min_tokens=0)
        >>> result = compressor.compress("How long is the notice period?", passages)
        >>> [(passage.id, passage.text, passage.spans) for passage in result.passages]
        [('a', 'The notice period is 30 days.', ((18, 47),))]
        >>> result.restore("b").text
        'Fibre comes with a router. It is white.'
    """

    embedder: Embedder | None = None
    share: float = 0.1
    several_share: float | None = 0.35
    max_tokens: int | None = None
    keep_per_passage: int = 0
    min_tokens: int = 300
    model: str = ""
    counter: TokenCounter | None = None

    def __post_init__(self) -> None:
        for name, share in (("share", self.share), ("several_share", self.several_share)):
            if share is not None and not 0 < share <= 1:
                raise ConfigError(f"{name} must be above 0 and at most 1, got {share!r}.")
        for name, number, least in (
            ("max_tokens", self.max_tokens, 1),
            ("keep_per_passage", self.keep_per_passage, 0),
            ("min_tokens", self.min_tokens, 0),
        ):
            if number is not None and (not isinstance(number, int) or number < least):
                raise ConfigError(
                    f"{name} must be a whole number of at least {least}, got {number!r}."
                )

    def compress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Return what of the passages should go into the prompt; never raises for any text.

        Args:
            question: What will be asked about them.
            passages: In the order in which they will be in the prompt.

        Raises:
            ConfigError: if the embedder lacks a package or its model cannot be run.
        """
        return run(self._compress(question, tuple(passages)))

    async def acompress(self, question: str, passages: Sequence[Passage]) -> Compressed:
        """Do what `compress` does, without blocking the event loop."""
        return await arun(self._compress(question, tuple(passages)))

    def ingest(self, passages: Iterable[Passage]) -> int:
        """Embed the pieces of passages ahead of requests, so that its cache has their vectors.

        Args:
            passages: As a retriever will give them: same titles, same texts.

        Returns:
            How many pieces there were.

        Raises:
            ConfigError: if there is no embedder.
            Exception: whatever the embedder raises.
        """
        return run(self._ingest(passages))

    async def aingest(self, passages: Iterable[Passage]) -> int:
        """Do what `ingest` does, without blocking the event loop."""
        return await arun(self._ingest(passages))

    def _ingest(self, passages: Iterable[Passage]) -> Flow[int]:
        if self.embedder is None:
            raise ConfigError("ingest stores vectors, so it needs an embedder.")
        count = 0
        for passage in passages:
            texts = [_titled(piece, [passage]) for piece in cut([passage])]
            for start in range(0, len(texts), _EMBED_AT_ONCE):
                some = texts[start : start + _EMBED_AT_ONCE]
                yield from call(self.embedder.embed, some, "document")
            count += len(texts)
        return count

    def _compress(self, question: str, given: tuple[Passage, ...]) -> Flow[Compressed]:
        tokens = 0
        try:
            tokens = yield from call(self._tokens, given)
            return (yield from self._extract(question, given, tokens))
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - a compressor fails open
            why = f"left alone, as compressing raised {type(error).__name__}"
            return Compressed.unchanged(given, tokens=tokens, reason="error", why=why)

    def _extract(self, question: str, given: tuple[Passage, ...], tokens: int) -> Flow[Compressed]:
        def unchanged(reason: str, why: str) -> Compressed:
            return Compressed.unchanged(given, tokens=tokens, reason=reason, why=why)

        if not given:
            return unchanged("no_passages", "there are no passages")
        if not question.strip():
            return unchanged("no_question", "there is no question to judge by")
        if tokens < self.min_tokens:
            why = f"{tokens:,} tokens are fewer than {self.min_tokens:,}"
            return unchanged("short", why)
        text = yield from call(_Text.read, question, given)
        if not text.pieces:
            return unchanged("no_saving", "there is nothing to leave out")
        cosines, without = yield from self._cosines(question, text)
        return (yield from call(self._choose, question, text, cosines, tokens, without))

    def _cosines(self, question: str, text: "_Text") -> Flow[tuple[Scores | None, str]]:
        """Return how near each piece is to the question, or None and why not."""
        if self.embedder is None:
            return None, ""
        chosen = text.sharing_most(_EMBED_AT_MOST)
        texts = [_titled(text.pieces[i], text.given) for i in chosen]
        try:
            asked = yield from call(self.embedder.embed, [question[:_MAX_CHARS]], "query")
            made = yield from call(self.embedder.embed, texts, "document")
            near = _near(asked, made, len(chosen))
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - words alone are better than no compression
            return None, f"judged by words alone, as the embedder raised {type(error).__name__}"
        cosines = np.full(len(text.pieces), near.min())
        cosines[chosen] = near
        return cosines, ""

    def _choose(
        self, question: str, text: "_Text", cosines: Scores | None, before: int, without: str
    ) -> Compressed:
        pieces, of = text.pieces, text.of
        asked_for = np.array([answers_wh(question, piece.text) for piece in pieces])
        alone = relevance(text.question, text.words, text.titles, of, cosines, asked_for)
        linked = bridged(alone, text.words, text.names, of)
        several = asks_several(question, text.names, alone, linked, of)
        share = max(self.share, self.several_share or 0.0) if several else self.share
        budget = min(share * before, self.max_tokens or math.inf)
        if before <= budget:
            why = "everything is within the budget"
            return Compressed.unchanged(text.given, tokens=before, reason="short", why=why)
        first = min((_ALONE_IF_SEVERAL if several else _ALONE) * before, budget)

        count = self._counter()
        same = [tuple(said) or piece.text for said, piece in zip(text.words, pieces, strict=True)]
        room = Room(
            tokens=[count(piece.text) for piece in pieces],
            titles=[count(one.heading) if one.heading else 0 for one in text.given],
            of=of.tolist(),
            same=same,
            gap=count(GAP),
        )
        pins, by_score = text.pins(question), _best_first(alone)
        if self.keep_per_passage:
            room.fill(_best_of_each(by_score, of, same, self.keep_per_passage), up_to=math.inf)
        floor = set(room.kept)
        room.fill([i for i in by_score if i in pins], up_to=_PINS * budget)
        room.fill(by_score, up_to=first)
        room.fill(_best_first(linked), up_to=budget)
        kept = list(room.kept) or by_score[:1]
        result = text.shortened(kept, alone, pins)
        # Tokens of the parts do not add up exactly to those of the whole.
        while (over := self._tokens(result) - budget) > 0 and len(kept) > max(len(floor), 1):
            while over > 0 and len(kept) > max(len(floor), 1):
                over -= room.tokens[kept.pop()]
            result = text.shortened(kept, alone, pins)
        after = self._tokens(result)
        if after >= before:
            why = "leaving out what could be left out saves nothing"
            return Compressed.unchanged(text.given, tokens=before, reason="no_saving", why=why)
        counted = (
            f"{len(kept)} of {len(pieces)} pieces from {len(result)} of {len(text.given)} passages"
            f" kept, {after:,} of {before:,} tokens"
        )
        return Compressed(
            passages=tuple(result),
            given=text.given,
            dropped=text.dropped(kept),
            tokens_before=before,
            tokens_after=after,
            reason="compressed",
            why="; ".join(filter(None, (counted, several, without))),
        )

    def _counter(self) -> TokenCounter:
        return self.counter or shared_tokens().counter(self.model)

    def _tokens(self, passages: Sequence[Passage]) -> int:
        return sum(tokens_of(passages, self._counter()))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    """Passages and the question as pieces and words."""

    given: tuple[Passage, ...]
    pieces: list[Piece]
    of: NDArray[np.intp]
    question: list[str]
    words: list[list[str]]
    titles: list[list[str]]
    names: list[list[str]]

    @classmethod
    def read(cls, question: str, given: tuple[Passage, ...]) -> "_Text":
        pieces = cut(given)
        return cls(
            given=given,
            pieces=pieces,
            of=np.array([piece.passage for piece in pieces], np.intp),
            question=words(question),
            words=[words(piece.text) for piece in pieces],
            titles=[words(passage.title) for passage in given],
            names=[name_of(passage.title, passage.text) for passage in given],
        )

    def sharing_most(self, most: int) -> list[int]:
        """Return the pieces that share the most words with the question, in order."""
        if len(self.pieces) <= most:
            return list(range(len(self.pieces)))
        return sorted(_best_first(bm25_words(self.question, self.words))[:most])

    def pins(self, question: str) -> dict[int, str]:
        """Return which pieces hold something that the question mentions, and what."""
        places, start = [], 0
        for piece in self.pieces:
            places.append(Segment(start=start, end=start + len(piece.text), kind=piece.kind))
            start = places[-1].end + 1
        return pinned(question, "\n".join(piece.text for piece in self.pieces), places)

    def shortened(self, kept: Sequence[int], scores: Scores, pins: dict[int, str]) -> list[Passage]:
        """Return the passages that keep something, in the order they were given."""
        held: dict[int, list[int]] = {}
        for i in sorted(kept):
            held.setdefault(self.pieces[i].passage, []).append(i)
        counts = np.bincount(self.of, minlength=len(self.given))
        return [
            shortened(
                self.given[passage],
                [self.pieces[i] for i in some],
                of=int(counts[passage]),
                why=_why(some, int(counts[passage]), scores, pins),
            )
            for passage, some in held.items()
        ]

    def dropped(self, kept: Sequence[int]) -> tuple[Dropped, ...]:
        """Return the passages that keep nothing."""
        held = {self.pieces[i].passage for i in kept}
        return tuple(
            Dropped(passage=passage, why="no piece of it was among the best that fit")
            for i, passage in enumerate(self.given)
            if i not in held
        )


def _near(asked: Matrix, made: Matrix, count: int) -> Scores:
    """Return the cosine of each row and the question's, less what all rows have in common.

    Passages found by one question are alike, and what they share tells none from another
    ("all but the top", Mu and Viswanath 2018, with the mean only).

    Raises:
        VectorError: if there are too few rows, or one is not finite.
    """
    rows, question = np.asarray(made, np.float64), np.asarray(asked[0], np.float64)
    finite = np.isfinite(rows).all() and np.isfinite(question).all()
    if rows.shape != (count, question.size) or not finite:
        raise VectorError(f"{count} vectors of one width are needed, all finite.")
    mean = rows.mean(axis=0)
    rows, question = rows - mean, question - mean
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(question)
    near: Scores = rows @ question / np.maximum(lengths, 1e-9)
    return near


def _why(kept: Sequence[int], of: int, scores: Scores, pins: dict[int, str]) -> str:
    reasons = sorted({pins[i] for i in kept if i in pins})
    likely = math.exp(max(scores[i] for i in kept))
    best = f"{len(kept)} of {of} pieces, the best {likely:.0%} likely"
    return ": ".join((best, ", ".join(reasons))) if reasons else best


def _titled(piece: Piece, given: Sequence[Passage]) -> str:
    title = given[piece.passage].title
    return (f"{title}: {piece.text}" if title else piece.text)[:_MAX_CHARS]


def _best_first(scores: Scores) -> list[int]:
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return order


def _best_of_each(
    order: Iterable[int], of: NDArray[np.intp], same: Sequence[object], most: int
) -> list[int]:
    """Return up to `most` pieces of each passage, the best that no other one says."""
    taken: Counter[int] = Counter()
    said: set[object] = set()
    chosen = []
    for i in order:
        passage = int(of[i])
        if taken[passage] < most and same[i] not in said:
            taken[passage] += 1
            said.add(same[i])
            chosen.append(i)
    return chosen
