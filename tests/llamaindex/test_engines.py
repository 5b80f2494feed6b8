"""CachedLLM under LlamaIndex's own engines, chat engines, agents and programs."""

import pytest
from llama_index.core import PromptTemplate, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from costwise_core import Cache, MemoryStore
from llamaindex_costwise import CachedLLM
from llamaindex_costwise.testing import ScriptedLLM, WordEmbedding
from tests.llamaindex.fakes import deprecations, seven

MODES = [
    ResponseMode.COMPACT,
    ResponseMode.REFINE,
    ResponseMode.TREE_SUMMARIZE,
    ResponseMode.SIMPLE_SUMMARIZE,
    ResponseMode.ACCUMULATE,
    ResponseMode.COMPACT_ACCUMULATE,
    ResponseMode.GENERATION,
]
STREAMING = [mode for mode in MODES if "accumulate" not in mode.value]

ASKED = "How large is the moon compared with the earth?"
REWORDED = "How large is the moon when compared with the earth?"
OTHER = "Why does the sun not fall down?"


@pytest.fixture
def index():
    nodes = [
        TextNode(text=f"Fact {i}: the moon is {i} times as round. ", id_=str(i)) for i in "123"
    ]
    return SummaryIndex(nodes)


@pytest.mark.parametrize("is_chat", [True, False], ids=["chat", "completion"])
@pytest.mark.parametrize("mode", MODES)
async def test_every_response_mode(index, cache, mode, is_chat):
    inner = ScriptedLLM(is_chat=is_chat)
    engine = index.as_query_engine(llm=CachedLLM(llm=inner, cache=cache), response_mode=mode)
    first = engine.query(ASKED)
    paid = inner.calls
    assert paid >= 1
    assert str(engine.query(ASKED)) == str(first)
    assert str(await engine.aquery(ASKED)) == str(first)
    assert inner.calls == paid
    assert dict(cache.stats.hits) == {"exact": 2 * paid}
    assert str(engine.query(REWORDED)) == str(first)
    assert inner.calls == paid
    engine.query(OTHER)
    assert inner.calls == 2 * paid


@pytest.mark.parametrize("mode", MODES)
async def test_every_response_mode_asynchronously_first(index, llm, inner, mode):
    engine = index.as_query_engine(llm=llm, response_mode=mode)
    first = await engine.aquery(ASKED)
    paid = inner.calls
    assert str(await engine.aquery(ASKED)) == str(engine.query(ASKED)) == str(first)
    assert inner.calls == paid


@pytest.mark.parametrize("mode", STREAMING)
async def test_every_response_mode_that_streams(index, llm, inner, mode):
    engine = index.as_query_engine(llm=llm, response_mode=mode, streaming=True)
    first = engine.query(ASKED)
    assert isinstance(first, StreamingResponse)
    text = "".join(first.response_gen)
    paid = inner.calls
    again = list(engine.query(ASKED).response_gen)
    assert "".join(again) == text
    assert len(again) > 2
    response = await engine.aquery(REWORDED)
    assert isinstance(response, AsyncStreamingResponse)
    assert "".join([token async for token in response.async_response_gen()]) == text
    assert inner.calls == paid


def test_other_documents_other_template_or_other_model_are_a_miss(index, llm, inner, cache):
    index.as_query_engine(llm=llm).query(ASKED)
    other = SummaryIndex([TextNode(text="The moon is a cheese.")])
    other.as_query_engine(llm=llm).query(ASKED)
    assert inner.calls == 2
    template = PromptTemplate("Lie about {query_str} given {context_str}")
    index.as_query_engine(llm=llm, text_qa_template=template).query(ASKED)
    assert inner.calls == 3
    stronger = ScriptedLLM(model="gpt-4o")
    index.as_query_engine(llm=CachedLLM(llm=stronger, cache=cache)).query(ASKED)
    assert stronger.calls == 1


def test_as_the_global_llm(index, llm, inner):
    counter = TokenCountingHandler(tokenizer=str.split)
    Settings.llm = llm
    Settings.callback_manager = CallbackManager([counter])
    try:
        engine = index.as_query_engine()
        engine.query(ASKED)
        engine.query(ASKED)
    finally:
        Settings.llm = Settings.callback_manager = None
    assert inner.calls == 1
    assert len(counter.llm_token_counts) == 1


# --- chat engines --------------------------------------------------------------------------------


async def converse(engine, how, question=ASKED):
    match how:
        case "chat":
            return str(engine.chat(question))
        case "achat":
            return str(await engine.achat(question))
        case "stream_chat":
            return "".join(engine.stream_chat(question).response_gen)
        case "astream_chat":
            response = await engine.astream_chat(question)
            return "".join([token async for token in response.async_response_gen()])


@pytest.fixture(params=["simple", "context", "condense_plus_context"])
def new_engine(request, llm):
    nodes = [TextNode(text=f"Fact {i}: the moon is {i} times as round.") for i in "123"]
    vectors = VectorStoreIndex(nodes, embed_model=WordEmbedding())

    def make():
        # Not `Memory`: it leaves a database connection open, which warns when collected.
        memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
        if request.param == "simple":
            return SimpleChatEngine.from_defaults(llm=llm, memory=memory)
        mode = ChatMode(request.param)
        return vectors.as_chat_engine(chat_mode=mode, llm=llm, memory=memory)

    return make


@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_chat_engines(new_engine, inner, how):
    first, second = new_engine(), new_engine()
    one = await converse(first, how)
    follow_up = await converse(first, how, "And why is that?")
    paid = inner.calls
    assert await converse(second, how) == one
    assert await converse(second, how, "And why is that?") == follow_up
    assert inner.calls == paid
    # The same follow-up after another conversation is another question.
    third = new_engine()
    await converse(third, how, OTHER)
    await converse(third, how, "And why is that?")
    assert inner.calls == 2 * paid


# --- agents, tools and structured output ---------------------------------------------------------


@deprecations
@pytest.mark.parametrize("streaming", [True, False])
async def test_function_agent_always_calls_the_model(llm, inner, cache, streaming):
    for _ in range(2):
        agent = FunctionAgent(
            tools=[FunctionTool.from_defaults(seven)], llm=llm, streaming=streaming
        )
        assert str(await agent.run("Say seven")) == "The tool said number 7"
    assert inner.calls == 4
    assert dict(cache.stats.misses) == {"tools": 4}
    assert cache.stats.stored == 0


@deprecations
async def test_agent_workflow_picks_the_kind_of_agent_the_model_can_be(cache):
    for calls_tools, kind in ((True, FunctionAgent), (False, ReActAgent)):
        reply = None if calls_tools else "Thought: I know.\nAnswer: 7"
        inner = ScriptedLLM(calls_tools=calls_tools, reply=reply)
        llm = CachedLLM(llm=inner, cache=cache)
        workflow = AgentWorkflow.from_tools_or_functions([seven], llm=llm)
        assert type(workflow.agents["Agent"]) is kind
        assert "7" in str(await workflow.run("Say seven"))


@deprecations
async def test_react_agent_is_served_what_it_asked_before(cache):
    inner = ScriptedLLM(reply="Thought: I can answer without tools.\nAnswer: seven")
    llm = CachedLLM(llm=inner, cache=cache)
    for _ in range(2):
        agent = ReActAgent(tools=[FunctionTool.from_defaults(seven)], llm=llm)
        assert str(await agent.run("Say seven")) == "seven"
    assert inner.calls == 1


def test_predict_and_call(llm, inner):
    tools = [FunctionTool.from_defaults(seven)]
    assert str(llm.predict_and_call(tools, user_msg="Say seven")) == "number 7"
    assert str(llm.predict_and_call(tools, user_msg="Say seven")) == "number 7"
    assert inner.calls == 2


class Moon(BaseModel):
    """What is known about the moon."""

    name: str
    size: int


PROMPT = PromptTemplate("Describe {topic}")


async def test_structured_predict(llm, inner, cache):
    moon = Moon(name="seven", size=7)
    assert llm.structured_predict(Moon, PROMPT, topic="the moon") == moon
    assert await llm.astructured_predict(Moon, PROMPT, topic="the moon") == moon
    plain = list(ScriptedLLM().stream_structured_predict(Moon, PROMPT, topic="the moon"))
    pieces = list(llm.stream_structured_predict(Moon, PROMPT, topic="the moon"))
    assert [p.model_dump() for p in pieces] == [p.model_dump() for p in plain]
    stream = await llm.astream_structured_predict(Moon, PROMPT, topic="the moon")
    assert [piece.model_dump() async for piece in stream] == [p.model_dump() for p in plain]
    assert inner.calls == 4
    assert dict(cache.stats.misses) == {"structured": 4}


async def test_as_structured_llm(llm, index):
    structured = llm.as_structured_llm(Moon)
    messages = [ChatMessage(content="Describe the moon")]
    assert structured.chat(messages).raw == Moon(name="seven", size=7)
    assert (await structured.achat(messages)).raw == Moon(name="seven", size=7)
    response = index.as_query_engine(llm=structured).query(ASKED)
    assert response.response == Moon(name="seven", size=7)


def test_output_class_of_a_query_engine(llm, index):
    engine = index.as_query_engine(llm=llm, output_cls=Moon, response_mode="tree_summarize")
    assert engine.query(ASKED).response == Moon(name="seven", size=7)


def test_a_program_made_for_the_wrapper(llm, inner):
    program = FunctionCallingProgram.from_defaults(Moon, prompt=PROMPT, llm=llm)
    assert program(topic="the moon") == Moon(name="seven", size=7)
    assert inner.calls == 1


def test_one_cache_for_two_models_keeps_them_apart(index):
    cache = Cache(MemoryStore())
    models = [ScriptedLLM(model=name) for name in ("gpt-4o", "gpt-4o-mini")]
    for inner in models * 2:
        index.as_query_engine(llm=CachedLLM(llm=inner, cache=cache)).query(ASKED)
    assert [inner.calls for inner in models] == [1, 1]
