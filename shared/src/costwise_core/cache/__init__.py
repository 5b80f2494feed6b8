"""The response cache: an exact tier, then a near tier, inside an exact scope."""

from costwise_core.cache.cache import Cache, CacheStats
from costwise_core.cache.key import VOLATILE, Volatile, canonical, fingerprint, question_key
from costwise_core.cache.policy import CONSERVATIVE, FixedThreshold
from costwise_core.cache.question import Question, split_question

__all__ = [
    "CONSERVATIVE",
    "VOLATILE",
    "Cache",
    "CacheStats",
    "FixedThreshold",
    "Question",
    "Volatile",
    "canonical",
    "fingerprint",
    "question_key",
    "split_question",
]
