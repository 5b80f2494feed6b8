"""Relevance read off question and passage together, by a model that needs no torch."""

import importlib.util
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from costwise_core.errors import ConfigError, MissingExtraError
from costwise_core.onnx_files import batches, graph_file, open_session, open_tokenizer, padded
from costwise_core.passages import Passage
from costwise_core.score.cross_encoder import pair_text, probabilities

__all__ = ["OnnxCrossEncoder"]

_CHARS_PER_TOKEN: Final = 100
"""What lies behind so many characters for each token to read is not given to the tokenizer."""


class OnnxCrossEncoder:
    """Scores passages with a cross-encoder on the CPU through onnxruntime, from 0 to 1.

    The folder holds `model.onnx` (or `onnx/model.onnx`) with one logit for each pair, as
    sentence-transformers and optimum export a sequence classifier, and `tokenizer.json`. The model
    is loaded on first use, once; after that any number of threads may score at the same time.

    Args:
        path: Folder of the model.
        threads: How many threads one batch may use.
        max_tokens: Question and passage together are cut to so many, the longer of the two first;
            the model's number of positions is a limit too.
        batch_size: How many passages go through the model at once.

    Raises:
        MissingExtraError: if onnxruntime or tokenizers is not installed.
        ConfigError: if a number is out of range or the folder holds no model.

    Example:
        >>> from costwise_core import Passage
        >>> def reranked(folder: Path, question: str, passages: list[Passage]) -> list[float]:
        ...     return OnnxCrossEncoder(folder).score(question, passages)
    """

    name = "cross-encoder"

    def __init__(
        self, path: Path, *, threads: int = 1, max_tokens: int = 512, batch_size: int = 16
    ) -> None:
        if any(importlib.util.find_spec(each) is None for each in ("onnxruntime", "tokenizers")):
            raise MissingExtraError("OnnxCrossEncoder", "onnx")
        for name, value, least in (
            ("threads", threads, 1),
            ("max_tokens", max_tokens, 5),  # three marks, a token of each text
            ("batch_size", batch_size, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"{name} must be a whole number of at least {least}, got {value!r}."
                )
        self.path = Path(path)
        self._graph = graph_file(self.path)
        self._threads = threads
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self._loaded: _Model | None = None

    def score(self, question: str, passages: Sequence[Passage]) -> list[float]:
        """Return the logistic of the model's logit for each passage.

        Raises:
            ConfigError: if the folder's model is of a kind that cannot be run here.
        """
        model = self._model()
        most = self._max_tokens * _CHARS_PER_TOKEN
        pairs = [model.encode(question[:most], pair_text(p)[:most]) for p in passages]
        logits = np.empty(len(pairs))
        for batch in batches([pair.ids for pair in pairs], self._batch_size):
            logits[batch] = model.run([pairs[i] for i in batch])
        return probabilities(logits, len(pairs), str(self.path))

    def _model(self) -> "_Model":
        with self._lock:
            if self._loaded is None:
                session, inputs = open_session(self._graph, threads=self._threads)
                outputs = session.get_outputs()
                shape = outputs[0].shape
                if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
                    raise ConfigError(
                        f"{self._graph} gives {shape} for a batch; a reranker gives one logit for "
                        "each pair: (batch, 1)."
                    )
                tokenizer, pad = open_tokenizer(self.path, max_tokens=self._max_tokens)
                self._loaded = _Model(
                    session=session,
                    tokenizer=tokenizer,
                    inputs=inputs,
                    output=outputs[0].name,
                    pad=pad,
                )
            return self._loaded


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    session: Any
    tokenizer: Any
    inputs: frozenset[str]
    output: str
    pad: int

    def encode(self, question: str, text: str) -> Any:
        # A lone surrogate is no character, and the tokenizer refuses the whole text for it. One
        # pair at a time: its own batches take every core.
        question, text = (one.encode("utf-8", "replace").decode() for one in (question, text))
        return self.tokenizer.encode(question, text)

    def run(self, pairs: Sequence[Any]) -> Any:
        types = [pair.type_ids for pair in pairs]
        batch = padded([pair.ids for pair in pairs], self.pad, types=types)
        feed = {name: batch[name] for name in self.inputs}
        return self.session.run([self.output], feed)[0].reshape(len(pairs))
