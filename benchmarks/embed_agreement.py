"""How close the model wheel's vectors are to the float model's, and what embedding costs.

    python -m benchmarks.embed_agreement [--data ../shared/data/vec] --json OUT

`--data` is a folder with float vectors of all-MiniLM-L6-v2 and the texts they were made from:
questions.f16.npy, questions.texts.json.gz, passages.f16.npy, passages.texts.json.gz. The float
vectors were made from texts cut at 128 tokens, so the agreement is measured at 128 as well.
"""

import argparse
import gzip
import json
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from costwise_core.embed.onnx import OnnxEmbedder

TOKENS_OF_REFERENCE = 128
K = 10


def unit_rows(path: Path) -> np.ndarray:
    rows = np.load(path).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def texts(path: Path) -> list[str]:
    return json.loads(gzip.decompress(path.read_bytes()))


def cosines(ours: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    found = (ours * reference).sum(1)
    return {
        "mean": float(found.mean()),
        "p01": float(np.percentile(found, 1)),
        "min": float(found.min()),
    }


def nearest(queries: np.ndarray, corpus: np.ndarray, *, same: bool = False) -> np.ndarray:
    scores = queries @ corpus.T
    if same:  # a question is not its own neighbour
        np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def agreement(ours: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    pairs = zip(ours, reference, strict=True)
    overlap = np.mean([len(set(a) & set(b)) / K for a, b in pairs])
    return {"top1": float((ours[:, 0] == reference[:, 0]).mean()), "overlap_at_10": float(overlap)}


def timed(embedder: OnnxEmbedder, questions: list[str], passages: list[str]) -> dict[str, object]:
    alone = []
    for question in questions:
        start = time.process_time()
        embedder.embed([question])
        alone.append(1000 * (time.process_time() - start))
    result: dict[str, object] = {
        "question_cpu_ms": {
            "p50": float(np.percentile(alone, 50)),
            "p95": float(np.percentile(alone, 95)),
            "max": float(max(alone)),
        }
    }
    for name, batch in (("questions", questions), ("passages", passages)):
        start = time.process_time()
        embedder.embed(batch)
        result[f"{name}_per_cpu_second"] = len(batch) / (time.process_time() - start)
    return result


def measure(data: Path, passages: int, seed: int) -> dict[str, object]:
    cpu, wall = time.process_time(), time.perf_counter()
    embedder = OnnxEmbedder(max_tokens=TOKENS_OF_REFERENCE)
    embedder.embed(["load the model"])
    load_cpu = time.process_time() - cpu
    question_texts = texts(data / "questions.texts.json.gz")
    questions = unit_rows(data / "questions.f16.npy")
    all_passages = texts(data / "passages.texts.json.gz")
    passages = min(passages, len(all_passages))
    sample = np.random.default_rng(seed).choice(len(all_passages), passages, replace=False)
    passage_texts = [all_passages[i] for i in sample]
    passage_rows = unit_rows(data / "passages.f16.npy")[sample]
    our_questions = embedder.embed(question_texts)
    our_passages = embedder.embed(passage_texts, "document")
    alone = np.concatenate([embedder.embed([text]) for text in question_texts])
    return {
        "n": len(question_texts),
        "passages": passages,
        "seed": seed,
        "embedder": embedder.name,
        "cosine_questions": cosines(our_questions, questions),
        "cosine_passages": cosines(our_passages, passage_rows),
        "cosine_alone_and_in_batch": cosines(alone, our_questions),
        "rank_questions": agreement(
            nearest(our_questions, our_questions, same=True),
            nearest(questions, questions, same=True),
        ),
        "rank_passages": agreement(
            nearest(our_questions, our_passages), nearest(questions, passage_rows)
        ),
        "load_cpu_seconds": load_cpu,
        **timed(embedder, question_texts, passage_texts[:256]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "versions": {
            name: version(name) for name in ("costwise-models", "onnxruntime", "tokenizers")
        }
        | {"python": platform.python_version(), "machine": platform.machine()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/vec"))
    parser.add_argument("--passages", type=int, default=2000, help="how many to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    if not (arguments.data / "questions.f16.npy").is_file():
        print(f"skipped: no float vectors in {arguments.data}; give their folder with --data")
        return
    result = measure(arguments.data, arguments.passages, arguments.seed)
    for name, value in result.items():
        shown = value if isinstance(value, dict) else {"": value}
        cells = (
            f"{key} {number:.5g}".strip()
            if isinstance(number, float)
            else f"{key} {number}".strip()
            for key, number in shown.items()
        )
        print(f"{name:<26} {'   '.join(cells)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
