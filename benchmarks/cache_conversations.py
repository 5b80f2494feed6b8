"""Does the cache know a follow-up from the same words about something else?

    python -m benchmarks.cache_conversations [--data a.jsonl b.jsonl ...] [--rewriter local]
                                             [--json OUT]

Rows are pairs of conversations {id, a, b, same_answer, subtype}: lists of {role, content}, each
ending with a question. Conversation a is answered and stored, then b's last message is looked up
after b's history, in a cache of its own. A hit where the answers differ is a trap served.

For comparison the same pairs go through a cache that matches the last message alone, at cosine
0.90. `--rewriter local` asks SmolLM2-135M, served on loopback, to make follow-ups stand alone; the
digest is then used only where its answer fails the checks.
"""

import json
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._common import DATA, Clock, arguments, finish, versions
from costwise_core import (
    Cache,
    CachePolicy,
    FixedThreshold,
    GuardedThreshold,
    Hit,
    MemoryStore,
    OnnxEmbedder,
    Scope,
    Turn,
)
from costwise_core.cache.cacheable import REASONS
from costwise_core.protocols import Completer, Embedder

Conversation = list[dict[str, str]]

SCOPE = Scope(tenant="benchmark")
LAST_MESSAGE_COSINE = 0.90


@dataclass(frozen=True)
class OpenAIRewriter:
    """Asks an OpenAI-compatible server, and counts."""

    base_url: str
    model: str

    def complete(self, prompt: str) -> str:
        """Return the model's answer."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 60,
        }
        request = urllib.request.Request(
            f"{self.base_url}/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])


@contextmanager
def local_rewriter() -> Iterator[Completer]:
    from demo.model import local_model

    with local_model() as endpoint:
        yield OpenAIRewriter(base_url=endpoint.base_url, model=endpoint.model)


def costwise(embedder: Embedder, rewriter: Completer | None) -> Cache:
    """Return a cache as an app would make it; a promise cannot be learned from one pair."""
    return Cache(MemoryStore(), embedder=embedder, policy=GuardedThreshold(), rewriter=rewriter)


def last_message(embedder: Embedder) -> Cache:
    """Return a cache that looks at nothing but the similarity of the last message."""
    return Cache(
        MemoryStore(),
        embedder=embedder,
        policy=FixedThreshold(min_cosine=LAST_MESSAGE_COSINE),
        admission=CachePolicy(allow=frozenset(REASONS)),
    )


def served(
    pair: dict[str, Any], cache: Cache, *, history: bool, why: Counter[str] | None = None
) -> bool:
    """Store conversation a, look b up, and say whether a's answer was served."""

    def parts(conversation: Conversation) -> tuple[str, list[Turn]]:
        *before, last = conversation
        turns = [Turn(role=turn["role"], text=turn["content"]) for turn in before]
        return last["content"], turns if history else []

    question, turns = parts(pair["a"])
    cache.store(question, SCOPE, "the answer", turns=turns)
    question, turns = parts(pair["b"])
    found = cache.lookup(question, SCOPE, turns=turns)
    if why is not None:
        why[found.tier if isinstance(found, Hit) else found.reason] += 1
    return isinstance(found, Hit)


def rates(pairs: Sequence[dict[str, Any]], hits: Sequence[bool]) -> dict[str, Any]:
    """Return the shares served of traps and of pairs with the same answer."""

    def share(keep: Callable[[dict[str, Any]], bool]) -> float:
        chosen = [hit for pair, hit in zip(pairs, hits, strict=True) if keep(pair)]
        return round(sum(chosen) / len(chosen), 4) if chosen else 0.0

    return {
        "trap_rate": share(lambda pair: not pair["same_answer"]),
        "should_hit_rate": share(lambda pair: pair["same_answer"]),
        "by_subtype": {
            name: {
                "n": sum(pair["subtype"] == name for pair in pairs),
                "same_answer": same,
                "served": share(lambda pair: pair["subtype"] == name),  # noqa: B023
            }
            for name, same in sorted({(pair["subtype"], pair["same_answer"]) for pair in pairs})
        },
    }


def load(paths: Sequence[Path]) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in paths
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", help="JSONL files of conversation pairs")
    parser.add_argument("--rewriter", choices=("none", "local"), default="none")
    args = parser.parse_args()
    paths = args.data or sorted((DATA / "cache").glob("fow_conv-*.jsonl"))
    if not paths:
        print("No data: give --data, or put the shared data beside the project.")
        return
    clock = Clock()
    pairs = load(paths)
    embedder = OnnxEmbedder()
    why: Counter[str] = Counter()
    with local_rewriter() if args.rewriter == "local" else nullcontext() as rewriter:
        hits = [served(pair, costwise(embedder, rewriter), history=True, why=why) for pair in pairs]
    ours = rates(pairs, hits)
    last = rates(pairs, [served(pair, last_message(embedder), history=False) for pair in pairs])
    print(f"{len(pairs)} pairs{'':<22}{'traps served':>14}{'should-hits':>14}")
    for name, row in (("costwise", ours), ("last message, cosine .90", last)):
        print(f"{name:<32}{row['trap_rate']:>14.1%}{row['should_hit_rate']:>14.1%}")
    for name, row in ours["by_subtype"].items():
        column = f"{row['served']:>28.1%}" if row["same_answer"] else f"{row['served']:>14.1%}"
        print(f"  {name:<24}{row['n']:>6}{column}")
    print("why:", ", ".join(f"{name} {n}" for name, n in why.most_common()))
    finish(
        args,
        {
            "n": len(pairs),
            "seed": args.seed,
            "rewriter": args.rewriter,
            **ours,
            "why": dict(why),
            "last_message": {key: last[key] for key in ("trap_rate", "should_hit_rate")},
            "versions": versions("onnxruntime"),
            **clock.seconds(),
        },
    )


if __name__ == "__main__":
    main()
