"""Folding: short, whole, by one at a time, and cut off anywhere without losing a message."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import (
    Conversation,
    ConversationMemory,
    MemoryConversations,
    MemoryPolicy,
    MemoryPrices,
    Message,
    SQLiteConversations,
    Summary,
)
from costwise_core.drive import Flow, call, run
from costwise_core.memory.background import Background
from costwise_core.memory.deciding import Deciding
from costwise_core.memory.matching import matched
from costwise_core.memory.messages import digest
from costwise_core.memory.naming import named
from costwise_core.memory.summarising import KEPT_FACTS, checked, shortened, summarise
from costwise_core.testing.fakes import ScriptedCompleter

DEAR = MemoryPrices(
    input=2.5, cache_read=2.5, cache_write=2.5, output=10, summary_input=0.15, summary_output=0.6
)
CHAT = Conversation(id="42")


FILLER = "and then we talked at length of nothing much but the sea the sun the sand and the sky"


def words(text: str) -> int:
    return len(text.split())


def talk(turns: int) -> list[Message]:
    found = []
    for turn in range(turns):
        filler = " ".join([FILLER] * 4)
        found.append(Message(role="user", text=f"What of {turn}? {filler}.", id=f"q{turn}"))
        found.append(Message(role="assistant", text=f"It is {turn}. {filler}.", id=f"a{turn}"))
    return found


def memory_of(store: object, summariser: object = None, **settings: object) -> ConversationMemory:
    settings = {"prices": DEAR, "background": False, **settings}
    return ConversationMemory(store, summariser=summariser, **settings)  # type: ignore[arg-type]


def ready(store: object, messages: Sequence[Message]) -> ConversationMemory:
    """Return a memory without a summariser that has saved enough to pay one."""
    memory = memory_of(store)
    for end in range(1, len(messages) + 1, 2):
        memory.view(CHAT, messages[:end])
    memory.add(CHAT, messages)
    return memory


# --- what a model writes --------------------------------------------------------------------------


def test_thinking_labels_and_tags_are_no_summary():
    source = "Ada wants a refund for order 17, and asks about the trip to Malta in May as well."
    said = "Ada wants a refund for order 17 and Malta, May."
    for answer in (
        f"<think>Let me see. The user</think>Summary: {said}",
        f"<summary>\n{said}\n</summary>",
        f"Here is the updated summary of the conversation:\n\n{said}",
        f"**Summary:** {said}\n{said}",
    ):
        found = checked(answer, source, max_tokens=100, count=words)
        assert found.text.splitlines()[0].endswith(said)
        assert found.text.count("refund") == 1


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", "empty"),
        ("  \n ", "empty"),
        ("<think>I should think about this for", "empty"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("Error: rate limit exceeded", "refusal"),
        ("The order 17 of Ada, the refund, Malta and May " * 5, "no_gain"),
    ],
)
def test_what_is_no_summary_is_refused(answer, fault):
    source = "Ada: I want a refund for order 17. We fly to Malta in May, and I need it by then."
    found = checked(answer, source, max_tokens=100, count=words)
    assert (found.text, found.fault) == ("", fault)


def test_a_summary_of_a_refusal_is_one():
    source = "Ada: refund order 17, Malta?\nassistant: I'm sorry, I can't refund order 17 to Malta."
    answer = "The assistant was sorry and can't refund order 17 to Malta."
    assert checked(answer, source, max_tokens=40, count=words).fault == ""


def test_facts_that_vanish_are_put_back_and_those_without_a_place_counted():
    source = "Ada: my order AB-1234 of 1,250 dollars goes to Valletta, with Lufthansa, on 3 May."
    found = checked("Ada asks about an order.", source, max_tokens=60, count=words)
    assert "AB-1234" in found.text
    assert "Valletta" in found.text
    assert KEPT_FACTS in found.text
    assert found.added > 0
    tight = checked("Ada asks about an order.", source, max_tokens=7, count=words)
    assert words(tight.text) <= 7
    assert tight.lost > 0


@given(
    answer=st.text(max_size=400),
    source=st.text(max_size=800),
    most=st.integers(1, 60),
)
def test_a_summary_is_never_over_its_limit_and_shorter_than_its_source(answer, source, most):
    found = checked(answer, source, max_tokens=most, count=words)
    assert bool(found.text) != bool(found.fault)
    if found.text:
        assert words(found.text) <= most
        assert words(found.text) < words(source)


@given(text=st.text(max_size=300), most=st.integers(0, 40))
def test_shortening_keeps_a_beginning_that_fits(text, most):
    found = shortened(text, most, words)
    assert text.startswith(found)
    assert words(found) <= most


def test_a_model_that_goes_round_in_circles_is_heard_once():
    answer = "Ada wants a desk. " + "She is happy. " * 30
    source = "Ada: I want a desk, please, and I am happy, as I always am, with all of you."
    assert checked(answer, source, max_tokens=90, count=words).text == (
        "Ada wants a desk. She is happy."
    )


def test_a_long_block_is_read_in_several_steps_and_nothing_is_trimmed():
    summariser = ScriptedCompleter(lambda _: "They talk.")
    endless = Message(role="user", text=" ".join(f"item{n}." for n in range(900)), id="long")
    short = [Message(role="assistant", text=f"Reply {n}.", id=str(n)) for n in range(50)]
    run(summarise(summariser, "", [endless, *short], max_tokens=50, window=200, count=words))
    asked = "\n".join(summariser.asked)
    assert len(summariser.asked) > 4
    assert all(f"item{n}." in asked for n in range(900))
    assert all(f"Reply {n}." in asked for n in range(50))
    assert all(words(prompt) < 400 for prompt in summariser.asked)
    assert all("They talk." in prompt for prompt in summariser.asked[1:])


# --- folding --------------------------------------------------------------------------------------


def test_only_what_is_new_is_read_besides_the_old_summary():
    summariser = ScriptedCompleter(lambda _: "They talk about words.")
    store, messages = MemoryConversations(), talk(60)
    memory = memory_of(store, summariser)
    for end in range(1, len(messages) + 1, 2):
        memory.view(CHAT, messages[:end])
    assert len(summariser.asked) >= 2
    read = [sum(f"What of {turn}?" in prompt for prompt in summariser.asked) for turn in range(60)]
    assert max(read) <= 2  # its facts may be kept in the summary
    assert "They talk about words." in summariser.asked[1]


def test_folding_again_changes_nothing():
    store, messages = MemoryConversations(), talk(30)
    ready(store, messages)
    summariser = ScriptedCompleter(["They talk about words."])
    memory = memory_of(store, summariser)
    first = memory.fold(CHAT)
    assert first is not None
    assert first.text.startswith("They talk about words.")
    assert first.digest == digest(store.messages(CHAT)[: first.folded])
    assert memory.fold(CHAT) == store.summary(CHAT)
    assert len(summariser.asked) == 1


@pytest.mark.parametrize("answer", ["", "I'm sorry, I can't help with that."])
def test_what_was_paid_for_nothing_is_paid_back_before_the_next_try(answer):
    store, messages = MemoryConversations(), talk(30)
    ready(store, messages)
    before = store.summary(CHAT)
    summariser = ScriptedCompleter([answer])
    memory = memory_of(store, summariser)
    memory.fold(CHAT)
    after = store.summary(CHAT)
    assert after.text
    assert after.version > before.version
    plan = Deciding(stated=DEAR, summariser="x").plan(store.messages(CHAT), before, before=0)
    assert after.saved_usd == pytest.approx(plan.saved_usd - plan.expected_usd)
    assert plan.expected_usd > 0
    assert len(summariser.asked) == 1
    assert memory.stats.folds["empty" if not answer else "refusal"] == 1


def test_a_lost_race_leaves_the_winner():
    store, messages = MemoryConversations(), talk(30)
    ready(store, messages)
    winner = Summary(text="The winner's.", folded=2, digest=digest(store.messages(CHAT)[:2]))

    def beaten(_: str) -> str:
        assert store.replace(CHAT, winner, version=store.summary(CHAT).version)
        return "The loser's."

    memory = memory_of(store, ScriptedCompleter(beaten))
    memory.fold(CHAT)
    assert store.summary(CHAT).text == "The winner's."
    assert memory.stats.folds["raced"] == 1


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "question to come"])
@pytest.mark.parametrize("background", [True, False])
def test_an_extract_saves_with_the_call_at_hand_and_a_fold_behind_it_with_the_next(
    background, asked
):
    store, messages = MemoryConversations(), talk(30)
    memory = memory_of(store, background=background)
    ends = iter(range(1 if asked else 2, len(messages), 2))
    while store.summary(CHAT) is None:
        end = next(ends)
        memory.view(CHAT, messages[:end])
    assert store.summary(CHAT).seen == end

    model = memory_of(store, ScriptedCompleter(["They talk about words."]), background=background)
    while store.summary(CHAT).written == 0:
        end = next(ends)
        model.view(CHAT, messages[:end])
        assert model.wait(30)
    missed = 1 if asked else 2  # the call at hand went out with the old state
    assert store.summary(CHAT).seen == end + missed * background


class Onward(ScriptedCompleter):
    """The model itself, which can go on from a live prompt."""

    def complete_after(self, messages: Sequence[Message], instruction: str) -> str:
        self.seen = list(messages)
        return self.complete(instruction)


def test_a_summary_may_be_asked_for_at_the_end_of_the_live_prompt():
    cached = MemoryPrices(
        input=3,
        cache_read=0.3,
        cache_write=3.75,
        output=15,
        summary_input=3,
        summary_output=15,
        appended=True,
    )
    store, messages = MemoryConversations(), talk(120)
    model = Onward(["They talk about words."])
    memory = memory_of(store, model, prices=cached)
    rules = Message(role="system", text="Be kind.")
    for end in range(1, len(messages) + 1, 2):
        live = memory.view(CHAT, [rules, *messages[:end]])
    onward = [prompt for prompt in model.asked if prompt.startswith("Leave the task")]
    assert onward
    assert live.summary.startswith("They talk")
    assert model.seen[0] == rules
    assert model.seen[1].text.startswith("<conversation_summary>")
    assert model.seen[-1].role == "user"
    # Without the method nobody is asked that way.
    plain = Deciding(stated=cached, summariser="x", appends=False)
    assert plain.prices is not None
    assert not plain.prices.appended


# --- cut off --------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone."""


def until_step(flow: Flow[object], steps: int) -> bool:
    """Drive a flow for so many calls, then drop it as a crash would; True if it came to its end."""
    try:
        effect = next(flow)
        for _ in range(steps):
            effect = flow.send(effect.fn(*effect.args, **effect.kwargs))
    except StopIteration:
        return True
    flow.close()
    return False


def test_a_crash_at_any_point_loses_no_message_and_no_summary(tmp_path):
    messages = talk(14)
    for step in range(1_000):
        path = tmp_path / f"{step}.db"
        with SQLiteConversations(path) as store:
            ready(store, messages[:-1])
            stored, summary = store.messages(CHAT), store.summary(CHAT)
            model = memory_of(store, ScriptedCompleter(["They talk about words."]))
            flow = model._fold(CHAT, 0)
            ended = until_step(flow, step)
        with SQLiteConversations(path) as store:
            assert store.messages(CHAT) == stored
            after = store.summary(CHAT)
            assert after == summary or after.text.startswith("They talk about words.")
            view = memory_of(store).view(CHAT, messages)
            assert view.reason == "folded"
            assert [*view.kept] == [*store.messages(CHAT)][-len(view.kept) :]
            assert len(store.messages(CHAT)) == len(messages)
        if ended:
            assert after.text.startswith("They talk about words.")
            break
    else:
        pytest.fail("the fold never came to its end")
    assert step > 4


def test_a_crash_of_a_view_loses_no_message_that_was_stored_before(tmp_path):
    messages = talk(14)
    for step in range(1_000):
        path = tmp_path / f"{step}.db"
        with SQLiteConversations(path) as store:
            ready(store, messages[:-2])
            before = store.messages(CHAT)
            memory = memory_of(store)
            ended = until_step(memory._looking.look(CHAT, messages[:-1], "", 0), step)
        with SQLiteConversations(path) as store:
            assert store.messages(CHAT)[: len(before)] == before
            view = memory_of(store).view(CHAT, messages[:-1])
            assert view.kept[-1].text == messages[-2].text
            assert len(store.messages(CHAT)) == len(messages) - 1
        if ended:
            break
    assert step > 4


async def test_a_cancelled_fold_gives_its_lease_back():
    store, messages = MemoryConversations(), talk(30)
    ready(store, messages)
    begun = asyncio.Event()

    class Endless:
        def complete(self, prompt: str) -> str:
            raise AssertionError

        async def acomplete(self, prompt: str) -> str:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    task = asyncio.create_task(memory_of(store, Endless()).afold(CHAT))
    await begun.wait()
    assert not store.acquire(CHAT.key, "another", 1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.acquire(CHAT.key, "another", 1.0)


def test_who_finds_the_lease_taken_leaves_it_at_that():
    store, messages = MemoryConversations(), talk(30)
    ready(store, messages)
    assert store.acquire(CHAT.key, "another replica", 60.0)
    summariser = ScriptedCompleter(["They talk about words."])
    memory = memory_of(store, summariser)
    memory.fold(CHAT)
    assert summariser.asked == []
    assert memory.stats.folds == {"busy": 1}


# --- behind ---------------------------------------------------------------------------------------


def test_behind_there_is_room_for_few_and_one_of_a_kind():
    go = threading.Event()

    def waiting() -> Flow[object]:
        yield from call(go.wait, 30)

    behind = Background(most=2)
    assert behind.start("a", waiting()) is not None
    assert behind.start("a", waiting()) is None
    assert behind.start("b", waiting()) is not None
    assert behind.start("c", waiting()) is None
    assert not behind.wait(0.01)
    go.set()
    assert behind.wait(30)
    assert behind.start("c", waiting()) is not None
    assert behind.wait(30)
    behind.close()
    assert behind.start("d", waiting()) is None


async def test_behind_in_tasks_there_is_room_for_few_as_well():
    go = asyncio.Event()

    class Waits:
        def now(self) -> None:
            raise AssertionError

        async def anow(self) -> None:
            await go.wait()

    def waiting() -> Flow[object]:
        yield from call(Waits().now)

    behind = Background(most=1)
    done = await behind.astart("a", waiting())
    assert done is not None
    assert await behind.astart("b", waiting()) is None
    assert not await behind.ajoin(done, 0.01)
    go.set()
    assert await behind.await_(30)
    assert await behind.astart("b", waiting()) is not None
    assert await behind.await_(30)


# --- matching -------------------------------------------------------------------------------------

ROLES = st.sampled_from(["user", "assistant"])
SAID = st.lists(st.builds(Message, role=ROLES, text=st.sampled_from("abcd")), max_size=12)


@given(history=SAID, cut=st.integers(0, 12))
def test_a_history_handed_over_again_is_the_same_conversation(history, cut):
    stored = matched([], history[:cut])
    whole = matched(stored, history)
    if len(history) == 1 < len(stored):
        return
    assert [one.text for one in whole] == [one.text for one in history] or not stored


@given(history=SAID, new=SAID)
def test_new_messages_with_ids_come_after_the_stored_ones(history, new):
    stored = named(history)
    fresh = [Message(role=one.role, text=one.text, id=f"new{at}") for at, one in enumerate(new)]
    assert matched(stored, fresh) == (*stored, *fresh)


@given(history=SAID, start=st.integers(0, 11), new=SAID)
def test_a_trimmed_history_stands_for_the_whole(history, start, new):
    stored = named(history)
    if start >= len(stored):
        return
    fresh = tuple(
        Message(role=one.role, text=one.text, id=f"new{at}") for at, one in enumerate(new)
    )
    assert matched(stored, [*stored[start:], *fresh]) == (*stored, *fresh)


def test_an_edited_message_is_another_one_and_a_shortened_tool_result_is_not():
    stored = [
        Message(role="user", text="Red?", id="1"),
        Message(role="tool", text="A long result", answers="c", id="2"),
    ]
    edited = [
        Message(role="user", text="Blue?", id="1"),
        Message(role="tool", text="[cleared]", answers="c", id="2"),
    ]
    first, second = matched(stored, edited)
    assert first.id != "1"
    assert second.id == "2"
    assert matched([*stored, first], edited) == (first, second)


def test_the_policy_is_checked_where_it_is_given():
    with pytest.raises(ValueError, match="window"):
        MemoryPolicy(window=0)
