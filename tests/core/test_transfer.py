"""Answers in and out: every text survives, damage is told of, and nobody's answers mix."""

import json
import tracemalloc
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Cache, FixedThreshold, MemoryStore, Scope, SQLiteStore, Usage
from costwise_core.cache.finetuning import export_finetuning
from costwise_core.cache.key import question_key
from costwise_core.cache.lines import MAX_LINE_BYTES, line_of, parsed
from costwise_core.cache.popular import popular
from costwise_core.cache.retention import Retained, aretain, retain
from costwise_core.cache.transfer import awarm, export_jsonl, import_jsonl, warm
from costwise_core.embed.onnx import OnnxEmbedder
from costwise_core.errors import ConfigError, StoreUnavailableError
from costwise_core.testing.fakes import FakeClock, HashingEmbedder
from costwise_core.testing.stores import TEXTS, make_entry
from costwise_core.types import Entry, Selection

GOOD = {"question": "What is RAG?", "answer": "A method.", "scope": {"tenant": "acme"}}


def same_but_vector(one: Entry, other: Entry) -> bool:
    left_out = ("vector", "embedder")
    return all(
        getattr(one, field.name) == getattr(other, field.name)
        for field in fields(Entry)
        if field.name not in left_out
    )


def asked(question: str, scope: Scope, **values) -> Entry:
    """An entry as a cache stores it."""
    return make_entry(
        key=question_key(question),
        scope=scope.key,
        tenant=scope.tenant,
        question=question,
        **values,
    )


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# --- round trips ----------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec=None) | st.sampled_from('\x00\ud800\udfff\u2028\n"\\é的🙂'))


def joined(text: str) -> str:
    """Two halves of a character side by side are that character: JSON knows no difference."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


ENTRIES = st.builds(
    Entry,
    key=TEXT.filter(bool).map(joined),
    scope=TEXT.filter(bool).map(joined),
    question=TEXT.filter(bool).map(joined),
    answer=TEXT.filter(bool).map(joined),
    text=TEXT.map(joined),
    group=TEXT.map(joined),
    tenant=TEXT.map(joined),
    model=TEXT.map(joined),
    corpus=TEXT.map(joined),
    tags=st.lists(TEXT.map(joined), max_size=3).map(tuple),
    documents=st.lists(st.tuples(TEXT.map(joined), TEXT.map(joined)), max_size=3).map(tuple),
    usage=st.builds(Usage, input_tokens=st.integers(0, 2**53), estimated=st.booleans()),
    created=st.floats(-1e12, 1e12),
    expires=st.none() | st.floats(-1e12, 1e12),
    worth=st.floats(0, 1e12),
    uses=st.integers(0, 2**53),
)


@given(ENTRIES)
def test_a_line_says_everything(entry):
    raw = json.dumps(line_of(entry)).encode()
    again, near = parsed(raw, created=-1.0)
    assert again == entry
    assert near is False
    near_too = replace(entry, vector=make_entry().vector, embedder="e")
    assert parsed(json.dumps(line_of(near_too)).encode(), created=-1.0)[1] is True


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*GOOD, "tags", "usage", "documents", "near", "x"]), inner),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_line_is_worse_than_damaged(line):
    try:
        entry, near = parsed(line, created=1.0)
    except ValueError as error:
        assert str(error)  # noqa: PT017
    else:
        assert isinstance(entry, Entry)
        assert isinstance(near, bool)


def test_from_one_file_to_another(tmp_path):
    clock = FakeClock()
    entries = [
        make_entry(
            number,
            question=text,
            answer=text,
            text=text,
            tags=(text, "b"),
            documents=((text, "v1"), ("", "")),
            tenant=text,
            group=text,
            usage=Usage(input_tokens=7, reasoning_tokens=2, estimated=True),
            expires=clock.now + 60.5,
            worth=0.001234567890123,
            uses=3,
            vector=None,
        )
        for number, text in enumerate(TEXTS)
    ]
    path = tmp_path / "answers.jsonl"
    with (
        SQLiteStore(tmp_path / "a.db", clock=clock) as old,
        SQLiteStore(tmp_path / "b.db", clock=clock) as new,
    ):
        old.put(entries)
        assert export_jsonl(old, path) == len(TEXTS)
        assert path.stat().st_mode & 0o777 == 0o600
        assert import_jsonl(new, path, clock=clock).stored == len(TEXTS)
        found = list(new.entries(Selection()))
        assert len(found) == len(entries)
        for entry, again in zip(entries, found, strict=True):
            assert same_but_vector(entry, again)
        # once more: nothing changes, and a newer answer is not overwritten
        new.put([replace(entries[0], answer="newer", created=clock.now + 1)])
        again = import_jsonl(new, path, clock=clock)
        assert (again.stored, again.known) == (0, len(TEXTS))
        assert new.get(entries[0].key, entries[0].scope).answer == "newer"
        clock.advance(61)
        assert import_jsonl(new, path, clock=clock).expired == len(TEXTS)


def test_only_the_selected_are_written(tmp_path):
    store, path = MemoryStore(), tmp_path / "a.jsonl"
    store.put([make_entry(1, tenant="a"), make_entry(2, tenant="b")])
    assert export_jsonl(store, path, selection=Selection(tenant="b")) == 1
    assert [line["tenant"] for line in lines(path)] == ["b"]


def test_a_failed_export_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreUnavailableError):
        export_jsonl(SQLiteStore(tmp_path / "folder"), path)
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "folder"]


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not JSON: "),
        (b'{"question": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"worth": ' + b"9" * 5_000 + b"}", "too many digits"),
        (b"[]", "a line is a JSON object, got a list"),
        ({"qestion": "x"}, "unknown field 'qestion'. Did you mean 'question'?"),
        ({"question": ""}, "question must be a text that is not empty, got nothing"),
        ({"answer": 7}, "answer must be a text that is not empty, got a number"),
        ({"scope": None}, "scope must be a text that is not empty, got nothing"),
        ({"scope": {"tennant": "a"}}, "unknown field 'tennant' in scope. Did you mean 'tenant'?"),
        ({"tenant": "evil"}, "tenant is one thing in the scope and another beside it"),
        ({"near": 1}, "near is true or false"),
        ({"tags": "x"}, "tags must be a list of texts"),
        ({"documents": [["a"]]}, "documents must be a list of pairs"),
        ({"usage": {"input_tokns": 1}}, "Did you mean 'input_tokens'?"),
        ({"usage": {"input_tokens": -1}}, "input_tokens must be a whole number, 0 or more"),
        ({"usage": {"estimated": 1}}, "estimated is true or false"),
        ({"uses": True}, "uses must be a whole number, 0 or more"),
        ({"created": "now"}, "created must be a finite number, got a text"),
        ({"expires": float("nan")}, "expires must be a finite number, got a number"),
        ({"created": 10**400}, "created must be a finite number"),
        ({"worth": -0.5}, "worth is in dollars, 0 or more"),
    ],
)
def test_damage_is_told_of_and_the_others_go_on(tmp_path, line, why):
    raw = line if isinstance(line, bytes) else json.dumps(GOOD | line).encode()
    path, store = tmp_path / "a.jsonl", MemoryStore()
    path.write_bytes(b"\n" + raw + b"\r\n\xef\xbb\xbf" + json.dumps(GOOD).encode())
    done = import_jsonl(store, path)
    assert (done.stored, done.damaged) == (1, 1)
    assert done.damage[0].line == 2
    assert why in done.damage[0].why
    assert Cache(store).lookup("what is RAG?", Scope(tenant="acme")).answer == "A method."


def test_lines_and_entries_without_measure(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"question": "' + b"x" * (2 * MAX_LINE_BYTES) + b'"}\n')
        file.write(json.dumps(GOOD | {"answer": "x" * 9_000_000}).encode() + b"\n")
        file.write(json.dumps(GOOD).encode() + b"\n")
        file.write(b"x" * (MAX_LINE_BYTES + 1))
    store = MemoryStore()
    done = import_jsonl(store, path)
    assert (done.stored, done.known, done.damaged) == (1, 1, 2)
    assert [one.line for one in done.damage] == [1, 4]
    path.write_bytes(
        json.dumps(GOOD | {"question": "Huge?", "answer": "x" * 9_000_000}).encode()
        + b"\n"
        + json.dumps(GOOD | {"question": "Small?"}).encode()
    )
    done = import_jsonl(store, path)
    assert (done.stored, done.damage[0].line) == (1, 1)
    assert "this store accepts" in done.damage[0].why


def test_a_store_that_is_gone_is_no_damage(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD))
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreUnavailableError):
        import_jsonl(SQLiteStore(tmp_path / "folder"), path)


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        for number in range(5_000):
            row = GOOD | {"question": f"q {number}", "answer": "x" * 2_000, "created": 1.0}
            file.write(json.dumps(row).encode() + b"\n")
    with SQLiteStore(tmp_path / "a.db") as store:
        tracemalloc.start()
        assert import_jsonl(store, path).stored == 5_000
        assert import_jsonl(store, path).known == 5_000
        assert export_jsonl(store, tmp_path / "b.jsonl") == 5_000
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < path.stat().st_size / 2


# --- embedding again ------------------------------------------------------------------------------


def test_questions_are_embedded_again_as_a_cache_would(tmp_path):
    embedder, scope = OnnxEmbedder(), Scope(tenant="acme")
    old, new, path = MemoryStore(), MemoryStore(), tmp_path / "a.jsonl"
    Cache(old, embedder=HashingEmbedder()).store("How do I reset my password?", scope, "Press it.")
    export_jsonl(old, path)
    assert "vector" not in lines(path)[0]
    assert import_jsonl(new, path).stored == 1
    assert next(new.entries(Selection())).vector is None
    assert import_jsonl(new, path, embedder=embedder).stored == 1  # gains its vector
    assert import_jsonl(new, path, embedder=embedder).known == 1
    assert import_jsonl(new, path).known == 1  # and keeps it
    cache = Cache(new, embedder=embedder, policy=FixedThreshold(min_cosine=0.8))
    hit = cache.lookup("How can I reset my password?", scope)
    assert (hit.tier, hit.answer) == ("near", "Press it.")


def test_what_was_looked_up_in_other_words_never_serves_similar_questions(tmp_path):
    scope, path, new = Scope(tenant="acme"), tmp_path / "a.jsonl", MemoryStore()
    old = MemoryStore()
    follow_up = asked("And in Spain?", scope, answer="21 %")
    old.put(
        [
            replace(follow_up, key=question_key("What is the VAT rate in Spain?")),
            asked("Who is exact only?", scope, answer="I am.", vector=None),
        ]
    )
    export_jsonl(old, path)
    embedder = HashingEmbedder()
    assert import_jsonl(new, path, embedder=embedder).stored == 2
    cache = Cache(new, embedder=embedder, policy=FixedThreshold(min_cosine=0.5))
    assert not cache.lookup("And in Spain?", scope)
    assert cache.lookup("What is the VAT rate in Spain?", scope).answer == "21 %"
    assert cache.lookup("Who is exact only?", scope).tier == "exact"
    assert not cache.lookup("Who is only exact?", scope)


# --- warming --------------------------------------------------------------------------------------

FAQ = [
    {"question": "What is RAG?", "answer": "A method.", "documents": [("d", "v1")], "worth": 0.1},
    {"question": "Cancel my order 4711.", "answer": "Done."},
    {"question": "What does it cost?", "anser": "7 dollars"},
    {"question": "Where are you?", "answer": "In Bonn.", "tags": ["contact"]},
]


@pytest.mark.parametrize("how", ["list", "file", "async"])
async def test_warming(tmp_path, how):
    cache, scope = Cache(MemoryStore(), embedder=HashingEmbedder()), Scope(tenant="acme")
    seen = []
    if how == "async":
        done = await awarm(cache, iter(FAQ), scope, progress=seen.append)
    elif how == "file":
        path = tmp_path / "faq.jsonl"
        path.write_text("\n".join(map(json.dumps, FAQ)))
        done = warm(cache, path, scope, progress=seen.append)
    else:
        done = warm(cache, FAQ, scope, progress=seen.append)
    assert (done.stored, done.refused, done.damaged) == (2, 1, 1)
    assert (done.damage[0].line, seen) == (3, [4])
    assert "Did you mean 'answer'?" in done.damage[0].why
    assert cache.stats.not_stored == {"action": 1}
    assert cache.lookup("what is RAG?", scope).answer == "A method."
    assert not cache.lookup("What is RAG?", Scope(tenant="other"))
    assert all(entry.vector is not None for entry in cache.backend.entries(Selection()))
    assert cache.clear(Selection(tag="contact")) == 1
    assert cache.invalidate({"d": "v2"}) == 1


def test_progress_comes_with_every_batch():
    seen = []
    rows = ({"question": f"Question {n}?", "answer": "Yes."} for n in range(600))
    assert warm(Cache(MemoryStore()), rows, Scope(), progress=seen.append).stored == 600
    assert seen == [256, 512, 600]


# --- training data --------------------------------------------------------------------------------


def test_training_data_holds_what_proved_right(tmp_path):
    acme, path, store = Scope(tenant="acme"), tmp_path / "train.jsonl", MemoryStore()
    vat, dump = "What is the VAT rate in Spain?", json.dumps({"v": 1, "text": "An object."})
    store.put(
        [
            asked("Used?", acme, answer="Yes 的 \ud800.", uses=2, created=5.0),
            asked("Used once?", acme, answer="No.", uses=1),
            asked("Agreed?", acme, answer="Yes.", group="g", created=9.0),
            asked("Is it agreed?", acme, answer="It is.", group="g", uses=1, created=8.0),
            asked("Alone in its group?", acme, answer="No.", group="h"),
            asked("A dump?", acme, answer=dump, uses=9),
            asked("A dump with text?", acme, answer=dump, text="[1] Text.", uses=9, created=7.0),
            replace(asked("And in Spain?", acme, answer="21 %", uses=9), key=question_key(vat)),
            asked("and there? ⟦q Spain⟧", acme, answer="21 %", uses=9),
            asked("Used?", replace(acme, model="other"), answer="Yes 的 \ud800.", uses=5),
            asked("Secret?", Scope(tenant="other"), answer="Yes!", uses=9, created=6.0),
        ]
    )
    one = Selection(tenant="acme")
    assert export_finetuning(store, path, selection=one, system="Be brief.") == 3
    written = lines(path)
    assert [[m["content"] for m in line["messages"]] for line in written] == [
        ["Be brief.", "Used?", "Yes 的 \ud800."],
        ["Be brief.", "A dump with text?", "[1] Text."],
        ["Be brief.", "Is it agreed?", "It is."],
    ]
    assert [m["role"] for m in written[0]["messages"]] == ["system", "user", "assistant"]
    assert export_finetuning(store, path, all_tenants=True) == 4
    assert export_finetuning(store, path, selection=one, min_uses=10) == 1
    path.unlink()
    with pytest.raises(ConfigError, match="several tenants would mix"):
        export_finetuning(store, path)
    assert not path.exists()


def test_training_data_comes_in_one_order_from_any_store(tmp_path):
    entries = [asked(f"Question {n}?", Scope(tenant="a"), answer=f"{n}", uses=2) for n in range(50)]
    with SQLiteStore(tmp_path / "a.db") as file:
        for store, some in ((file, entries), (MemoryStore(), entries[::-1])):
            store.put(some)
            path = tmp_path / f"{type(store).__name__}.jsonl"
            export_finetuning(store, path, selection=Selection(tenant="a"))
    assert len({path.read_bytes() for path in tmp_path.glob("*.jsonl")}) == 1


# --- reports and retention ------------------------------------------------------------------------


def test_popular_questions_by_answer(tmp_path):
    a, b = Scope(tenant="a"), Scope(tenant="b")
    with SQLiteStore(tmp_path / "a.db") as store:
        store.put(
            [
                asked("Notice period?", a, group="g", uses=3, worth=0.5, created=86_400.0),
                asked("How long is\nthe notice\x1b[2J period?", a, group="g", uses=4, worth=0.25),
                asked("Notice period?", b, group="g", uses=6, created=1e300),
                asked("Never asked again?", a),
            ]
        )
        report = popular(store, top=2)
        assert [(r.uses, r.wordings, r.saved) for r in report] == [(7, 2, 2.5), (6, 1, 0.0)]
        assert len(popular(store, Selection(tenant="b"))) == 1
        assert next(iter(popular(store))).created == 1_000_000.0
        assert str(report).splitlines()[2:] == [
            "     7  $2.5000         2  1970-01-12  How long is the notice?[2J period?",
            "     6  $0.0000         1           ?  Notice period?",
        ]
    assert str(popular(MemoryStore())) == "Popular questions: none stored"
    with pytest.raises(ConfigError, match="top"):
        popular(MemoryStore(), top=0)


async def test_retention(tmp_path):
    clock = FakeClock()
    with SQLiteStore(tmp_path / "a.db", clock=clock) as store:
        store.put([make_entry(n, created=clock.now - n, tenant="ab"[n % 2]) for n in range(6)])
        assert retain(store, max_age=3, clock=clock, selection=Selection(tenant="a")) == Retained(
            aged=1
        )
        clock.advance(100)
        store.get(make_entry(1).key, make_entry().scope)
        done = await aretain(store, max_age=102.5, max_idle=50, clock=clock)
        assert done == Retained(aged=2, idle=2)
        assert [entry.answer for entry in store.entries(Selection())] == ["answer 1"]
        strict = Selection(created_before=0.0)
        assert retain(store, max_age=1, clock=clock, selection=strict) == Retained()
        for wrong in ({}, {"max_age": 0}, {"max_idle": float("inf")}):
            with pytest.raises(ConfigError, match="max_"):
                retain(store, **wrong)
        with pytest.raises(ConfigError, match="min_uses"):
            export_finetuning(store, tmp_path / "x", min_uses=0)
