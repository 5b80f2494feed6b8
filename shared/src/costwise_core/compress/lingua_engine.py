"""The three methods of llmlingua 0.2.2, each text by itself, with the pieces that it keeps.

llmlingua returns new texts. Here its decisions are read off instead, and the text is cut from the
original: letters stay as they were written, and every piece can be pointed at.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from costwise_core.compress.lingua_model import Loaded
from costwise_core.compress.lingua_protect import merged, overlapping
from costwise_core.compress.lingua_shim import Forward
from costwise_core.compress.lingua_words import kept_words
from costwise_core.passages import Span
from costwise_core.protocols import TokenCounter
from costwise_core.tokens import shared_tokens

__all__ = ["Engine"]

_STEP: Final = 200
"""Tokens that llmlingua thins out at a time."""

_WINDOW: Final = 1000
"""Tokens read at once: the logits of a longer text take gigabytes."""

_QUESTION_CHARS: Final = 1000
_BY_RANK: Final = 0.3
"""How far the share of the best and the worst document lie apart (LongLLMLingua, section 4.3)."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_WORD, _LABEL = "\n\x1e\n", "\n\x1f\n"  # no word has a line break in it


class Engine:
    """llmlingua around a loaded model. One caller at a time.

    Its constructor is not run: that downloads a tokenizer, loads with `trust_remote_code`, writes
    to the caller's settings and reseeds every random generator of the process.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.forward = Forward(loaded.model)
        self._loaded = loaded
        self.inner = _inner(loaded, self.forward)

    def rank(self, question: str, texts: Sequence[str], budget: float) -> dict[int, float]:
        """Return which texts to keep for a question, each with what its share is raised by.

        That is LongLLMLingua's coarse step (section 4.1): texts are ranked by how well the question
        follows from them. A long text is judged by its beginning.

        Args:
            question: Not blank.
            texts: Not blank either.
            budget: In tokens of the model; texts are kept until they exceed it by 100.
        """
        lengths = [len(self._tokens(text)) for text in texts]
        heads = [text[: next(self._windows(text))[1]] for text in texts]
        _, raised, used = self.inner.control_context_budget(
            list(map(_readable, heads)),
            lengths,
            budget,
            question=_readable(question[:_QUESTION_CHARS]),
            condition_in_question="after",
            dynamic_context_compression_ratio=_BY_RANK,
            rank_method="longllmlingua",
        )
        self.inner.context_idxs.clear()  # it would grow for ever
        return dict(zip(used, raised, strict=True))

    def tokens(self, text: str) -> int:
        """Return the number of tokens the model reads for a text."""
        return len(self._tokens(text))

    def by_perplexity(
        self,
        text: str,
        *,
        share: float,
        protected: Sequence[Span],
        question: str = "",
    ) -> list[Span]:
        """Return the pieces of a text that stay when predictable tokens go (LLMLingua, section 4).

        With a question, a token counts that the question makes likelier (LongLLMLingua, 4.2).

        Args:
            text: Any text that is not blank.
            share: Of its tokens to keep, the protected ones included.
            protected: Pieces that stay.
            question: What the text is to answer.
        """
        kept: list[Span] = []
        for start, end in self._windows(text):
            inside = [(a - start, b - start) for a, b in protected if a < end and b > start]
            piece = _readable(text[start:end])
            found = self._thinned(piece, share, inside, question[:_QUESTION_CHARS])
            kept += ((start + a, start + b) for a, b in found)
        return list(merged(kept))

    def by_class(self, text: str, *, share: float, protected: Sequence[Span]) -> list[Span]:
        """Return the pieces of a text that stay when words classified as such go (LLMLingua-2).

        What the model cannot read has no class, and stays.

        Args:
            text: Any text that is not blank.
            share: Of its tokens to keep, the protected ones included.
            protected: Pieces that stay.
        """
        tokens = self._tokens(text)
        share = _for_the_rest(share, len(tokens), len(overlapping(tokens, protected)))
        if share >= 1 or not self._reads(text):
            return [(0, len(text))]
        # Every text is padded to this length, which costs as much as text.
        longest = min(512, self._loaded.positions - (2 if self._loaded.word_mark == "▁" else 0))
        self.inner.max_seq_len = min(longest, math.ceil((len(tokens) + 10) / 32) * 32)
        found = self.inner.compress_prompt_llmlingua2(
            [_readable(text)],
            rate=max(share, 0.02),  # it asks numpy for the 101st percentile otherwise
            return_word_label=True,
            word_sep=_WORD,
            label_sep=_LABEL,
        )["fn_labeled_original_prompt"]
        words = [each.rpartition(_LABEL) for each in found.split(_WORD)]
        return kept_words([(word, label == "1") for word, _, label in words], text, protected)

    def _thinned(
        self, text: str, share: float, protected: Sequence[Span], question: str
    ) -> Iterator[Span]:
        before = f"{_readable(question)}\n\n" if question else ""
        tokens = self._tokens(before + text)
        first = sum(end <= len(before) for _, end in tokens)
        own = [(max(start - len(before), 0), end - len(before)) for start, end in tokens[first:]]
        pinned = overlapping(own, protected)
        share = _for_the_rest(share, len(own), len(pinned))
        kept = pinned if share <= 0 else set(range(len(own)))
        if 0 < share < 1 and len(own) > 2:
            # Steps that divide the text evenly: what is left over at its end is never thinned out,
            # and a text shorter than one step hardly at all.
            step = len(own) // math.ceil(len(own) / _STEP)
            self.inner.positions = None
            self.inner.iterative_compress_prompt(
                [before[:-2], text] if before else [text],
                target_token=share * (len(own) + 3),  # it adds these three to the length itself
                iterative_size=step,
                dynamic_ratio=[0.0],
                start=first,
                condition_compare=bool(before),
            )
            if self.inner.positions is not None:
                kept = pinned | {at - first for at in self.inner.positions.tolist() if at >= first}
        for at in kept:
            # A character of several tokens stays if one of them does.
            while at and own[at][0] == own[at][1]:
                at -= 1  # noqa: PLW2901
            yield own[at]

    def _reads(self, text: str) -> bool:
        """Say whether any of the text is in the vocabulary: llmlingua has no answer for none."""
        tokenizer = self._loaded.tokenizer
        ids = tokenizer(_readable(text), add_special_tokens=False, verbose=False)["input_ids"]
        return not set(ids) <= set(tokenizer.all_special_ids)

    def _tokens(self, text: str) -> list[Span]:
        """Return where each token stands: no gaps, blanks with the token behind them."""
        found = self._loaded.tokenizer(
            _readable(text), add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        spans: list[Span] = []
        last = 0
        for _, end in found:
            spans.append((last, max(end, last)))
            last = spans[-1][1]
        if spans:
            spans[-1] = (spans[-1][0], len(text))
        return spans

    def _windows(self, text: str) -> Iterator[Span]:
        """Yield pieces of a text short enough to be read at once, cut at blanks if possible."""
        tokens = self._tokens(text)
        most = max(min(_WINDOW, self._loaded.positions // 2), 1)
        at = start = 0
        while len(tokens) - at > most:
            cut = at + most
            while cut > at + most // 2 and not text[tokens[cut][0] : tokens[cut][1]][:1].isspace():
                cut -= 1
            yield start, tokens[cut][0]
            at, start = cut, tokens[cut][0]
        yield start, len(text)


def _inner(loaded: Loaded, forward: Forward) -> Any:
    """Return llmlingua's compressor with what its constructor would set, and nothing else done."""
    from llmlingua import PromptCompressor  # noqa: PLC0415 - an optional package

    class Inner(PromptCompressor):  # type: ignore[misc]
        positions: Any = None
        """Which tokens are left, by their place in the text."""

        def __init__(self) -> None:
            self.model = forward
            self.tokenizer = loaded.tokenizer
            self.device = loaded.device
            self.max_position_embeddings = loaded.positions
            # Its words are merged by a rule that is chosen by a part of the name.
            self.model_name = _RULES[loaded.word_mark]
            self.use_llmlingua2 = bool(loaded.word_mark)
            self.oai_tokenizer = _Counting(shared_tokens().counter("gpt-3.5-turbo"))
            self.special_tokens = set(loaded.tokenizer.all_special_tokens)
            self.added_tokens: list[str] = []
            self.max_force_token = 0
            self.max_batch_size = 8
            self.max_seq_len = 512
            self.cache_bos_num = 10
            self.prefix_bos_num = 100
            self.context_idxs: list[list[int]] = []

        def get_compressed_input(
            self, *args: Any, keep_flag: Any = None, split_token_id: int = 13, **given: Any
        ) -> Any:
            # The flags travel with the tokens that are kept; here they carry the places. Only 0 and
            # 1 mean something to llmlingua.
            del split_token_id
            if keep_flag is None:
                ids = args[1]
                keep_flag = ids.new_ones(ids.shape[1]).cumsum(0) + 1
            result = super().get_compressed_input(
                *args, keep_flag=keep_flag, split_token_id=-1, **given
            )
            self.positions = result[2] - 2
            return result

    return Inner()


_RULES: Final = {"##": "bert-base-multilingual-cased", "▁": "xlm-roberta-large", "": ""}


class _Counting:
    """Counts tokens where llmlingua would encode with a tokenizer that it downloads."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter

    def encode(self, text: str) -> range:
        return range(self._counter(text))


def _readable(text: str) -> str:
    """Return the text with what is no character replaced, one for one: tokenizers refuse it."""
    return _SURROGATE.sub("\ufffd", text)


def _for_the_rest(share: float, tokens: int, protected: int) -> float:
    """Return the share of the other tokens to keep, so that all together come to `share`."""
    if protected >= tokens:
        return 1.0
    return max((share * tokens - protected) / (tokens - protected), 0.0)
