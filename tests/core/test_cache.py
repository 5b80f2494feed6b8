"""The cache between a caller and the model: what it serves, keeps, counts and holds back."""

import pytest

from costwise_core import Cache, CallFacts, FixedThreshold, MemoryStore, Scope, Turn
from costwise_core.errors import ConfigError, StoreError
from costwise_core.testing.fakes import FakeClock, HashingEmbedder

SCOPE = Scope(tenant="t")
TALK = (
    Turn(role="user", text="What does Nimbus Fibre 150 cost?"),
    Turn(role="assistant", text="£26 a month on an 18-month contract."),
)


class Broken:
    """Raises whatever is asked of it."""

    name = "broken"
    blocking = False

    def _fail(self, *_args, **_kwargs):
        raise OSError("gone")

    get = search = put = delete = entries = append = read = _fail
    embed = same = complete = decide = learn = _fail


def near(**arguments) -> Cache:
    arguments = {
        "embedder": HashingEmbedder(),
        "policy": FixedThreshold(min_cosine=0.7),
    } | arguments
    return Cache(arguments.pop("store", MemoryStore()), **arguments)


class Both:
    """The same calls made synchronously and asynchronously."""

    def __init__(self, cache: Cache, asynchronous: bool) -> None:
        self.cache, self.asynchronous = cache, asynchronous

    async def lookup(self, *args, **kwargs):
        if self.asynchronous:
            return await self.cache.alookup(*args, **kwargs)
        return self.cache.lookup(*args, **kwargs)

    async def store(self, *args, **kwargs):
        if self.asynchronous:
            return await self.cache.astore(*args, **kwargs)
        return self.cache.store(*args, **kwargs)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def both(request):
    return lambda cache: Both(cache, request.param)


class TestTiers:
    async def test_exact_near_and_neither(self, both):
        cache = both(near())
        assert (await cache.lookup("How do I return a coat?", SCOPE)).reason == "no_entry"
        assert await cache.store("How do I return a coat?", SCOPE, "Bring it back.")
        exact = await cache.lookup("how do I  return a coat?", SCOPE)
        assert (exact.tier, exact.cosine, exact.answer) == ("exact", 1.0, "Bring it back.")
        close = await cache.lookup("How do I return the coat?", SCOPE)
        assert (close.tier, close.question) == ("near", "How do I return a coat?")
        far = await cache.lookup("When was the mill built?", SCOPE)
        assert (far.reason, bool(far)) == ("below_threshold", False)
        assert far.vector is not None
        assert dict(cache.cache.stats.hits) == {"exact": 1, "near": 1}
        assert cache.cache.stats.hit_rate == 0.5

    async def test_near_is_the_callers_choice(self, both):
        cache = both(near())
        await cache.store("How do I return a coat?", SCOPE, "Bring it back.")
        assert not await cache.lookup("How do I return the coat?", SCOPE, near=False)


class TestAdmission:
    @pytest.mark.parametrize(
        ("question", "reason"),
        [("Cancel my order.", "action"), ("", "empty_question"), ("Flip a coin", "random")],
    )
    async def test_not_looked_up(self, both, question, reason):
        cache = both(near())
        assert (await cache.lookup(question, SCOPE)).reason == reason
        assert not await cache.store(question, SCOPE, "Done.")
        assert dict(cache.cache.stats.not_stored) == {reason: 1}

    @pytest.mark.parametrize(
        ("answer", "facts", "reason"),
        [
            ("", CallFacts(), "empty_answer"),
            ("x" * 101, CallFacts(), "answer_too_large"),
            ("I'm sorry, I cannot help with that.", CallFacts(), "refusal"),
            ("Half an ans", CallFacts(finish_reason="length"), "truncated"),
            ("ok", CallFacts(tool_derived=True), "tool_derived"),
        ],
    )
    async def test_not_stored(self, both, answer, facts, reason):
        cache = both(near(max_answer_bytes=100))
        assert not await cache.store("Who is it?", SCOPE, answer, facts=facts)
        assert dict(cache.cache.stats.not_stored) == {reason: 1}

    async def test_what_is_known_of_a_call_counts_for_every_call(self, both):
        # The same words were admitted before, when no tool had spoken yet.
        cache = both(near())
        await cache.lookup("Who is it?", SCOPE)
        await cache.store("Who is it?", SCOPE, "Bob.")
        after_tool = await cache.lookup("Who is it?", SCOPE, facts=CallFacts(tool_derived=True))
        assert after_tool.reason == "tool_derived"

    async def test_a_daily_answer_is_for_the_day(self, both):
        clock = FakeClock(0.0)
        cache = both(near(store=MemoryStore(clock=clock), clock=clock))
        assert await cache.store("What is the newest version?", SCOPE, "3.14")
        assert await cache.lookup("What is the newest version?", SCOPE)
        clock.advance(86_400)
        assert not await cache.lookup("What is the newest version?", SCOPE)


class TestTime:
    async def test_an_answers_own_ttl_wins(self, both):
        clock = FakeClock()
        cache = both(near(store=MemoryStore(clock=clock), clock=clock, ttl=100))
        await cache.store("Who is it?", SCOPE, "Bob.")
        await cache.store("What is it?", SCOPE, "A bolt.", ttl=10)
        await cache.store("Where is it?", SCOPE, "Here.", ttl=0)
        assert not await cache.lookup("Where is it?", SCOPE)  # 0 is at once, not for ever
        clock.advance(50)
        assert not await cache.lookup("What is it?", SCOPE, near=False)
        assert (await cache.lookup("Who is it?", SCOPE)).age == 50
        clock.advance(51)
        assert not await cache.lookup("Who is it?", SCOPE)


class TestConversations:
    async def test_a_follow_up_is_never_matched_alone(self, both):
        cache = both(near())
        await cache.store("and with TV?", SCOPE, "£41.", turns=TALK)
        assert (await cache.lookup("and with TV?", SCOPE, turns=TALK)).answer == "£41."
        assert not await cache.lookup("and with TV?", SCOPE)
        other = (Turn(role="user", text="What does Comet Mobile 5 cost?"), TALK[1])
        assert not await cache.lookup("and with TV?", SCOPE, turns=other)

    async def test_the_rewriter_is_asked_once_for_lookup_and_store(self, both):
        class Rewriter:
            blocking, calls = False, 0

            def complete(self, prompt):
                self.calls += 1
                return "What does Nimbus Fibre 150 cost with TV?"

        rewriter = Rewriter()
        cache = both(near(rewriter=rewriter))
        await cache.lookup("and with TV?", SCOPE, turns=TALK)
        finished = CallFacts(finish_reason="stop")
        assert await cache.store("and with TV?", SCOPE, "It is more.", turns=TALK, facts=finished)
        assert rewriter.calls == 1
        assert await cache.lookup("What does Nimbus Fibre 150 cost with TV?", SCOPE)


class TestFaults:
    async def test_no_part_that_fails_reaches_the_caller(self, both):
        broken = Broken()
        for arguments in (
            {"store": broken},
            {"embedder": broken},
            {"policy": broken},
            {"judge": broken},
            {"rewriter": broken},
        ):
            cache = both(near(**arguments))
            for question in ("How do I return a coat?", "How do I get the coat home?"):
                assert not await cache.lookup(question, SCOPE)
                await cache.store(question, SCOPE, f"Answer to {question}")
            await cache.lookup("and with TV?", SCOPE, turns=TALK)
            if "rewriter" not in arguments:
                assert cache.cache.stats.errors.get("OSError", 0) >= 1

    async def test_without_embeddings_the_exact_tier_goes_on(self, both):
        cache = both(near(embedder=Broken()))
        assert await cache.store("Who is it?", SCOPE, "Bob.")
        assert (await cache.lookup("Who is it?", SCOPE)).tier == "exact"
        assert (await cache.lookup("Who was it?", SCOPE)).reason == "embedder_error"

    def test_deleting_must_not_fail_silently(self):
        with pytest.raises((OSError, StoreError)):
            near(store=Broken()).clear()

    @pytest.mark.parametrize("arguments", [{"ttl": 0}, {"ttl": float("nan")}, {"neighbours": 0}])
    def test_arguments_out_of_range(self, arguments):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            near(**arguments)


def test_invalidate_by_document_and_version():
    cache = near()
    cache.store("Notice period?", SCOPE, "30 days", documents=(("terms", "v1"), ("faq", "v1")))
    cache.store("Who is it?", SCOPE, "Bob.")
    assert cache.invalidate({"terms": "v1"}) == 0
    assert cache.invalidate({"terms": "v2"}) == 1
    assert not cache.lookup("Notice period?", SCOPE)
    assert cache.lookup("Who is it?", SCOPE)
    with pytest.raises(ConfigError, match="list of ids"):
        cache.invalidate("terms")


def test_a_hit_taken_back_is_a_miss():
    cache = near()
    cache.store("Who is it?", SCOPE, "not what the adapter reads")
    hit = cache.lookup("Who is it?", SCOPE)
    miss = cache.take_back(hit, "damaged", "it cannot be read")
    assert not miss
    assert dict(cache.stats.hits) == {}
    assert dict(cache.stats.misses) == {"damaged": 1}


def test_misses_that_are_never_answered_do_not_pile_up():
    cache = near()
    cache.store("How do I return a coat?", SCOPE, "Bring it back.")
    for number in range(2_300):
        cache.lookup(f"Why is mill {number} closed on the hill?", SCOPE)
    assert len(cache._learning._pending) <= 2_000
    assert len(cache._asking._rewritten) <= 2_000
