"""What a cache lookup and a put cost, embedding left out.

    python -m benchmarks.cache_latency --entries 1000 10000 100000 --store sqlite --json OUT

All entries lie in one scope, the worst case for a scan. `exact` asks a stored question again,
`semantic` a rewording of one (cosine 0.985 to it, so it hits), `semantic_miss` something else.
`put` stores one answer at a time. Each goes through `Cache`, as an application would call it; the
keys with `store_` call the store alone. Milliseconds of CPU, and of wall time under `wall`.

Vectors are real MiniLM ones where `--data` has `vec/passages.f16.npy` (20,000; more entries than
that are copies of them moved to cosine 0.9), else random directions. Other caches are measured in
the same run if they are installed (`make peers`). CPU is this process's: what a Redis server spends
shows in the wall time alone, for langchain-redis and for `--store redis`.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import _peers
from benchmarks._common import DATA, Clock, Summary, arguments, finish, timed, versions
from costwise_core import Cache, Entry, FixedThreshold, MemoryStore, Scope, SQLiteStore
from costwise_core.cache import canonical, question_key
from costwise_core.stores.redis import RedisStore

ANSWER = "The answer is a paragraph of about the length that a model writes for a question. " * 6
SCOPE = Scope(tenant="benchmark", model="any")
BATCH = 1_000


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is stored and what is asked: vectors of entries, rewordings, strangers and new ones."""

    entries: np.ndarray
    rewordings: np.ndarray
    strangers: np.ndarray
    fresh: np.ndarray
    asked: np.ndarray

    def vectors(self) -> dict[str, np.ndarray]:
        """Return the vector of every text that is embedded while the clock runs."""
        table = {canonical(stored(i)): self.entries[i] for i in self.asked}
        for name, rows in (
            ("reworded", self.rewordings),
            ("strange", self.strangers),
            ("fresh", self.fresh),
        ):
            table |= {canonical(text(name, i)): row for i, row in enumerate(rows)}
        return table


def text(name: str, number: int) -> str:
    return f"Which of the {name} questions is this one, is it number {number} or another?"


def stored(number: int) -> str:
    return text("stored", number)


class Table:
    """An embedder that only looks up vectors made beforehand."""

    name = "table"
    blocking = False

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self._vectors = vectors

    def embed(self, texts: Sequence[str], role: str = "query") -> np.ndarray:  # noqa: ARG002
        """Return one row for each text."""
        return np.stack([self._vectors[each] for each in texts])


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def moved(rows: np.ndarray, cosine: float, rng: np.random.Generator) -> np.ndarray:
    """Return unit rows at about this cosine to the given ones."""
    noise = unit_rows(rng.standard_normal(rows.shape, dtype=np.float32))
    return unit_rows(cosine * rows + np.sqrt(1 - cosine**2) * noise)


def make_load(n: int, lookups: int, puts: int, data: Path, seed: int) -> tuple[Load, str]:
    rng = np.random.default_rng(seed)
    file, questions = data / "vec/passages.f16.npy", data / "vec/questions.f16.npy"
    if file.exists() and questions.exists():
        real = unit_rows(np.load(file).astype(np.float32))[rng.permutation(20_000)]
        copies = [moved(real, 0.9, rng) for _ in range(n // len(real))]
        entries = np.concatenate([real, *copies])[:n]
        strangers = unit_rows(np.load(questions).astype(np.float32))[:lookups]
        source = "MiniLM, passages" + (" and moved copies" if n > len(real) else "")
    else:
        entries = unit_rows(rng.standard_normal((n, 384), dtype=np.float32))
        strangers = unit_rows(rng.standard_normal((lookups, 384), dtype=np.float32))
        source = "random directions"
    asked = rng.choice(n, lookups, replace=n < lookups)
    return Load(
        entries=entries,
        rewordings=moved(entries[asked], 0.985, rng),
        strangers=strangers,
        fresh=moved(entries[rng.integers(0, n, puts)], 0.5, rng),
        asked=asked,
    ), source


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: filled once, then asked and added to; `bare` are calls below the cache."""

    fill: Callable[[], None]
    ask: Callable[[str], str | None]
    put: Callable[[str], object]
    bare: Callable[[], dict[str, tuple[Summary, Summary]]] = dict


def costwise(store: MemoryStore | SQLiteStore | RedisStore, load: Load) -> Subject:
    """Return our cache on one of our stores."""
    embedder = Table(load.vectors())
    cache = Cache(store, embedder=embedder, policy=FixedThreshold(min_cosine=0.9))

    def entry(number: int) -> Entry:
        return Entry(
            key=question_key(stored(number)),
            scope=SCOPE.key,
            question=stored(number),
            answer=f"{number} {ANSWER}",
            vector=load.entries[number],
            embedder=embedder.name,
            created=time.time(),
        )

    def fill() -> None:
        n = len(load.entries)
        for start in range(0, n, BATCH):
            store.put([entry(number) for number in range(start, min(start + BATCH, n))])

    def put(question: str) -> None:
        if not cache.store(question, SCOPE, ANSWER):
            raise SystemExit(f"not stored: {cache.stats}")

    def bare() -> dict[str, tuple[Summary, Summary]]:
        keys, scope = [question_key(stored(i)) for i in load.asked], SCOPE.key
        return {
            "store_exact": timed(lambda key: store.get(key, scope), keys),
            "store_semantic": timed(
                lambda vector: store.search(vector, 4, scope, embedder.name), load.rewordings
            ),
        }

    return Subject(
        fill=fill,
        ask=lambda question: getattr(cache.lookup(question, SCOPE), "answer", None),
        put=put,
        bare=bare,
    )


def other(peer: _peers.Peer, load: Load) -> Subject:
    """Return another cache; its vectors come from the same table."""
    numbers = range(len(load.entries))
    return Subject(
        fill=lambda: peer.fill([stored(i) for i in numbers], [f"{i} {ANSWER}" for i in numbers]),
        ask=peer.ask,
        put=lambda question: peer.put(question, ANSWER),
    )


def measure(subject: Subject, load: Load, lookups: int, puts: int) -> dict[str, object]:
    started = time.process_time()
    subject.fill()
    filled = time.process_time()
    subject.ask(text("strange", 0))
    first = time.process_time()
    hits: dict[str, list[bool]] = {"exact": [], "semantic": [], "semantic_miss": []}

    def asks(name: str, form: Callable[[int], str]) -> Callable[[int], None]:
        def ask(i: int) -> None:
            answer = subject.ask(form(i))
            hits[name].append(answer is not None and answer.startswith(f"{load.asked[i]} "))

        return ask

    times = {
        "exact": timed(asks("exact", lambda i: stored(int(load.asked[i]))), range(lookups)),
        "semantic": timed(asks("semantic", lambda i: text("reworded", i)), range(lookups)),
        "semantic_miss": timed(asks("semantic_miss", lambda i: text("strange", i)), range(lookups)),
    }
    times |= subject.bare()
    times["put"] = timed(lambda i: subject.put(text("fresh", i)), range(puts))
    return {
        **{f"{name}_ms": cpu for name, (cpu, _) in times.items()},
        "wall": {f"{name}_ms": wall for name, (_, wall) in times.items()},
        "right_answers": {name: round(float(np.mean(found)), 4) for name, found in hits.items()},
        "fill_cpu_seconds": round(filled - started, 2),
        "first_lookup_cpu_seconds": round(first - filled, 3),
    }


def in_empty_folder(work: Callable[[], dict[str, object]]) -> dict[str, object]:
    """Run where a cache may leave files, and say how large they are."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            result = work()
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        finally:
            os.chdir(before)
    return {**result, "disk_mb": round(size / 1e6, 1)}


def ours(name: str, load: Load, lookups: int, puts: int) -> dict[str, object]:
    if name == "memory":
        store = MemoryStore(max_entries=None, max_bytes=None)
        return measure(costwise(store, load), load, lookups, puts)
    if name == "redis":
        from tests.services.redis_engine import redis_engine

        with redis_engine(Path.cwd()) as engine:
            far = RedisStore(engine.url, timeout=60)
            return measure(costwise(far, load), load, lookups, puts)
    with SQLiteStore("costwise.db", max_entries=None, max_bytes=None) as file:
        return measure(costwise(file, load), load, lookups, puts)


def theirs(opener: _peers.Open, load: Load, lookups: int, puts: int) -> dict[str, object]:
    vectors = load.vectors()
    vectors |= {canonical(stored(i)): row for i, row in enumerate(load.entries)}
    capacity = len(load.entries) + len(load.fresh)
    with opener(_peers.lookup_in(vectors, canonical), capacity, Path.cwd()) as peer:
        return measure(other(peer, load), load, lookups, puts)


def row(label: str, measured: dict[str, object]) -> str:
    columns = ("exact", "semantic", "semantic_miss", "put")
    cells = [measured[f"{name}_ms"] for name in columns]
    times = "".join(f"{c['p50']:>9.3f} {c['p95']:>8.3f}" for c in cells)  # type: ignore[index]
    wall = measured["wall"]["semantic_ms"]["p50"]  # type: ignore[index]
    return f"{label:<24}{times}{wall:>12.3f}"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--entries", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--store", choices=["sqlite", "memory", "redis"], default="sqlite")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with vec/*.npy")
    parser.add_argument("--lookups", type=int, default=300)
    parser.add_argument("--puts", type=int, default=2_000)
    parser.add_argument("--peer-entries", type=int, default=10_000, help="largest size for peers")
    args = parser.parse_args()
    clock = Clock()
    openers = _peers.installed()
    sizes: dict[str, object] = {}
    peers: dict[str, dict[str, object]] = {name: {} for name in openers}
    print(
        f"{'CPU ms, p50 and p95':<24}"
        + "".join(f"{c:>18}" for c in ("exact", "semantic", "miss", "put"))
        + f"{'semantic wall':>16}"
    )
    for n in args.entries:
        load, source = make_load(n, args.lookups, args.puts, args.data.resolve(), args.seed)
        result = in_empty_folder(lambda: ours(args.store, load, args.lookups, args.puts))  # noqa: B023
        sizes[str(n)] = {**result, "vectors": source}
        print(row(f"costwise {args.store} {n:,}", result), flush=True)
        for name, opener in openers.items():
            if n > args.peer_entries:
                continue
            result = in_empty_folder(
                lambda: theirs(opener, load, args.lookups, min(args.puts, 300))  # noqa: B023
            )
            peers[name][str(n)] = {**result, "vectors": source}
            print(row(f"{name} {n:,}", result), flush=True)
    finish(
        args,
        {
            "n": args.lookups,
            "seed": args.seed,
            "store": args.store,
            "sizes": sizes,
            "peers": peers,
            "versions": versions(*_peers.VERSIONS),
            **clock.seconds(),
        },
    )


if __name__ == "__main__":
    main()
