"""`SemanticCache` in LangChain's cache slot, and the traps of that slot."""

import asyncio
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.language_models import FakeListLLM
from langchain_core.load import dumps, loads
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from costwise_core import Cache, FixedThreshold, MemoryStore, SQLiteStore, scoped
from costwise_core.cache.cacheable import CachePolicy
from costwise_core.errors import ConfigError
from costwise_core.testing.fakes import BrokenStore, FakeClock, HashingEmbedder
from langchain_costwise import SemanticCache
from langchain_costwise.testing import ScriptedChatModel

ASK = "What is the capital of France?"
AGAIN = "what is the  capital of France?"


def marker(message: AIMessage) -> dict:
    return message.response_metadata["costwise"]


# --- hits ----------------------------------------------------------------------------------------


def test_a_repeat_is_served_and_says_why(cache):
    model = ScriptedChatModel(script={ASK: "Paris."}, cache=cache)
    paid, hit = model.invoke(ASK), model.invoke(AGAIN)
    assert model.asked == [ASK]
    assert hit.text == paid.text == "Paris."
    assert marker(hit)["hit"] == "exact"
    assert marker(hit)["question"] == ASK
    assert marker(hit)["saved_usage"] == {"input_tokens": 6, "output_tokens": 1}
    assert cache.cache.stats.hits == {"exact": 1}


def test_a_rewording_is_served_when_the_policy_says_so():
    cache = SemanticCache(
        MemoryStore(), embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.8)
    )
    model = ScriptedChatModel(script={ASK: "Paris."}, cache=cache)
    model.invoke(ASK)
    hit = model.invoke("What is the capital city of France?")
    assert (hit.text, marker(hit)["hit"]) == ("Paris.", "near")
    assert 0.8 <= marker(hit)["cosine"] < 1.0
    # The question is as near as can be; the scope is another.
    assert (
        "costwise"
        not in model.invoke([SystemMessage("Rhyme."), HumanMessage(ASK)]).response_metadata
    )
    assert "costwise" not in model.bind(temperature=1).invoke(ASK).response_metadata


def test_boilerplate_does_not_make_prompts_alike():
    """The whole prompt embedded, all questions over one template look the same."""
    cache = SemanticCache(
        MemoryStore(), embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.8)
    )
    model = ScriptedChatModel(cache=cache)
    prompt = "Answer briefly.\nContext: " + "Oslo and Rome are capitals. " * 40 + "\nQuestion: {}"
    first = model.invoke(prompt.format("How many people live in Oslo?"))
    second = model.invoke(prompt.format("When was Rome founded?"))
    assert first.text != second.text
    assert cache.cache.stats.misses == {"no_entry": 1, "below_threshold": 1}


async def test_async_calls_share_the_answers(cache):
    model = ScriptedChatModel(cache=cache)
    paid = await model.ainvoke(ASK)
    assert (await model.ainvoke(AGAIN)).text == paid.text == model.invoke(ASK).text
    assert len(model.asked) == 1


def test_a_later_process_finds_the_answers(tmp_path):
    ScriptedChatModel(cache=SemanticCache(tmp_path / "cache.db")).invoke(ASK)
    model = ScriptedChatModel(cache=SemanticCache(tmp_path / "cache.db"))
    assert marker(model.invoke(ASK))["hit"] == "exact"
    assert model.asked == []


def test_answers_end_with_their_time(cache):
    clock = FakeClock()
    cache = SemanticCache(Cache(MemoryStore(clock=clock), ttl=60, clock=clock))
    model = ScriptedChatModel(cache=cache)
    model.invoke(ASK)
    clock.advance(59)
    assert marker(model.invoke(ASK))["age"] == 59
    clock.advance(2)
    model.invoke(ASK)
    assert len(model.asked) == 2


def test_text_models_work(cache):
    model = FakeListLLM(responses=["Paris.", "London."], cache=cache)
    assert model.invoke(ASK) == model.invoke(AGAIN) == "Paris."


def test_the_answer_slot_is_a_list(cache):
    """Trap 2: LangChain takes anything but a list for a miss."""
    cache.update("a", "llm", [Generation(text="b")])
    assert type(cache.lookup("a", "llm")) is list


# --- what a hit is -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
@pytest.mark.parametrize("reported", [True, False])
def test_hits_survive_being_stored_in_a_history(cache, reported):
    """Trap 3: a cost without token counts made messages that could not be read back."""
    model = ScriptedChatModel(cache=cache)
    if not reported:
        key = (dumps([HumanMessage(ASK)]), model._get_llm_string())
        cache.update(*key, [ChatGeneration(message=AIMessage("Paris."))])
    else:
        model.invoke(ASK)
    hit = model.invoke(ASK)
    assert marker(hit)["hit"] == "exact"
    assert bool(marker(hit)["saved_usage"].get("estimated")) is not reported
    for back in (
        messages_from_dict(json.loads(json.dumps([message_to_dict(hit)])))[0],
        loads(dumps(hit), allowed_objects="core"),
    ):
        assert marker(back) == marker(hit)
        assert back.usage_metadata["total_tokens"] == 0


def test_hits_count_no_tokens(cache):
    """Trap 3: cached tokens were counted again."""
    model = ScriptedChatModel(cache=cache)
    with get_usage_metadata_callback() as usage:
        model.invoke(ASK)
        once = usage.usage_metadata["scripted-1"]["total_tokens"]
        hit = model.invoke(ASK)
        assert usage.usage_metadata["scripted-1"]["total_tokens"] == once > 0
    assert "token_usage" not in hit.response_metadata


def test_later_turns_hit(cache):
    """Traps 4 and 5: after a hit, the next turn of the same conversation missed."""
    model = ScriptedChatModel(cache=cache)

    def talk():
        messages = [HumanMessage(ASK)]
        messages.append(model.invoke(messages))
        messages.append(HumanMessage("And of Spain?"))
        return model.invoke(messages)

    paid, second, third = talk(), talk(), talk()
    assert len(model.asked) == 2
    assert paid.text == second.text == third.text
    assert marker(third)["hit"] == "exact"


def test_each_hit_has_an_id_of_its_own(cache):
    """Trap 6: message lists replace by id, so a served id made an earlier turn disappear."""
    model = ScriptedChatModel(cache=cache)
    ids = [model.invoke(ASK).id for _ in range(4)]
    assert None not in ids
    assert len(set(ids)) == 4


def test_what_a_caller_changes_stays_his(cache):
    """Trap 7: results were the stored objects themselves."""
    model = ScriptedChatModel(cache=cache)
    paid = model.invoke(ASK)
    text = paid.text
    paid.content = "changed"
    hit = model.invoke(ASK)
    hit.content = "changed"
    hit.response_metadata["costwise"]["hit"] = "changed"
    assert (model.invoke(ASK).text, marker(model.invoke(ASK))["hit"]) == (text, "exact")


def test_nothing_of_the_paid_call_is_handed_on(cache):
    """A response id can be answered to: it would tie one user's turn to another's conversation."""
    model = ScriptedChatModel(
        tell={"finish_reason": "stop", "request_id": "req_1", "headers": {"x": "y"}}, cache=cache
    )
    paid, hit = model.invoke(ASK), model.invoke(ASK)
    assert paid.response_metadata["id"] == "chatcmpl-1"
    assert hit.response_metadata.keys() == {"model_name", "finish_reason", "costwise"}


def test_paid_answers_are_left_as_they_are(cache):
    paid = ScriptedChatModel(cache=cache).invoke(ASK)
    assert paid == ScriptedChatModel().invoke(ASK).model_copy(update={"id": paid.id})


# --- nothing breaks ------------------------------------------------------------------------------


class BrokenEmbedder:
    name = "broken"

    def embed(self, texts, role="query"):
        raise RuntimeError("no model")


@pytest.mark.parametrize("embedder", [None, BrokenEmbedder()])
async def test_a_broken_cache_costs_nothing_but_hits(embedder):
    """Trap 8: errors in a cache failed the call."""
    cache = SemanticCache(BrokenStore(), embedder=embedder)
    model = ScriptedChatModel(cache=cache)
    assert model.invoke(ASK).text == "This is answer 1."
    assert (await model.ainvoke(ASK)).text == "This is answer 2."
    assert cache.cache.stats.errors["OSError"] == 4
    assert cache.cache.stats.misses["store_error"] == 2


def test_a_file_that_is_no_cache_costs_nothing_but_hits(tmp_path):
    path = tmp_path / "cache.db"
    path.write_bytes(b"a letter to my aunt " * 500)
    cache = SemanticCache(path)
    assert ScriptedChatModel(cache=cache).invoke(ASK).text == "This is answer 1."
    assert sum(cache.cache.stats.errors.values()) == 2
    assert path.read_bytes() == b"a letter to my aunt " * 500


def test_answers_of_another_embedder_serve_repeats_only(tmp_path):
    path = tmp_path / "cache.db"
    policy = FixedThreshold(min_cosine=0.8)
    for embedder in (HashingEmbedder(64, name="old"), HashingEmbedder(128, name="new")):
        cache = SemanticCache(path, embedder=embedder, policy=policy)
        model = ScriptedChatModel(cache=cache)
        model.invoke(ASK)
        reworded = model.invoke("What is the capital city of France?")
        assert ("costwise" in reworded.response_metadata) == (embedder.name == "old")
    assert cache.cache.stats.hits == {"exact": 1}
    assert cache.cache.stats.errors == {}


@pytest.mark.parametrize("value", [float("nan"), 0.0, float("inf")])
def test_broken_vectors_leave_the_exact_tier(value):
    class Broken:
        name = "broken"

        def embed(self, texts, role="query"):
            return np.full((len(texts), 8), value, np.float32)

    cache = SemanticCache(MemoryStore(), embedder=Broken())
    model = ScriptedChatModel(cache=cache)
    model.invoke(ASK)
    assert marker(model.invoke(ASK))["hit"] == "exact"
    assert cache.cache.stats.errors["VectorError"] == 2


def test_an_embedder_that_fails_leaves_the_exact_tier():
    cache = SemanticCache(MemoryStore(), embedder=BrokenEmbedder())
    model = ScriptedChatModel(cache=cache)
    model.invoke(ASK)
    assert marker(model.invoke(ASK))["hit"] == "exact"


@pytest.mark.parametrize(
    "configurable",
    [{"tennant": "acme"}, {"tenant": 7}, {"bypass": "yes"}, "acme", ["tenant"]],
)
def test_a_wrong_scope_is_no_scope(cache, configurable):
    """Fail closed and open at once: no lookup, and the call goes through."""
    model = ScriptedChatModel(cache=cache)
    chain = RunnableLambda(model.invoke)
    for _ in range(2):
        chain.invoke(ASK, config={"configurable": {"costwise": configurable}})
    assert len(model.asked) == 2
    assert cache.cache.stats.errors == {"ConfigError": 4}


FOREIGN = [
    "",
    "null",
    "[]",
    "{}",
    "not json",
    '{"format": 99, "generations": []}',
    '{"format": 1}',
    '{"format": 1, "generations": [{"message": {"content": 7}}]}',
    '{"format": 1, "generations": [{"text": {"a": 1}, "info": null}]}',
    '{"format": 1, "generations": []}',
    '{"format": 1, "generations": ' + "[" * 100_000,
    dumps([ChatGeneration(message=AIMessage("the peer's format"))]),
]


@pytest.mark.parametrize("payload", FOREIGN, ids=range(len(FOREIGN)))
def test_damaged_and_foreign_answers_are_misses(tmp_path, payload):
    """Trap 11: entries are untrusted; nothing but text and assistant messages can come of them."""
    path = tmp_path / "cache.db"
    with SQLiteStore(path) as store:
        ScriptedChatModel(cache=SemanticCache(store)).invoke(ASK)
    with sqlite3.connect(path) as db:
        (column,) = [
            row[1] for row in db.execute("PRAGMA table_info(entries)") if row[1] == "answer"
        ]
        db.execute(f"UPDATE entries SET {column} = ?", [payload])
    db.close()
    with SQLiteStore(path) as store:
        cache = SemanticCache(store)
        model = ScriptedChatModel(cache=cache)
        assert model.invoke(ASK).text == "This is answer 1."
        assert marker(model.invoke(ASK))["hit"] == "exact"  # replaced by the new answer
        assert cache.cache.stats.misses == {"damaged": 1}
        assert cache.cache.stats.hits == {"exact": 1}


def test_stored_classes_are_never_made(cache, tmp_path):
    """Trap 11: a stored constructor call stays text."""
    evil = {"lc": 1, "type": "constructor", "id": ["subprocess", "Popen"], "kwargs": {"args": "x"}}
    model = ScriptedChatModel(cache=cache)
    key = (dumps([HumanMessage(ASK)]), model._get_llm_string())
    cache.update(*key, [ChatGeneration(message=AIMessage("", additional_kwargs={"a": evil}))])
    cache.update(*key, [ChatGeneration(message=AIMessage("b", additional_kwargs={"a": evil}))])
    assert model.invoke(ASK).additional_kwargs == {"a": evil}


# --- what is not stored --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (ScriptedChatModel(script={ASK: ""}), "empty"),
        (ScriptedChatModel(script={ASK: " \n"}), "empty"),
        (ScriptedChatModel(tell={"finish_reason": "length"}), "truncated"),
        (ScriptedChatModel(tell={"stop_reason": "max_tokens"}), "truncated"),
        (ScriptedChatModel(tell={"finish_reason": "content_filter"}), "refusal"),
        (ScriptedChatModel(tell={"finish_reason": "SAFETY"}), "refusal"),
        (ScriptedChatModel(tell={"stop_reason": "refusal"}), "refusal"),
        (ScriptedChatModel(tell={"status": "incomplete"}), "truncated"),
        (ScriptedChatModel(tell={"finish_reason": "never_heard_of"}), "truncated"),
        (ScriptedChatModel(tell={"finish_reason": "error"}), "error"),
        (ScriptedChatModel(script={ASK: "I'm sorry, I cannot help with that."}), "refusal"),
        (ScriptedChatModel(extra={"refusal": "I cannot."}), "refusal"),
        (ScriptedChatModel(extra={"parsed": {"a": 1}}), "structured"),
        (ScriptedChatModel(extra={"odd": {1, 2}}), "not_json"),
        (ScriptedChatModel(extra={"odd": float("nan")}), "not_json"),
    ],
)
def test_unfit_answers_are_not_stored(cache, model, reason):
    """Trap 9: refusals, cut and empty answers were served for ever."""
    model = model.model_copy(update={"cache": cache})
    model.invoke(ASK)
    assert cache.cache.stats.not_stored == {reason: 1}
    assert cache.cache.stats.stored == 0


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"finish_reason": "STOP"},
        {"finish_reason": "FinishReason.STOP"},
        {"stop_reason": "end_turn"},
    ],
)
def test_finished_answers_are_stored(cache, told):
    ScriptedChatModel(tell=told, cache=cache).invoke(ASK)
    assert cache.cache.stats.stored == 1


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"{city} is dry."


def ask_with_tools(model: ScriptedChatModel) -> tuple[AIMessage, AIMessage]:
    bound = model.bind_tools([weather])
    call = bound.invoke(ASK)
    result = ToolMessage("dry", tool_call_id=call.tool_calls[0]["id"])
    return call, bound.invoke([HumanMessage(ASK), call, result])


def test_tools_are_left_alone(cache):
    """Trap 9: tool calls were replayed, and answers from one user's tools given to the next."""
    model = ScriptedChatModel(cache=cache)
    ask_with_tools(model)
    ask_with_tools(model)
    assert len(model.asked) == 4
    assert cache.cache.stats.not_stored == {"tool_calls": 2, "tool_derived": 2}


def test_tool_calls_on_request_have_fresh_ids():
    """Trap 9: the same call id came back."""
    cache = SemanticCache(
        MemoryStore(), admission=CachePolicy(allow=frozenset({"tool_calls", "tool_derived"}))
    )
    model = ScriptedChatModel(cache=cache)
    paid, answer = ask_with_tools(model)
    hit, same = ask_with_tools(model)
    assert len(model.asked) == 2
    assert hit.tool_calls[0]["args"] == paid.tool_calls[0]["args"]
    assert hit.tool_calls[0]["id"] != paid.tool_calls[0]["id"]
    assert (same.text, marker(same)["hit"]) == (answer.text, "exact")


def look(question: str = "What animal is this in the picture?") -> HumanMessage:
    picture = {"type": "image", "url": "https://example.org/cat.png"}
    return HumanMessage([{"type": "text", "text": question}, picture])


def test_pictures_are_for_who_allows_them(cache):
    model = ScriptedChatModel(cache=cache)
    model.invoke([look()]), model.invoke([look()])
    assert len(model.asked) == 2
    assert cache.cache.stats.misses == {"modality": 2}
    open_ = SemanticCache(MemoryStore(), admission=CachePolicy(allow=frozenset({"modality"})))
    model = ScriptedChatModel(cache=open_)
    model.invoke([look()])
    assert marker(model.invoke([look()]))["hit"] == "exact"
    assert "costwise" not in model.invoke([look("Is it?")]).response_metadata


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_temperature_may_be_denied(temperature):
    policy = CachePolicy(deny=frozenset({"temperature"}))
    cache = SemanticCache(MemoryStore(), admission=policy)
    model = ScriptedChatModel(cache=cache).bind(temperature=temperature)
    model.invoke(ASK), model.invoke(ASK)
    assert cache.cache.stats.stored == (0 if temperature else 1)
    assert cache.cache.stats.misses == ({"temperature": 2} if temperature else {"no_entry": 1})


def test_several_answers_are_kept_together_or_not_at_all(cache):
    whole, cut = AIMessage("a"), AIMessage("b", response_metadata={"finish_reason": "length"})
    cache.update("[]", "m", [ChatGeneration(message=whole), ChatGeneration(message=cut)])
    assert cache.lookup("[]", "m") is None
    cache.update("[]", "m", [ChatGeneration(message=whole), ChatGeneration(message=whole)])
    assert [item.text for item in cache.lookup("[]", "m")] == ["a", "a"]


# --- scope ---------------------------------------------------------------------------------------


def test_tenants_never_mix(cache):
    model = ScriptedChatModel(cache=cache)
    with scoped(tenant="acme"):
        ours = model.invoke(ASK)
    with scoped(tenant="bolt"):
        theirs = model.invoke(ASK)
    assert ours.text != theirs.text
    with scoped(tenant="acme"):
        assert model.invoke(ASK).text == ours.text


async def test_a_chains_config_is_the_scope(cache):
    """Trap 9: config is no argument of a cache, but can be seen from inside a chain."""
    model = ScriptedChatModel(cache=cache)
    chain = ChatPromptTemplate.from_messages([("human", "{question}")]) | model

    def ask(tenant: str) -> dict:
        return {
            "input": {"question": ASK},
            "config": {"configurable": {"costwise": {"tenant": tenant}}},
        }

    with scoped(tenant="zinc"):  # the config wins
        ours = chain.invoke(**ask("acme"))
        theirs = await chain.ainvoke(**ask("bolt"))
        assert ours.text != theirs.text
        assert (await chain.ainvoke(**ask("acme"))).text == ours.text
        assert chain.invoke(**ask("bolt")).text == theirs.text


def test_without_the_required_scope_nothing_is_looked_up():
    cache = SemanticCache(MemoryStore(), require=("tenant", "corpus"))
    model = ScriptedChatModel(cache=cache)
    for _ in range(2):
        with scoped(tenant="acme"):
            model.invoke(ASK)
    assert len(model.asked) == 2
    assert cache.cache.stats.misses == {"no_scope": 2}
    assert cache.cache.stats.not_stored == {"no_scope": 2}


def test_one_call_may_pass_by(cache):
    model = ScriptedChatModel(cache=cache)
    model.invoke(ASK)
    with scoped(bypass=True):
        assert "costwise" not in model.invoke(ASK).response_metadata
    assert marker(model.invoke(ASK))["hit"] == "exact"
    assert len(model.asked) == 2


def test_models_do_not_share(everywhere, cache):
    everywhere(cache)
    ScriptedChatModel(model_name="small").invoke(ASK)
    other = ScriptedChatModel(model_name="large")
    assert "costwise" not in other.invoke(ASK).response_metadata


def test_clear_takes_the_fields_of_a_selection(cache):
    small, large = (ScriptedChatModel(model_name=name, cache=cache) for name in ("small", "large"))
    for tenant in ("acme", "bolt"):
        with scoped(tenant=tenant):
            small.invoke(ASK), large.invoke(ASK)
    cache.clear(tenant="acme", model="small")
    with scoped(tenant="acme"):
        assert "costwise" in large.invoke(ASK).response_metadata
        assert "costwise" not in small.invoke(ASK).response_metadata
    with pytest.raises(ConfigError, match="Did you mean 'tenant'"):
        cache.clear(tennant="bolt")
    with scoped(tenant="bolt"):
        assert "costwise" in small.invoke(ASK).response_metadata
    cache.clear()
    with scoped(tenant="bolt"):
        assert "costwise" not in small.invoke(ASK).response_metadata


# --- the rest of the slot ------------------------------------------------------------------------


class Counter(BaseRateLimiter):
    def __init__(self):
        self.acquired = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.acquired += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self.acquired += 1
        return True


def test_hits_use_up_no_rate(cache):
    """Trap 10."""
    limiter = Counter()
    model = ScriptedChatModel(cache=cache, rate_limiter=limiter)
    for _ in range(3):
        model.invoke(ASK)
    assert limiter.acquired == 1


def test_it_serves_all_models_at_once(everywhere, cache):
    everywhere(cache)
    model = ScriptedChatModel()
    model.invoke(ASK)
    assert marker(model.invoke(ASK))["hit"] == "exact"


def test_threads_and_tasks_share_one_cache(tmp_path):
    with SQLiteStore(tmp_path / "cache.db") as store:
        cache = SemanticCache(store, embedder=HashingEmbedder())
        model = ScriptedChatModel(cache=cache)
        questions = [f"What is the number {n}?" for n in range(20)]
        for question in questions:
            model.invoke(question)
        with ThreadPoolExecutor(8) as pool:
            texts = list(pool.map(lambda q: model.invoke(q).text, questions * 5))

        async def ask_all():
            return await asyncio.gather(*(model.ainvoke(q) for q in questions * 5))

        assert [message.text for message in asyncio.run(ask_all())] == texts
        assert texts[:20] * 5 == texts
        assert cache.cache.stats.hits == {"exact": 200}
        assert cache.cache.stats.errors == {}


async def test_cancelling_a_call_leaves_the_cache_whole(cache):
    model = ScriptedChatModel(cache=cache, latency=0.2)
    call = asyncio.create_task(model.ainvoke(ASK))
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert cache.cache.stats.stored == 0
    await model.ainvoke(ASK)
    assert marker(await model.ainvoke(ASK))["hit"] == "exact"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SemanticCache(MemoryStore(), require=("tennant",)), "Did you mean 'tenant'"),
        (lambda: SemanticCache(MemoryStore(), require="tenant"), "takes a tuple"),
        (lambda: SemanticCache(MemoryStore(), embedder="minilm"), "got str"),
        (lambda: SemanticCache(MemoryStore(), ttl=0), "ttl"),
        (lambda: SemanticCache(Cache(MemoryStore()), ttl=3), "set them there"),
    ],
)
def test_wrong_arguments_are_told_at_once(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("question", ["", "   ", "x" * 2_000_000, "\ud800 broken", "\x00", "[{"])
def test_odd_questions_pass(cache, question):
    model = ScriptedChatModel(cache=cache)
    model.invoke(question)
    assert model.invoke(question).text.startswith("This is answer")


def test_the_peers_do_have_the_traps(everywhere):
    """What the tests above guard against is real: LangChain's own cache serves one id for ever."""
    everywhere(InMemoryCache())
    model = ScriptedChatModel()
    first, second = model.invoke(ASK), model.invoke(ASK)
    assert first.id == second.id
    assert second.usage_metadata["total_tokens"] > 0
