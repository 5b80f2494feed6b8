"""Several items in one prompt, with a LlamaIndex LLM."""

from typing import Any

from llama_index.core.llms.llm import LLM

from costwise_core.batch.packed import PackedPrompts
from llamaindex_costwise._scorer import as_completer

__all__ = ["packed_prompts"]


def packed_prompts(llm: LLM, instruction: str, **options: Any) -> PackedPrompts:
    """Return what asks an LLM one and the same thing about many items at once.

    Args:
        llm: The LLM.
        instruction: What is to be done with each item.
        **options: As for `PackedPrompts`: `most`, `check`, ...

    Returns:
        An object with `ask(items)` and `aask(items)`.

    Raises:
        ConfigError: if an option is out of range.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> packed_prompts(MockLLM(), "Is the review good or bad?").ask(["Nice!"]).calls
        1
    """
    return PackedPrompts(as_completer(llm), instruction, **options)
