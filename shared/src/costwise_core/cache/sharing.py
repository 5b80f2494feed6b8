"""Reworded questions in flight share one answer, on the account of the promise.

The near tier cannot say whether an answer that does not exist yet will do, so guards decide. They
may err, and whoever is given a shared answer was served: so each share is charged what the guards
are expected to get wrong, and only as much is shared as the near tier leaves of the promise.
"""

import threading
from collections.abc import Sequence
from typing import Final

from costwise_core.cache.control import RiskControl
from costwise_core.cache.guards.verify import GuardedThreshold
from costwise_core.cache.policy import Verdict
from costwise_core.types import Neighbour

__all__ = ["Sharing"]

# What is known of the guards beforehand: `python -m benchmarks.cache_pairs`, 77 hits, none wrong.
_HITS: Final = 77
# Evidence of one's own beyond this counts half, so that a change in the traffic shows.
_REMEMBERED: Final = 1_000


class Sharing:
    """Decides between questions in flight where the policy promises a share of wrong answers.

    Whenever the near tier learns whether a candidate's answer was right, and the guards would have
    let the two questions share, it is learned how often the guards are right on this traffic. That
    costs no call. By Laplace's rule of succession a share is expected to be wrong with
    (1 + wrong) / (2 + seen), which begins at 1 in 79.

    Args:
        policy: Whose promise it is.

    Example:
        >>> from costwise_core.types import Entry
        >>> stored = Entry(key="k", scope="s", question="How do I lock my card?", answer="")
        >>> sharing = Sharing(RiskControl())
        >>> sharing.count_request()
        >>> near = [Neighbour(entry=stored, cosine=0.96)]
        >>> sharing.decide("How can I lock my card?", near).action
        'serve'
    """

    def __init__(self, policy: RiskControl) -> None:
        self._policy = policy
        self._match = GuardedThreshold()
        self._seen = float(_HITS)
        self._wrong = 0.0
        self._left = 0.0
        self._lock = threading.Lock()

    @property
    def expected_wrong(self) -> float:
        """Share of shared answers that is expected to be wrong."""
        return (1 + self._wrong) / (2 + self._seen) / (1 - self._policy.judge_error)

    def count_request(self) -> None:
        """Put on the account what the near tier leaves of the promise for one request."""
        policy = self._policy
        if policy.per == "hit":  # a share is a hit, and brings what it may cost along
            return
        left = max(0.0, policy.max_wrong - policy.health().wrong_share_upper)
        with self._lock:
            self._left = min(self._left + left, policy.max_wrong * policy.window)

    def decide(self, question: str, neighbours: Sequence[Neighbour]) -> Verdict:
        """Serve what the guards let pass, as long as the promise allows it."""
        verdict = self._match.decide(question, neighbours)
        if verdict.action != "serve":
            return verdict
        with self._lock:
            cost = self.expected_wrong
            per_hit = self._policy.per == "hit"
            if cost > (self._policy.max_wrong if per_hit else self._left):
                why = "the promise leaves no room to share an answer between two wordings"
                return Verdict(action="refuse", why=why, reason="no_room")
            if not per_hit:
                self._left -= cost
        return verdict

    def learn(self, question: str, verdict: Verdict, *, same: bool) -> None:
        """Take in whether a candidate's answer was right, if the guards would have shared it."""
        if verdict.candidate is None:
            return
        if self._match.decide(question, [verdict.candidate]).action != "serve":
            return
        with self._lock:
            self._seen += verdict.weight
            self._wrong += 0.0 if same else verdict.weight
            if self._seen > _REMEMBERED:
                self._seen, self._wrong = self._seen / 2, self._wrong / 2
