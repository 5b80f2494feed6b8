"""Guards: why the answer to a similar question must not be served, said before any near hit."""

from costwise_core.cache.guards.checks import GUARDS, Guard, Veto, first_objection, veto
from costwise_core.cache.guards.reading import Reading, read
from costwise_core.cache.guards.verify import GuardedThreshold

__all__ = [
    "GUARDS",
    "Guard",
    "GuardedThreshold",
    "Reading",
    "Veto",
    "first_objection",
    "read",
    "veto",
]
