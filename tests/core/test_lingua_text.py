"""What LLMLingua must not touch, and cutting words out: the parts that need no model."""

import importlib.util
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import LLMLinguaCompressor
from costwise_core.compress.lingua_protect import merged, overlapping, protected_spans, trimmed
from costwise_core.compress.lingua_words import kept_words
from costwise_core.errors import ConfigError, MissingExtraError

LETTERS = "aB1é½東 .,'-\t\n[]`|\"ﬁ"


def cut(text, spans):
    return [text[start:end].strip() for start, end in spans]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("It cost $150,782 in 2019.", ["$150,782", "2019"]),
        ("Call v1.2.3 of HB-2219/04, 3.5% off", ["v1.2.3", "HB-2219/04", "3.5%"]),
        ("在1998年的时候", ["1998"]),
        ("as shown [3, 4] and [^2] and 【4†source】", ["[3, 4]", "[^2]", "【4†source】"]),
        ("see https://a.example/b?c=d. Then", ["https://a.example/b?c=d"]),
        ("use `x = y` in max_tokens", ["`x = y`", "max_tokens"]),
        ('he said "no, never" and „nie wieder“', ['"no, never"', "„nie wieder“"]),
        ("a\n| b | c |\n| d | e |\nf", ["| b | c |\n| d | e |"]),
        ("a\n```py\nx\n\ny\n```\nb", ["```py\nx\n\ny\n```"]),
        ("a ``` never closed\nb", ["``` never closed\nb"]),
        ("write to anna@example.org today", ["anna@example.org"]),
        ("plain words (in brackets), no more", []),
    ],
)
def test_what_is_protected(text, wanted):
    assert cut(text, protected_spans(text)) == wanted


def test_nothing_is_protected_where_nobody_asks():
    assert protected_spans("1 2 3", None) == []
    assert cut("a b", protected_spans("a b", re.compile("b"))) == ["b"]


@pytest.mark.parametrize("unit", ["a", "$", "a_", "|", "```", '"', "[", "「", "a@", "1", ".", "`"])
def test_hostile_texts_do_not_take_for_ever(unit):
    text = unit * (200_000 // len(unit))
    for _ in range(2):
        spans = protected_spans(text)
    assert all(0 <= start < end <= len(text) for start, end in spans)


@given(st.text(LETTERS, max_size=60))
def test_protected_spans_are_in_order_and_inside(text):
    spans = protected_spans(text)
    assert spans == list(merged(spans))
    assert all(0 <= start < end <= len(text) for start, end in spans)


@given(st.text(LETTERS, max_size=40), st.data())
def test_trimming_takes_blanks_at_the_ends_only(text, data):
    marks = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    spans = list(zip(marks[::2], marks[1::2], strict=False))
    whole = "".join(text[start:end] for start, end in spans)
    left = list(trimmed(spans, text))
    assert "".join(text[start:end] for start, end in left) == whole.strip()
    assert all(start < end for start, end in left)


@given(st.text(LETTERS, max_size=60), st.data())
def test_words_go_and_nothing_else(text, data):
    words = re.findall(r"\w+|[^\w\s]", text.casefold())
    chosen = [(word, data.draw(st.booleans())) for word in words]
    spans = kept_words(chosen, text)
    assert spans == sorted(spans)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert kept_words([(word, True) for word in words], text) == ([(0, len(text))] if text else [])
    guarded = protected_spans(text)
    stays = kept_words([(word, False) for word in words], text, guarded)
    for start, end in guarded:
        piece = "".join(
            text[max(a, start) : min(b, end)] for a, b in stays if a < end and b > start
        )
        assert piece.strip() == text[start:end].strip()


def test_no_two_words_grow_together():
    text = "a well-known, old don't in years [3] and so on"
    words = "a well - known , old don ' t in years [ 3 ] and so on".split()
    keep = {"a", "well", "don", "t", "years", "3", "on"}
    spans = kept_words([(word, word in keep) for word in words], text)
    assert "".join(text[start:end] for start, end in spans) == "a well don't years 3 on"


def test_overlapping_by_hand():
    assert overlapping([(0, 2), (2, 4), (6, 9)], [(1, 3), (9, 10)]) == {0, 1}
    assert overlapping([], [(0, 1)]) == set()


# --- the door -----------------------------------------------------------------------------------


@pytest.fixture
def _installed(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: object() if name in {"llmlingua", "torch"} else found(name, *rest),
    )


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "llmlingua-2"}, "Did you mean 'llmlingua2'"),
        ({"share": 1}, "share must be above 0 and below 1"),
        ({"share": float("nan")}, "share must be"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"timeout": 0}, "timeout must be above 0"),
        ({"min_saving": -0.1}, "min_saving must be"),
    ],
)
def test_a_wrong_setting_is_refused_at_the_door(options, message):
    with pytest.raises(ConfigError, match=message):
        LLMLinguaCompressor("a/model", **options)


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("model", ["./nowhere", "a b", "nowhere.gguf", ("model",)])
def test_a_model_that_cannot_be_is_refused_at_the_door(model):
    with pytest.raises(ConfigError, match="model"):
        LLMLinguaCompressor(model)


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(MissingExtraError, match=r"costwise-core\[llmlingua\]"):
        LLMLinguaCompressor("a/model")
