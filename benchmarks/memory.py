"""What a conversation costs under each way of remembering it, against sending all of it.

    python -m benchmarks.memory --json OUT
    python -m benchmarks.memory --data dialogues.jsonl.gz --limit 3 --no-peers --json OUT

Dialogues are LoCoMo's (`sessions` of `turns`) or QMSum's (`meeting_transcripts`): every other turn
is taken for the answer of a model, whose prompt is all that a policy sends of the turns before it.
Tokens are those of GPT-4o's tokenizer for all models. A provider's cache reads as much of a prompt
as begins like the one before it, and serves no prefix shorter than the provider says; prompts
begin with a system prompt of `--before` tokens, which is the same for all policies and not counted.
Answers are counted, alike for all. Summaries are written by a stand-in that takes over sentences up
to the tokens a policy allows, at GPT-4o-mini's price; the frameworks' classes are the real ones.

`relative_cost` is the mean over the dialogues of what each cost, full history = 1; `of_total` what
all cost together. `max_relative_cost` is ours at the worst: over all price models, all dialogues,
and each of them ended after any one of its calls, the fold after that call's answer included.
`evidence_recall` needs LoCoMo's questions (`qa`).
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from benchmarks._common import DATA, Clock, arguments, finish, versions
from benchmarks._memory_calls import Call, spent
from benchmarks._memory_peers import peers
from costwise_core.embed.cached import CachedEmbedder
from costwise_core.embed.onnx import OnnxEmbedder
from costwise_core.errors import ConfigError
from costwise_core.memory.economics import MemoryPrices
from costwise_core.memory.extract import extract
from costwise_core.memory.messages import Message, Summary
from costwise_core.memory.plan import MemoryPlan, MemoryPolicy, plan, saved_usd
from costwise_core.memory.prompts import fold_prompt, recalled_block, summary_block
from costwise_core.memory.recall import TurnIndex
from costwise_core.prices import PriceBook
from costwise_core.tokens import count_tokens

FILES = (DATA / "dialog/locomo5.jsonl.gz", DATA / "dialog/qmsum_val.jsonl.gz")
SUMMARISER = "gpt-4o-mini"
BUDGETS = (500, 1000, 4000)


@lru_cache(maxsize=200_000)
def count(text: str) -> int:
    """Tokens of a text."""
    return count_tokens(text, "gpt-4o").tokens


def price_models() -> dict[str, MemoryPrices]:
    """Real price lists: a model without a prompt cache, with one, and with dear writes."""
    book = PriceBook()
    return {
        "gpt-4o, no cache": MemoryPrices.of(book, "openai:gpt-4o", SUMMARISER, cached=False),
        "gpt-4o, cached": MemoryPrices.of(book, "openai:gpt-4o", SUMMARISER),
        "claude-sonnet-4-5, cached": MemoryPrices.of(
            book, "anthropic:claude-sonnet-4-5", SUMMARISER
        ),
    }


# --- dialogues ------------------------------------------------------------------------------------


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of dialogues, one JSON object a line."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, filter(str.strip, lines))


def conversation(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Read a dialogue of either format; every other turn is a model's."""
    if "sessions" in row:
        turns = [
            (str(turn["speaker"]), str(turn["text"]))
            for session in row["sessions"]
            for turn in session["turns"]
        ]
    else:
        turns = [
            (str(turn["speaker"]), str(turn["content"])) for turn in row["meeting_transcripts"]
        ]
    return tuple(
        Message(
            role="assistant" if at % 2 else "user",
            name=who,
            text=text,
            id=str(at),
            tokens=count(f"{who}: {text}"),
        )
        for at, (who, text) in enumerate(turns)
    )


# --- policies -------------------------------------------------------------------------------------


def pieces(messages: Sequence[Message]) -> tuple[tuple[str, int], ...]:
    return tuple((one.id, one.tokens) for one in messages)


def answers(talk: Sequence[Message]) -> list[int]:
    return [at for at, one in enumerate(talk) if one.role == "assistant"]


def full(talk: Sequence[Message]) -> list[Call]:
    """All of it."""
    return [Call(prompt=pieces(talk[:at]), answer=talk[at].tokens) for at in answers(talk)]


def window(talk: Sequence[Message], most: int, least: int) -> list[Call]:
    """The newest messages: beyond `most` tokens, the oldest go until `least` are left."""
    calls, start = [], 0
    for at in answers(talk):
        if sum(one.tokens for one in talk[start:at]) > most:
            left = list(accumulate(one.tokens for one in reversed(talk[start:at])))
            start = max(at - max(sum(size <= least for size in left), 1), start)
        calls.append(Call(prompt=pieces(talk[start:at]), answer=talk[at].tokens))
    return calls


def costwise(
    talk: Sequence[Message],
    prices: MemoryPrices,
    before: int,
    policy: MemoryPolicy,
    *,
    recalls: bool = True,
) -> list[Call]:
    """What costwise's planner decides, carried out as its memory does."""
    state, calls, index = Summary(), [], TurnIndex(counter=count)
    for at in answers(talk):
        seen, question = talk[:at], talk[at - 1]
        index.extend(talk[len(index) : at])
        relevance = index.relevance(question.text, until=state.folded) if state.folded else 0.0
        decided = plan(seen, state, prices, policy, before=before, relevance=relevance)
        if decided.mode == "extract":
            saved = decided.saved_usd
            state = folded(talk, state, decided, start=state.folded, seen=at, saved=saved)
        prompt = pieces(talk[state.folded : at])
        if state.folded:
            prompt = ((state.text, count(summary_block(state.text))), *prompt)
        fresh = 0
        if recalls and decided.recall_tokens:
            found = index.recall(
                question.text, budget_tokens=decided.recall_tokens, until=state.folded
            )
            if found.messages:
                # It stands before the question, which the next call will not find in the cache.
                fresh = count(recalled_block(found.messages)) + question.tokens
                prompt = prompt[:-1]
        sent = made = 0
        if decided.mode == "separate":
            sent, made = asked(talk, state, decided)
            saved = saved_usd(seen, state, prices, policy, before=before) - decided.expected_usd
            after = folded(talk, state, decided, start=state.written, seen=at + 1, saved=saved)
            state = replace(after, written=decided.cut)
        calls.append(
            Call(
                prompt=prompt,
                fresh=fresh,
                answer=talk[at].tokens,
                summary_sent=sent,
                summary_made=made,
            )
        )
    return calls


def asked(talk: Sequence[Message], state: Summary, decided: MemoryPlan) -> tuple[int, int]:
    """Tokens that a summariser reads for a fold, and that it writes if it fills its limit."""
    most, text, sent = decided.summary_tokens, state.text, 0
    for start, stop in decided.steps:
        sent += count(fold_prompt(text, talk[start:stop], max_tokens=most))
        text = extract(text, talk[start:stop], max_tokens=most, count=count)
    return sent, most * len(decided.steps)


def folded(
    talk: Sequence[Message],
    state: Summary,
    decided: MemoryPlan,
    *,
    start: int,
    seen: int,
    saved: float,
) -> Summary:
    """A summary as long as a real one may be, of real sentences."""
    text = extract(
        state.text, talk[start : decided.cut], max_tokens=decided.summary_tokens, count=count
    )
    return replace(
        state, text=text, folded=decided.cut, tokens=count(text), seen=seen, saved_usd=saved
    )


# --- the run --------------------------------------------------------------------------------------


Runs = Mapping[int, Sequence[Call]]
"""The calls of some of the dialogues, by the dialogue's place."""


def against(calls: Runs, whole: Runs, prices: MemoryPrices, before: int) -> dict[str, float]:
    """Compare what a policy cost with what the whole history cost on the same dialogues."""
    ours = [spent(run, prices, before) for run in calls.values()]
    theirs = [spent(whole[at], prices, before) for at in calls]
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [run[-1] / other[-1] for run, other in pairs]
    every = [call for run in calls.values() for call in run]
    return {
        "relative_cost": sum(ratios) / len(ratios),
        "of_total": sum(run[-1] for run in ours) / sum(run[-1] for run in theirs),
        "worst_dialogue": max(ratios),
        "worst_stop": max(
            one / all_ for run, other in pairs for one, all_ in zip(run, other, strict=True)
        ),
        "usd_per_1000_calls": 1000 * sum(run[-1] for run in ours) / len(every),
        "calls_that_fold": sum(call.summary_sent > 0 for call in every) / len(every),
        "dialogues": len(ratios),
    }


def measured(
    talks: Sequence[Sequence[Message]],
    before: int,
    policy: MemoryPolicy,
    theirs: Mapping[str, Runs],
) -> dict[str, dict[str, dict[str, float]]]:
    """Return by price model and policy what `against` says."""
    places = range(len(talks))
    whole = {at: full(talks[at]) for at in places}
    alike = {
        "full history": whole,
        "window 4,000, trimmed each turn": {at: window(talks[at], 4000, 4000) for at in places},
        "window 4,000 to 1,500": {at: window(talks[at], 4000, 1500) for at in places},
        **theirs,
    }
    found = {}
    for name, prices in price_models().items():
        ours = {
            title: {
                at: costwise(talks[at], prices, before, policy, recalls=recalls) for at in places
            }
            for title, recalls in (("costwise", True), ("costwise without recall", False))
        }
        found[name] = {
            title: against(calls, whole, prices, before)
            for title, calls in {**alike, **ours}.items()
        }
    return found


def table(name: str, policies: Mapping[str, Mapping[str, float]]) -> str:
    """One price model as a person reads it."""
    head = (
        "mean",
        "total",
        "worst dialogue",
        "worst stop",
        "$ / 1,000 calls",
        "calls that fold",
        "n",
    )
    lines = [f"{name:36}" + "".join(f"{title:>17}" for title in head)]
    for policy, row in policies.items():
        lines.append(f"  {policy:34}" + "".join(f"{value:17.3f}" for value in row.values()))
    return "\n".join(lines)


def evidence(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Share of the turns that answer a question which recall quotes, by way and budget."""
    from benchmarks._memory_evidence import evidence_rows

    asked = [row for row in found if row.get("qa")]
    if not asked:
        return {}
    ways = evidence_rows(asked, BUDGETS, embedder())
    return {
        way: {str(budget): float(row["evidence"]) for budget, row in by_budget.items()}
        for way, by_budget in ways.items()
    }


def embedder() -> CachedEmbedder | None:
    """A small model on this machine's CPU; without it, recall goes by words alone."""
    try:
        found = CachedEmbedder(OnnxEmbedder())
        found.embed(["Is it here?"])
    except ConfigError as error:
        print(f"No embedder, so recall goes by words alone: {error}")
        return None
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", default=list(FILES))
    parser.add_argument("--limit", type=int, help="dialogues of each file")
    parser.add_argument("--before", type=int, default=1024, help="tokens of the system prompt")
    parser.add_argument(
        "--peers",
        type=int,
        default=4,
        help="dialogues of each file that the frameworks' are run on",
    )
    usual = MemoryPolicy()
    parser.add_argument("--tail-tokens", type=int, default=usual.tail_tokens)
    parser.add_argument("--summary-tokens", type=int, default=usual.summary_tokens)
    parser.add_argument("--recall-share", type=float, default=usual.recall_share)
    parser.add_argument("--only-costs", action="store_true", help="leave the evidence out")
    args = parser.parse_args()
    policy = MemoryPolicy(
        tail_tokens=args.tail_tokens,
        summary_tokens=args.summary_tokens,
        recall_share=args.recall_share,
    )
    clock = Clock()
    found: list[dict[str, Any]] = []
    talks: list[tuple[Message, ...]] = []
    sampled: list[int] = []
    for path in args.data:
        if not path.exists():
            print(f"{path} is not here and is left out.")
            continue
        new = [row for row in islice(rows(path), args.limit) if len(conversation(row)) > 1]
        sampled += range(len(talks), len(talks) + len(new))[: args.peers]
        found += new
        talks += map(conversation, new)
    if not talks:
        print("There are no dialogues to measure on.")
        return
    theirs = {
        name: {at: way(talks[at]) for at in sampled}
        for name, way in peers(count).items()
        if sampled
    }
    results = measured(talks, args.before, policy, theirs)
    for name, policies in results.items():
        print(table(name, policies), end="\n\n")
    ways = {} if args.only_costs else evidence(found)
    for way, kept in ways.items():
        print(f"evidence kept, {way:30}", kept)
    finish(
        args,
        {
            "price_models": {
                name: {
                    "relative_cost": {
                        policy: round(row["relative_cost"], 4) for policy, row in policies.items()
                    },
                    "policies": policies,
                }
                for name, policies in results.items()
            },
            "max_relative_cost": max(
                policies["costwise"]["worst_stop"] for policies in results.values()
            ),
            "evidence_recall": next(iter(ways.values()), {}),
            "evidence_ways": ways,
            "n": len(talks),
            "calls": sum(len(answers(talk)) for talk in talks),
            "tokens": sum(one.tokens for talk in talks for one in talk),
            "before": args.before,
            "seed": args.seed,
            **clock.seconds(),
            "versions": versions("tiktoken", "langchain", "llama-index-core", "genai-prices"),
        },
    )


if __name__ == "__main__":
    main()
