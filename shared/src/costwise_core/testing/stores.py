"""The contract of a cache store as a pytest class: a store is done when a subclass passes.

Its logs and leases, if it has them, have contracts of their own in `testing.sharing`.

Example:
    >>> class TestMyStore(CacheStoreContract):
    ...     def make_store(self, clock):
    ...         return MyStore(clock=clock)
"""

# ruff: noqa: S101 - these are tests, shipped

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pytest

from costwise_core.errors import EntryTooLargeError, VectorError
from costwise_core.protocols import CacheStore
from costwise_core.testing.entries import (
    DIM,
    EMBEDDER,
    TEXTS,
    StoreContract,
    direction,
    make_entry,
)
from costwise_core.testing.fakes import FakeClock
from costwise_core.types import Entry, Selection, Usage, Vector

__all__ = [
    "DIM",
    "EMBEDDER",
    "TEXTS",
    "CacheStoreContract",
    "StoreContract",
    "direction",
    "make_entry",
]

TOO_LARGE = 10_000_000


class CacheStoreContract(StoreContract):
    """Subclass it, say how a store is made, and pytest runs the contract."""

    # --- what was put comes back ------------------------------------------------------------

    @pytest.mark.parametrize("text", TEXTS)
    def test_every_field_comes_back(self, store: CacheStore, text: str) -> None:
        """Whatever a text holds, get and search return the entry that was put."""
        entry = make_entry(
            question=text,
            answer=text * 3,
            tenant=text,
            model=text,
            corpus=text,
            tags=(text, "b"),
            embedder=text,
            usage=Usage(input_tokens=7, output_tokens=3, cache_read_tokens=2, estimated=True),
            expires=2_000_000.25,
            text=text[::-1],
            group=text,
            documents=((text, text), (text, "v2"), ("", "")),
            worth=0.001234567890123,
            uses=3,
        )
        store.put([entry])
        for reader in (store, self.reopen(store)):
            (neighbour,) = reader.search(direction(0), 4, entry.scope, text)
            assert neighbour.cosine == pytest.approx(1.0, abs=1e-6)
            assert neighbour.cosine <= 1.0
            (listed,) = reader.entries(Selection())
            assert listed.vector is not None
            assert listed.vector == pytest.approx(direction(0), abs=1e-6)
            found = reader.get(entry.key, entry.scope)
            assert found is not None
            assert found.vector is None
            for same in (neighbour.entry, listed, found):
                for field in fields(Entry):
                    if field.name not in ("vector", "uses"):
                        assert getattr(same, field.name) == getattr(entry, field.name), field.name
                assert same.uses >= 3

    def test_absent(self, store: CacheStore) -> None:
        """An empty store answers every question with nothing."""
        assert store.get("0" * 32, "s") is None
        assert store.search(direction(0), 4, "s", EMBEDDER) == []
        assert list(store.entries(Selection())) == []
        assert store.delete(Selection()) == 0
        store.put([])

    def test_replaced(self, store: CacheStore) -> None:
        """The same scope and key is the same entry, in the near tier too."""
        store.put([make_entry(1), make_entry(2)])
        store.put([make_entry(1, answer="newer", vector=direction(9))])
        found = store.get(make_entry(1).key, make_entry().scope)
        assert found is not None
        assert found.answer == "newer"
        near = store.search(direction(9), 9, make_entry().scope, EMBEDDER)
        assert sorted(n.entry.answer for n in near) == ["answer 2", "newer"]
        assert near[0].entry.answer == "newer"
        store.put([make_entry(1, answer="exact only", vector=None)])
        near = store.search(direction(9), 9, make_entry().scope, EMBEDDER)
        assert [n.entry.answer for n in near] == ["answer 2"]
        store.put([make_entry(3, answer="first"), make_entry(3, answer="second")])
        found = store.get(make_entry(3).key, make_entry().scope)
        assert found is not None
        assert found.answer == "second"

    def test_without_vector(self, store: CacheStore) -> None:
        """An entry without a vector is found by its key and never by search."""
        store.put([make_entry(1, vector=None)])
        assert store.get(make_entry(1).key, make_entry().scope) is not None
        assert store.search(direction(1), 4, make_entry().scope, EMBEDDER) == []
        assert store.search(direction(1), 4, make_entry().scope, "") == []

    # --- similarity ---------------------------------------------------------------------------

    @pytest.mark.parametrize("k", [1, 4, 40, 500])
    def test_nearest_by_cosine(self, store: CacheStore, k: int) -> None:
        """Search returns what comparing with every vector returns, in the same order."""
        entries = [make_entry(n) for n in range(120)]
        store.put(entries)
        store.delete(Selection(keys=tuple(entry.key for entry in entries[10:40])))
        entries = entries[:10] + entries[40:]
        matrix = np.stack([direction(n) for n in (*range(10), *range(40, 120))]).astype(np.float64)
        for seed in range(1000, 1005):
            scores = matrix @ direction(seed).astype(np.float64)
            order = np.argsort(-scores)[:k]
            found = store.search(direction(seed), k, make_entry().scope, EMBEDDER)
            assert [n.entry.key for n in found] == [entries[i].key for i in order]
            assert [n.cosine for n in found] == pytest.approx(scores[order].tolist(), abs=1e-5)
        assert store.search(direction(0), 0, make_entry().scope, EMBEDDER) == []

    def test_length_does_not_matter(self, store: CacheStore) -> None:
        """Vectors of any length are compared by direction."""
        store.put([make_entry(1, vector=direction(1) * np.float32(250.0))])
        (found,) = store.search(direction(1) * np.float32(0.01), 1, make_entry().scope, EMBEDDER)
        assert found.cosine == pytest.approx(1.0, abs=1e-5)

    def test_vectors_are_copied(self, store: CacheStore) -> None:
        """Changing a vector after it was put, or one that came back, changes no answer."""
        mine = direction(1)
        store.put([make_entry(1, vector=mine)])
        mine[:] = direction(2)
        for _ in range(2):
            (found,) = store.search(direction(1), 1, make_entry().scope, EMBEDDER)
            assert found.cosine == pytest.approx(1.0, abs=1e-5)
            if found.entry.vector is not None:
                found.entry.vector[:] = 0.0

    @pytest.mark.parametrize(
        "bad",
        [
            np.full(DIM, np.nan, dtype=np.float32),
            np.full(DIM, np.inf, dtype=np.float32),
            np.zeros(DIM, dtype=np.float32),
            np.ones(DIM + 1, dtype=np.float32),
            np.ones((1, DIM), dtype=np.float32),
            np.ones(0, dtype=np.float32),
        ],
        ids=["nan", "inf", "zero", "wrong-width", "two-axes", "empty"],
    )
    def test_bad_vectors_are_refused(self, store: CacheStore, bad: Vector) -> None:
        """A vector that cannot be compared is an error, and none of its batch is kept."""
        store.put([make_entry(1)])
        with pytest.raises(VectorError):
            store.put([make_entry(2), make_entry(3, vector=bad)])
        with pytest.raises(VectorError):
            store.search(bad, 4, make_entry().scope, EMBEDDER)
        assert store.get(make_entry(2).key, make_entry().scope) is None
        assert len(store.search(direction(1), 9, make_entry().scope, EMBEDDER)) == 1

    def test_one_width_for_each_embedder(self, store: CacheStore) -> None:
        """One embedder name has one width in all scopes; another embedder may have its own."""
        wide = np.ones(DIM * 2, dtype=np.float32)
        with pytest.raises(VectorError):
            store.put([make_entry(1), make_entry(2, vector=wide)])
        store.put([make_entry(1)])
        with pytest.raises(VectorError):
            store.put([make_entry(2, vector=wide, scope="another")])
        store.put([make_entry(2, vector=wide, embedder="another")])
        assert len(store.search(wide, 4, make_entry().scope, "another")) == 1
        store.delete(Selection())
        store.put([make_entry(2, vector=wide)])

    # --- who may see what ---------------------------------------------------------------------

    def test_scopes_never_mix(self, store: CacheStore) -> None:
        """An entry is seen from its own scope only, by key and by similarity."""
        rng = np.random.default_rng(5)
        placed: dict[tuple[str, str], str] = {}
        for step in range(200):
            scope, number = f"scope {rng.integers(8)}", int(rng.integers(12))
            answer = f"{scope} {number} {step}"
            entry = make_entry(number, scope=scope, answer=answer, vector=direction(number % 3))
            store.put([entry])
            placed[scope, entry.key] = answer
        for scope in {scope for scope, _ in placed}:
            own = {answer for (place, _), answer in placed.items() if place == scope}
            near = store.search(direction(1), 500, scope, EMBEDDER)
            assert {n.entry.answer for n in near} == own
            assert {n.entry.scope for n in near} == {scope}
            for number in range(12):
                found = store.get(make_entry(number).key, scope)
                expected = placed.get((scope, make_entry(number).key))
                assert (found.answer if found else None) == expected
        assert store.search(direction(1), 500, "scope", EMBEDDER) == []

    def test_embedders_never_mix(self, store: CacheStore) -> None:
        """Vectors of another embedder are never compared, even at equal width."""
        store.put([make_entry(1), make_entry(2, embedder="another", vector=direction(1))])
        near = store.search(direction(1), 9, make_entry().scope, "another")
        assert [n.entry.answer for n in near] == ["answer 2"]
        assert store.search(direction(1), 9, make_entry().scope, "unknown") == []

    # --- leaving --------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("selection", "gone"),
        [
            (Selection(), {1, 2, 3, 4}),
            (Selection(tenant="a"), {1, 2}),
            (Selection(tenant="A"), set()),
            (Selection(model="m2"), {2, 4}),
            (Selection(corpus="kündig-v1"), {3}),
            (Selection(tag="x"), {1, 3}),
            (Selection(tag='x","y'), {2}),
            (Selection(tag="\ud800"), {4}),
            (Selection(scope="s2"), {4}),
            (Selection(keys=(f"{1:032x}", f"{4:032x}", "unknown")), {1, 4}),
            (Selection(keys=()), set()),
            (Selection(tenant="a", model="m2"), {2}),
            (Selection(tenant="a", corpus="kündig-v1"), set()),
            (Selection(changed=(("d1", "v2"),)), {1}),
            (Selection(changed=(("d1", "v1"), ("d2", "v2"))), {1, 2, 3}),
            (Selection(changed=(("d1", "v1"), ("d2", "v1"))), {2}),
            (Selection(changed=(("d1", ""),)), {1, 2}),
            (Selection(changed=(("ü\ud800", "v1"),)), {3}),
            (Selection(changed=(("ü\ud800", ""),)), {3}),
            (Selection(changed=(("D1", "v3"), ("d", "v3"), ("", "v3"))), set()),
            (Selection(changed=()), set()),
            (Selection(changed=(("d2", "v2"),), tenant="a"), {1}),
            (Selection(created_before=1_000_000.0), {3}),
            (Selection(created_before=1_000_000.5), {1, 2, 3, 4}),
            (Selection(created_before=1_000_000.5, scope="s2"), {4}),
        ],
    )
    def test_selections(self, store: CacheStore, selection: Selection, gone: set[int]) -> None:
        """Delete removes what every given field matches, nothing else, and counts it."""
        old, new = ("d1", "v1"), ("d1", "v2")
        entries = {
            1: make_entry(
                1, tenant="a", model="m1", tags=("x", "y"), documents=(old, ("d2", "v1"))
            ),
            2: make_entry(2, tenant="a", model="m2", tags=('x","y',), documents=(new,)),
            3: make_entry(
                3,
                tenant="b",
                model="m1",
                corpus="kündig-v1",
                tags=("x",),
                documents=(("d2", "v1"), ("ü\ud800", "")),
                created=999_999.5,
            ),
            4: make_entry(4, tenant="", model="m2", scope="s2", tags=("\ud800",)),
        }
        store.put(list(entries.values()))
        assert store.search(direction(1), 9, entries[1].scope, EMBEDDER)
        meant = {int(entry.key, 16) for entry in store.entries(selection)}
        assert meant == gone
        assert store.delete(selection) == len(gone)
        for number, entry in entries.items():
            assert (store.get(entry.key, entry.scope) is None) == (number in gone)
            near = store.search(direction(number), 9, entry.scope, EMBEDDER)
            assert (entry.key not in {n.entry.key for n in near}) == (number in gone)
        assert store.delete(selection) == 0

    def test_replaced_documents_are_forgotten(self, store: CacheStore) -> None:
        """An entry is stale by the documents it has now, not by those of the one it replaced."""
        store.put([make_entry(1, documents=(("d", "v1"),))])
        store.put([make_entry(1, documents=(("d", "v2"),))])
        assert store.delete(Selection(changed=(("d", "v2"),))) == 0
        store.put([make_entry(1)])
        assert store.delete(Selection(changed=(("d", ""),))) == 0
        many = tuple((f"document {n}", "now") for n in range(3_000))
        store.put([make_entry(n, documents=((f"document {n}", "then"),)) for n in range(2, 40)])
        assert store.delete(Selection(changed=many)) == 38

    @pytest.mark.parametrize("text", TEXTS)
    def test_documents_of_any_name(self, store: CacheStore, text: str) -> None:
        """Ids and versions are compared in full, whatever they hold."""
        store.put(
            [make_entry(1, documents=((text, text),)), make_entry(2, documents=(("a", "b"),))]
        )
        unchanged = ((text, text), (text + "x", "v"), (text[:-1], "v"), (text.upper() + ".", "v"))
        assert store.delete(Selection(changed=unchanged)) == 0
        assert store.delete(Selection(changed=((text, text + "x"),))) == 1

    def test_unused(self, store: CacheStore, clock: FakeClock) -> None:
        """Being stored and being got are uses; being among the neighbours of a search is none."""
        start = clock.now
        store.put([make_entry(n) for n in (1, 2, 3)])
        assert store.delete(Selection(unused_since=start)) == 0
        clock.advance(100)
        assert store.get(make_entry(1).key, make_entry().scope)
        assert store.search(direction(2), 9, make_entry().scope, EMBEDDER)
        store.put([make_entry(4, created=start)])
        assert store.delete(Selection(unused_since=start + 50)) == 2
        left = store.search(direction(1), 9, make_entry().scope, EMBEDDER)
        assert sorted(n.entry.answer for n in left) == ["answer 1", "answer 4"]

    def test_uses_are_counted(self, store: CacheStore) -> None:
        """Each get counts as a use, shown after the next put at the latest; nothing else does."""
        store.put([make_entry(1), make_entry(2, uses=5)])
        for number in (1, 1, 2, 1, 9):
            store.get(make_entry(number).key, make_entry().scope)
        store.search(direction(2), 9, make_entry().scope, EMBEDDER)
        list(store.entries(Selection()))
        store.put([make_entry(3)])
        assert {e.answer[-1]: e.uses for e in store.entries(Selection())} == {
            "1": 3,
            "2": 6,
            "3": 0,
        }
        store.put([make_entry(1)])  # a new answer, never served yet
        assert {e.answer[-1]: e.uses for e in store.entries(Selection())}["1"] == 0

    def test_entries(self, store: CacheStore, clock: FakeClock) -> None:
        """Entries come oldest first, selected, live, with their vectors or without one."""
        times = [50.0, 10.0, 40.0, 30.0, 20.0]
        store.put([make_entry(n, created=t, tenant="ab"[n % 2]) for n, t in enumerate(times)])
        store.put([make_entry(5, created=5.0, expires=clock.now + 10)])
        store.put([make_entry(6, created=60.0, vector=None)])
        listed = list(store.entries(Selection()))
        assert [int(entry.key, 16) for entry in listed] == [5, 1, 4, 3, 2, 0, 6]
        for entry in listed[:-1]:
            assert entry.vector == pytest.approx(direction(int(entry.key, 16)), abs=1e-6)
            assert entry.embedder == EMBEDDER
        assert (listed[-1].vector, listed[-1].embedder) == (None, "")
        assert [e.created for e in store.entries(Selection(tenant="a"))] == [20.0, 40.0, 50.0]
        clock.advance(10)
        assert [e.created for e in store.entries(Selection(created_before=15))] == [10.0]
        assert listed[0].vector is not None
        listed[0].vector[:] = 0.0  # what came back is the caller's

    def test_entries_may_change_while_they_are_read(self, store: CacheStore) -> None:
        """A reader is not in the way of others, and does not see what they delete."""
        store.put([make_entry(n, created=float(n)) for n in range(700)])
        seen = []
        for entry in store.entries(Selection()):
            number = int(entry.key, 16)
            seen.append(number)
            if number == 2:
                store.delete(Selection(created_before=600.0))
            store.put([make_entry(number + 10_000, created=0.0, vector=None)])
        assert seen[:3] == [0, 1, 2]
        assert {600, 699} <= set(seen)
        assert len([number for number in seen if number < 600]) < 600

    def test_expired_is_gone(self, store: CacheStore, clock: FakeClock) -> None:
        """From the second it expires an entry is neither found nor counted."""
        store.put(
            [
                make_entry(1, expires=clock.now + 10),
                make_entry(2, expires=clock.now + 20),
                make_entry(3),
                make_entry(4, expires=clock.now - 1),
            ]
        )

        def found() -> tuple[set[str], set[str]]:
            exact = {n for n in "1234" if store.get(make_entry(int(n)).key, make_entry().scope)}
            near = store.search(direction(1), 9, make_entry().scope, EMBEDDER)
            return exact, {n.entry.answer[-1] for n in near}

        assert found() == ({"1", "2", "3"}, {"1", "2", "3"})
        clock.advance(10)
        assert found() == ({"2", "3"}, {"2", "3"})
        store.put([make_entry(1, expires=clock.now + 100)])
        clock.advance(10)
        assert found() == ({"1", "3"}, {"1", "3"})
        clock.advance(1000)
        assert store.delete(Selection()) == 1
        assert found() == (set(), set())

    # --- limits and many hands ------------------------------------------------------------------

    def test_huge_answers_are_refused(self, store: CacheStore) -> None:
        """An entry beyond all measure is an error, and none of its batch is kept."""
        with pytest.raises(EntryTooLargeError):
            store.put([make_entry(1), make_entry(2, answer="x" * TOO_LARGE)])
        assert store.get(make_entry(1).key, make_entry().scope) is None

    def test_many_threads(self, store: CacheStore) -> None:
        """Threads that put, look up and delete at once lose nothing and see nothing torn."""
        barrier = threading.Barrier(4)

        def work(worker: int) -> None:
            barrier.wait()
            for step in range(40):
                number = worker * 1000 + step
                store.put([make_entry(number)])
                found = store.get(make_entry(number).key, make_entry().scope)
                assert found is not None
                assert found.answer == f"answer {number}"
                near = store.search(direction(number), 2, make_entry().scope, EMBEDDER)
                assert near[0].entry.answer == f"answer {number}"
                assert near[0].cosine == pytest.approx(1.0, abs=1e-5)
                if step % 2:
                    assert store.delete(Selection(keys=(make_entry(number).key,))) == 1

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(work, worker) for worker in range(4)]:
                future.result()
        near = store.search(direction(1), 500, make_entry().scope, EMBEDDER)
        assert len(near) == 80
        assert store.delete(Selection()) == 80
