"""The whole stack in LlamaIndex: what its parts do to each other, and each of them taken out."""

import asyncio
import threading
from dataclasses import replace

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

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
from costwise_core.errors import BudgetExceededError, ConfigError
from costwise_core.testing.fakes import PRICES, HashingEmbedder
from llamaindex_costwise import Stack, compressed_tool, scoped
from llamaindex_costwise.testing import ScriptedLLM
from tests.llamaindex.fakes import deprecations

PASSAGES = [
    "A password is reset under Settings. The button is called Forgotten. It is blue and round.",
    "Shipping takes three days inside the country. Parcels leave at noon. They are insured.",
    "We accept all cards. Cash is accepted too. Cheques are not accepted any more.",
    "The monthly fee is thirty euros. It is due on the first. There is no fee for students.",
]
QUESTION = "How is a password reset?"


class Shelf(BaseRetriever):
    """Finds everything, and counts how often it was asked."""

    def __init__(self):
        super().__init__()
        self.texts = list(PASSAGES)
        self.asked = []

    def _retrieve(self, query_bundle):
        self.asked.append(query_bundle.query_str)
        return [
            NodeWithScore(node=TextNode(id_=str(n), text=text), score=1.0)
            for n, text in enumerate(self.texts)
        ]


class Good:
    """Finds every answer as good as it is told."""

    blocking = False

    def __init__(self, score):
        self.score = score
        self.questions = []

    def __repr__(self):
        return f"Good({self.score})"

    def judge(self, ask, answer):
        self.questions.append(ask.question)
        return Judgement(score=self.score, why="as told")


class Cheaper:
    """Always takes the cheaper model."""

    def __repr__(self):
        return "Cheaper()"

    def decide(self, ask, routes):
        return Decision(model="cheaper", why="as told")


def whole(**parts):
    return Stack(
        **{
            "cache": Cache(
                MemoryStore(),
                embedder=HashingEmbedder(),
                policy=FixedThreshold(min_cosine=0.97),
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
TALK = Conversation(id="1")


@pytest.fixture
def paid():
    return ScriptedLLM(model="scripted-large")


@pytest.fixture
def cheap():
    return ScriptedLLM(model="scripted-1")


def sent(llm, number=0):
    """Return all text of one prompt that a scripted LLM was sent."""
    prompt = llm._calls[number][1]
    return prompt if isinstance(prompt, str) else "\n".join(one.content or "" for one in prompt)


# --- what is sent, and what is spared -------------------------------------------------------------


def test_a_repeat_spares_search_compression_and_llm(paid):
    shelf, stack = Shelf(), whole()
    engine = stack.query_engine(shelf, paid)
    with stack.track(feature="faq") as bill:
        first, again = engine.query(QUESTION), engine.query("how is a  password reset?")
    assert str(again) == str(first)
    assert again.metadata["costwise"]["hit"] == "exact"
    assert len(shelf.asked) == paid.calls == 1
    assert (bill.calls, bill.paid_calls) == (2, 1)
    assert [record.tags for record in stack.ledger.records()] == [(("feature", "faq"),)] * 2


def test_only_what_matters_is_sent(paid):
    whole().query_engine(Shelf(), paid).query(QUESTION)
    assert "reset under Settings" in sent(paid)
    assert "thirty euros" not in sent(paid)


@pytest.mark.parametrize("name", ["query_engine", "chat_engine", "retriever"])
def test_a_cache_needs_a_corpus(name, paid):
    given = (Shelf(),) if name == "retriever" else (Shelf(), paid)
    more = {"conversation": TALK} if name == "chat_engine" else {}
    with pytest.raises(ConfigError, match="corpus"):
        getattr(whole(corpus=""), name)(*given, **more)


def test_only_known_scopes_can_be_required():
    with pytest.raises(ConfigError, match=r"'tennant'.*tenant"):
        Stack(require=("tennant",))


# --- scopes ---------------------------------------------------------------------------------------


def asked(stack, shelf, llm, way, **more):
    if way == "query":
        return stack.query_engine(shelf, llm, **more).query(QUESTION)
    return stack.chat_engine(shelf, llm, conversation=TALK, **more).chat(QUESTION)


@pytest.mark.parametrize("way", ["query", "chat"])
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
def test_an_answer_is_not_served_to_another_recipe(way, other, paid):
    stack = whole(memory=None)
    asked(stack, Shelf(), paid, way)
    asked(replace(stack, **other), Shelf(), paid, way)
    assert paid.calls == 2
    asked(stack, Shelf(), paid, way)
    assert paid.calls == 2


@pytest.mark.parametrize("removed", ["memory", "ledger", "prices", "in_flight"])
def test_parts_that_shape_no_answer_share_answers(removed, paid):
    stack = whole()
    asked(stack, Shelf(), paid, "query")
    asked(replace(stack, **{removed: None}), Shelf(), paid, "query")
    assert paid.calls == 1


@pytest.mark.parametrize("way", ["query", "chat"])
def test_a_routed_answer_is_served_to_the_same_routing_alone(way, paid, cheap):
    stack = whole(router=None, judge=Good(1.0), memory=None)
    first = asked(stack, Shelf(), paid, way, cheaper=cheap)
    assert (cheap.calls, paid.calls) == (1, 0)
    assert stack.judge.questions == [QUESTION]
    asked(stack, Shelf(), paid, way)
    assert (cheap.calls, paid.calls) == (1, 1)
    asked(replace(stack, judge=Good(0.0)), Shelf(), paid, way, cheaper=cheap)
    assert (cheap.calls, paid.calls) == (2, 2)
    assert str(asked(stack, Shelf(), paid, way, cheaper=cheap)) == str(first)
    assert (cheap.calls, paid.calls) == (2, 2)


def test_tenants_do_not_share(paid):
    engine = whole(require=("tenant",)).query_engine(Shelf(), paid)
    for tenant in ("acme", "other", "acme"):
        with scoped(tenant=tenant):
            engine.query(QUESTION)
    assert paid.calls == 2
    engine.query(QUESTION)
    engine.query(QUESTION)
    assert paid.calls == 4  # without a tenant nothing is kept


def test_other_llms_and_prompts_do_not_share(paid, cheap):
    stack = whole()
    own = PromptTemplate("C: {context_str} Q: {query_str}")
    stack.query_engine(Shelf(), paid).query(QUESTION)
    stack.query_engine(Shelf(), cheap).query(QUESTION)
    stack.query_engine(Shelf(), paid, text_qa_template=own).query(QUESTION)
    assert (paid.calls, cheap.calls) == (2, 1)
    chats = [
        stack.chat_engine(Shelf(), paid, conversation=Conversation(id=str(n)), system_prompt=words)
        for n, words in enumerate(("Be brief.", "Be kind."))
    ]
    assert len({str(chat.chat(QUESTION)) for chat in chats}) == 2


def test_a_document_that_changed_takes_its_answers_along(paid):
    shelf = Shelf()
    engine = whole().query_engine(shelf, paid)
    engine.query(QUESTION)
    shelf.texts[0] = PASSAGES[0].replace("Forgotten", "Lost")
    engine.query("Where is a password reset?")  # another question, which brings the new version
    engine.query(QUESTION)
    assert paid.calls == 3


# --- budgets --------------------------------------------------------------------------------------


def limited(calls):
    return Budgets(Budget(limit=calls, unit="calls", window="day"))


@pytest.mark.parametrize("way", ["query", "chat"])
def test_a_hit_reserves_nothing(way, paid):
    stack = whole(budgets=limited(1), memory=None)
    for _ in range(3):
        asked(stack, Shelf(), paid, way)
    assert paid.calls == 1
    with pytest.raises(BudgetExceededError):
        stack.query_engine(Shelf(), paid).query("How long does shipping take?")


def test_a_refusal_never_falls_back_and_is_not_kept(paid, cheap):
    stack = whole(budgets=limited(1))
    engine = stack.query_engine(Shelf(), paid, cheaper=cheap)
    engine.query(QUESTION)
    for _ in range(2):
        with pytest.raises(BudgetExceededError):
            engine.query("How long does shipping take?")
    assert (cheap.calls, paid.calls) == (1, 0)
    richer = replace(stack, budgets=limited(9)).query_engine(Shelf(), paid, cheaper=cheap)
    assert "costwise" not in (richer.query("How long does shipping take?").metadata or {})


def test_an_llm_with_the_same_budgets_counts_once(paid):
    stack = whole(budgets=limited(2), cache=None)
    llm = stack.llm(stack.llm(paid))
    llm.complete("One?")
    llm.complete("Two?")
    with pytest.raises(BudgetExceededError):
        llm.complete("Three?")


# --- streams, async, threads ----------------------------------------------------------------------


def test_streams_word_by_word_and_is_kept(paid):
    engine = whole().query_engine(Shelf(), paid, streaming=True)
    first = list(engine.query(QUESTION).response_gen)
    again = list(engine.query(QUESTION).response_gen)
    assert len(first) > 2
    assert "".join(first) == "".join(again)
    assert paid.calls == 1


def test_a_stream_that_breaks_is_not_kept(paid):
    engine = whole().query_engine(Shelf(), paid, streaming=True)
    paid.fail_after = 2
    with pytest.raises(ConnectionError):
        list(engine.query(QUESTION).response_gen)
    paid.fail_after = None
    list(engine.query(QUESTION).response_gen)
    assert paid.calls == 2


async def test_async_and_tasks_that_ask_the_same_share_one_call(paid):
    shelf = Shelf()
    engine = whole().query_engine(shelf, paid)
    answers = await asyncio.gather(*(engine.aquery(QUESTION) for _ in range(8)))
    assert len({str(one) for one in answers}) == paid.calls == len(shelf.asked) == 1


def test_threads_that_ask_the_same_share_one_call(paid):
    stack = whole()
    engine, texts = stack.query_engine(Shelf(), paid), []

    def ask(n):
        with stack.track(user=str(n)):
            texts.append(str(engine.query(QUESTION)))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(texts) == 8
    assert len(set(texts)) == paid.calls == 1
    assert sum(record.tier == "" for record in stack.ledger.records()) == 1


# --- tools and structured output ------------------------------------------------------------------


class Fee(BaseModel):
    """A fee."""

    euros: int


def test_structured_output_through_the_whole_stack(paid, cheap):
    llm = whole().llm(paid, cheap)
    for _ in range(2):
        made = llm.structured_predict(Fee, PromptTemplate("What is the fee?"))
        assert made == Fee(euros=7)
    assert (cheap.calls, paid.calls) == (2, 0)  # never served from the cache


@deprecations
async def test_tools_through_the_whole_stack(paid, cheap):
    def search(query: str) -> str:
        """Search the handbook."""
        return " ".join(PASSAGES)

    stack = whole()
    tool = compressed_tool(FunctionTool.from_defaults(search), stack.compress)
    agent = FunctionAgent(tools=[tool], llm=stack.llm(paid, cheap), streaming=False)
    with stack.track(feature="agent") as bill:
        answer = await agent.run(QUESTION, memory=stack.chat_memory(TALK))
    assert "The tool said" in str(answer)
    assert (cheap.calls, paid.calls) == (2, 0)
    assert bill.paid_calls == 2
    assert [one.role for one in stack.memory.store.messages(TALK)] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


# --- conversations --------------------------------------------------------------------------------


def test_a_conversation_is_kept_and_sent(paid):
    stack, shelf = whole(), Shelf()
    stack.chat_engine(shelf, paid, conversation=TALK).chat(QUESTION)
    chat = stack.chat_engine(shelf, paid, conversation=TALK)  # of another request
    chat.chat("And what colour is it?")
    assert [one.role for one in stack.memory.store.messages(TALK)] == ["user", "assistant"] * 2
    assert QUESTION in sent(paid, 1)
    assert shelf.asked[1] == f"{QUESTION} And what colour is it?"
    assert len(chat.chat_history) == 4


def test_follow_ups_do_not_hit_across_conversations(paid):
    stack = whole()
    for name, first in (("1", QUESTION), ("2", "How long does shipping take?")):
        chat = stack.chat_engine(Shelf(), paid, conversation=Conversation(id=name))
        chat.chat(first)
        chat.chat("And how long does it take?")
    assert paid.calls == 4


def test_first_questions_are_shared_by_conversations_of_one_tenant(paid):
    stack = whole()

    def ask(name, tenant):
        talk = Conversation(id=name, tenant=tenant)
        return stack.chat_engine(Shelf(), paid, conversation=talk).chat(QUESTION)

    ask("1", "a")
    assert ask("2", "a").metadata["costwise"]["hit"] == "exact"
    ask("3", "b")
    assert paid.calls == 2
    assert len(stack.memory.store.messages(Conversation(id="2", tenant="a"))) == 2


def test_a_chat_streams_is_kept_and_remembered(paid):
    stack = whole()
    first = stack.chat_engine(Shelf(), paid, conversation=TALK).stream_chat(QUESTION)
    text = "".join(first.response_gen)
    again = stack.chat_engine(Shelf(), paid, conversation=Conversation(id="2"))
    assert "".join(again.stream_chat(QUESTION).response_gen) == text
    assert paid.calls == 1
    assert [one.text for one in stack.memory.store.messages(TALK)] == [QUESTION, text]
    third = stack.chat_engine(Shelf(), paid, conversation=Conversation(id="3"))
    assert str(third.chat(QUESTION)) == text  # streamed or not, it is one answer
    assert paid.calls == 1


async def test_a_chat_streams_and_remembers_async(paid):
    stack = whole()
    chat = stack.chat_engine(Shelf(), paid, conversation=TALK)
    response = await chat.astream_chat(QUESTION)
    text = "".join([word async for word in response.async_response_gen()])
    assert [one.text for one in stack.memory.store.messages(TALK)] == [QUESTION, text]
    other = stack.chat_engine(Shelf(), paid, conversation=Conversation(id="2"))
    assert str(await other.achat(QUESTION)) == text
    assert paid.calls == 1


def test_a_chats_calls_carry_its_conversation(paid):
    stack = whole()
    with stack.track(feature="chat"):
        stack.chat_engine(Shelf(), paid, conversation=TALK).chat(QUESTION)
    (record,) = stack.ledger.records()
    assert dict(record.tags) == {"feature": "chat", "conversation": "1"}


# --- hold-out and the bill ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["holdout", "scoped"])
@pytest.mark.parametrize("way", ["query", "chat"])
def test_a_hold_out_goes_around_everything_but_bills_and_budgets(how, way, paid, cheap):
    holdout = HoldOut(share=1.0) if how == "holdout" else None
    stack, shelf = whole(budgets=limited(2), holdout=holdout, memory=None), Shelf()
    for n in range(2):
        with stack.track(request=str(n)), scoped(unoptimised=True):
            asked(stack, shelf, paid, way, cheaper=cheap)
    assert (cheap.calls, paid.calls, len(shelf.asked)) == (0, 2, 2)
    assert all(text in sent(paid) for text in PASSAGES)
    assert len(list(stack.ledger.records())) == 2
    with stack.track(request="3"), scoped(unoptimised=True), pytest.raises(BudgetExceededError):
        asked(stack, shelf, paid, way, cheaper=cheap)


def test_the_steps_of_a_bill_add_up(paid, cheap):
    stack = whole(router=None, judge=Good(0.2))
    with stack.track(feature="faq") as bill:
        for name in ("1", "2"):
            chat = stack.chat_engine(
                Shelf(), paid, conversation=Conversation(id=name), cheaper=cheap
            )
            for question in (QUESTION, "And what colour is it?", "What is the monthly fee?"):
                chat.chat(question)
    assert sum(bill.savings.values()) == bill.saved
    assert bill.baseline - bill.saved + bill.overhead == bill.usd
    assert bill.savings["response_cache"] > 0
    assert bill.savings["compress"] > 0
    assert bill.overhead > 0  # drafts of the cheaper LLM that nobody was shown
    assert not bill.unpriced


# --- every part removable -------------------------------------------------------------------------


def works(stack, paid, cheap):
    """Ask in every way, and return how many calls that paid for."""
    with stack.track(feature="faq") as bill:
        assert str(stack.query_engine(Shelf(), paid, cheaper=cheap).query(QUESTION))
        chat = stack.chat_engine(Shelf(), paid, conversation=TALK, cheaper=cheap)
        assert str(chat.chat("Which cards are accepted?"))
        assert "".join(chat.stream_chat("How long does shipping take?").response_gen)
        assert stack.retriever(Shelf()).retrieve(QUESTION)
        assert stack.llm(paid, cheap).complete("Are you there?").text
    stack.close()
    return bill.paid_calls


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_taken_out(part, paid, cheap):
    assert works(replace(whole(), **{part: None}), paid, cheap) >= 4


def test_all_parts_can_be_taken_out(paid, cheap):
    assert works(Stack(**dict.fromkeys(PARTS)), paid, cheap) >= 4


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
        first.chat_engine(Shelf(), paid, conversation=TALK).chat(QUESTION)
    first.close()
    again = stack()
    with again.track():
        served = again.chat_engine(Shelf(), paid, conversation=Conversation(id="2")).chat(QUESTION)
    assert served.metadata["costwise"]["hit"] == "exact"
    assert len(list(again.ledger.records())) == 2
    assert len(again.memory.store.messages(TALK)) == 2
    again.close()
    names = {path.name for path in (tmp_path / "costwise").iterdir()}
    assert {"answers.db", "conversations.db", "ledger.db"} <= names
