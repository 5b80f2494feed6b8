"""Model weights as package data, and where they lie; no code runs them here."""

from importlib.resources import files
from pathlib import Path

__all__ = ["minilm"]


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2: `model.onnx`, `tokenizer.json` and their settings.

    English sentences to 384 dimensions; int8 weights, float32 arithmetic, mean pooling, at most
    512 tokens (trained on 256).

    Raises:
        NotADirectoryError: if the package was installed inside a zip file.

    Example:
        >>> (minilm() / "model.onnx").is_file()
        True
    """
    folder = files("costwise_models") / "all-MiniLM-L6-v2"
    if not isinstance(folder, Path):
        raise NotADirectoryError(
            "costwise-models must be installed as files, not imported from a zip: "
            "the runtime reads the weights by their path."
        )
    return folder
