"""Copies of an LLM that differ from it in one thing, for as long as the LLM stays as it is."""

from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from operator import is_not
from typing import Any, Final

from llama_index.core.llms.llm import LLM

from costwise_core.budget.payment import Payment
from costwise_core.drive import arun, run
from llamaindex_costwise._spending import bounded

__all__ = ["BoundedCopies", "calling", "instead"]

_MOST: Final = 8


class BoundedCopies:
    """LLMs with a bound on their answers; each keeps the client it makes, and its connections."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], tuple[list[Any], LLM]] = {}

    def get(self, llm: LLM, bound: int) -> LLM:
        """Return the LLM with this bound, made anew if a setting has changed since."""
        settings = _settings(llm)
        # What they were is kept with them, so that no other object can have taken an id.
        known, copy = self._made.get((id(llm), bound), ([], llm))
        if len(known) != len(settings) or any(map(is_not, known, settings)):
            copy = bounded(llm, bound)
            if len(self._made) >= _MOST:
                self._made.clear()
            self._made[id(llm), bound] = (settings, copy)
        return copy


def calling(llm: LLM, calls: Mapping[str, Callable[..., Any]]) -> LLM:
    """Return an LLM whose other methods, tools and structured output among them, use these calls.

    Args:
        llm: The LLM; of wrappers, the innermost is meant.
        calls: `chat`, `complete` and their twins.
    """
    inner = getattr(llm, "llm", None)
    if isinstance(inner, LLM):
        return llm.model_copy(update={"llm": calling(inner, calls)})
    copy = llm.model_copy()
    copy.__dict__.update(calls)
    return copy


def instead(payment: Payment, paid: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call that is paid by itself, for which what `payment` holds is given back."""

    def now(*args: Any, **kwargs: Any) -> Any:
        run(payment.give_back())
        return paid(*args, **kwargs)

    async def later(*args: Any, **kwargs: Any) -> Any:
        await arun(payment.give_back())
        return await paid(*args, **kwargs)

    return later if iscoroutinefunction(paid) else now


def _settings(llm: LLM) -> list[Any]:
    inner = getattr(llm, "llm", None)
    return [llm, *llm.__dict__.values(), *(_settings(inner) if isinstance(inner, LLM) else ())]
