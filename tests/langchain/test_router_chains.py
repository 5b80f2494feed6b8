"""A choice between whole chains, as LangChain's other runnables see it."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from costwise_core import Decision, Judgement, Route
from costwise_core.errors import ConfigError
from langchain_costwise import decision_model, route_chains, track
from langchain_costwise.testing import ScriptedChatModel


class Long:
    """Gives long questions to the last."""

    blocking = False

    def decide(self, ask: Any, routes: Any) -> Decision:
        hard = len(ask.question) > 20
        return Decision(model=routes[-1 if hard else 0].name, why="by length", p=0.9 if hard else 0)


class Weak:
    """Thinks little of what is short."""

    blocking = False

    def judge(self, ask: Any, answer: Any) -> Judgement:
        return Judgement(score=min(1.0, len(answer.text) / 10), why="by length")


def chain(name: str, **settings: Any) -> Any:
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    return prompt | ScriptedChatModel(model_name=name, **settings) | StrOutputParser()


EASY, HARD = {"question": "What is RAG?"}, {"question": "Why would anybody prefer a cascade?"}
ROUTES = [Route(name="small", model="gpt-4o-mini"), Route(name="large", model="gpt-4o")]


def two(**settings: Any) -> dict[str, Any]:
    return {"small": chain("gpt-4o-mini", **settings), "large": chain("gpt-4o")}


async def test_each_input_takes_its_chain_in_every_way():
    routed = route_chains(two(), router=Long(), routes=ROUTES)
    for ask, model in ((EASY, "gpt-4o-mini"), (HARD, "gpt-4o")):
        with track() as bill:
            answers = [
                routed.invoke(ask),
                await routed.ainvoke(ask),
                "".join(routed.stream(ask)),
                "".join([piece async for piece in routed.astream(ask)]),
                *routed.batch([ask]),
                *await routed.abatch([ask]),
                (RunnableLambda(lambda given: given) | routed).invoke(ask),
            ]
        assert [answer[:14] for answer in answers] == ["This is answer"] * 7
        assert [record.model for record in bill.records] == [model] * 7
        assert (bill.savings.get("route", Decimal(0)) > 0) is (model == "gpt-4o-mini")
        assert bill.baseline - bill.saved + bill.overhead == bill.usd


def test_runs_hang_together():
    seen = RunCollectorCallbackHandler()
    route_chains(two(), router=Long()).invoke(EASY, {"callbacks": [seen]})
    (root,) = seen.traced_runs
    (child,) = root.child_runs
    assert child.extra["metadata"]["costwise_route"] == "small"


async def test_a_weak_answer_goes_up_and_is_not_shown():
    script = {"What is RAG?": "Hm."}
    routed = route_chains(two(script=script), judge=Weak(), routes=ROUTES)
    with track() as bill:
        assert routed.invoke(EASY).startswith("This is answer")
        assert (await routed.ainvoke(EASY)).startswith("This is answer")
        assert "Hm." not in "".join(routed.stream(EASY))
        assert "Hm." not in "".join([piece async for piece in routed.astream(EASY)])
    told = [(record.model, record.overhead) for record in bill.records]
    assert told == [("gpt-4o-mini", True), ("gpt-4o", False)] * 4
    assert bill.savings == {}
    assert bill.baseline - bill.saved + bill.overhead == bill.usd
    assert len(list(routed.stream(HARD))) == 1  # judged first, so shown whole


async def test_falls_back_on_what_says_nothing_against_the_request():
    def down(_: Any) -> str:
        raise TimeoutError

    def wrong(_: Any) -> str:
        raise ValueError("a wrong key")

    spare = RunnableLambda(lambda _: "Yes.")
    routed = route_chains({"main": RunnableLambda(down), "spare": spare})
    assert routed.invoke("?") == await routed.ainvoke("?") == "Yes."
    assert list(routed.stream("?")) == ["Yes."]
    with pytest.raises(ValueError, match="a wrong key"):
        route_chains({"main": RunnableLambda(wrong), "spare": spare}).invoke("?")


@pytest.mark.parametrize(
    "given",
    [
        "Why?",
        HumanMessage("Why?"),
        [HumanMessage("Hi"), AIMessage("Hello"), HumanMessage("Why?"), AIMessage("")],
        {"question": "Why?", "context": "..."},
        {"input": "Why?"},
        {"messages": [HumanMessage("Why?")]},
        ChatPromptTemplate.from_messages([("system", "Be kind."), ("human", "Why?")]).invoke({}),
    ],
)
def test_the_question_is_found(given):
    asked = []

    class Notes(Long):
        def decide(self, ask: Any, routes: Any) -> Decision:
            asked.append(ask.question)
            return super().decide(ask, routes)

    same = RunnableLambda(lambda _: "Yes.")
    assert route_chains({"one": same, "two": same}, router=Notes()).invoke(given) == "Yes."
    assert asked == ["Why?"]


def test_what_is_wrong_is_refused_where_it_is_given():
    with pytest.raises(ConfigError, match="no routes"):
        route_chains({})
    with pytest.raises(ConfigError, match=r"smal.*small"):
        route_chains(two(), routes=[Route(name="smal")])


# --- LangChain's own router -----------------------------------------------------------------------


def test_decision_models_want_a_new_langchain():
    try:
        from langchain_core import decisions
    except ImportError:
        with pytest.raises(ConfigError, match=r"langchain-core 1\.8"):
            decision_model(Long())
        return
    asked = {"route": decisions.Choice(instructions="?", criteria={"small": "", "large": ""})}
    model = decision_model(Long())
    found = model.invoke({"state": "What is RAG?", "questions": asked}).choices["route"]
    assert (found.choice, found.confidence) == ("small", 1.0)
    state = [HumanMessage("Why would anybody prefer a cascade?"), AIMessage("Hm.")]
    later = asyncio.run(model.ainvoke({"state": state, "questions": asked})).choices["route"]
    assert (later.choice, later.probabilities["large"]) == ("large", 0.9)
    with pytest.raises(ConfigError, match="Choice only"):
        model.invoke({"state": "?", "questions": {"a": decisions.Noul(instructions="?")}})
