"""Models that lie in a local folder as ONNX: their settings, graph, tokenizer and batches."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.errors import ConfigError

__all__ = ["batches", "graph_file", "open_session", "open_tokenizer", "padded", "settings"]

_MAX_SETTINGS_BYTES: Final = 1_000_000
_GRAPHS: Final = ("model.onnx", "onnx/model.onnx")
_INPUTS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids"})


def graph_file(folder: Path) -> Path:
    """Return where the graph of a model folder lies.

    Raises:
        ConfigError: if the folder holds no graph or no tokenizer.json.
    """
    graphs = [folder / name for name in _GRAPHS if (folder / name).is_file()]
    if not graphs or not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"{folder} is no model folder: it must hold tokenizer.json and {' or '.join(_GRAPHS)}."
        )
    return graphs[0]


def settings(file: Path) -> dict[str, Any]:
    """Return a small JSON object from a file, {} if there is no file.

    Raises:
        ConfigError: if there is something else in it.
    """
    if not file.is_file():
        return {}
    wrong = ConfigError(f"{file} must hold a JSON object of less than {_MAX_SETTINGS_BYTES} bytes.")
    if file.stat().st_size >= _MAX_SETTINGS_BYTES:
        raise wrong
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise wrong from error
    if not isinstance(found, dict):
        raise wrong
    return found


def open_session(graph: Path, *, threads: int) -> tuple[Any, frozenset[str]]:
    """Load a graph to run on the CPU; return it with the names of its inputs.

    Raises:
        ConfigError: if it asks for more than token ids, their mask and their types.
    """
    import onnxruntime  # noqa: PLC0415 - a third of a second that only users of a model pay

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads sleep: costwise must not burn the cores its application needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    inputs = frozenset(each.name for each in session.get_inputs())
    if not {"input_ids"} <= inputs <= _INPUTS:
        raise ConfigError(
            f"{graph} asks for {', '.join(sorted(inputs))}; a text encoder asks for "
            "input_ids and attention_mask, perhaps token_type_ids."
        )
    return session, inputs


def open_tokenizer(folder: Path, *, max_tokens: int) -> tuple[Any, int]:
    """Load a tokenizer that cuts and does not pad; return it with the id to pad with.

    Args:
        folder: Where tokenizer.json lies, and config.json if the model has so few positions that
            they matter.
        max_tokens: Longer inputs are cut to so many; of a pair, the longer text is.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415

    positions = settings(folder / "config.json").get("max_position_embeddings", max_tokens)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # The file may ask for padding and for a cut of its own, at 128 in MiniLM's case.
    pad = (
        tokenizer.padding["pad_id"]
        if tokenizer.padding
        else tokenizer.token_to_id("[PAD]") or tokenizer.token_to_id("<pad>") or 0
    )
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(max_tokens, positions))
    return tokenizer, pad


def batches(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yield the places of all rows, `size` at a time, those of similar length together.

    Example:
        >>> list(batches([[1, 2, 3], [1], [1, 2]], 2))
        [[1, 2], [0]]
    """
    # Texts of one length need no padding, and padding costs as much as text.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(
    rows: Sequence[Sequence[int]], pad: int, *, types: Sequence[Sequence[int]] | None = None
) -> dict[str, NDArray[np.int64]]:
    """Return a batch under the names of a graph's inputs, each of shape (rows, longest row).

    Args:
        rows: Token ids of each text.
        pad: What to fill the shorter ones with.
        types: For each token, which text of a pair it belongs to; None is the first for all.

    Example:
        >>> padded([[5, 6], [7]], 0)["input_ids"].tolist()
        [[5, 6], [7, 0]]
    """
    shape = (len(rows), max(map(len, rows)))
    ids = np.full(shape, pad, np.int64)
    mask, kinds = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
        if types is not None:
            kinds[i, : len(row)] = types[i]
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
