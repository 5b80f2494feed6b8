"""Loading a model for LLMLingua: from a folder, a GGUF file or the hub, without its code."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from costwise_core.errors import ConfigError

__all__ = ["Loaded", "Method", "ModelSource", "checked_source", "load_model"]

Method: TypeAlias = Literal["llmlingua", "longllmlingua", "llmlingua2"]

ModelSource: TypeAlias = str | Path | tuple[Any, Any]
"""A folder, a GGUF file, a name on the hub, or a loaded model and its tokenizer."""

_HUB_NAME: Final = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model that is ready to run.

    Args:
        model: From transformers, in evaluation mode.
        tokenizer: Its tokenizer, one that knows where in the text a token stands.
        device: Where the model is, such as "cpu" or "cuda:0".
        positions: The most tokens it can read at once.
        word_mark: What in the vocabulary says that a piece continues a word ("##", as in BERT) or
            begins one ("▁", as in XLM-RoBERTa); "" is neither.
    """

    model: Any
    tokenizer: Any
    device: str
    positions: int
    word_mark: Literal["##", "▁", ""]


def checked_source(source: ModelSource) -> ModelSource:
    """Return the source with an existing path as a `Path`; no file is read.

    Raises:
        ConfigError: if it is neither a path that exists, nor a hub name, nor a pair.

    Example:
        >>> checked_source("./no/such/folder")
        Traceback (most recent call last):
        costwise_core.errors.ConfigError: no model at './no/such/folder': give an existing ...
    """
    if isinstance(source, tuple):
        if len(source) != 2:
            raise ConfigError(
                f"a loaded model comes as (model, tokenizer), got {len(source)} parts."
            )
        return source
    path = Path(source).expanduser()
    if path.exists():
        return path
    if isinstance(source, Path) or not _HUB_NAME.fullmatch(source) or source.endswith(".gguf"):
        raise ConfigError(
            f"no model at {str(source)!r}: give an existing folder or .gguf file, "
            "a name on the hub, or (model, tokenizer)."
        )
    return source


def load_model(source: ModelSource, method: Method, device: str | None) -> Loaded:
    """Load the model if it is not loaded yet; code that comes with it is never run.

    Args:
        source: As `checked_source` returns it.
        method: What the model is for: "llmlingua2" needs a token classifier with two classes, the
            others a causal language model.
        device: Where to put it; None is a GPU where CUDA works, else the CPU. A loaded model stays
            where it is.

    Raises:
        ConfigError: if the model is of the wrong kind.
        OSError: if files are missing.
    """
    if isinstance(source, tuple):
        model, tokenizer = source
    else:
        model, tokenizer = _read(source, method)
        model = model.to(device or _best_device())
        if model.device.type == "cpu" and str(model.dtype) != "torch.float32":
            model = model.float()  # half precision is slow there
    _check_kind(model.config, method, source)
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"{type(tokenizer).__name__} does not say where its tokens stand in the text; "
            "give a fast tokenizer (one with a tokenizer.json)."
        )
    word_mark = _word_mark(tokenizer)
    if method == "llmlingua2" and not word_mark:
        raise ConfigError(
            f"the vocabulary of {type(tokenizer).__name__} marks words neither with ## (as BERT "
            "does) nor with ▁ (as XLM-RoBERTa does); method 'llmlingua2' needs one of them."
        )
    model = model.eval()
    device = str(model.device)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        device=device,
        positions=getattr(model.config, "max_position_embeddings", None) or 2048,
        word_mark=word_mark,
    )


def _read(source: str | Path, method: Method) -> tuple[Any, Any]:
    import transformers  # noqa: PLC0415 - seconds that only users of a model pay

    # A dict of our own for each call: transformers and llmlingua take things out of theirs.
    options: dict[str, Any] = {"trust_remote_code": False}
    place = str(source)
    if isinstance(source, Path) and source.suffix == ".gguf":
        place, options["gguf_file"] = str(source.parent), source.name
    kind = (
        transformers.AutoModelForTokenClassification
        if method == "llmlingua2"
        else transformers.AutoModelForCausalLM
    )
    if "gguf_file" not in options:
        config = transformers.AutoConfig.from_pretrained(place, **options)
        _check_kind(config, method, source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, **dict(options))
    return kind.from_pretrained(place, **dict(options)), tokenizer


def _best_device() -> str:
    from transformers.utils import import_utils  # noqa: PLC0415

    # "auto", as llmlingua reads it, is CUDA whether there is one or not.
    return "cuda" if import_utils.is_torch_cuda_available() else "cpu"


def _check_kind(config: Any, method: Method, source: ModelSource) -> None:
    """Refuse a model whose missing head transformers would fill with random numbers."""
    names = " ".join(getattr(config, "architectures", None) or ())
    classifies = "ForTokenClassification" in names
    what = "the given model" if isinstance(source, tuple) else str(source)
    if method == "llmlingua2" and not (classifies and config.num_labels == 2):
        raise ConfigError(
            f"{what} is {names or 'of no stated kind'}; method 'llmlingua2' needs a token "
            "classifier with the two classes drop and keep, such as "
            "microsoft/llmlingua-2-bert-base-multilingual-cased-meetingbank."
        )
    if method != "llmlingua2" and (classifies or names.endswith("ForMaskedLM")):
        raise ConfigError(
            f"{what} is {names}; method {method!r} needs a causal language model. "
            "For this one, method='llmlingua2' may be what you mean."
        )


def _word_mark(tokenizer: Any) -> Literal["##", "▁", ""]:
    """Say how words are put together, by the vocabulary: a folder may have any name."""
    vocabulary = tokenizer.get_vocab()
    continuing = sum(token.startswith("##") for token in vocabulary)
    beginning = sum(token.startswith("▁") for token in vocabulary)
    # A vocabulary of another kind may have a few of either.
    if max(continuing, beginning) < len(vocabulary) / 50:
        return ""
    return "##" if continuing > beginning else "▁"
