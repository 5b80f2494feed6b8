"""Follow-up questions: the words are the same, the question is another one."""

import asyncio

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from costwise_core import FixedThreshold, MemoryStore
from costwise_core.testing.fakes import HashingEmbedder
from langchain_costwise import CachedChatModel, SemanticCache
from langchain_costwise.testing import ScriptedChatModel

ALONE = "Unrelated, but how do I reset my router password?"


def talk(*said: str) -> list:
    kinds = (HumanMessage, AIMessage)
    return [SystemMessage("Be brief."), *(kinds[n % 2](text) for n, text in enumerate(said))]


FIBRE = talk("What does Nimbus Fibre cost?", "Nimbus Fibre costs 30 euros.", "And with television?")
CABLE = talk("What does Cirrus Cable cost?", "Cirrus Cable costs 20 euros.", "And with television?")


def served(message) -> bool:
    return "costwise" in message.response_metadata


@pytest.fixture
def lax():
    """Serves any similar question: what is not served is kept apart by the conversation."""
    return SemanticCache(
        MemoryStore(), embedder=HashingEmbedder(), policy=FixedThreshold(min_cosine=0.5)
    )


def test_one_follow_up_in_two_conversations_is_two_questions(lax):
    model = ScriptedChatModel(cache=lax)
    model.invoke(FIBRE)
    assert not served(model.invoke(CABLE))
    assert served(model.invoke(FIBRE))
    assert served(model.invoke(CABLE))


def test_a_conversation_in_other_words_is_the_same(lax):
    model = ScriptedChatModel(cache=lax)
    model.invoke(FIBRE)
    other = talk("Nimbus Fibre, cost?", "Nimbus Fibre costs 30 euros.", "And with television?")
    assert served(model.invoke(other))


def test_a_question_that_stands_alone_is_looked_up_alone(lax):
    model = ScriptedChatModel(cache=lax)
    paid = model.invoke([SystemMessage("Be brief."), HumanMessage(ALONE)])
    hit = model.invoke([*FIBRE[:-1], HumanMessage(ALONE)])
    assert served(hit)
    assert hit.text == paid.text
    # The system prompt is no part of the conversation.
    assert not served(model.invoke([SystemMessage("Rhyme."), *FIBRE[1:-1], HumanMessage(ALONE)]))


class Rewriter:
    """Says what a person would have said."""

    def complete(self, prompt: str) -> str:
        name = "Nimbus Fibre" if "Nimbus" in prompt else "Cirrus Cable"
        return f"What does {name} cost with television?"


class RewritingChat(ScriptedChatModel):
    """The same as a chat model."""

    def _answer(self, messages, kwargs):
        self.asked.append("rewrite")
        return AIMessage(Rewriter().complete(messages[-1].text))


@pytest.mark.parametrize("rewriter", [Rewriter(), RewritingChat()])
async def test_a_rewriter_makes_follow_ups_stand_alone(rewriter):
    cache = SemanticCache(MemoryStore(), rewriter=rewriter)
    model = ScriptedChatModel(cache=cache)
    model.invoke(talk("What does Nimbus Fibre cost with television?"))
    assert served(model.invoke(FIBRE))
    assert served(await model.ainvoke(FIBRE))
    assert not served(model.invoke(CABLE))


@pytest.mark.parametrize(
    "middle",
    [
        [
            AIMessage("", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "a"}]),
            ToolMessage("2", tool_call_id="a"),
            AIMessage("Two."),
        ],
        [HumanMessage([{"type": "image", "url": "https://example.org/1.png"}]), AIMessage("A cat")],
        [HumanMessage("I am Ann.", name="ann"), AIMessage("Hi.")],
        [AIMessage("Hi."), SystemMessage("From now on, rhyme.")],
    ],
    ids=["tools", "picture", "name", "system in between"],
)
def test_more_than_text_is_matched_exactly(lax, middle):
    model = ScriptedChatModel(cache=lax)
    question = HumanMessage(ALONE)
    model.invoke([HumanMessage("Hello."), *middle, question])
    assert not served(model.invoke([HumanMessage("Hello!!"), *middle, question]))
    assert not served(model.invoke([question]))
    reworded = HumanMessage(ALONE.replace("Unrelated, but", "Unrelated:"))
    assert not served(model.invoke([HumanMessage("Hello."), *middle, reworded]))
    assert served(model.invoke([HumanMessage("Hello."), *middle, question]))


async def test_follow_ups_on_their_way_do_not_mix(lax):
    class Slow(ScriptedChatModel):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            await asyncio.sleep(0.2)
            return self._generate(messages, stop, run_manager, **kwargs)

    paid = Slow()
    model = CachedChatModel(model=paid, cache=lax)
    got = await asyncio.gather(*(model.ainvoke(said) for said in (FIBRE, CABLE) * 10))
    assert len(paid.asked) == 2
    assert len({message.text for message in got[::2]}) == 1
    assert got[0].text != got[1].text


@pytest.mark.parametrize("question", ["Cancel my order 4711.", "What is my account balance?"])
def test_some_questions_are_nobody_elses(lax, question):
    model = ScriptedChatModel(cache=lax)
    assert not any(served(model.invoke(question)) for _ in range(2))
    assert lax.cache.stats.stored == 0
    assert set(lax.cache.stats.misses) <= {"action", "personal"}
