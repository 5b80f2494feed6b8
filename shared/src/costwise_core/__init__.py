"""Cut what a RAG app pays for model calls; the framework-free core.

Use it through `langchain_costwise` or `llamaindex_costwise`, or directly. The names it offers are
listed in `__init__.pyi`.
"""

from costwise_core.lazy import attach

__getattr__, __all__ = attach(__name__, __file__)
