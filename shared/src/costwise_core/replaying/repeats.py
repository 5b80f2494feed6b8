"""Questions that were paid for twice: to the letter, or in other words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.bounds import wrong_share_upper
from costwise_core.cache.agreement import MIN_COVERED, content_words, is_exact
from costwise_core.cache.guards.checks import GUARDS, first_objection
from costwise_core.cache.guards.reading import Reading, read
from costwise_core.cache.guards.verify import SAME_WORDS, GuardedThreshold
from costwise_core.cache.judge import Judge, SameMeaning, normalised
from costwise_core.protocols import Embedder
from costwise_core.replaying.requests import Request
from costwise_core.types import Entry, Matrix, Neighbour

__all__ = ["Repeat", "WrongShare", "exact_repeats", "near_repeats", "wrong_share"]

NEWEST: Final = 20_000
"""Questions of one scope that a question is compared with: the newest, as a cache of that size."""

_AT_ONCE: Final = 512
_NEIGHBOURS: Final = 8
_COMPARED: Final = 500
_LEAST_WORDS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """A request that an earlier one's answer would have served, both by place in the list."""

    request: int
    earlier: int


def exact_repeats(requests: Sequence[Request]) -> list[Repeat]:
    """Return the requests whose question was answered before in the same scope.

    Args:
        requests: In the order of time. What may not be reused has no `exact` key.

    Example:
        >>> asked = [Request(place=n, at=None, model="m", exact=key) for n, key in enumerate("aba")]
        >>> exact_repeats(asked)
        [Repeat(request=2, earlier=0)]
    """
    answered: dict[str, int] = {}
    found = []
    for place, request in enumerate(requests):
        if request.exact:
            earlier = answered.setdefault(request.exact, place)
            if earlier != place:
                found.append(Repeat(request=place, earlier=earlier))
    return found


def near_repeats(
    requests: Sequence[Request], exact: Sequence[Repeat], embedder: Embedder | None = None
) -> list[Repeat]:
    """Return the requests that an answer to a similar question would have served.

    With an embedder as `GuardedThreshold` decides. Without one, questions are similar if all their
    content words have a counterpart in the other and no guard objects: few are found, and those are
    sure. What was retrieved for both must have a passage in common, where anything was.

    Args:
        requests: In the order of time.
        exact: What needs no similarity.
        embedder: Of questions.

    Example:
        >>> asked = [Request(place=n, at=None, model="m", near="s", question=text)
        ...          for n, text in enumerate(("how do I lock my card?", "how can I lock my card",
        ...                                    "how do I unlock my card?"))]
        >>> near_repeats(asked, [])
        [Repeat(request=1, earlier=0)]
    """
    taken = {repeat.request for repeat in exact}
    scopes: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        if request.near and place not in taken:
            scopes.setdefault(request.near, []).append(place)
    found: list[Repeat] = []
    for places in scopes.values():
        if len(places) > 1:
            found += (
                _by_words(requests, places)
                if embedder is None
                else _by_meaning(requests, places, embedder)
            )
    return sorted(found, key=lambda one: one.request)


def _by_words(requests: Sequence[Request], places: Sequence[int]) -> Iterator[Repeat]:
    stored: dict[frozenset[str], list[tuple[int, Reading]]] = {}
    for place in places:
        asked = read(requests[place].question)
        words = frozenset(asked.content)
        if len(words) < _LEAST_WORDS:
            continue
        there = stored.setdefault(words, [])
        match = next(
            (
                earlier
                for earlier, other in reversed(there[-_NEIGHBOURS:])
                if _share_passages(requests[place], requests[earlier])
                and sorted(asked.content) == sorted(other.content)
                and first_objection(asked, other, GUARDS) is None
            ),
            None,
        )
        if match is None:
            there.append((place, asked))
        else:
            yield Repeat(request=place, earlier=match)


def _by_meaning(
    requests: Sequence[Request], places: Sequence[int], embedder: Embedder
) -> Iterator[Repeat]:
    import numpy as np  # noqa: PLC0415 - only where vectors are

    policy = GuardedThreshold()
    vectors = _embedded([requests[place].question for place in places], embedder)
    stored = np.zeros(len(places), bool)
    for start in range(0, len(places), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(places))
        oldest = max(0, stop - NEWEST)
        cosines = vectors[start:stop] @ vectors[oldest:stop].T
        for n in range(start, stop):
            row = cosines[n - start, : n - oldest]
            near = np.nonzero((row >= SAME_WORDS) & stored[oldest:n])[0]
            best = near[np.argsort(-row[near], kind="stable")[:_NEIGHBOURS]] + oldest
            asked = requests[places[n]]
            neighbours = [
                Neighbour(
                    entry=Entry(
                        key=str(other),
                        scope="",
                        question=requests[places[other]].question,
                        answer="",
                    ),
                    cosine=float(row[other - oldest]),
                )
                for other in best.tolist()
                if _share_passages(asked, requests[places[other]])
            ]
            verdict = policy.decide(asked.question, neighbours) if neighbours else None
            if verdict is not None and verdict.action == "serve" and verdict.candidate is not None:
                yield Repeat(request=places[n], earlier=places[int(verdict.candidate.entry.key)])
            else:
                stored[n] = True


def _embedded(questions: Sequence[str], embedder: Embedder) -> Matrix:
    import numpy as np  # noqa: PLC0415

    unique = list(dict.fromkeys(questions))
    rows = np.concatenate(
        [embedder.embed(unique[n : n + _AT_ONCE]) for n in range(0, len(unique), _AT_ONCE)]
    )
    place = {question: n for n, question in enumerate(unique)}
    picked: Matrix = rows[[place[question] for question in questions]]
    return picked


def _share_passages(one: Request, other: Request) -> bool:
    return one.passages == other.passages or not one.passages.isdisjoint(other.passages)


# --- how many of them would have been wrong -----------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class WrongShare:
    """Which share of the near-repeats has another answer in the log than the one served.

    Args:
        share: The expected share; None if the log has no two answers to compare.
        low: Its 95 % interval; likewise high.
        high: Likewise.
        compared: Pairs of answers.
        differ: How many of them differ.
        same_compared: Pairs of answers to the very same question.
        same_differ: How many of those differ all the same: what a model does by itself.
    """

    share: float | None
    low: float = 0.0
    high: float = 1.0
    compared: int = 0
    differ: int = 0
    same_compared: int = 0
    same_differ: int = 0


def wrong_share(
    requests: Sequence[Request],
    near: Sequence[Repeat],
    exact: Sequence[Repeat],
    embedder: Embedder | None = None,
) -> WrongShare:
    """Compare the answers in the log: of near-repeats, and of exact ones for a yardstick.

    The expected share is that of the near pairs whose answers differ. A model words the answer to
    one question anew each time, and a comparison takes some of that for another answer, so this is
    rather too much. How much too much is seen on exact repeats: with d of their pairs told apart,
    and d' of the near ones, (d' - d) / (1 - d) are really different. But other questions repeat
    exactly than nearly, so only the lower end of the interval makes use of that; the upper end is
    the exact binomial bound on d' itself.

    Example:
        >>> asked = [Request(place=n, at=None, model="m", answer=answer)
        ...          for n, answer in enumerate(("30 days.", "It is 30 days", "60 days."))]
        >>> pairs = [Repeat(request=1, earlier=0), Repeat(request=2, earlier=0)]
        >>> found = wrong_share(asked, pairs, [])
        >>> found.differ, found.compared, found.share
        (1, 2, 0.5)
    """
    judge = None if embedder is None else SameMeaning(embedder=embedder)
    compared, differ = _compared(requests, near, judge)
    if not compared:
        return WrongShare(share=None)
    base, base_differ = _compared(requests, exact, judge)
    noise_high = wrong_share_upper(base_differ, base, _SIDE) if base else 1.0
    return WrongShare(
        share=differ / compared,
        low=_beyond(_lower(differ, compared), noise_high),
        high=wrong_share_upper(differ, compared, _SIDE),
        compared=compared,
        differ=differ,
        same_compared=base,
        same_differ=base_differ,
    )


_SIDE: Final = 0.975
_FEW: Final = 5


def _compared(
    requests: Sequence[Request], pairs: Sequence[Repeat], judge: Judge | None
) -> tuple[int, int]:
    told = [
        (requests[one.request], requests[one.earlier])
        for one in pairs
        if requests[one.request].answer and requests[one.earlier].answer
    ]
    some = told[:: max(1, -(-len(told) // _COMPARED))]
    differ = sum(
        not (
            _same_words(fresh.answer, stored.answer)
            if judge is None
            else judge.same(fresh.question, fresh.answer, stored.answer)
        )
        for fresh, stored in some
    )
    return len(some), differ


def _same_words(fresh: str, stored: str) -> bool:
    """Without a judge: the same numbers and names, and most other content words in common.

    Of an answer with few words, one that differs is another answer.
    """
    if normalised(fresh) == normalised(stored):
        return True
    one, other = set(content_words(fresh)), set(content_words(stored))
    if {word for word in one ^ other if is_exact(word) or word == "not"}:
        return False
    short, long = sorted((one, other), key=len)
    covered = 1.0 if len(short) < _FEW else MIN_COVERED
    return bool(short) and len(short & long) >= covered * len(short)


def _lower(differ: int, of: int) -> float:
    return 1 - wrong_share_upper(of - differ, of, _SIDE) if differ else 0.0


def _beyond(share: float, noise: float) -> float:
    return max(0.0, (share - noise) / (1 - noise)) if noise < 1 else 0.0
