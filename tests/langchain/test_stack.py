"""The whole stack in LangChain: what its parts do to each other, and each of them taken out."""

import asyncio
import threading
from dataclasses import replace

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from costwise_core import (
    Budget,
    Budgets,
    Cache,
    Conversation,
    ConversationMemory,
    Decision,
    ExtractiveCompressor,
    FixedThreshold,
    HoldOut,
    Judgement,
    MemoryConversations,
    MemoryLedger,
    MemoryStore,
    RerankTrim,
)
from costwise_core.context import current_request
from costwise_core.errors import BudgetExceededError, ConfigError
from costwise_core.testing.fakes import PRICES, HashingEmbedder
from langchain_costwise import Stack, scoped, track
from langchain_costwise.testing import ScriptedChatModel

PASSAGES = [
    "A password is reset under Settings. The button is called Forgotten. It is blue and round.",
    "Shipping takes three days inside the country. Parcels leave at noon. They are insured.",
    "We accept all cards. Cash is accepted too. Cheques are not accepted any more.",
    "The monthly fee is thirty euros. It is due on the first. There is no fee for students.",
]
QUESTION = "How is a password reset?"


class Shelf(BaseRetriever):
    """Finds everything, and counts how often it was asked."""

    texts: list[str] = PASSAGES
    asked: list[str] = Field(default_factory=list)

    def _get_relevant_documents(self, query, *, run_manager):
        self.asked.append(query)
        return [Document(id=str(n), page_content=text) for n, text in enumerate(self.texts)]


class Good:
    """Finds every answer good, or none."""

    blocking = False

    def __init__(self, score):
        self.score = score
        self.questions = []

    def __repr__(self):
        return f"Good({self.score})"

    def judge(self, ask, answer):
        self.questions.append(current_request().question)
        return Judgement(score=self.score, why="as told")


class Cheaper:
    """Always takes the cheaper model."""

    def __repr__(self):
        return "Cheaper()"

    def decide(self, ask, routes):
        return Decision(model="cheaper", why="as told")


def whole(**parts):
    embedder = HashingEmbedder()
    return Stack(
        **{
            "cache": Cache(
                MemoryStore(), embedder=embedder, policy=FixedThreshold(min_cosine=0.97)
            ),
            "corpus": "docs-v1",
            "trim": RerankTrim(top_k=2),
            "compress": ExtractiveCompressor(share=0.5, min_tokens=0),
            "memory": ConversationMemory(MemoryConversations(), model="gpt-4o"),
            "router": Cheaper(),
            "budgets": Budgets(Budget(limit=1000, unit="calls", window="day")),
            "ledger": MemoryLedger(),
            "prices": PRICES,
            **parts,
        }
    )


PARTS = (
    *("cache", "in_flight", "trim", "compress", "memory", "router", "judge"),
    *("budgets", "ledger", "prices", "holdout"),
)


@pytest.fixture
def paid():
    return ScriptedChatModel(model_name="scripted-large")


@pytest.fixture
def cheap():
    return ScriptedChatModel(model_name="scripted-1")


# --- what is sent, and what is spared -------------------------------------------------------------


def test_a_repeat_spares_search_compression_and_model(paid):
    shelf, stack = Shelf(), whole()
    chain = stack.rag_chain(shelf, paid)
    with stack.track(feature="faq") as bill:
        first, again = chain.invoke(QUESTION), chain.invoke("how is a  password reset?")
    assert again.text == first.text
    assert again.response_metadata["costwise"]["hit"] == "exact"
    assert len(shelf.asked) == len(paid.asked) == 1
    assert (bill.calls, bill.paid_calls) == (2, 1)
    assert [record.tags for record in stack.ledger.records()] == [(("feature", "faq"),)] * 2


def test_only_what_matters_is_sent(paid):
    whole().rag_chain(Shelf(), paid).invoke(QUESTION)
    assert "reset under Settings" in paid.asked[0]
    assert "thirty euros" not in paid.asked[0]
    assert len(paid.asked[0]) < sum(map(len, PASSAGES)) / 2


def test_a_prompt_of_ones_own_and_what_it_must_have(paid):
    own = ChatPromptTemplate.from_template("C: {context} Q: {question}")
    whole().rag_chain(Shelf(), paid, own).invoke(QUESTION)
    assert paid.asked[0].startswith("C: ")
    with pytest.raises(ConfigError, match="'question'"):
        whole().rag_chain(Shelf(), paid, ChatPromptTemplate.from_template("{context}"))
    with pytest.raises(ConfigError, match="history"):
        whole().chat_chain(Shelf(), paid, own)


@pytest.mark.parametrize("name", ["rag_chain", "chat_chain", "retriever"])
def test_a_cache_needs_a_corpus(name, paid):
    given = (Shelf(),) if name == "retriever" else (Shelf(), paid)
    with pytest.raises(ConfigError, match="corpus"):
        getattr(whole(corpus=""), name)(*given)


def test_only_known_scopes_can_be_required():
    with pytest.raises(ConfigError, match=r"'tennant'.*tenant"):
        Stack(require=("tennant",))


# --- scopes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"corpus": "docs-v2"},
        {"trim": None},
        {"trim": RerankTrim(top_k=1)},
        {"compress": None},
        {"compress": ExtractiveCompressor(share=0.2, min_tokens=0)},
    ],
    ids=str,
)
def test_an_answer_is_not_served_to_another_recipe(other, paid):
    stack = whole()
    stack.rag_chain(Shelf(), paid).invoke(QUESTION)
    replace(stack, **other).rag_chain(Shelf(), paid).invoke(QUESTION)
    assert len(paid.asked) == 2
    stack.rag_chain(Shelf(), paid).invoke(QUESTION)
    assert len(paid.asked) == 2


@pytest.mark.parametrize("removed", ["memory", "budgets", "ledger", "prices", "in_flight"])
def test_parts_that_shape_no_answer_share_answers(removed, paid):
    stack = whole()
    stack.rag_chain(Shelf(), paid).invoke(QUESTION)
    replace(stack, **{removed: None}).rag_chain(Shelf(), paid).invoke(QUESTION)
    assert len(paid.asked) == 1


def test_a_routed_answer_is_served_to_the_same_routing_alone(paid, cheap):
    stack = whole(router=None, judge=Good(1.0))
    chain = stack.rag_chain(Shelf(), paid, cheaper=cheap)
    first = chain.invoke(QUESTION)
    assert (len(cheap.asked), len(paid.asked)) == (1, 0)
    assert stack.judge.questions == [QUESTION]
    plain = stack.rag_chain(Shelf(), paid)
    assert plain.invoke(QUESTION).response_metadata.get("model_name") == "scripted-large"
    strict = replace(stack, judge=Good(0.0)).rag_chain(Shelf(), paid, cheaper=cheap)
    strict.invoke(QUESTION)
    assert (len(cheap.asked), len(paid.asked)) == (2, 2)
    assert chain.invoke(QUESTION).text == first.text
    assert (len(cheap.asked), len(paid.asked)) == (2, 2)


def test_an_agents_routed_answer_is_not_served_unrouted(paid, cheap):
    stack = whole(memory=None)
    routed = create_agent(paid, middleware=stack.middleware(cheaper=cheap))
    plain = create_agent(paid, middleware=stack.middleware())
    for _ in range(2):
        routed.invoke({"messages": QUESTION})
    assert (len(cheap.asked), len(paid.asked)) == (1, 0)
    plain.invoke({"messages": QUESTION})
    assert (len(cheap.asked), len(paid.asked)) == (1, 1)


@pytest.mark.parametrize("how", ["scoped", "config"])
def test_tenants_do_not_share(how, paid):
    chain = whole(require=("tenant",)).rag_chain(Shelf(), paid)
    for tenant in ("acme", "other", "acme"):
        if how == "scoped":
            with scoped(tenant=tenant):
                chain.invoke(QUESTION)
        else:
            chain.invoke(QUESTION, {"configurable": {"costwise": {"tenant": tenant}}})
    assert len(paid.asked) == 2
    chain.invoke(QUESTION)
    chain.invoke(QUESTION)
    assert len(paid.asked) == 4  # without a tenant nothing is kept


def test_other_models_and_prompts_do_not_share(paid, cheap):
    stack = whole()
    own = ChatPromptTemplate.from_template("C: {context} Q: {question}")
    stack.rag_chain(Shelf(), paid).invoke(QUESTION)
    stack.rag_chain(Shelf(), cheap).invoke(QUESTION)
    stack.rag_chain(Shelf(), paid, own).invoke(QUESTION)
    assert (len(paid.asked), len(cheap.asked)) == (2, 1)


def test_a_document_that_changed_takes_its_answers_along(paid):
    shelf, stack = Shelf(), whole()
    chain = stack.rag_chain(shelf, paid)
    chain.invoke(QUESTION)
    shelf.texts = [PASSAGES[0].replace("Forgotten", "Lost"), *PASSAGES[1:]]
    chain.invoke("Where is a password reset?")  # another question, which brings the new version
    chain.invoke(QUESTION)
    assert len(paid.asked) == 3


# --- budgets --------------------------------------------------------------------------------------


def limited(calls):
    return Budgets(Budget(limit=calls, unit="calls", window="day"))


def test_a_hit_reserves_nothing(paid):
    chain = whole(budgets=limited(1)).rag_chain(Shelf(), paid)
    for _ in range(3):
        chain.invoke(QUESTION)
    assert len(paid.asked) == 1
    with pytest.raises(BudgetExceededError):
        chain.invoke("How long does shipping take?")


def test_a_refusal_never_falls_back_and_is_not_kept(paid, cheap):
    stack = whole(budgets=limited(1))
    chain = stack.rag_chain(Shelf(), paid, cheaper=cheap)
    chain.invoke(QUESTION)
    for _ in range(2):
        with pytest.raises(BudgetExceededError):
            chain.invoke("How long does shipping take?")
    assert (len(cheap.asked), len(paid.asked)) == (1, 0)
    richer = replace(stack, budgets=limited(9)).rag_chain(Shelf(), paid, cheaper=cheap)
    assert richer.invoke("How long does shipping take?").response_metadata.get("costwise", {}).get(
        "hit"
    ) in (None, "")


def test_a_model_with_the_same_budgets_counts_once(paid):
    stack = whole(budgets=limited(2), cache=None)
    model = stack.chat_model(stack.chat_model(paid))
    model.invoke("One?")
    model.invoke("Two?")
    with pytest.raises(BudgetExceededError):
        model.invoke("Three?")


# --- streams, async, batches, threads -------------------------------------------------------------


def test_streams_word_by_word_and_is_kept(paid):
    paid.script = {}
    chain = whole().rag_chain(Shelf(), paid)
    first = [chunk.text for chunk in chain.stream(QUESTION)]
    again = [chunk.text for chunk in chain.stream(QUESTION)]
    assert len([piece for piece in first if piece]) > 2
    assert "".join(first) == "".join(again)
    assert len(paid.asked) == 1
    assert chain.invoke(QUESTION).text == "".join(first)


def test_a_stream_that_is_left_is_not_kept(paid):
    chain = whole().rag_chain(Shelf(), paid)
    stream = chain.stream(QUESTION)
    next(stream)
    stream.close()
    chain.invoke(QUESTION)
    assert len(paid.asked) == 2


def test_a_stream_that_breaks_is_not_kept(paid):
    paid.fail_after = 2
    chain = whole().rag_chain(Shelf(), paid)
    with pytest.raises(ConnectionError):
        list(chain.stream(QUESTION))
    paid.fail_after = None
    assert "costwise" not in chain.invoke(QUESTION).response_metadata


async def test_async_in_all_ways(paid):
    shelf = Shelf()
    chain = whole().rag_chain(shelf, paid)
    first = await chain.ainvoke(QUESTION)
    pieces = [chunk.text async for chunk in chain.astream(QUESTION)]
    batch = await chain.abatch([QUESTION, QUESTION])
    assert {"".join(pieces), *(one.text for one in batch)} == {first.text}
    assert len(paid.asked) == len(shelf.asked) == 1


async def test_an_async_stream_is_kept(paid):
    chain = whole().rag_chain(Shelf(), paid)
    pieces = [chunk.text async for chunk in chain.astream(QUESTION)]
    assert (await chain.ainvoke(QUESTION)).text == "".join(pieces)
    assert len(paid.asked) == 1


async def test_tasks_that_ask_the_same_share_one_call():
    slow = ScriptedChatModel(model_name="scripted-large", latency=0.2)
    chain = whole().rag_chain(Shelf(), slow)
    answers = await asyncio.gather(*(chain.ainvoke(QUESTION) for _ in range(8)))
    assert len({one.text for one in answers}) == len(slow.asked) == 1


def test_threads_that_ask_the_same_share_one_call():
    slow = ScriptedChatModel(model_name="scripted-large", latency=0.2)
    stack = whole()
    chain, texts = stack.rag_chain(Shelf(), slow), []

    def ask(n):
        with stack.track(user=str(n)):
            pieces = chain.stream(QUESTION) if n % 2 else [chain.invoke(QUESTION)]
            texts.append("".join(one.text for one in pieces))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8
    assert len(set(texts)) == len(slow.asked) == 1
    assert sum(record.tier == "" for record in stack.ledger.records()) == 1


def test_batches_keep_their_order(paid):
    paid.latency = 0.01
    questions = [f"What is clause {n} about?" for n in range(6)]
    chain = whole().rag_chain(Shelf(), paid)
    first = [one.text for one in chain.batch(questions)]
    assert [one.text for one in chain.batch(questions)] == first
    assert len(paid.asked) == 6


# --- tools and structured output ------------------------------------------------------------------


class Fee(BaseModel):
    """A fee."""

    euros: int


def test_structured_output_through_the_whole_stack(paid, cheap):
    stack = whole()
    model = stack.chat_model(paid, cheap).with_structured_output(Fee)
    for _ in range(2):
        assert model.invoke("What is the fee?") == Fee(euros=3)
    assert (len(cheap.asked), len(paid.asked)) == (2, 0)  # never served from the cache


def test_tools_through_the_whole_stack(paid, cheap):
    @tool
    def search(query: str) -> str:
        """Search the handbook."""
        return " ".join(PASSAGES)

    stack = whole()
    agent = create_agent(
        paid, tools=[search], middleware=stack.middleware(tools=["search"], cheaper=cheap)
    )
    thread = {"configurable": {"thread_id": "7"}}
    with stack.track(feature="agent") as bill:
        state = agent.invoke({"messages": QUESTION}, thread)
    kinds = [message.type for message in state["messages"]]
    assert kinds == ["human", "ai", "tool", "ai"]
    assert len(state["messages"][2].text) < len(" ".join(PASSAGES))
    assert (len(cheap.asked), len(paid.asked)) == (2, 0)
    assert bill.paid_calls == 2
    assert len(stack.memory.store.messages(_conversation("7"))) == 4


def _conversation(name, **whose):
    return Conversation(id=name, **whose)


# --- conversations --------------------------------------------------------------------------------


def thread(name, **said):
    return {"configurable": {"thread_id": name, **said}}


def test_a_conversation_is_kept_and_sent(paid):
    stack = whole()
    chain = stack.chat_chain(Shelf(), paid)
    chain.invoke("How is a password reset?", thread("1"))
    chain.invoke("And which colour has the button?", thread("1"))
    told = stack.memory.store.messages(_conversation("1"))
    assert [one.role for one in told] == ["user", "assistant"] * 2
    assert told[1].text == "This is answer 1."


def test_a_follow_up_takes_the_question_before_it_to_the_search(paid):
    shelf = Shelf()
    chain = whole().chat_chain(shelf, paid)
    chain.invoke("How is a password reset?", thread("1"))
    chain.invoke("And what colour is it?", thread("1"))
    assert shelf.asked[1] == "How is a password reset? And what colour is it?"


def test_follow_ups_do_not_hit_across_conversations(paid):
    chain = whole().chat_chain(Shelf(), paid)
    chain.invoke("How is a password reset?", thread("1"))
    chain.invoke("And how long does it take?", thread("1"))
    chain.invoke("How long does shipping take?", thread("2"))
    chain.invoke("And how long does it take?", thread("2"))
    assert len(paid.asked) == 4


def test_first_questions_are_shared_by_conversations_and_with_the_plain_chain(paid):
    stack = whole()
    chain = stack.chat_chain(Shelf(), paid)
    chain.invoke(QUESTION, thread("1"))
    served = chain.invoke(QUESTION, thread("2"))
    assert served.response_metadata["costwise"]["hit"] == "exact"
    stack.rag_chain(Shelf(), paid).invoke(QUESTION)
    assert len(paid.asked) == 1
    assert len(stack.memory.store.messages(_conversation("2"))) == 2  # a hit is remembered too


def test_conversations_of_tenants_and_users_are_apart(paid):
    stack = whole()
    chain = stack.chat_chain(Shelf(), paid)
    for tenant in ("a", "b"):
        chain.invoke(QUESTION, thread("1", user_id="ann", costwise={"tenant": tenant}))
    assert len(paid.asked) == 2
    mine = _conversation("1", tenant="a", user="ann")
    assert len(stack.memory.store.messages(mine)) == 2


def test_a_chat_streams_and_remembers(paid):
    stack = whole()
    chain = stack.chat_chain(Shelf(), paid)
    text = "".join(one.text for one in chain.stream(QUESTION, thread("1")))
    told = stack.memory.store.messages(_conversation("1"))
    assert [one.text for one in told] == [QUESTION, text]


async def test_a_chat_streams_and_remembers_async(paid):
    stack = whole()
    chain = stack.chat_chain(Shelf(), paid)
    text = "".join([one.text async for one in chain.astream(QUESTION, thread("1"))])
    told = stack.memory.store.messages(_conversation("1"))
    assert [one.text for one in told] == [QUESTION, text]


class Gone(MemoryConversations):
    """A store whose disk is full."""

    def append(self, conversation, messages):
        raise OSError("no space left on device")


def test_a_paid_answer_is_not_lost_with_the_memorys_store(paid):
    memory = ConversationMemory(Gone(), model="gpt-4o")
    chain = whole(memory=memory).chat_chain(Shelf(), paid)
    assert chain.invoke(QUESTION, thread("1")).text == "This is answer 1."
    assert chain.forgotten == 1


def test_a_chat_must_know_its_conversation(paid):
    with pytest.raises(ConfigError, match="which conversation"):
        whole().chat_chain(Shelf(), paid).invoke(QUESTION)


# --- hold-out and the bill ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["holdout", "scoped"])
def test_a_hold_out_goes_around_everything_but_bills_and_budgets(how, paid, cheap):
    stack = whole(budgets=limited(2), holdout=HoldOut(share=1.0) if how == "holdout" else None)
    shelf = Shelf()
    chain = stack.rag_chain(shelf, paid, cheaper=cheap)
    for n in range(2):
        with stack.track(request=str(n)), scoped(unoptimised=True):
            chain.invoke(QUESTION)
    assert (len(cheap.asked), len(paid.asked), len(shelf.asked)) == (0, 2, 2)
    assert all(text in paid.asked[0] for text in PASSAGES)
    assert len(list(stack.ledger.records())) == 2
    with stack.track(request="3"), pytest.raises(BudgetExceededError):
        chain.invoke(QUESTION)


def test_a_hold_out_said_in_the_config_goes_around_everything(paid, cheap):
    chain = whole().rag_chain(Shelf(), paid, cheaper=cheap)
    for _ in range(2):
        chain.invoke(QUESTION, {"configurable": {"costwise": {"unoptimised": True}}})
    assert (len(cheap.asked), len(paid.asked)) == (0, 2)
    assert all(text in paid.asked[0] for text in PASSAGES)


def test_the_steps_of_a_bill_add_up(paid, cheap):
    stack = whole(router=None, judge=Good(0.2), threshold=0.5)
    chain = stack.chat_chain(Shelf(), paid, cheaper=cheap)
    with stack.track(feature="faq") as bill:
        for name in ("1", "2"):
            for question in (QUESTION, "And what colour is it?", "What is the monthly fee?"):
                chain.invoke(question, thread(name))
    assert sum(bill.savings.values()) == bill.saved
    assert bill.baseline - bill.saved + bill.overhead == bill.usd
    assert bill.savings["response_cache"] > 0
    assert bill.savings["compress"] > 0
    assert bill.overhead > 0  # drafts of the cheaper model that nobody was shown
    assert not bill.unpriced


# --- every part removable -------------------------------------------------------------------------


def works(stack, paid, cheap):
    """Ask in every way, and return how many calls that paid for."""
    with stack.track(feature="faq") as bill:
        chain = stack.rag_chain(Shelf(), paid, cheaper=cheap)
        assert chain.invoke(QUESTION).text
        assert "".join(one.text for one in chain.stream("How long does shipping take?"))
        chat = stack.chat_chain(Shelf(), paid, cheaper=cheap)
        assert chat.invoke("Which cards are accepted?", thread("1")).text
        assert stack.retriever(Shelf()).invoke(QUESTION)
        assert stack.chat_model(paid, cheap).invoke("Are you there?").text
        agent = create_agent(paid, middleware=stack.middleware(tools=["none"], cheaper=cheap))
        assert agent.invoke({"messages": "What is new?"}, thread("1"))["messages"][-1].text
    stack.close()
    return bill.paid_calls


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_taken_out(part, paid, cheap):
    assert works(replace(whole(), **{part: None}), paid, cheap) >= 5


def test_all_parts_can_be_taken_out(paid, cheap):
    assert works(Stack(**dict.fromkeys(PARTS)), paid, cheap) >= 5


def test_the_recommended_stack_works_and_survives_a_restart(tmp_path, paid):
    def stack():
        return Stack.recommended(
            tmp_path / "costwise",
            corpus="docs-v1",
            model="scripted-large",
            embedder=HashingEmbedder(),
            prices=PRICES,
        )

    first = stack()
    assert first.router is None
    assert first.budgets is None
    assert list((tmp_path / "costwise").iterdir()) == []  # nothing is opened before it is used
    with first.track(feature="faq"):
        first.chat_chain(Shelf(), paid).invoke(QUESTION, thread("1"))
    first.close()
    again = stack()
    with track(feature="faq"), again.track():
        served = again.chat_chain(Shelf(), paid).invoke(QUESTION, thread("2"))
    assert served.response_metadata["costwise"]["hit"] == "exact"
    assert len(list(again.ledger.records())) == 2
    assert len(again.memory.store.messages(_conversation("1"))) == 2
    again.close()
    names = {path.name for path in (tmp_path / "costwise").iterdir()}
    assert {"answers.db", "conversations.db", "ledger.db"} <= names
