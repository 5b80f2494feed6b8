"""How many answers are still in the context when only a share of its tokens is kept.

    python -m benchmarks.trim [--data squad20.jsonl] [--budgets .05 .1 .2 .35 .5] --json OUT

`--data` is a file of {question, answers, docs} rows, or one of hotpotqa, musique, squad or xquad as
published (`benchmarks/_rag.py`). "kept" is the share of tokens that a method really kept, titles
included; "answer_recall" the share of questions one of whose answers is in one piece of the kept
text. Only questions whose answer is in the given text count, and none that is answered yes or no.

CPU seconds are per 1,000 tokens of context: with sentence vectors stored, where a request embeds
nothing but the question, and cold, where it embeds every sentence.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks._common import DATA, Clock, arguments, finish, versions
from benchmarks._rag import labelled
from costwise_core.compress.extractive import ExtractiveCompressor
from costwise_core.embed.cached import CachedEmbedder
from costwise_core.embed.onnx import OnnxEmbedder
from costwise_core.embed.vectors import SQLiteVectors
from costwise_core.labelled import LabelledQuestion
from costwise_core.passages import Passage
from costwise_core.protocols import Compressor, Embedder, TokenCounter
from costwise_core.score.bm25 import BM25
from costwise_core.score.dense import Dense
from costwise_core.text.segments import segment
from costwise_core.tokens import Tokens
from costwise_core.trim import RerankTrim

DEFAULT = "costwise"
GUARDED = "costwise, 35 % for several hops"
COLD_QUESTIONS = 15

Method = Callable[[str, Sequence[Passage]], Sequence[Passage]]


class Counted:
    """How many tokens passages have, titles included."""

    def __init__(self) -> None:
        self.text: TokenCounter = Tokens().counter("gpt-4o")

    def __call__(self, passages: Sequence[Passage]) -> int:
        return sum(self.text(f"{p.title}\n{p.text}" if p.title else p.text) for p in passages)


class Truncated:
    """Keeps the beginning."""

    def __init__(self, share: float, counted: Counted) -> None:
        self._share, self._counted = share, counted

    def __call__(self, _question: str, passages: Sequence[Passage]) -> list[Passage]:
        room = self._share * self._counted(passages)
        kept: list[Passage] = []
        for passage in passages:
            words = passage.text.split(" ")
            tokens = self._counted([passage])
            part = " ".join(words[: int(len(words) * min(1.0, room / tokens))])
            if part:
                kept.append(Passage(title=passage.title, text=part))
            room -= tokens
            if room <= 0:
                break
        return kept


def llama_index(share: float, embedder: Embedder, *, neighbours: bool) -> Method:
    """Return LlamaIndex's sentence optimizer, with one neighbour on either side as by default."""
    from llama_index.core import MockEmbedding, QueryBundle
    from llama_index.core.postprocessor import SentenceEmbeddingOptimizer
    from llama_index.core.schema import NodeWithScore, TextNode

    class Adapted(MockEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return embedder.embed([query], "query")[0].tolist()

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return embedder.embed(texts, "document").tolist()

    around = None if neighbours else 0
    optimizer = SentenceEmbeddingOptimizer(
        embed_model=Adapted(embed_dim=384),
        percentile_cutoff=share,
        tokenizer_fn=lambda text: [text[one.start : one.end] for one in segment(text)],
        context_before=around,
        context_after=around,
    )

    def method(question: str, passages: Sequence[Passage]) -> list[Passage]:
        nodes = [NodeWithScore(node=TextNode(text=p.text)) for p in passages]
        found = optimizer.postprocess_nodes(nodes, query_bundle=QueryBundle(question))
        return [
            Passage(title=passage.title, text=node.node.get_content())
            for passage, node in zip(passages, found, strict=True)
        ]

    return method


def kept_by(compressor: Compressor) -> Method:
    return lambda question, passages: compressor.compress(question, passages).passages


def methods(
    share: float, rows_tokens: int, embedder: Embedder, counted: Counted
) -> dict[str, Method]:
    """Return what is compared; `rows_tokens` are those of the passages at hand."""
    cap = max(int(share * rows_tokens), 1)

    def extract(using: Embedder | None, several_share: float) -> Method:
        return kept_by(
            ExtractiveCompressor(
                embedder=using,
                share=share,
                several_share=several_share,
                min_tokens=0,
                counter=counted.text,
            )
        )

    def passages(scorer: BM25 | Dense) -> Method:
        return kept_by(
            RerankTrim(
                scorer=scorer, top_k=None, max_tokens=cap, keep_at_least=0, counter=counted.text
            )
        )

    return {
        DEFAULT: extract(embedder, share),
        GUARDED: extract(embedder, 0.35),
        "costwise without an embedder": extract(None, share),
        "truncated": Truncated(share, counted),
        "whole passages, BM25": passages(BM25()),
        "whole passages, dense": passages(Dense(embedder)),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "rag" / "squad20.jsonl")
    parser.add_argument("--ids-of", type=Path, help="squad or xquad file: only its questions")
    parser.add_argument(
        "--budgets", type=float, nargs="+", default=[0.05, 0.08, 0.1, 0.2, 0.35, 0.5]
    )
    parser.add_argument("--limit", type=int, default=300, help="most questions; 0 is all")
    parser.add_argument("--vectors", type=Path, help="SQLite file that keeps vectors between runs")
    parser.add_argument(
        "--only-default", action="store_true", help="leave out what it is compared to"
    )
    args = parser.parse_args()
    if not args.data.is_file():
        print(f"skipped: there is no {args.data}; name a file with --data")
        return
    clock, counted = Clock(), Counted()
    rows = labelled(args.data, limit=args.limit, seed=args.seed, ids_of=args.ids_of)
    model = OnnxEmbedder()
    vectors = SQLiteVectors(args.vectors) if args.vectors else None
    embedder = CachedEmbedder(model, cache=vectors)
    tokens = [counted(row.passages) for row in rows]
    curve = measured(rows, tokens, args.budgets, embedder, counted, only_default=args.only_default)
    result = {
        "n": len(rows),
        "seed": args.seed,
        "data": args.data.name,
        "tokens_per_question": round(sum(tokens) / len(rows)),
        "default_method": DEFAULT,
        "curve": curve,
        **speed(rows, tokens, model, counted),
        **clock.seconds(),
        "versions": versions("costwise-models", "llama-index-core"),
    }
    show(result)
    finish(args, result)


def measured(
    rows: Sequence[LabelledQuestion],
    tokens: Sequence[int],
    budgets: Sequence[float],
    embedder: Embedder,
    counted: Counted,
    *,
    only_default: bool,
) -> list[dict[str, object]]:
    curve = []
    for share in budgets:
        peers: dict[str, Method] = {}
        if not only_default:
            peers = {
                "LlamaIndex SentenceEmbeddingOptimizer": llama_index(
                    share, embedder, neighbours=True
                ),
                "the same without neighbours": llama_index(share, embedder, neighbours=False),
            }
        totals: dict[str, list[float]] = {}
        for row, before in zip(rows, tokens, strict=True):
            ours = methods(share, before, embedder, counted)
            if only_default:
                ours = {name: ours[name] for name in (DEFAULT, GUARDED)}
            for name, method in (ours | peers).items():
                kept = method(row.question, row.passages)
                total = totals.setdefault(name, [0.0, 0.0])
                total[0] += counted(kept) / before
                total[1] += row.kept_in(kept)
        curve += [
            {
                "method": name,
                "budget": share,
                "kept": round(kept / len(rows), 4),
                "answer_recall": round(found / len(rows), 4),
            }
            for name, (kept, found) in totals.items()
        ]
    return curve


def speed(
    rows: Sequence[LabelledQuestion], tokens: Sequence[int], model: Embedder, counted: Counted
) -> dict[str, float]:
    """Return CPU seconds for 1,000 tokens, with stored vectors and without."""
    rows, tokens = rows[:COLD_QUESTIONS], tokens[:COLD_QUESTIONS]
    spent = {}
    cached = CachedEmbedder(model)
    stored = ExtractiveCompressor(embedder=cached, min_tokens=0, counter=counted.text)
    cold = ExtractiveCompressor(embedder=model, min_tokens=0, counter=counted.text)
    for row in rows:
        stored.ingest(row.passages)
    for name, compressor in (("", stored), ("_cold", cold)):
        started = time.process_time()
        for row in rows:
            compressor.compress(row.question, row.passages)
        seconds = time.process_time() - started
        spent[f"cpu_s_per_1k_tokens{name}"] = round(seconds * 1000 / sum(tokens), 4)
    return spent


def show(result: dict) -> None:
    print(
        f"{result['data']}: {result['n']} questions, {result['tokens_per_question']:,} tokens each"
    )
    budgets = sorted({point["budget"] for point in result["curve"]})
    print(f"{'answer recall @ tokens kept':38s}" + "".join(f"{b:>13.0%}" for b in budgets))
    for name in dict.fromkeys(point["method"] for point in result["curve"]):
        cells = [
            f"{p['answer_recall']:.3f} @{p['kept']:5.1%}"
            for p in result["curve"]
            if p["method"] == name
        ]
        print(f"{name:38s}" + "".join(f"{cell:>13s}" for cell in cells))
    print(
        f"CPU seconds per 1,000 tokens: {result['cpu_s_per_1k_tokens']} with stored vectors, "
        f"{result['cpu_s_per_1k_tokens_cold']} cold"
    )


if __name__ == "__main__":
    main()
