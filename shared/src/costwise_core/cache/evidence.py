"""What speaks for and against serving the answer to a similar question, as numbers.

The nearest question alone is weak evidence: whether it is near says little about whether its answer
fits. Stronger is what the other neighbours answered. If the eight nearest questions were all given
the same answer, the next one will be; if the second nearest was given another, it is a toss-up. So
neighbours vote, weighted by nearness, each for the group of answers that its own was judged equal
to, and the candidate is the nearest member of the group that wins.

What the words of the two questions say is evidence too. Guards that speak of facts (another
number, another name, a negation) veto. Those that only suspect (one content word exchanged, another
question word) are counted: on some traffic they are right, on some not, and labels tell which.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.cache.guards import GUARDS, Guard, Veto, first_objection, read
from costwise_core.cache.guards.scope_words import asks_for
from costwise_core.cache.guards.swap import difference, swap
from costwise_core.types import Neighbour

__all__ = ["FACTS", "FEATURES", "SUSPICIONS", "Candidate", "examine", "weigh"]

SUSPICIONS: Final[tuple[Guard, ...]] = (asks_for, swap)
"""Guards that are evidence and no more."""

FACTS: Final[tuple[Guard, ...]] = tuple(guard for guard in GUARDS if guard not in SUSPICIONS)
"""Guards that veto."""

_VOTES: Final = ("bias", "cosine", "margin", "vote", "voters", "cosine_squared", "gap")
FEATURES: Final = (*_VOTES, "suspicion", "left_over")
"""What the numbers of a candidate are, in order."""

# So many vetoed candidates are passed over before the question is given up.
_TRIES: Final = 3

# A neighbour this much farther away than the nearest has a vote of 1/e.
_VOTE_WIDTH: Final = 0.06


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """The neighbour whose answer would be served, and the evidence.

    Args:
        neighbour: The nearest member of the group that won the vote.
        features: Numbers named by `FEATURES` (by `weigh`: its first seven), each of order one.
    """

    neighbour: Neighbour
    features: tuple[float, ...]


def examine(
    question: str, neighbours: Sequence[Neighbour], guards: Sequence[Guard] = FACTS
) -> Candidate | Veto:
    """Return the first candidate that no guard vetoes, or the first veto; there must be neighbours.

    Example:
        >>> from costwise_core.types import Entry
        >>> stored = Entry(key="k", scope="s", question="Refund after 30 days?", answer="Yes.")
        >>> examine("Refund after 60 days?", [Neighbour(entry=stored, cosine=0.97)]).guard
        'numbers'
    """
    asked = read(question)
    left = list(neighbours)
    vetoes: list[Veto] = []
    while left and len(vetoes) < _TRIES:
        found = weigh(left)
        stored = read(found.neighbour.entry.question)
        objection = first_objection(asked, stored, guards)
        if objection is None:
            suspicion = float(first_objection(asked, stored, SUSPICIONS) is not None)
            words = difference(asked, stored)
            over = min(4, len(words.asked) + len(words.stored))
            return Candidate(
                neighbour=found.neighbour, features=(*found.features, suspicion, -0.5 * over)
            )
        vetoes.append(objection)
        left.remove(found.neighbour)
    return vetoes[0]


def weigh(neighbours: Sequence[Neighbour]) -> Candidate:
    """Return the candidate among neighbours that are sorted by nearness; there must be one.

    Example:
        >>> from costwise_core.types import Entry
        >>> def neighbour(key, cosine, group):
        ...     entry = Entry(key=key, scope="s", question=key, answer=key, group=group)
        ...     return Neighbour(entry=entry, cosine=cosine)
        >>> found = [neighbour("a", .85, "x"), neighbour("b", .84, "y"), neighbour("c", .83, "y")]
        >>> weigh(found).neighbour.entry.key
        'b'
    """
    nearest = neighbours[0].cosine
    votes: dict[str, float] = {}
    members: dict[str, list[Neighbour]] = {}
    for one in neighbours:
        group = one.entry.group or one.entry.key
        votes[group] = votes.get(group, 0.0) + math.exp((one.cosine - nearest) / _VOTE_WIDTH)
        members.setdefault(group, []).append(one)
    winner = max(votes, key=lambda group: votes[group])
    best = members[winner][0]
    # With no rival in sight, one just beyond the farthest neighbour is assumed.
    rival = max(
        (group[0].cosine for name, group in members.items() if name != winner),
        default=neighbours[-1].cosine - 0.05,
    )
    share = min(max(votes[winner] / sum(votes.values()), 0.001), 0.999)
    return Candidate(
        neighbour=best,
        features=(
            1.0,
            5 * (best.cosine - 0.8),
            5 * (best.cosine - rival),
            0.5 * math.log(share / (1 - share)),
            math.log(len(members[winner])),
            20 * (best.cosine - 0.8) ** 2,
            10 * (nearest - best.cosine),
        ),
    )
