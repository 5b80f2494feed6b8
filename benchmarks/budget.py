"""Whether a budget holds when many spend it at once, and what asking it costs.

    python -m benchmarks.budget --threads 128 --processes 4 --json OUT

Each worker makes calls of random length one after another: it asks the budget, pays, waits as
long as a call takes, and settles what it used. All together want three times the limit. A worker
gives up when it was refused for longer than a hold lasts. `overshoot` is what was paid beyond the
limit, `usable` the share of the limit that was paid, both by the price list and not by what the
store says; `booked` is what the store says.

Where processes share a store, one more of them takes a hold with each of its threads (at most half
of the limit) and is killed with SIGKILL as the others begin; `lost` is the share of the limit that
it held, `held` what still is held when all is over.

`cpu` is milliseconds of this process for one reserve and settle, one after another; what a server
uses is not in it.
"""

import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._budget_peers import PEERS, VERSIONS, Gate, Pay, installed
from benchmarks._common import Clock, arguments, finish, timed, versions
from costwise_core import (
    Budget,
    Budgets,
    BudgetStore,
    MemoryBudgets,
    PostgresBudgets,
    RedisBudgets,
    SQLiteBudgets,
    Usage,
)
from costwise_core.budget.budgets import account_of
from costwise_core.errors import BudgetExceededError
from costwise_core.money import dollars, picodollars
from costwise_core.prices import PriceBook

MODEL = "gpt-4o-mini"
MOST = 500
MEAN = 0.00036  # dollars a call costs, about
DEMAND = 3
PATIENCE = 3.0
WAIT, MAX_WAIT = 0.05, 1.0  # seconds between two attempts, once refused

PRICES = PriceBook()
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: who keeps the budget, and how hard it is asked."""

    name: str
    where: str
    run: str
    limit: Decimal
    threads: int
    processes: int
    seconds: float
    call: float
    seed: int

    @property
    def shared(self) -> bool:
        return self.processes > 1


STORES: dict[str, Callable[[str], BudgetStore]] = {
    "memory": lambda _: MemoryBudgets(),
    "sqlite": lambda where: SQLiteBudgets(where, busy_timeout=60),
    "postgres": lambda where: PostgresBudgets(where, timeout=60),
    "redis": lambda where: RedisBudgets(where, timeout=60),
}


def ours(plan: Plan) -> Budgets:
    """Return the budget of a plan."""
    store = STORES[plan.name](plan.where)
    budget = Budget(limit=plan.limit, tags={"run": plan.run})
    return Budgets(budget, store=store, seconds=plan.seconds)


def gate_of(plan: Plan) -> Gate:
    """Return how a call is made under a plan's budget."""
    if plan.name not in STORES:
        where = plan.where and f"{plan.where}-{plan.run}"
        return PEERS[plan.name](plan.limit, MODEL, where)
    budgets = ours(plan)

    def gate(sent: int, most: int, produced: int, pay: Pay) -> None:
        call = budgets.reserve(MODEL, input_tokens=sent, output_tokens=most, tags={"run": plan.run})
        pay()
        call.settle(Usage(input_tokens=sent, output_tokens=produced))

    return gate


def lengths(source: random.Random) -> tuple[int, int]:
    """Return how many tokens a call sends and how many come back."""
    return source.randint(100, 3_000), min(MOST, round(source.lognormvariate(5, 0.7)))


def price(sent: int, produced: int) -> int:
    """Return what a call costs, in picodollars."""
    usage = Usage(input_tokens=sent, output_tokens=produced)
    return picodollars(PRICES.cost(usage, MODEL).usd)


@dataclass(kw_only=True)
class Tally:
    """What one thread did: picodollars paid, seconds waited for the budget, what went wrong."""

    paid: list[int] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def work(gate: Gate, plan: Plan, source: random.Random) -> Tally:
    """Make calls until the budget refuses for good, or demand is met."""
    tally = Tally()
    enough = max(1, round(DEMAND * float(plan.limit) / MEAN / plan.threads / plan.processes))
    last, wait = time.monotonic(), WAIT
    while len(tally.paid) < enough and time.monotonic() - last < plan.seconds + PATIENCE:
        sent, produced = lengths(source)
        duration = source.expovariate(1 / plan.call)
        cost = price(sent, produced)

        def pay(cost: int = cost, duration: float = duration) -> None:
            tally.paid.append(cost)
            time.sleep(duration)

        started = time.perf_counter()
        try:
            gate(sent, MOST, produced, pay)
        except BudgetExceededError:
            time.sleep(source.uniform(0, 2 * wait))
            wait = min(MAX_WAIT, 2 * wait)
            continue
        except Exception as error:  # noqa: BLE001 - shown in the result
            tally.faults.append(f"{type(error).__name__}: {error}"[:200])
        tally.waited.append(time.perf_counter() - started - duration)
        last, wait = time.monotonic(), WAIT
    return tally


def spend(plan: Plan, number: int, ready: Any, results: Connection) -> None:
    """Be one process: spend with all threads, and send what each of them did."""
    gate = gate_of(plan)
    ready.wait()
    cpu = time.process_time()
    with ThreadPoolExecutor(plan.threads) as pool:
        sources = [random.Random(f"{plan.seed} {number} {n}") for n in range(plan.threads)]
        tallies = list(pool.map(lambda source: work(gate, plan, source), sources))
    results.send((tallies, time.process_time() - cpu))


def hold(plan: Plan, ready: Any, results: Connection) -> None:
    """Be the process that is killed in the middle of its calls."""
    gate = gate_of(plan)
    held: list[int] = []
    most = min(plan.threads, int(plan.limit / 2 / dollars(price(1_500, MOST))))

    def wait_for_the_end() -> None:
        held.append(1)
        time.sleep(3_600)

    for _ in range(most):
        threading.Thread(target=gate, args=(1_500, MOST, 1, wait_for_the_end), daemon=True).start()
    while len(held) < most:  # before the others begin, or they would leave it nothing
        time.sleep(0.01)
    ready.wait()
    results.send(most)
    time.sleep(3_600)


def measure(plan: Plan) -> dict[str, object]:
    """Let all spend, and say what came of it."""
    ready = SPAWN.Barrier(plan.processes + 1 + plan.shared)
    # What the store is made of is made before the start.
    gate_of(plan)(1, 1, 1, lambda: None)
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(plan.processes)]
    spenders = [
        SPAWN.Process(target=spend, args=(plan, number, ready, there))
        for number, (_, there) in enumerate(pipes)
    ]
    here, there = SPAWN.Pipe(duplex=False)
    victim = SPAWN.Process(target=hold, args=(plan, ready, there))
    everybody = [*spenders, victim] if plan.shared else spenders
    for process in everybody:
        process.start()
    ready.wait()
    started = time.perf_counter()
    lost = here.recv() * price(1_500, MOST) if plan.shared else 0
    victim.kill() if plan.shared else None
    done = [pipe.recv() for pipe, _ in pipes]
    for process in everybody:
        process.join()
    tallies = [tally for found, _ in done for tally in found]
    paid = sum(sum(tally.paid) for tally in tallies)
    share = float(dollars(paid) / plan.limit)
    calls = sum(len(tally.paid) for tally in tallies)
    waited = np.array([second for tally in tallies for second in tally.waited]) * 1000
    faults = [fault for tally in tallies for fault in tally.faults]
    result = {
        "processes": plan.processes,
        "calls": calls,
        "overshoot": round(max(0.0, share - 1), 4),
        "usable": round(min(1.0, share), 4),
        "lost": round(float(dollars(lost) / plan.limit), 4),
        **(kept(plan) if plan.shared and plan.name in STORES else {}),
        "wait_ms_p50": round(float(np.percentile(waited, 50)), 2),
        "wait_ms_p95": round(float(np.percentile(waited, 95)), 2),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(sum(cpu for _, cpu in done), 2),
        "faults": len(faults),
        "fault": faults[0] if faults else "",
    }
    print(f"{plan.name:16} ${plan.limit:<6} {result}", flush=True)
    return result


def kept(plan: Plan) -> dict[str, float]:
    """Return the shares of the limit that the store has booked and still holds."""
    budgets = ours(plan)
    account = account_of(*budgets.budgets, {"run": plan.run}, time.time())
    (balance,) = budgets.store.balances([account or ""], now=time.time())
    units = budgets.budgets[0].units
    return {"booked": round(balance.spent / units, 4), "held": round(balance.held / units, 4)}


@contextmanager
def servers(folder: Path, wanted: list[str]) -> Iterator[dict[str, str]]:
    """Start what shared stores need, and return where each of them is."""
    from tests.services.postgres_engine import postgres
    from tests.services.redis_engine import redis_engine

    with ExitStack() as stack:
        where = {"sqlite": str(folder / "budgets.db"), "floe-guard": str(folder / "floe.db")}
        if "postgres" in wanted:
            where["postgres"] = stack.enter_context(postgres()).conninfo
        if "redis" in wanted:
            (folder / "redis").mkdir()
            engine = stack.enter_context(redis_engine(folder / "redis", search=False))
            where["redis"] = engine.url
        yield where


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--stores", nargs="*", default=[*STORES])
    parser.add_argument("--threads", type=int, default=128)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument(
        "--limits", type=Decimal, nargs="*", default=[Decimal(2), Decimal("0.05")], help="dollars"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a hold lasts")
    parser.add_argument("--call", type=float, default=0.03, help="seconds a call takes, on average")
    parser.add_argument("--pairs", type=int, default=500, help="reserves and settles for CPU")
    args = parser.parse_args()
    clock = Clock()
    spent, cpu, wall = {}, {}, {}
    with tempfile.TemporaryDirectory() as name, servers(Path(name), args.stores) as where:
        for one, processes in plans(args.stores, args.processes):
            plan = Plan(
                name=one,
                where=where.get(one, "") if processes > 1 else "",
                run="cpu",
                limit=Decimal(10_000),
                threads=args.threads,
                processes=processes,
                seconds=args.seconds,
                call=args.call,
                seed=args.seed,
            )
            label = f"{one} x{processes}"
            gate = gate_of(plan)
            cpu[label], wall[label] = timed(
                lambda _, gate=gate: gate(1_500, MOST, 200, lambda: None), range(args.pairs)
            )
            print(f"{label:24} cpu {cpu[label]} wall {wall[label]}")
            for limit in args.limits:
                spent[f"{label} ${limit}"] = measure(replace(plan, run=str(limit), limit=limit))
    finish(
        args,
        {
            **{key: value for key, value in vars(args).items() if key not in ("json", "limits")},
            "limits": [*map(str, args.limits)],
            "spent": spent,
            "cpu": cpu,
            "wall": wall,
            **clock.seconds(),
            "versions": versions("redis", "psycopg", *VERSIONS),
        },
    )


def plans(stores: list[str], processes: int) -> Iterator[tuple[str, int]]:
    """Yield who is measured, with how many processes."""
    for name in stores:
        yield name, 1 if name == "memory" else processes
    for name in installed():
        yield name, 1
        if name == "floe-guard":  # the only one that can be shared
            yield name, processes


if __name__ == "__main__":
    main()
