"""What stands around every compressor: counting, failing open, notes in metadata, tool texts."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Compressed, Passage
from costwise_core.compress.provenance import TOLD, Told, read_told, write_told
from costwise_core.compress.tool_text import asked_for, shorten_texts
from costwise_core.compress.watched import Watched
from costwise_core.drive import run
from costwise_core.errors import ConfigError, UnknownModelError
from tests.compressing import Broken, Sentences


class Nothing:
    """Leaves everything as it is."""

    def compress(self, question, passages):
        return Compressed.unchanged(passages, tokens=1, reason="short")


class All:
    """Says it compressed and keeps every text."""

    def compress(self, question, passages):
        return Compressed(
            passages=tuple(passages),
            given=tuple(passages),
            tokens_before=2,
            tokens_after=1,
            reason="compressed",
        )


def test_counts_add_up_over_threads():
    watched = Watched(All())
    threads = [
        threading.Thread(target=lambda: [watched.compress("a", ()) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = watched.stats
    assert (stats.calls["compressed"], stats.tokens_saved, stats.share_kept) == (200, 200, 0.5)
    assert Watched(All()).stats.share_kept == 1.0


@pytest.mark.parametrize("error", [ConfigError("no folder"), UnknownModelError("no price")])
def test_what_fails_every_time_is_raised(error):
    with pytest.raises(type(error)):
        Watched(Broken(error)).compress("a", ())


@given(
    st.text(),
    st.none() | st.floats(allow_nan=True, allow_infinity=True),
    st.none() | st.text(),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)).map(sorted).map(tuple)),
)
def test_notes_survive_json(why, score, original, spans):
    passage = Passage(text="x", why=why, score=score, original=original, spans=tuple(spans))
    told = read_told(json.loads(json.dumps({TOLD: write_told(passage)}, allow_nan=False)))
    finite = score is not None and abs(score) < float("inf")
    assert told == Told(
        why=why,
        score=score if finite else None,
        original=original,
        spans=tuple(spans) if original is not None else (),
    )


@given(st.lists(st.text()), st.lists(st.text()), st.booleans())
def test_tool_texts_come_back_where_nothing_is_cut(texts, documents, json_too):
    for compressor in (Nothing(), All()):
        found, _ = run(
            shorten_texts(Watched(compressor), "a", texts, documents=documents, json_too=json_too)
        )
        assert found == texts


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, unique=True), st.data())
def test_documents_go_with_what_stands_before_them(documents, data):
    keep = data.draw(st.sets(st.integers(0, len(documents) - 1), min_size=1))

    class Keeps:
        def compress(self, question, passages):
            kept = tuple(p for n, p in enumerate(passages) if n in keep)
            return Compressed(
                passages=kept,
                given=tuple(passages),
                tokens_before=2,
                tokens_after=1,
                reason="compressed",
            )

    text = "".join(f"\n\n<{n}>\n{document}" for n, document in enumerate(documents))
    [found], result = run(shorten_texts(Watched(Keeps()), "a", [text], documents=documents))
    if len(result.given) == len(documents):  # a document that stands in another is not found
        assert (
            found.strip()
            == ("".join(f"\n\n<{n}>\n{d}" for n, d in enumerate(documents) if n in keep)).strip()
        )


@pytest.mark.parametrize("text", ['{"a": "Notice. Yes."}', ' [1, "Notice. Yes."]', "[]"])
def test_json_is_left_whole(text):
    [found], _ = run(shorten_texts(Watched(Sentences()), "Any notice?", [text]))
    assert found == text


@pytest.mark.parametrize("text", ["[1] Notice. Yes.", "{notice. yes.", "[" * 100_000])
def test_what_only_looks_like_json_is_text(text):
    sentences = Sentences()
    run(shorten_texts(Watched(sentences), "Any notice?", [text]))
    assert [passage.text for passage in sentences.given[0][1]] == [text]


def test_what_a_tool_was_called_for():
    assert asked_for("", []) == ""
    assert asked_for(" a ", ["a", "", 3, None, "b"]) == "a\nb"
