"""Answers drawn from documents that change while they are on their way."""

import pytest

from costwise_core import Cache, MemoryStore, Scope, SQLiteStore
from costwise_core.cache.versions import Versions
from costwise_core.drive import run
from costwise_core.testing.fakes import FakeClock

SCOPE, ASKED = Scope(tenant="t"), "What is the notice period?"
OLD, NEW, UNKNOWN = (("terms", "v1"),), (("terms", "v2"),), (("terms", ""),)


@pytest.fixture(params=["one cache", "two processes"])
def caches(request, tmp_path):
    """The cache an answer is stored in, and the one an ingestion speaks to."""
    clock = FakeClock()
    with SQLiteStore(tmp_path / "c.db", clock=clock) as store:
        here = Cache(store, clock=clock)
        yield here, here if request.param == "one cache" else Cache(store, clock=clock), clock


@pytest.mark.parametrize("drawn", [OLD, UNKNOWN])
@pytest.mark.parametrize("said", [{"terms": "v2"}, ["terms"]])
def test_an_answer_on_its_way_is_not_kept(caches, drawn, said):
    here, there, _ = caches
    since = here.mark()
    there.invalidate(said)
    stored = here.store(ASKED, SCOPE, "old", documents=drawn, since=since)
    assert (bool(stored), stored.why_not, stored.fit) == (False, "outdated", False)
    assert not here.lookup(ASKED, SCOPE)
    assert here.stats.not_stored == {"outdated": 1}
    # One that began afterwards is.
    assert here.store(ASKED, SCOPE, "new", documents=NEW, since=here.mark())
    assert here.lookup(ASKED, SCOPE).answer == "new"


def test_nor_one_that_comes_between_the_look_and_the_put():
    class Interrupted(MemoryStore):
        def put(self, entries):
            cache.invalidate({"terms": "v2"})
            super().put(entries)

    cache = Cache(Interrupted())
    assert not cache.store(ASKED, SCOPE, "old", documents=OLD, since=cache.mark())
    assert not cache.lookup(ASKED, SCOPE)


def test_retrieval_that_lags_behind_an_announcement_is_not_kept_for_five_minutes(caches):
    here, there, clock = caches
    there.invalidate({"terms": "v2"})
    assert here.store(ASKED, SCOPE, "old", documents=OLD, since=here.mark()).why_not == "outdated"
    assert here.store(ASKED, SCOPE, "old", documents=OLD).why_not == "outdated"
    clock.advance(301)
    assert here.store(ASKED, SCOPE, "back to it", documents=OLD, since=here.mark())


def test_other_documents_are_not_touched(caches):
    here, there, _ = caches
    since = here.mark()
    there.invalidate({"faq": "v2"})
    assert here.store(ASKED, SCOPE, "fine", documents=OLD, since=since)


def test_what_retrieval_notices_may_go_back_at_once():
    cache, versions = Cache(MemoryStore()), Versions()
    for documents in (OLD, NEW, OLD):
        since = cache.mark()
        assert run(versions.notice(cache, documents, since=since))
        assert cache.store(ASKED, SCOPE, "fine", documents=documents, since=since)


def test_a_log_that_cannot_be_read_is_counted():
    class Broken(MemoryStore):
        def append(self, name, rows):
            raise OSError("gone")

        read = append

    cache = Cache(Broken())
    since = cache.mark()
    cache.invalidate({"terms": "v2"})
    assert cache.store(ASKED, SCOPE, "old", documents=OLD, since=since).why_not == "outdated"
    assert cache.stats.errors["OSError"] >= 2


def test_damaged_rows_are_passed_over():
    store = MemoryStore()
    store.append("changes-1", ["no json", "{}", "[1, 2]", "[" * 3_000])
    cache = Cache(store)
    assert cache.store(ASKED, SCOPE, "fine", documents=OLD, since=cache.mark())
    assert cache.stats.errors == {"damaged_change": 4}
