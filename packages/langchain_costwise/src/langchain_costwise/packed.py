"""Several items in one prompt, as a runnable."""

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableLambda

from costwise_core.batch.packed import PackedAnswers, PackedPrompts
from langchain_costwise._completer import as_completer

__all__ = ["packed_prompts"]


def packed_prompts(
    model: BaseChatModel, instruction: str, **options: Any
) -> Runnable[Sequence[str], PackedAnswers]:
    """Return a runnable that asks a model one and the same thing about many items at once.

    Args:
        model: The chat model.
        instruction: What is to be done with each item.
        **options: As for `PackedPrompts`: `most`, `check`, ...

    Returns:
        A runnable from items to `PackedAnswers`.

    Raises:
        ConfigError: if an option is out of range.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> model = FakeListChatModel(responses=['{"1": "good", "2": "bad"}'])
        >>> rated = packed_prompts(model, "Is the review good or bad?").invoke(["Nice!", "Awful."])
        >>> rated.answers, rated.calls
        (('good', 'bad'), 1)
    """
    packed = PackedPrompts(as_completer(model), instruction, **options)
    return RunnableLambda(packed.ask, afunc=packed.aask, name="packed_prompts")
