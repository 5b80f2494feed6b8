"""A promise instead of a threshold: at most this share of wrong answers, learned from traffic."""

import json
import math
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, Literal

from costwise_core.cache.evidence import FACTS, FEATURES, examine
from costwise_core.cache.guards import Guard, Veto
from costwise_core.cache.policy import Verdict
from costwise_core.errors import ConfigError
from costwise_core.types import Neighbour

if TYPE_CHECKING:
    from costwise_core.cache.boundary import Line

__all__ = ["Health", "RiskControl"]

# The line is drawn anew after so many requests, and from at least so many labels.
_EVERY: Final = 50
_MIN_LABELS: Final = 20
# Early checks are denser: the share is at least this over the wrong answers allowed so far.
_EARLY_CHECKS: Final = 2.0
# A check stands for 1/share answers. Where little may be wrong, a single wrong one would close
# the cache, so the share is at least this over what may be wrong, up to a tenth.
_STEADY_CHECKS: Final = 0.002
_MOST_CHECKS: Final = 0.1
# Overdrawn budget is paid back over half as many requests as there were, but at most so many.
_HORIZON: Final = 2_000
# A candidate more likely wrong than right is not served, whatever budget there is.
_CAP: Final = 0.5
_ROW_LABELS: Final = 25
# One row speaks of no more requests; it must not buy a budget for thousands.
_ROW_REQUESTS: Final = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """How the promise stands.

    Args:
        promise: What was promised, in words.
        is_open: Whether near answers are being served at present.
        max_predicted_wrong: The boundary: candidates predicted to be wrong with at most this
            probability are served; -1.0 while closed.
        requests: Near lookups so far, of all processes that share the store.
        hits: Near answers served.
        checks: Near answers that could have been served and were paid for again to compare.
        wrong_checks: Those that turned out wrong.
        wrong_share: Estimated share of wrong answers in the window, per request or per hit as
            promised, at the present boundary.
        wrong_share_upper: Its upper confidence bound.
        judge_error: What was assumed about the judge.
        why: One sentence for a person.
    """

    promise: str
    is_open: bool
    max_predicted_wrong: float
    requests: int
    hits: int
    checks: int
    wrong_checks: int
    wrong_share: float
    wrong_share_upper: float
    judge_error: float
    why: str


class RiskControl:
    """Serves as many near answers as it can while at most a promised share of answers is wrong.

    It starts closed. Every request it does not serve tells it for free whether the candidate's
    answer would have been right; a small share of those it could serve is checked the same way.
    From these labels it predicts how likely a candidate is wrong, and opens up only as far as an
    upper confidence bound on the wrong answers allows. What processes that share a store learn,
    they learn together.

    Args:
        max_wrong: Promised largest share of wrong near answers, such as 0.02.
        per: Share of what: of all "request"s that reach the near tier, or of near "hit"s.
        confidence: One-sided confidence of the bound, at least 0.5.
        check_share: Least share of servable answers that are checked; more are at first, and up to
            a tenth where `max_wrong` is below 0.04. Each check costs one model call.
        window: How many requests are looked back on, so that drift is followed.
        judge_error: Share of different answers that the judge calls the same (`judge_error`
            measures it). For every wrong answer it sees, so many more are assumed.
        guards: What vetoes a candidate before anything is weighed.
        seed: For repeatable runs.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> RiskControl(max_wrong=0.02).decide("a question", []).action
        'refuse'
    """

    def __init__(
        self,
        max_wrong: float = 0.02,
        *,
        per: Literal["request", "hit"] = "request",
        confidence: float = 0.9,
        check_share: float = 0.05,
        window: int = 6_000,
        judge_error: float = 0.0,
        guards: Sequence[Guard] = FACTS,
        seed: int | None = None,
    ) -> None:
        _between("max_wrong", max_wrong, 0.0001, 0.5)
        _between("confidence", confidence, 0.5, 0.9999)
        _between("check_share", check_share, 0.001, 1.0)
        _between("window", window, 200, 100_000)
        _between("judge_error", judge_error, 0.0, 0.5)
        if per not in ("request", "hit"):
            raise ConfigError(f'per is "request" or "hit", got {per!r}.')
        self.max_wrong = max_wrong
        self.per = per
        self.check_share = check_share
        self.window = window
        self.judge_error = judge_error
        self.guards = tuple(guards)
        self._z = NormalDist().inv_cdf(confidence)
        self._random = random.Random(seed)  # noqa: S311 - which hits are checked is no secret
        self._lock = threading.Lock()
        self._new: list[tuple[tuple[float, ...], int, float]] = []
        self._new_requests = 0
        self._new_hits = 0
        self._requests = 0
        self._hits = 0
        self._checks = 0
        self._wrong_checks = 0
        # Wrong answers served so far, as the checks tell it: their estimate and its variance.
        self._leaked = 0.0
        self._leaked_square = 0.0
        self._seen: list[tuple[int, tuple[float, ...], int, float]] = []
        self._beta: tuple[float, ...] = (0.0,) * len(FEATURES)
        self._line: Line | None = None

    @property
    def journal(self) -> str:
        """Name of the log that processes with the same promise share."""
        return f"risk-1/{self.per}/{self.max_wrong:g}"

    # --- deciding ---------------------------------------------------------------------------

    def decide(self, question: str, neighbours: Sequence[Neighbour]) -> Verdict:
        """Serve, check or refuse the candidate among the neighbours."""
        return self._decide(question, neighbours, count=1)

    def peek(self, question: str, neighbours: Sequence[Neighbour]) -> Verdict:
        """Do what `decide` does and count nothing.

        For the questions in flight: the request was counted when the store was asked, and counting
        it twice would double what may be wrong.
        """
        return self._decide(question, neighbours, count=0)

    def _decide(self, question: str, neighbours: Sequence[Neighbour], *, count: int) -> Verdict:
        found = examine(question, neighbours, self.guards) if neighbours else None
        with self._lock:
            self._new_requests += count
            if found is None:
                return Verdict(action="refuse", why="nothing similar is stored in this scope")
            if isinstance(found, Veto):
                why = f"{found.guard}: {found.why}"
                return Verdict(action="refuse", why=why, reason=f"guard_{found.guard}")
            wrong = _wrong(found.features, self._beta)
            close = f"cosine {found.neighbour.cosine:.3f}, {wrong:.1%} likely wrong"
            line = -1.0 if self._line is None else self._line.max_wrong
            verdict = Verdict(
                action="serve",
                why=f"asked before in similar words ({close})",
                candidate=found.neighbour,
                features=found.features,
            )
            if wrong > line:
                known = line >= 0
                return replace(
                    verdict,
                    action="refuse",
                    why=f"{close}; " + (f"the limit is {line:.1%}" if known else "still learning"),
                    reason="too_risky" if known else "still_learning",
                )
            share = self._share_now()
            if self._random.random() < share:
                return replace(
                    verdict,
                    action="check",
                    why=f"{close}; served to nobody, to see whether it is right",
                    reason="check",
                    weight=1 / share,
                )
            self._new_hits += count
            return verdict

    def learn(self, verdict: Verdict, *, same: bool) -> None:
        """Take in whether the candidate's answer turned out the same as a fresh one."""
        if verdict.features:
            with self._lock:
                self._new.append((verdict.features, int(same), verdict.weight))

    def _share_now(self) -> float:
        n = self._requests + self._new_requests
        steady = max(self.check_share, min(_MOST_CHECKS, _STEADY_CHECKS / self.max_wrong))
        return max(steady, min(1.0, _EARLY_CHECKS / (self.max_wrong * n)))

    # --- learning, together with other processes ---------------------------------------------

    @property
    def due(self) -> bool:
        """Whether it is time to exchange what was learned."""
        return self._line is None or self._new_requests >= _EVERY

    def outbox(self) -> list[str]:
        """Hand over what this process saw since the last time, as rows for the journal."""
        with self._lock:
            new, self._new = self._new, []
            requests, self._new_requests = self._new_requests, 0
            hits, self._new_hits = self._new_hits, 0
        rows = []
        for start in range(0, max(len(new), 1), _ROW_LABELS):
            labels = [
                [*(round(x, 4) for x in features), same, round(weight, 4)]
                for features, same, weight in new[start : start + _ROW_LABELS]
            ]
            rows.append(json.dumps({"n": requests, "h": hits, "o": labels}, separators=(",", ":")))
            requests = hits = 0
        return rows if new or rows[0] != '{"n":0,"h":0,"o":[]}' else []

    def absorb(self, rows: Sequence[str]) -> int:
        """Learn from rows of the journal, own ones included; returns how many were damaged."""
        damaged = 0
        with self._lock:
            for row in rows:
                try:
                    self._take(row)
                except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                    damaged += 1
            if damaged < len(rows) or self._line is None:
                self._redraw()
        return damaged

    def _take(self, row: str) -> None:
        data = json.loads(row)
        requests, hits = int(data["n"]), int(data["h"])
        if not (0 <= hits <= requests <= _ROW_REQUESTS):
            raise ValueError("counts out of range")
        labels = []
        for *features, same, weight in data["o"]:
            if len(features) != len(FEATURES) or not all(abs(float(x)) < 100 for x in features):
                raise ValueError("features out of range")
            if same not in (0, 1) or not 1 <= float(weight) <= 1_000:
                raise ValueError("label out of range")
            labels.append((tuple(map(float, features)), int(same), float(weight)))
        self._requests += requests
        self._hits += hits
        for features, same, weight in labels:
            self._seen.append((self._requests, features, same, weight))
            if weight > 1:
                self._checks += 1
                self._wrong_checks += 1 - same
                self._leaked += (weight - 1) * (1 - same)
                self._leaked_square += (weight - 1) ** 2 * (1 - same)

    def _redraw(self) -> None:
        import numpy as np  # noqa: PLC0415 - not before something is learned

        from costwise_core.cache.boundary import Line, draw, fit, predict_wrong  # noqa: PLC0415

        oldest = self._requests - self.window
        self._seen = [one for one in self._seen if one[0] > oldest]
        if len(self._seen) < _MIN_LABELS:
            self._line = Line(max_wrong=-1.0)
            return
        features = np.array([one[1] for one in self._seen])
        same = np.array([one[2] for one in self._seen], dtype=np.float64)
        weights = np.array([one[3] for one in self._seen])
        beta = fit(features, same, weights, np.array(self._beta))
        self._beta = tuple(beta.tolist())
        share = self._allowed_share()
        seen = min(self.window, self._requests)
        self._line = draw(
            predict_wrong(features, beta),
            1 - same,
            weights,
            allowed=share * seen if self.per == "request" else math.inf,
            allowed_per_hit=share if self.per == "hit" else 1.0,
            judge_error=self.judge_error,
            z=self._z,
            cap=_CAP,
        )

    def _allowed_share(self) -> float:
        """What may be wrong from now on, given what has leaked so far."""
        if not self._leaked:
            return self.max_wrong
        unit = self._leaked_square / self._leaked
        count = self._leaked / unit
        leaked = unit * (count + self._z**2 / 2 + self._z * math.sqrt(count + self._z**2 / 4))
        leaked /= 1 - self.judge_error
        base = self._requests if self.per == "request" else self._hits
        horizon = min(max(base / 2, _EVERY), _HORIZON)
        left = self.max_wrong * (base + horizon) - leaked
        return min(self.max_wrong, left / horizon)

    # --- saying how it stands ------------------------------------------------------------------

    def health(self) -> Health:
        """Return how the promise stands, as far as this process knows."""
        with self._lock:
            line = self._line
            share = (
                f"{self.max_wrong:.2%} of {'requests' if self.per == 'request' else 'near hits'}"
            )
            is_open = line is not None and line.max_wrong >= 0
            base = 0.0
            if line is not None:
                seen = min(self.window, self._requests)
                base = float(seen) if self.per == "request" else line.served
            labels = len(self._seen)
            return Health(
                promise=f"at most {share} answered wrongly",
                is_open=is_open,
                max_predicted_wrong=line.max_wrong if line else -1.0,
                requests=self._requests + self._new_requests,
                hits=self._hits + self._new_hits,
                checks=self._checks,
                wrong_checks=self._wrong_checks,
                wrong_share=line.wrong / base if line and base else 0.0,
                wrong_share_upper=line.wrong_upper / base if line and base else 0.0,
                judge_error=self.judge_error,
                why=(
                    f"open on {labels} labels"
                    if is_open
                    else f"closed: {labels} labels do not yet support the promise"
                ),
            )


def _wrong(features: Sequence[float], beta: Sequence[float]) -> float:
    score = sum(x * b for x, b in zip(features, beta, strict=True))
    return 1 / (1 + math.exp(min(max(score, -30.0), 30.0)))


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} must be between {low:g} and {high:g}, got {value!r}.")
