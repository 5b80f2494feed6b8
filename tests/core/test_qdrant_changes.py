"""Copies under writes, patience, and what is sent to a server: no server needed."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.errors import ConfigError, StoreError, StoreUnavailableError
from costwise_core.qdrant import changes
from costwise_core.qdrant.copying import Point, copy_round, merge_late, rounds
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.journal import Journal
from costwise_core.qdrant.targets import Inspection, VectorSpace
from costwise_core.qdrant.waiting import Look, Patience, until_settled, verdict

if not os.environ.get("CI"):
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed (extra: qdrant)")


class Table:
    """Points in a dictionary; what is stored is rounded, as engines round what they are given."""

    def __init__(self, *, rounded: bool = False) -> None:
        self.rows: dict[int | str, tuple[list[float], dict]] = {}
        self.rounded = rounded

    def pages(self, size: int) -> Iterator[list[Point]]:
        rows = self.get(sorted(self.rows, key=str))
        for begin in range(0, max(1, len(rows)), 3):
            yield rows[begin : begin + 3]

    def get(self, idents: Sequence[int | str]) -> list[Point]:
        return [
            Point(ident=i, vector=self.rows[i][0], payload=self.rows[i][1])
            for i in idents
            if i in self.rows
        ]

    def put(self, points: Sequence[Point]) -> None:
        for one in points:
            vector = [round(v, 1) for v in one.vector] if self.rounded else one.vector
            self.rows[one.ident] = (vector, dict(one.payload or {}))

    def drop(self, idents: Sequence[int | str]) -> None:
        for ident in idents:
            self.rows.pop(ident, None)

    def texts(self) -> dict:
        return {ident: payload for ident, (_, payload) in self.rows.items()}


# Each write is (id, text); no text is a deletion. "7" and 7 are two points.
IDENTS = st.one_of(st.integers(0, 9), st.sampled_from(["7", "x"]))
WRITES = st.lists(st.tuples(IDENTS, st.one_of(st.none(), st.text(max_size=3))), max_size=12)


def write(table: Table, writes, *, tag: str = "") -> set:
    for ident, text in writes:
        if text is None:
            table.drop([ident])
        else:
            table.put([Point(ident=ident, vector=[0.123, 1.0], payload={"t": tag + text})])
    return {ident for ident, _ in writes}


@contextmanager
def journaled() -> Iterator[Journal]:
    with TemporaryDirectory() as folder, Journal(Path(folder) / "docs.journal") as journal:
        yield journal


@settings(max_examples=60, deadline=None)
@given(first=WRITES, then=WRITES, rounded=st.booleans())
def test_a_copy_ends_like_its_source(first, then, rounded):
    source, copy = Table(), Table(rounded=rounded)
    write(source, first)
    with journaled() as journal:
        copy_round(source, copy, journal)
        write(source, then)
        done = rounds(source, copy, journal, said=lambda _: None)
        assert copy.texts() == source.texts()
        assert journal.copied() == len(source.rows)
        assert (done[-1].written, done[-1].dropped) == (0, 0)


@settings(max_examples=100, deadline=None)
@given(first=WRITES, old=WRITES, new=WRITES, back=st.booleans(), rounded=st.booleans())
def test_no_late_write_is_lost_and_none_overwrites_a_newer_one(first, old, new, back, rounded):
    source, copy = Table(), Table(rounded=rounded)
    write(source, first)
    with journaled() as journal:
        copy_round(source, copy, journal)
        late, current = (copy, source) if back else (source, copy)
        copied = current.texts()
        touched_late = write(late, old, tag="late ")
        touched_current = write(current, new, tag="current ")
        before = current.texts()
        merge_late(late, current, journal, back=back)
        after = current.texts()
        for ident in touched_current:  # the side in use keeps what was written to it
            if before.get(ident) != copied.get(ident):
                assert after.get(ident) == before.get(ident)
        for ident in touched_late - touched_current:
            assert after.get(ident) == late.texts().get(ident)
        for ident in set(before) - touched_late:
            assert after[ident] == before[ident]


def test_a_point_changed_on_both_sides_stays_and_is_counted():
    source, copy = Table(), Table()
    write(source, [(1, "a"), (2, "b")])
    with journaled() as journal:
        copy_round(source, copy, journal)
        write(source, [(1, "old side"), (2, None)])
        write(copy, [(1, "new side"), (2, "new side")])
        done = merge_late(source, copy, journal)
        assert done.conflicts == 2
        assert copy.texts() == {1: {"t": "new side"}, 2: {"t": "new side"}}


def test_a_copy_that_does_not_keep_what_it_is_given_is_an_error():
    class Sieve(Table):
        def put(self, points):
            super().put(points[1:])

    source = Table()
    write(source, [(1, "a"), (2, "b")])
    with journaled() as journal, pytest.raises(StoreError, match="lacks 1 of 2 points"):
        copy_round(source, Sieve(), journal)


def test_a_source_that_is_never_still_does_not_keep_the_copy_forever():
    class Busy(Table):
        def pages(self, size):
            write(self, [(len(self.rows) + 1, "more")])
            yield from super().pages(size)

    with journaled() as journal:
        assert len(rounds(Busy(), Table(), journal, said=lambda _: None)) == 5


# Patience

LOOKS = st.builds(
    Look,
    status=st.sampled_from(["green", "yellow", "grey"]),
    indexed=st.integers(0, 3),
    wanted=st.just(2),
    configured=st.booleans(),
    busy=st.sampled_from([None, 0, 1]),
)


@given(looks=st.lists(LOOKS, min_size=1, max_size=8), green_for=st.floats(0, 60))
def test_only_two_good_looks_alike_settle(looks, green_for):
    said = verdict(looks, green_for=green_for, patience=Patience())
    last = looks[-2:]
    good = len(last) == 2 and all(
        one.status == "green" and one.configured and not one.busy and one.indexed >= 2
        for one in last
    )
    if said == "settled":
        assert good
        assert last[0].indexed == last[1].indexed
    if looks[-1].status == "grey":
        assert said in ("nudge", "wait")


def test_a_server_that_cannot_say_must_stay_green_unless_it_was_seen_at_work():
    green = Look(status="green", indexed=2, wanted=2, configured=True)
    yellow = replace(green, status="yellow")
    patience = Patience(settle_seconds=15)
    assert verdict([green, green], green_for=14, patience=patience) == "wait"
    assert verdict([green, green], green_for=15, patience=patience) == "settled"
    assert verdict([yellow, green, green], green_for=1, patience=patience) == "settled"


@pytest.mark.parametrize("bad", [{"status": "red"}, {"error": "No space left on device"}])
def test_an_engine_that_gave_up_is_not_waited_for(bad):
    look = replace(Look(status="green", indexed=2, wanted=2, configured=True), **bad)
    with pytest.raises(StoreError, match="optimizer failed"):
        verdict([look], green_for=0, patience=Patience())


def test_time_is_over_at_some_point():
    yellow = Look(status="yellow", indexed=0, wanted=2, configured=True)
    short = Patience(poll_seconds=0.01, settle_seconds=0, timeout_seconds=0.05)
    with pytest.raises(StoreUnavailableError, match=r"not settled after 0\.05 s: yellow"):
        until_settled(lambda: yellow, lambda: None, patience=short, said=lambda _: None)
    for wrong in ({"poll_seconds": 0.0}, {"settle_seconds": -1.0}, {"timeout_seconds": 1.0}):
        with pytest.raises(ConfigError):
            Patience(**wrong)


# What is sent


def seen(version: str = "1.19.0", **own) -> Inspection:
    index = IndexConfig(**own)
    raw = {
        "params": {"vectors": {"size": 8, "distance": "Cosine"}},
        "hnsw_config": {"m": index.m, "ef_construct": index.ef_construct},
    }
    space = VectorSpace(size=8, index=index)
    return Inspection(
        where="remote", collection="docs", version=version, points=9, vectors=(space,), raw=raw
    )


INDEXES = st.builds(
    IndexConfig,
    m=st.sampled_from([8, 16]),
    ef_construct=st.sampled_from([100, 200]),
    quantization=st.sampled_from(["none", "int8", "binary", "turbo4"]),
    vectors=st.sampled_from(["cold", "cached"]),
    graph=st.sampled_from(["cold", "cached"]),
)


@given(new=INDEXES)
def test_a_patch_names_what_differs_and_nothing_else(new):
    body = changes.forward(seen(), new)
    differ = set(changes.differing(IndexConfig(), new))
    own = body.get("vectors", {}).get("", {})
    graph = set(own.get("hnsw_config", {}))
    assert bool(body) == bool(differ)
    assert ("m" in graph, "ef_construct" in graph) == ("m" in differ, "ef_construct" in differ)
    assert ("quantization_config" in own) == ("quantization" in differ)
    assert ("memory" in own) == ("vectors" in differ)
    undo = changes.back(seen(), new).get("vectors", {}).get("", {})
    assert set(undo) == set(own)
    assert set(undo.get("hnsw_config", {})) == graph
    json.dumps(body)


def test_a_copy_of_a_collection_with_shard_keys_is_refused():
    custom = seen()
    custom.raw["params"]["sharding_method"] = "custom"
    with pytest.raises(ConfigError, match="shard keys"):
        changes.settings(custom, {})
