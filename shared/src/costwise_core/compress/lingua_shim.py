"""What stands between llmlingua and a model of today: caches in both shapes, and a time box."""

import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

__all__ = ["Forward"]


class Forward:
    """A model that takes and gives its cache as llmlingua knows it: a list of [keys, values].

    llmlingua cuts that list between calls. transformers accepts it up to 4.47; since 4.48 it wants
    a `Cache` object and gives one back. The model itself is left as it is, so it may be somebody
    else's too.

    Once `deadline` is past (in seconds of `time.monotonic`) the next call raises `TimeoutError`: a
    running forward pass cannot be stopped, but the many that llmlingua makes can.

    Args:
        model: From transformers.

    Example:
        >>> import math
        >>> forward = Forward(lambda **given: given)
        >>> forward.deadline == math.inf, forward(input_ids=[1])
        (True, {'input_ids': [1]})
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.deadline = float("inf")

    def __call__(
        self, *args: Any, past_key_values: Any = None, use_cache: bool = False, **given: Any
    ) -> Any:
        """Run the model once."""
        if time.monotonic() > self.deadline:
            raise TimeoutError("the time for compressing is over")
        if not use_cache:
            return self.model(*args, **given)
        past = _as_cache(past_key_values) if _wants_cache(self.model) else past_key_values
        found = self.model(*args, past_key_values=past, use_cache=True, **given)
        return SimpleNamespace(
            logits=found.logits, past_key_values=_as_pairs(found.past_key_values)
        )


def _wants_cache(model: Any) -> bool:
    import transformers  # noqa: PLC0415 - seconds that only users of a model pay

    # Some classes knew only lists long after others knew only caches, and said so.
    return hasattr(transformers, "DynamicCache") and getattr(model, "_supports_cache_class", True)


def _as_cache(pairs: Iterable[Any] | None) -> Any:
    from transformers import DynamicCache  # noqa: PLC0415

    # Empty rather than None on the first call: a model with sliding windows would make a cache that
    # forgets, and llmlingua counts on every layer being equally long.
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(pairs or ()):
        cache.update(keys, values, layer)
    return cache


def _as_pairs(cache: Any) -> list[list[Any]]:
    if hasattr(cache, "layers"):  # from 4.54 on
        return [[layer.keys, layer.values] for layer in cache.layers]
    if hasattr(cache, "key_cache"):
        return [list(pair) for pair in zip(cache.key_cache, cache.value_cache, strict=True)]
    return [list(pair) for pair in cache]
