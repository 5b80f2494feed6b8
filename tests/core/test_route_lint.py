"""What is wrong with a table of routes is found, and nothing else."""

from datetime import UTC, datetime

from costwise_core import PriceBook, Route, lint_routes
from costwise_core.route.routes import CAPABILITIES


def kinds(routes, **settings) -> list[tuple[str, str]]:
    return [(one.kind, one.route) for one in lint_routes(routes, **settings)]


WEAK = Route(name="weak", model="gpt-3.5-turbo")
GOOD = Route(name="good", model="gpt-4o-mini")
BEST = Route(name="best", model="gpt-4o")


def test_a_sound_table_has_no_findings():
    assert lint_routes([GOOD, BEST]) == ()
    assert lint_routes([]) == ()


def test_a_route_that_a_better_one_undercuts_is_named_with_it():
    (found,) = lint_routes([WEAK, GOOD, BEST])
    assert (found.kind, found.route) == ("dominated", "weak")
    assert "'good'" in found.why


def test_what_only_the_weaker_can_do_speaks_for_it():
    seeing = Route(name="weak", model="gpt-3.5-turbo", capabilities=frozenset({"images"}))
    blind = Route(name="good", model="gpt-4o-mini", capabilities=frozenset({"tools"}))
    assert kinds([seeing, blind]) == []
    able = Route(name="good", model="gpt-4o-mini", capabilities=frozenset(CAPABILITIES))
    assert kinds([seeing, able]) == [("dominated", "weak")]
    assert kinds([WEAK, able]) == []  # nobody knows what the weaker can do
    wide = Route(name="weak", model="gpt-3.5-turbo", context_window=200_000)
    narrow = Route(name="good", model="gpt-4o-mini", context_window=128_000)
    assert kinds([wide, narrow]) == []


def test_a_route_without_a_price_is_named_and_does_not_hide_the_others():
    local = Route(name="local", model="my-own-model")
    assert kinds([local, WEAK, GOOD]) == [("unpriced", "local"), ("dominated", "weak")]


def test_your_own_price_that_is_not_the_lists_may_be_out_of_date():
    book = PriceBook(overrides={"gpt-4o-mini": {"input": 0.30, "output": 0.60}})
    (found,) = lint_routes([GOOD, BEST], prices=book)
    assert (found.kind, found.route) == ("stale", "good")
    assert "$0.3" in found.why
    assert "$0.15" in found.why
    agreed = PriceBook(overrides={"openai:gpt-4o-mini": {"multiplier": 0.8}})
    assert lint_routes([GOOD, BEST], prices=agreed) == ()


def test_a_price_that_changed_since_the_table_was_made_is_named():
    made = datetime(2025, 6, 1, tzinfo=UTC).timestamp()  # o3 became cheaper on 2025-06-10
    thinking = Route(name="thinks", model="openai:o3")
    assert kinds([thinking], since=made) == [("stale", "thinks")]
    after = datetime(2025, 7, 1, tzinfo=UTC).timestamp()
    assert kinds([thinking], since=after) == []


def test_a_model_that_its_maker_gives_up_is_named():
    from genai_prices.data_snapshot import get_snapshot

    old = next(
        f"{seller.id}:{one.id}"
        for seller in get_snapshot().providers
        for one in seller.models
        if one.deprecated and "/" not in one.id
    )
    assert ("deprecated", "old") in kinds([Route(name="old", model=old)])
