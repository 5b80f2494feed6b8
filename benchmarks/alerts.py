"""How often alerts are wrong, how soon they are right, and what watching costs.

    python -m benchmarks.alerts --calls 20000 --seeds 20 --json OUT

Made-up traffic of one feature: tokens of a call are log-normal, arrivals Poisson, a share is
answered by the response cache, half of the input is read from the provider's. `false_alarms` are
alerts for 10,000 calls of traffic that stays as it is. After it, input and output become so many
times as long, and with them the cost: `found` is the share of runs in which the cost alert came
within 1,000 requests, `requests` the median number until it did, `blamed` the share of these whose
first cause is tokens. The threshold is 1.2, so 1.1 should not be found. `us_per_call` is CPU.
"""

import copy
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks._common import Clock, arguments, finish, versions
from costwise_core.alerts.watch import Watch
from costwise_core.prices import PriceBook
from costwise_core.types import CallRecord, Usage

MODEL = "gpt-4o"
BOOK = PriceBook()
TRAFFIC = {
    "even, no hits": {"hit_rate": 0.0, "sigma": 0.3},
    "mixed, 40% hits": {"hit_rate": 0.4, "sigma": 0.5},
    "mixed, 80% hits": {"hit_rate": 0.8, "sigma": 0.5},
    "wild, 40% hits": {"hit_rate": 0.4, "sigma": 1.0},
}
RISES = (1.1, 1.3, 1.5, 2.0)


def calls(
    made: random.Random, count: int, *, hit_rate: float, sigma: float, start: float, times: float
) -> Iterator[CallRecord]:
    at = start
    for n in range(count):
        at += made.expovariate(20 / 60)
        shared: dict[str, Any] = {
            "id": f"{start}/{n}",
            "at": at,
            "operation": "chat",
            "model": MODEL,
            "tags": (("feature", "faq"),),
        }
        if made.random() < hit_rate:
            yield CallRecord(tier="near", **shared)
            continue
        sent = max(1, int(2000 * times * math.exp(made.gauss(0, sigma))))
        used = Usage(
            input_tokens=sent,
            output_tokens=max(1, int(300 * times * math.exp(made.gauss(0, 0.8)))),
            cache_read_tokens=sent // 2 if made.random() < 0.9 else 0,
        )
        yield CallRecord(usage=used, usd=BOOK.cost(used, MODEL).usd, **shared)


def measured(count: int, seeds: int, seed: int, traffic: dict[str, float]) -> dict[str, Any]:
    false: Counter[str] = Counter()
    needed: dict[float, list[int]] = {rise: [] for rise in RISES}
    blamed: Counter[float] = Counter()
    spent = 0.0
    for run in range(seeds):
        made = random.Random(f"{seed}/{run}")
        learned = Watch(BOOK, rise=0.2)
        usual = list(calls(made, count, start=0.0, times=1.0, **traffic))
        began = time.process_time()
        false.update(alert.kind for record in usual for alert in learned.see(record))
        spent += time.process_time() - began
        for rise in RISES:
            watch = copy.deepcopy(learned)
            later = calls(made, 1000, start=usual[-1].at + 3600, times=rise, **traffic)
            for n, record in enumerate(later, 1):
                cost = next((one for one in watch.see(record) if one.kind == "cost"), None)
                if cost is not None:
                    needed[rise].append(n)
                    blamed[rise] += cost.causes[0].name.endswith("tokens")
                    break
    return {
        "false_alarms": {
            kind: round(false[kind] * 10_000 / (count * seeds), 2)
            for kind in ("cost", "tokens", "prompt_cache")
        },
        "rises": {
            f"{rise:g}": {
                "found": len(found) / seeds,
                "requests": statistics.median(found) if found else None,
                "blamed": round(blamed[rise] / len(found), 2) if found else None,
            }
            for rise, found in needed.items()
        },
        "us_per_call": round(spent / (count * seeds) * 1e6, 1),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    clock = Clock()
    results = {}
    for name, traffic in TRAFFIC.items():
        results[name] = measured(args.calls, args.seeds, args.seed, traffic)
        print(f"{name}: {results[name]}")
    finish(
        args,
        {
            "n": args.calls,
            "seed": args.seed,
            "seeds": args.seeds,
            "traffic": results,
            **clock.seconds(),
            "versions": versions("genai-prices"),
        },
    )


if __name__ == "__main__":
    main()
