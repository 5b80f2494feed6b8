"""Sentence embeddings on the CPU with onnxruntime: no torch, no download."""

import asyncio
import hashlib
import importlib.util
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.errors import ConfigError, MissingExtraError, VectorError
from costwise_core.onnx_files import (
    batches,
    graph_file,
    open_session,
    open_tokenizer,
    padded,
    settings,
)
from costwise_core.protocols import Role
from costwise_core.types import Matrix

__all__ = ["OnnxEmbedder"]

_CHARS_PER_TOKEN: Final = 100
"""WordPiece takes no longer word; what lies behind this many characters per token is not read."""

_POOLING: Final = "1_Pooling/config.json"
_PROMPTS: Final = "config_sentence_transformers.json"


class OnnxEmbedder:
    """Turns texts into unit vectors with a sentence-embedding model in a local folder.

    The folder is laid out as sentence-transformers does it: `model.onnx` (or `onnx/model.onnx`) and
    `tokenizer.json`, and if they are there `1_Pooling/config.json` (mean or first token; mean
    without the file), `config_sentence_transformers.json` (what to put before queries and
    documents) and `config.json`. The model is loaded on first use, once; after that any number of
    threads may embed at the same time.

    The method is mean pooling over the tokens that are not padding, then scaling to unit length
    (Reimers and Gurevych 2019, section 3).

    Args:
        path: Folder of the model; None is all-MiniLM-L6-v2 from the package `costwise-models`,
            384 dimensions, English.
        threads: How many threads one batch may use.
        max_tokens: Longer texts are cut to this many tokens, the model's own marks included. The
            model's number of positions is a limit too.
        batch_size: How many texts go through the model at once.

    Raises:
        MissingExtraError: if onnxruntime, tokenizers or the default model is not installed.
        ConfigError: if a number is out of range or the folder holds no model.

    Example:
        >>> embedder = OnnxEmbedder()
        >>> vectors = embedder.embed(["How do I reset my password?", "I forgot my password"])
        >>> vectors.shape, bool(vectors[0] @ vectors[1] > 0.6)
        ((2, 384), True)
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        threads: int = 1,
        max_tokens: int = 256,
        batch_size: int = 32,
    ) -> None:
        needed = ("onnxruntime", "tokenizers", *(("costwise_models",) if path is None else ()))
        if any(importlib.util.find_spec(module) is None for module in needed):
            raise MissingExtraError("OnnxEmbedder", "onnx")
        for name, value, least in (
            ("threads", threads, 1),
            ("max_tokens", max_tokens, 3),  # the two marks and a token between them
            ("batch_size", batch_size, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"{name} must be a whole number of at least {least}, got {value!r}."
                )
        self.path = _default_path() if path is None else Path(path)
        self._graph = graph_file(self.path)
        self._threads = threads
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self._loaded: _Model | None = None

    @cached_property
    def name(self) -> str:
        """The folder's name and a digest of all that decides a vector; reads the files once."""
        digest = hashlib.sha256(f"max_tokens={self._max_tokens}".encode())
        # Weights too large for one file lie beside it, under its name with an ending.
        parts = sorted(self._graph.parent.glob(f"{self._graph.stem}.onnx*"))
        settings = [self.path / name for name in ("tokenizer.json", _POOLING, _PROMPTS)]
        for file in (*parts, *(each for each in settings if each.is_file())):
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return f"onnx:{self.path.resolve().name}:{digest.hexdigest()[:16]}"

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Return one unit row for each text.

        Args:
            texts: Any strings: empty ones, huge ones and broken Unicode included.
            role: Which of the model's prefixes to use, if it has any.

        Returns:
            Array of shape (len(texts), dim), float32, the caller's own.

        Raises:
            ConfigError: if the folder's model is of a kind that cannot be run here.
            VectorError: if the model gives a row without direction.
        """
        model = self._model()
        rows = [model.ids(text, role) for text in texts]
        vectors = np.empty((len(rows), model.dim), np.float32)
        for batch in batches(rows, self._batch_size):
            vectors[batch] = model.run([rows[i] for i in batch])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise VectorError(f"the model in {self.path} gave a vector without direction.")
        vectors /= lengths
        return vectors

    async def aembed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Do what `embed` does, in a thread."""
        return await asyncio.to_thread(self.embed, texts, role)

    def _model(self) -> "_Model":
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self.path, self._graph, self._threads, self._max_tokens)
                _ = self.name  # read the files here, where it may take a moment
            return self._loaded


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    """A loaded model: text to token ids, batches of those to pooled vectors."""

    session: Any
    tokenizer: Any
    inputs: frozenset[str]
    output: str
    dim: int
    pad: int
    first_token: bool
    prompts: dict[str, str]
    max_chars: int

    def ids(self, text: str, role: Role) -> list[int]:
        text = (self.prompts.get(role, "") + text)[: self.max_chars]
        # A lone surrogate is no character; the tokenizer refuses the whole text for it.
        clean = text.encode("utf-8", "replace").decode()
        # One text at a time: the tokenizer's own batches take every core.
        return list(self.tokenizer.encode(clean).ids) or [self.pad]

    def run(self, rows: Sequence[list[int]]) -> Matrix:
        batch = padded(rows, self.pad)
        feed = {name: batch[name] for name in self.inputs}
        tokens: NDArray[np.float32] = self.session.run([self.output], feed)[0]
        if self.first_token:
            return tokens[:, 0]
        weights = batch["attention_mask"][:, None, :].astype(np.float32)
        pooled: Matrix = (weights @ tokens)[:, 0] / weights.sum(2)
        return pooled


def _load(folder: Path, graph: Path, threads: int, max_tokens: int) -> _Model:
    session, inputs = open_session(graph, threads=threads)
    outputs = [each for each in session.get_outputs() if len(each.shape) == 3]
    if not outputs or not isinstance(outputs[0].shape[2], int):
        raise ConfigError(
            f"{graph} gives no vector for each token: an output of shape (batch, tokens, dim) "
            "is what gets pooled."
        )
    tokenizer, pad = open_tokenizer(folder, max_tokens=max_tokens)
    return _Model(
        session=session,
        tokenizer=tokenizer,
        inputs=inputs,
        output=outputs[0].name,
        dim=outputs[0].shape[2],
        pad=pad,
        first_token=_first_token(folder / _POOLING),
        prompts=settings(folder / _PROMPTS).get("prompts", {}),
        max_chars=max_tokens * _CHARS_PER_TOKEN,
    )


def _default_path() -> Path:
    from costwise_models import minilm  # noqa: PLC0415 - an optional package

    return minilm()


def _first_token(file: Path) -> bool:
    modes = [name for name, on in settings(file).items() if name.startswith("pooling_mode_") and on]
    if modes not in ([], ["pooling_mode_mean_tokens"], ["pooling_mode_cls_token"]):
        raise ConfigError(
            f"{file} asks for {', '.join(modes)}; OnnxEmbedder knows pooling_mode_mean_tokens "
            "and pooling_mode_cls_token, one of them."
        )
    return modes == ["pooling_mode_cls_token"]
