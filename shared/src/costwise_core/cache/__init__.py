"""The response cache: an exact tier, then a near tier, inside an exact scope."""

from costwise_core.cache.cache import Cache
from costwise_core.cache.control import Health, RiskControl
from costwise_core.cache.counts import CacheStats
from costwise_core.cache.guards import GuardedThreshold, veto
from costwise_core.cache.judge import Judge, SameMeaning, SameText
from costwise_core.cache.key import VOLATILE, Volatile, canonical, fingerprint, question_key
from costwise_core.cache.policy import FixedThreshold, Verdict
from costwise_core.cache.question import Question, split_question

__all__ = [
    "VOLATILE",
    "Cache",
    "CacheStats",
    "FixedThreshold",
    "GuardedThreshold",
    "Health",
    "Judge",
    "Question",
    "RiskControl",
    "SameMeaning",
    "SameText",
    "Verdict",
    "Volatile",
    "canonical",
    "fingerprint",
    "question_key",
    "split_question",
    "veto",
]
