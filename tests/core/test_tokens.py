"""Token counts: exact from local files, marked estimates otherwise, and never a download."""

import hashlib
import os
import shutil
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.tokens import _TOKENIZERS, Tokens, _llama_index_folder, count_tokens

FILES = _llama_index_folder()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)


@pytest.fixture(scope="module")
def reference():
    """Tiktoken itself, reading the same files."""
    import tiktoken

    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(FILES)
    try:
        yield {name: tiktoken.get_encoding(name) for name in _TOKENIZERS}
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


MODELS = {"o200k_base": "gpt-4o", "cl100k_base": "gpt-4"}


def test_llama_index_brings_the_files_and_is_not_imported_to_find_them():
    import subprocess
    import sys

    script = (
        "import sys; from costwise_core.tokens import count_tokens; "
        "c = count_tokens('hello world', 'gpt-4o'); "
        "assert (c.tokens, c.estimated) == (2, False), c; "
        "assert 'llama_index.core' not in sys.modules and 'requests' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None)
@given(text=st.text(max_size=300))
def test_counts_are_those_of_tiktoken(name, reference, text):
    count = count_tokens(text, MODELS[name])
    assert not count.estimated
    assert count.how == name
    assert count.tokens == len(reference[name].encode_ordinary(text))


@pytest.mark.parametrize("name", MODELS)
def test_a_long_text_is_cut_between_words_without_changing_the_count(name, reference):
    text = "It's 2026: naïve café-goers wrote x_1 += 42;\n\n  «Größe» 你好 мир! " * 6_000
    assert len(text) > 300_000
    assert count_tokens(text, MODELS[name]).tokens == len(reference[name].encode_ordinary(text))
    assert not count_tokens(text, MODELS[name]).estimated


@pytest.mark.parametrize("char", ["a", " ", "^", "\n", "中", "5"])
def test_a_million_equal_characters_neither_crash_nor_take_for_ever(char):
    # In one piece, a million blanks crash tiktoken with an error that is no Exception.
    count = count_tokens(char * 1_000_000, "gpt-4o")
    assert count.tokens > 1_000
    assert count.estimated, "cuts inside a run may change the count, so it is marked"


def test_special_tokens_and_broken_unicode_are_plain_text():
    assert count_tokens("<|endoftext|>", "gpt-4o").tokens > 1
    assert count_tokens("a\ud800b", "gpt-4o").tokens >= 2
    assert count_tokens("a\ud800b", "claude-haiku-4-5").tokens >= 1


@pytest.mark.parametrize(
    ("model", "how"),
    [
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("openai:gpt-4.1", "o200k_base"),
        ("openai/gpt-5.1", "o200k_base"),
        ("azure/gpt-4o", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("ft:gpt-4o-mini:acme::1", "o200k_base"),
        ("GPT-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("claude-sonnet-4-5", "by script"),
        ("llama3:8b", "by script"),
        ("", "by script"),
        ("opus", "by script"),
    ],
)
def test_each_model_has_its_tokenizer_or_says_that_it_has_none(model, how):
    assert count_tokens("Hello there", model).how == how


def test_files_are_found_in_a_named_folder_then_in_the_environment_then_in_llama_index(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("costwise_core.tokens._llama_index_folder", lambda: None)
    nowhere = Tokens().count("Hello there", "gpt-4o")
    assert nowhere.estimated
    assert "no o200k_base file" in nowhere.how
    o200k = _TOKENIZERS["o200k_base"].file
    for folder in (tmp_path / "named", tmp_path / "environment"):
        folder.mkdir()
        shutil.copy(FILES / o200k, folder / o200k)
    assert not Tokens(tmp_path / "named").count("Hello there", "gpt-4o").estimated
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "environment"))
    assert not Tokens().count("Hello there", "gpt-4o").estimated
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(tmp_path / "environment")


def test_a_damaged_file_is_left_alone_and_the_next_folder_is_asked(tmp_path, monkeypatch):
    damaged = tmp_path / _TOKENIZERS["o200k_base"].file
    damaged.write_bytes(b"aGVsbG8= 0\n")
    assert Tokens(tmp_path).count("Hello there", "gpt-4o").how == "o200k_base"
    monkeypatch.setattr("costwise_core.tokens._llama_index_folder", lambda: None)
    assert Tokens(tmp_path).count("Hello there", "gpt-4o").estimated
    assert damaged.read_bytes() == b"aGVsbG8= 0\n", "tiktoken would have deleted it"


def test_file_names_are_those_of_tiktokens_cache():
    for name, tokenizer in _TOKENIZERS.items():
        url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
        assert tokenizer.file == hashlib.sha1(url.encode()).hexdigest()


ENGLISH = "The treaty was signed in 1648 and ended thirty years of war in central Europe. "
CHINESE = "该条约于一六四八年签署，结束了中欧三十年的战争。"
RUSSIAN = "Договор был подписан в 1648 году и положил конец тридцатилетней войне в Европе. "


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, RUSSIAN])
def test_an_estimate_knows_the_script(text):
    exact = count_tokens(text * 20, "gpt-4").tokens
    assert 0.6 <= count_tokens(text * 20, "some-model").tokens / exact <= 1.6


def test_an_estimate_learns_from_reports_per_model():
    tokens = Tokens()
    text = ENGLISH * 20
    before = tokens.count(text, "claude-haiku-4-5")
    for _ in range(20):
        tokens.calibrate("anthropic:claude-haiku-4-5", text, round(before.tokens * 1.3))
    after = tokens.count(text, "claude-haiku-4-5")
    assert after.estimated
    assert after.tokens == pytest.approx(before.tokens * 1.3, rel=0.01)
    assert "20 reports" in after.how
    assert tokens.count(text, "mistral-large").tokens == before.tokens


def test_one_absurd_report_is_bounded_and_short_texts_teach_nothing():
    tokens = Tokens()
    text = ENGLISH * 20
    before = tokens.count(text, "m").tokens
    tokens.calibrate("m", "Hi", 400)
    tokens.calibrate("m", text, 0)
    assert tokens.count(text, "m").tokens == before
    tokens.calibrate("m", text, 10**9)
    assert tokens.count(text, "m").tokens <= 4 * before + 4


@settings(deadline=None)
@given(reports=st.lists(st.integers(0, 10**12), max_size=30))
def test_the_correction_stays_within_its_bounds(reports):
    tokens = Tokens()
    text = ENGLISH * 5
    before = tokens.count(text, "m").tokens
    for reported in reports:
        tokens.calibrate("m", text, reported)
    assert before / 4 - 4 <= tokens.count(text, "m").tokens <= before * 4 + 4


def test_threads_may_calibrate_and_count_at_once():
    tokens = Tokens()
    text = ENGLISH * 10

    def work():
        for _ in range(200):
            tokens.calibrate("m", text, 300)
            tokens.count(text, "m")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "800 reports" in tokens.count(text, "m").how


def test_an_empty_text_has_no_tokens_and_any_other_has_at_least_one():
    assert count_tokens("", "m").tokens == 0
    assert count_tokens("a", "m").tokens == 1


def test_a_folder_that_is_not_there_is_no_error_and_the_count_is_marked():
    assert Tokens(Path("/nonexistent/folder")).count("some words", "unknown-model").estimated
