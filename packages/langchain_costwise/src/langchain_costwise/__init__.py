"""Cut what a LangChain RAG app pays for model calls.

The names this package offers are listed in `__init__.pyi`; each is imported when it is first used,
so that importing the package does not import LangChain.
"""

from costwise_core.lazy import attach

__getattr__, __all__ = attach(__name__, __file__)
