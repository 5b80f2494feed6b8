"""A filter means in `EdgeQdrantClient` what it means in qdrant-client's own local mode."""

import uuid
from datetime import UTC, date, datetime

import pytest

pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from costwise_core.qdrant import EdgeQdrantClient

IDS = [1, 2, 77, 2**63, *(str(uuid.UUID(int=n)) for n in (5, 2**100))]
WORDS = ["red", "Blue", "red blue", "tea-time", "naïve", "", "x_y", "3 men"]
TIMES = ["2024-01-01", "2024-01-01T00:00:00Z", "2024-06-01T12:00:00+02:00", "2024-06-01T10:00:00"]
KEYS = ["a", "b", "t", "when", "deep.x", "many[].x", "many[].y", "many", "deep", "place"]

plain = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from(WORDS),
    st.booleans(),
    st.none(),
    st.sampled_from(TIMES),
)
values = plain | st.lists(plain, max_size=3)
places = st.fixed_dictionaries({"lat": st.integers(-80, 80), "lon": st.integers(-170, 170)})
inner = st.dictionaries(st.sampled_from(["x", "y"]), values, max_size=2)
payloads = st.fixed_dictionaries(
    {},
    optional={
        "a": values,
        "b": values,
        "t": st.sampled_from(WORDS),
        "when": st.sampled_from(TIMES),
        "deep": inner,
        "many": st.lists(inner, max_size=3),
        "place": places,
    },
)

numbers = st.none() | st.sampled_from([-1, 0, 0.5, 1, 2])
moments = st.none() | st.sampled_from(
    [datetime(2024, 1, 1), datetime(2024, 6, 1, 10, tzinfo=UTC), date(2024, 1, 1)]  # noqa: DTZ001
)
words = st.sampled_from(["red", "blue", "tea", "men 3", "na", "naïve", "x", "", "time tea"])
exact = st.sampled_from(["red", "Blue", "tea-time", ""])
several = st.lists(exact, max_size=3) | st.lists(st.integers(-2, 2), max_size=3)
matches = st.one_of(
    st.builds(models.MatchValue, value=exact | st.integers(-3, 3) | st.booleans()),
    st.builds(models.MatchAny, any=several),
    several.map(lambda these: models.MatchExcept(**{"except": these})),
    st.builds(models.MatchText, text=words),
    st.builds(models.MatchTextAny, text_any=words),
    st.builds(models.MatchPhrase, phrase=words),
    st.builds(models.MatchPrefix, prefix=words),
    st.builds(models.MatchSubstring, substring=words),
)
ranges = st.builds(models.Range, gte=numbers, gt=numbers, lt=numbers, lte=numbers) | st.builds(
    models.DatetimeRange, gte=moments, gt=moments, lt=moments, lte=moments
)
counts = st.builds(models.ValuesCount, gte=st.integers(0, 2), lt=st.none() | st.integers(0, 3))


def fields(keys):
    # Of a path that leads to several values, the engine calls one empty where local mode asks all.
    whole = keys.filter(lambda key: "[" not in key)
    named = whole.map(lambda key: models.PayloadField(key=key))
    return st.one_of(
        st.builds(models.FieldCondition, key=keys, match=matches),
        st.builds(models.FieldCondition, key=keys, range=ranges),
        st.builds(models.FieldCondition, key=keys, values_count=counts),
        st.builds(models.FieldCondition, key=whole, is_empty=st.booleans()),
        st.builds(models.FieldCondition, key=whole, is_null=st.booleans()),
        st.builds(models.IsEmptyCondition, is_empty=named),
        st.builds(models.IsNullCondition, is_null=named),
    )


def box(one, two):
    return models.GeoBoundingBox(
        top_left={
            "lat": max(one["lat"], two["lat"]) + 0.5,
            "lon": min(one["lon"], two["lon"]) - 0.5,
        },
        bottom_right={
            "lat": min(one["lat"], two["lat"]) - 0.5,
            "lon": max(one["lon"], two["lon"]) + 0.5,
        },
    )


place = st.just("place")
radii = st.builds(models.GeoRadius, center=places, radius=st.floats(1e5, 5e6))
leaves = st.one_of(
    fields(st.sampled_from(KEYS)),
    st.builds(models.FieldCondition, key=place, geo_radius=radii),
    st.builds(models.FieldCondition, key=place, geo_bounding_box=st.builds(box, places, places)),
    st.builds(models.HasIdCondition, has_id=st.lists(st.sampled_from(IDS), max_size=3)),
    st.builds(models.HasVectorCondition, has_vector=st.sampled_from(["d", "s"])),
    st.builds(
        lambda key, inside: models.NestedCondition(
            nested=models.Nested(key=key, filter=models.Filter(must=inside))
        ),
        st.sampled_from(["many", "many[]"]),
        st.lists(fields(st.sampled_from(["x", "y"])), max_size=2),
    ),
)


def grouped(inside):
    parts = st.none() | st.lists(inside, max_size=2)
    at_least = st.builds(
        models.MinShould,
        conditions=st.lists(inside, max_size=3),
        min_count=st.integers(1, 2),
    )
    return st.builds(
        models.Filter, must=parts, should=parts, must_not=parts, min_should=st.none() | at_least
    )


filters = grouped(st.recursive(leaves, grouped, max_leaves=4))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    here = EdgeQdrantClient(tmp_path_factory.mktemp("edge"))
    reference = QdrantClient(":memory:")
    for one in (here, reference):
        one.create_collection(
            "c",
            vectors_config={"d": models.VectorParams(size=1, distance="Dot")},
            sparse_vectors_config={"s": models.SparseVectorParams()},
        )
    yield here, reference
    here.close()


@given(
    st.lists(payloads, min_size=len(IDS), max_size=len(IDS)),
    st.lists(filters, min_size=1, max_size=4),
)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_same_points_pass(both, stored, asked):
    sparse = models.SparseVector(indices=[1], values=[1.0])
    points = [
        models.PointStruct(id=ident, payload=one, vector={"s": sparse} if n % 2 else {"d": [1.0]})
        for n, (ident, one) in enumerate(zip(IDS, stored, strict=True))
    ]
    for client in both:
        client.delete("c", models.Filter())
        client.upsert("c", points)
    for one in asked:
        mine, theirs = ({p.id for p in c.scroll("c", one, limit=100)[0]} for c in both)
        assert mine == theirs


def test_true_is_not_one(both):
    """The engine's binding takes it for that."""
    here, reference = both
    values = [0, 1, False, True, [True, 0], "true"]
    for client in both:
        client.delete("c", models.Filter())
        client.upsert(
            "c",
            [
                models.PointStruct(id=n, vector={"d": [1.0]}, payload={"a": value})
                for n, value in enumerate(values)
            ],
        )
    for value, wanted in ((True, {3, 4}), (False, {2}), (1, {1}), (0, {0, 4})):
        is_it = models.FieldCondition(key="a", match=models.MatchValue(value=value))
        only = models.Filter(must=is_it)
        assert {p.id for p in here.scroll("c", only)[0]} == wanted
        assert {p.id for p in reference.scroll("c", only)[0]} == wanted


@pytest.mark.parametrize(
    ("kind", "match", "wanted"),
    [
        ("keyword", models.MatchValue(value="red tea"), {1}),
        ("text", models.MatchText(text="TEA red"), {1, 3}),
        ("text", models.MatchPhrase(phrase="red tea"), {1}),
        ("keyword", models.MatchExcept(**{"except": ["red tea", "x"]}), {2, 3}),
    ],
)
def test_an_index_finds_what_a_scan_finds(tmp_path, kind, match, wanted):
    schema = models.TextIndexParams(type="text", phrase_matching=True) if kind == "text" else kind
    only = models.Filter(must=[models.FieldCondition(key="t", match=match)])
    with EdgeQdrantClient(tmp_path) as client:
        client.create_collection("c", models.VectorParams(size=1, distance="Dot"))
        texts = {1: "red tea", 2: "green", 3: "tea, and red", 4: None}
        client.upsert(
            "c",
            [models.PointStruct(id=n, vector=[1.0], payload={"t": t}) for n, t in texts.items()],
        )
        assert {p.id for p in client.scroll("c", only)[0]} == wanted
        client.create_payload_index("c", "t", schema)
        assert {p.id for p in client.scroll("c", only)[0]} == wanted
        assert client.count("c", only).count == len(wanted)


def test_a_polygon_keeps_what_is_inside(tmp_path):
    def line(*corners):
        return models.GeoLineString(
            points=[{"lat": a, "lon": b} for a, b in [*corners, corners[0]]]
        )

    inside = models.GeoPolygon(
        exterior=line((0, 0), (0, 10), (10, 10), (10, 0)),
        interiors=[line((4, 4), (4, 6), (6, 6), (6, 4))],
    )
    only = models.Filter(must=[models.FieldCondition(key="place", geo_polygon=inside)])
    spots = {1: (2, 2), 2: (5, 5), 3: (20, 2)}
    with EdgeQdrantClient(tmp_path) as client:
        client.create_collection("c", models.VectorParams(size=1, distance="Dot"))
        client.upsert(
            "c",
            [
                models.PointStruct(id=n, vector=[1.0], payload={"place": {"lat": a, "lon": b}})
                for n, (a, b) in spots.items()
            ],
        )
        assert {p.id for p in client.scroll("c", only)[0]} == {1}
