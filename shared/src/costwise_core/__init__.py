"""Cut what a RAG app pays for model calls; the framework-free core.

Use it through `langchain_costwise` or `llamaindex_costwise`, or directly.
"""

from typing import TYPE_CHECKING

from costwise_core._version import __version__
from costwise_core.lazy import exports

if TYPE_CHECKING:
    from costwise_core.cache import Cache, CacheStats, FixedThreshold
    from costwise_core.context import RequestContext, current_request, scoped
    from costwise_core.errors import CostwiseError
    from costwise_core.stores.memory import MemoryStore
    from costwise_core.stores.sqlite import SQLiteStore
    from costwise_core.types import CallRecord, Entry, Hit, Miss, Saving, Scope, Selection, Usage

_EXPORTS = {
    "Cache": "costwise_core.cache",
    "CacheStats": "costwise_core.cache",
    "CallRecord": "costwise_core.types",
    "CostwiseError": "costwise_core.errors",
    "Entry": "costwise_core.types",
    "FixedThreshold": "costwise_core.cache",
    "Hit": "costwise_core.types",
    "MemoryStore": "costwise_core.stores.memory",
    "Miss": "costwise_core.types",
    "RequestContext": "costwise_core.context",
    "SQLiteStore": "costwise_core.stores.sqlite",
    "Saving": "costwise_core.types",
    "Scope": "costwise_core.types",
    "Selection": "costwise_core.types",
    "Usage": "costwise_core.types",
    "current_request": "costwise_core.context",
    "scoped": "costwise_core.context",
}

__all__ = ["__version__", *_EXPORTS]

__getattr__ = exports(__name__, _EXPORTS)
