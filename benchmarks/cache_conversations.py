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
from costwise_core.cache import Cache
from costwise_core.cache.agreement import Turn
from costwise_core.cache.cacheable import before_lookup
from costwise_core.cache.conversation import Bypass, in_context, question_of, self_contained
from costwise_core.cache.guards import veto
from costwise_core.cache.policy import FixedThreshold, Verdict
from costwise_core.cache.rewrite import Rewriter
from costwise_core.drive import run
from costwise_core.embed.onnx import OnnxEmbedder
from costwise_core.protocols import Embedder, NearPolicy, Role
from costwise_core.stores.memory import MemoryStore
from costwise_core.types import Hit, Matrix, Neighbour, Scope

Conversation = list[dict[str, str]]
Asked = tuple[str, str, bool]
"""What to look up, `Scope.context`, and whether a similar question will do."""

LAST_MESSAGE_COSINE = 0.90


@dataclass(frozen=True)
class Agreeing:
    """Serve the nearest question of an agreeing conversation that no guard objects to."""

    min_cosine: float

    def decide(self, question: str, neighbours: Sequence[Neighbour]) -> Verdict:
        """Serve or refuse."""
        found = in_context(question, neighbours)
        if isinstance(found, str):
            return Verdict(action="refuse", why=found)
        for neighbour in found:
            objection = veto(question_of(question), neighbour.entry.question)
            if neighbour.cosine >= self.min_cosine and objection is None:
                return Verdict(action="serve", why="the same question", candidate=neighbour)
        return Verdict(action="refuse", why="nothing similar passes the guards")

    def learn(self, verdict: Verdict, *, same: bool) -> None:
        """Learn nothing."""


@dataclass(frozen=True)
class Bare:
    """Embeds questions without the digest of their conversation."""

    inner: Embedder

    @property
    def name(self) -> str:
        """The embedder's."""
        return self.inner.name

    def embed(self, texts: Sequence[str], role: Role = "query") -> Matrix:
        """Embed the questions in `texts`."""
        return self.inner.embed([question_of(text) for text in texts], role)


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
def local_rewriter() -> Iterator[Rewriter]:
    from demo.model import local_model

    with local_model() as endpoint:
        yield OpenAIRewriter(base_url=endpoint.base_url, model=endpoint.model)


def with_history(
    rewriter: Rewriter | None, how: Counter[str]
) -> Callable[[Conversation], Asked | None]:
    """Return what costwise looks a conversation's last message up as."""

    def ask(conversation: Conversation) -> Asked | None:
        *history, last = conversation
        question = last["content"]
        if not before_lookup(question).allowed:
            how["kept out"] += 1
            return None
        turns = [Turn(role=turn["role"], text=turn["content"]) for turn in history]
        found = run(self_contained(turns, question, rewriter))
        if isinstance(found, Bypass):
            how["exact only"] += 1
            return question, found.context, False
        how[found.how] += 1
        return found.text, found.context, True

    return ask


def last_message(conversation: Conversation) -> Asked:
    return conversation[-1]["content"], "", True


def served(
    pair: dict[str, Any],
    embedder: Embedder,
    policy: NearPolicy,
    ask: Callable[[Conversation], Asked | None],
) -> bool:
    """Store conversation a, look b up, and say whether a's answer was served."""
    cache = Cache(MemoryStore(), embedder=embedder, policy=policy)
    stored, asked = ask(pair["a"]), ask(pair["b"])
    if stored is None or asked is None:
        return False
    text, context, near = stored
    cache.store(text, Scope(tenant="t", context=context), "the answer", near=near)
    text, context, near = asked
    return isinstance(cache.lookup(text, Scope(tenant="t", context=context), near=near), Hit)


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
    parser.add_argument("--min-cosine", type=float, default=0.75)
    args = parser.parse_args()
    paths = args.data or sorted((DATA / "cache").glob("fow_conv-*.jsonl"))
    if not paths:
        print("No data: give --data, or put the shared data beside the project.")
        return
    clock = Clock()
    pairs = load(paths)
    embedder = OnnxEmbedder()
    how: Counter[str] = Counter()
    with local_rewriter() if args.rewriter == "local" else nullcontext() as rewriter:
        ask = with_history(rewriter, how)
        policy = Agreeing(args.min_cosine)
        hits = [served(pair, Bare(embedder), policy, ask) for pair in pairs]
    ours = rates(pairs, hits)
    plain = FixedThreshold(min_cosine=LAST_MESSAGE_COSINE)
    last = rates(pairs, [served(pair, embedder, plain, last_message) for pair in pairs])
    print(f"{len(pairs)} pairs{'':<22}{'traps served':>14}{'should-hits':>14}")
    for name, row in (("costwise", ours), ("last message, cosine .90", last)):
        print(f"{name:<32}{row['trap_rate']:>14.1%}{row['should_hit_rate']:>14.1%}")
    for name, row in ours["by_subtype"].items():
        column = f"{row['served']:>28.1%}" if row["same_answer"] else f"{row['served']:>14.1%}"
        print(f"  {name:<24}{row['n']:>6}{column}")
    print("looked up:", ", ".join(f"{name} {n}" for name, n in how.most_common()))
    finish(
        args,
        {
            "n": len(pairs),
            "seed": args.seed,
            "rewriter": args.rewriter,
            "min_cosine": args.min_cosine,
            **ours,
            "looked_up_as": dict(how),
            "last_message": {key: last[key] for key in ("trap_rate", "should_hit_rate")},
            "versions": versions("onnxruntime"),
            **clock.seconds(),
        },
    )


if __name__ == "__main__":
    main()
