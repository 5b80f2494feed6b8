"""A query engine that keeps its answers apart by the recipe they were made by."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import QueryBundle

from costwise_core.cache import fingerprint
from costwise_core.types import Scope
from llamaindex_costwise.query_engine import CachedQueryEngine
from llamaindex_costwise.retriever import identity

__all__ = ["StackQueryEngine"]


class StackQueryEngine(CachedQueryEngine):
    """A `CachedQueryEngine` inside one recipe.

    Args:
        engine: As for `CachedQueryEngine`.
        retriever: Whose settings, as they are at each request, are part of the recipe.
        recipe: Words for whatever else shapes an answer beside its prompts and LLM.
        model: What a hit is priced as. A response does not say which of a router's LLMs it is from,
            and a hit must not count for more than it spared.
        **settings: As for `CachedQueryEngine`.
    """

    def __init__(
        self,
        engine: BaseQueryEngine,
        *,
        retriever: BaseRetriever,
        recipe: Sequence[str],
        model: str,
        **settings: Any,
    ) -> None:
        super().__init__(engine, **settings)
        self._searcher = retriever
        self._recipe = tuple(recipe)
        self._model = model

    def _scope(self, query: QueryBundle) -> Scope:
        scope = self._plain_scope(query)
        searcher = json.dumps(identity(self._searcher))
        template = fingerprint(scope.template, searcher, *self._recipe, volatile=())
        return replace(scope, template=template, model=self._model)

    def _plain_scope(self, query: QueryBundle) -> Scope:
        return super()._scope(query)
