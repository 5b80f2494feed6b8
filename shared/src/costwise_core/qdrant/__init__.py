"""Qdrant: what a collection costs, what is wrong with it, and how to make it cheaper safely.

The names it offers are listed in `__init__.pyi`.
"""

from costwise_core.lazy import attach

__getattr__, __all__ = attach(__name__, __file__)
