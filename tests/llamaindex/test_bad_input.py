"""Whatever is asked and whatever the cache does, the user's call is answered."""

import json
import math
import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import PromptTemplate, VectorStoreIndex
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import TextNode

from costwise_core import Cache, MemoryStore, SQLiteStore
from llamaindex_costwise import CachedLLM, CachedQueryEngine, LlamaIndexEmbedder
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding

ASKED = "What is the moon?"
QA = PromptTemplate("Context: {context_str}\n{query_str}")

QUESTIONS = {
    "empty": "",
    "spaces": " \n\t ",
    "huge": "why? " * 200_000,
    "null": "a\x00b",
    "one lone surrogate": "what is \ud800 here?",
    "braces": "{query_str} {0} {",
    "emoji": "🌒" * 300,
    "marker": "\ue000question\ue000",
}


async def everything(llm, question):
    """Ask in every way that does not need a valid ChatMessage; return how many answers came."""
    answers = [
        llm.complete(question).text,
        (await llm.acomplete(question)).text,
        "".join(piece.delta for piece in llm.stream_complete(question)),
        "".join([piece.delta async for piece in await llm.astream_complete(question)]),
    ]
    return sum(bool(answer) for answer in answers)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "sqlite"])
async def test_any_question_is_answered(tmp_path, cache, question, on_disk):
    store = SQLiteStore(tmp_path / "cache.db") if on_disk else MemoryStore()
    llm = CachedLLM(llm=ScriptedLLM(is_chat=False), cache=Cache(store, embedder=cache.embedder))
    assert await everything(llm, question) == 4
    assert llm.predict(QA, query_str=question, context_str="x")
    assert "".join(llm.stream(QA, query_str=question, context_str=question))
    if "\ud800" not in question:  # pydantic refuses those in a message, with or without a cache
        assert llm.chat([ChatMessage(content=question)]).message.content
        assert llm.chat([]).message.content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(alphabet=st.characters()), st.text(alphabet=st.characters()))
def test_any_question_and_context(question, context):
    inner = ScriptedLLM(is_chat=False)
    llm = CachedLLM(llm=inner, cache=Cache(MemoryStore()))
    plain = ScriptedLLM(is_chat=False).predict(QA, query_str=question, context_str=context)
    assert llm.predict(QA, query_str=question, context_str=context) == plain
    assert llm.predict(QA, query_str=question, context_str=context) == plain
    assert inner.calls == 1


# --- a cache that fails --------------------------------------------------------------------------


class FailingStore:
    def get(self, key, scope):
        raise OSError("gone")

    def search(self, vector, k, scope, embedder):
        raise OSError("gone")

    def put(self, entries):
        raise OSError("disk full")

    def delete(self, selection):
        raise OSError("gone")


class HalfFailingStore(FailingStore):
    def get(self, key, scope):
        return None


class NaNEmbedding(WordEmbedding):
    def _vector(self, text):
        return [math.nan] * self.dim


class DeadEmbedding(WordEmbedding):
    def _vector(self, text):
        raise ConnectionError("embedding service is down")


class Shrinking(WordEmbedding):
    """Returns another number of dimensions with every call."""

    def _vector(self, text):
        return [1.0] * (2 + len(self._queries))


class BadPolicy:
    def choose(self, question, neighbours):
        raise ZeroDivisionError


BROKEN = {
    "store": lambda: Cache(FailingStore()),
    "search": lambda: Cache(HalfFailingStore(), embedder=LlamaIndexEmbedder(WordEmbedding())),
    "nan": lambda: Cache(MemoryStore(), embedder=LlamaIndexEmbedder(NaNEmbedding())),
    "dead": lambda: Cache(MemoryStore(), embedder=LlamaIndexEmbedder(DeadEmbedding())),
    "shrinking": lambda: Cache(MemoryStore(), embedder=LlamaIndexEmbedder(Shrinking())),
    "policy": lambda: Cache(
        MemoryStore(), embedder=LlamaIndexEmbedder(WordEmbedding()), policy=BadPolicy()
    ),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
async def test_a_broken_cache_is_counted_and_passed_over(make):
    cache = make()
    llm = CachedLLM(llm=ScriptedLLM(), cache=cache)
    for question in (ASKED, "What is the sun?"):
        assert await everything(llm, question) == 4
        assert llm.chat([ChatMessage(content=question)]).message.content
        assert "".join([p.delta async for p in await llm.astream_chat([ChatMessage(question)])])
        assert await llm.apredict(QA, query_str=question, context_str="x")
    index = VectorStoreIndex([TextNode(text="Round.")], embed_model=WordEmbedding())
    for streaming in (False, True):
        plain = index.as_query_engine(llm=ScriptedLLM(), streaming=streaming)
        engine = CachedQueryEngine(plain, cache=cache, corpus="v1")
        assert str(engine.query(ASKED))
        response = await engine.aquery(ASKED)
        text = await response.get_response() if streaming else response
        assert str(text)
    assert sum(cache.stats.errors.values()) > 0


def test_a_file_that_is_no_cache_is_passed_over_and_left_alone(tmp_path):
    path = tmp_path / "thesis.db"
    path.write_bytes(b"ten years of work" * 1000)
    cache = Cache(SQLiteStore(path))
    llm = CachedLLM(llm=ScriptedLLM(), cache=cache)
    assert llm.complete(ASKED).text == llm.complete(ASKED).text
    assert sum(cache.stats.errors.values()) > 0
    assert path.read_bytes() == b"ten years of work" * 1000


def test_a_model_whose_settings_cannot_be_told_apart_passes_by(cache):
    class Odd(ScriptedLLM):
        strange: object = None

    for inner in (Odd(strange=object()), Odd(strange=object())):
        llm = CachedLLM(llm=inner, cache=cache)
        assert llm.complete(ASKED).text == llm.complete(ASKED).text
        assert inner.calls == 2
    assert dict(cache.stats.misses) == {"unstable_model": 4}


def test_metadata_that_fails_is_passed_over(cache):
    class Odd(ScriptedLLM):
        @property
        def metadata(self):
            raise RuntimeError

    llm = CachedLLM(llm=Odd(), cache=cache)
    with pytest.raises(RuntimeError):  # the wrapped model's own call needs it
        llm.complete(ASKED)
    assert cache.stats.misses == {"unreadable": 1}


# --- a stored answer that is damaged or hostile --------------------------------------------------

DAMAGE = {
    "no json": lambda answer: answer[: len(answer) // 2],
    "empty object": lambda _: "{}",
    "a list": lambda _: "[]",
    "another version": lambda answer: answer.replace('"v": 1', '"v": 99'),
    "deep": lambda _: "[" * 100_000,
    "huge": lambda answer: answer[:-1] + " " * 1_100_000 + "}",
    "wrong types": lambda _: '{"v": 1, "text": 3}',
    "wrong types too": lambda _: '{"v": 1, "role": "assistant", "blocks": 3, "extras": []}',
    "unknown role": lambda _: '{"v": 1, "role": "root", "blocks": [], "extras": {}}',
    "unknown block": lambda _: json.dumps(
        {"v": 1, "role": "assistant", "blocks": [{"block_type": "code"}], "extras": {}}
    ),
    "image with a path": lambda _: json.dumps(
        {
            "v": 1,
            "role": "assistant",
            "blocks": [{"block_type": "image", "path": "/etc/hostname"}],
            "extras": {},
        }
    ),
    "cited image": lambda _: json.dumps(
        {
            "v": 1,
            "role": "assistant",
            "blocks": [
                {
                    "block_type": "citation",
                    "cited_content": {"block_type": "image", "url": "http://localhost/x"},
                    "source": "s",
                    "title": "t",
                    "additional_location_info": {},
                }
            ],
            "extras": {},
        }
    ),
    "image node": lambda _: json.dumps(
        {
            "v": 1,
            "response": "x",
            "streamed": False,
            "metadata": None,
            "sources": [
                {
                    "node": {
                        "__data__": {"class_name": "ImageNode", "image_path": "/etc/hostname"},
                        "__type__": "2",
                    },
                    "score": 1.0,
                }
            ],
        }
    ),
}


def damage(path, change):
    with sqlite3.connect(path) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            if "answer" not in columns:
                continue
            for rowid, answer in connection.execute(
                f"SELECT rowid, answer FROM {table}"
            ).fetchall():
                text = answer if isinstance(answer, str) else answer.decode()
                new = change(text) if isinstance(answer, str) else change(text).encode()
                connection.execute(f"UPDATE {table} SET answer = ? WHERE rowid = ?", (new, rowid))
    connection.close()


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
async def test_damaged_rows_are_counted_misses_and_written_again(tmp_path, change):
    path = tmp_path / "cache.db"
    inner = ScriptedLLM()
    index = VectorStoreIndex([TextNode(text="Round.")], embed_model=WordEmbedding())

    def ask(cache):
        llm = CachedLLM(llm=inner, cache=cache)
        engine = CachedQueryEngine(index.as_query_engine(llm=inner), cache=cache, corpus="v1")
        answers = [llm.complete(ASKED).text, llm.chat([ChatMessage(ASKED)]).message.content]
        return [*answers, str(engine.query(ASKED))]

    store = SQLiteStore(path)
    first = ask(Cache(store))
    store.close()
    damage(path, change)
    store = SQLiteStore(path)
    cache = Cache(store)
    assert ask(cache) == first
    assert inner.calls == 6
    assert cache.stats.misses["damaged"] + cache.stats.misses.get("store_error", 0) == 3
    assert ask(cache) == first
    assert inner.calls == 6
    store.close()


def test_answers_of_one_kind_are_not_served_as_another(cache):
    inner = ScriptedLLM()
    llm = CachedLLM(llm=inner, cache=cache)
    llm.complete(ASKED)
    llm.chat([ChatMessage(ASKED)])
    assert inner.calls == 2
