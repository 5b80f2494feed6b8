"""Relevance read off question and passage together, by a model of sentence-transformers."""

import importlib
import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from costwise_core.errors import ConfigError, MissingExtraError
from costwise_core.passages import Passage

__all__ = ["CrossEncoder", "pair_text", "probabilities"]


class CrossEncoder:
    """Scores passages with a cross-encoder in torch, from 0 to 1.

    The model reads question and passage in one pass (Nogueira and Cho 2019), which is better than
    comparing two vectors and costs a pass for each passage. It is loaded on first use, once. Only
    code that is part of transformers runs, whatever the model's folder brings along.

    Args:
        model: A local folder, or a name on the Hugging Face hub, which is downloaded on first use
            unless `HF_HUB_OFFLINE=1`.
        max_tokens: Question and passage together are cut to so many.
        batch_size: How many passages go through the model at once.
        device: Where it runs, such as "cpu" or "cuda"; None is the best there is.

    Raises:
        MissingExtraError: if sentence-transformers is not installed.

    Example:
        >>> from costwise_core import Passage
        >>> def reranked(question: str, passages: list[Passage]) -> list[float]:
        ...     return CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2").score(question, passages)
    """

    name = "cross-encoder"

    def __init__(
        self,
        model: str | Path,
        *,
        max_tokens: int = 512,
        batch_size: int = 32,
        device: str | None = None,
    ) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise MissingExtraError("CrossEncoder", "torch")
        self.model = str(model)
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._device = device
        self._lock = threading.Lock()
        self._loaded: Any = None

    def score(self, question: str, passages: Sequence[Passage]) -> list[float]:
        """Return the logistic of the model's logit for each passage.

        Raises:
            ConfigError: if the model gives more than one number for a pair.
            OSError: if there is no such model.
        """
        if not passages:
            return []
        pairs = [(_clean(question), _clean(pair_text(passage))) for passage in passages]
        with self._lock:  # one pass at a time: torch takes all cores for each
            logits = self._model().predict(
                pairs,
                batch_size=self._batch_size,
                show_progress_bar=False,
                activation_fn=_unchanged,
            )
        return probabilities(logits, len(pairs), self.model)

    def _model(self) -> Any:
        if self._loaded is None:
            # Seconds that only users of this class pay.
            loaded = importlib.import_module("sentence_transformers").CrossEncoder(
                self.model,
                max_length=self._max_tokens,
                device=self._device,
                trust_remote_code=False,
            )
            kinds = getattr(loaded.config, "architectures", None) or []
            if any(kind.endswith("Model") for kind in kinds):
                # Loading adds a head of random weights and only warns about it.
                raise ConfigError(
                    f"{self.model} is a {kinds[0]} without a head that scores pairs; take a model "
                    "trained as a cross-encoder, such as a ...ForSequenceClassification."
                )
            self._loaded = loaded
        return self._loaded


def pair_text(passage: Passage) -> str:
    """Return what a model reads of a passage: its title, if it has one, and its text.

    Example:
        >>> pair_text(Passage(title="Mars", text="It is red."))
        'Mars: It is red.'
    """
    return f"{passage.title}: {passage.text}" if passage.title else passage.text


def probabilities(logits: ArrayLike, pairs: int, model: str) -> list[float]:
    """Return the logistic of one logit for each pair; given as a column or as a row.

    Raises:
        ConfigError: if there are more or fewer.

    Example:
        >>> probabilities([[0.0], [-100.0]], 2, "m")
        [0.5, 9.357622968839299e-14]
    """
    found = np.asarray(logits, np.float64)
    if found.shape not in {(pairs,), (pairs, 1)}:
        raise ConfigError(
            f"{model} gives {found.shape[1:]} numbers for a pair; a reranker gives one. "
            "Models that choose between classes cannot rank."
        )
    # Held where the logistic of another logit would still be another number.
    chances: list[float] = (1 / (1 + np.exp(-np.clip(found.reshape(pairs), -30, 30)))).tolist()
    return chances


def _clean(text: str) -> str:
    # A lone surrogate is no character; the tokenizer refuses the whole text for it.
    return text.encode("utf-8", "replace").decode()


def _unchanged(logits: Any) -> Any:
    return logits
