"""Every way to give a LangChain app a conversation's memory keeps the contract of a memory."""

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from costwise_core import Conversation, scoped
from costwise_core.testing.memories import ConversationMemoryContract
from langchain_costwise import RollingSummary, RollingSummaryMiddleware
from tests.remembering import FILLER, Recorder

ROLES = {"human": "user", "ai": "assistant"}


@tool
def search(query: str) -> str:
    """Search the handbook."""
    return f"Found: {FILLER}"


def whose(said):
    """Tell a conversation by its thread: a checkpointer knows no tenants, so its name has both."""
    tenant, _, name = said["thread_id"].rpartition("/")
    return Conversation(id=name, tenant=tenant)


class Chats:
    def __init__(self, model):
        self.model = model

    @property
    def prompts(self):
        return [
            [(ROLES.get(one.type, one.type), one.text) for one in p] for p in self.model.prompts
        ]


class Agent(Chats):
    def __init__(self, model, memory, tools):
        super().__init__(model)
        self.agent = create_agent(
            model,
            tools=tools,
            middleware=[RollingSummaryMiddleware(memory, conversation=whose)],
            checkpointer=InMemorySaver(),
            system_prompt="Be kind.",
        )

    def _given(self, conversation, text, tenant):
        given = {"messages": [("user", text)]}
        return given, {"configurable": {"thread_id": f"{tenant}/{conversation}"}}

    def say(self, conversation, text, *, tenant=""):
        with scoped(tenant=tenant):
            return self.agent.invoke(*self._given(conversation, text, tenant))["messages"][-1].text

    async def asay(self, conversation, text, *, tenant=""):
        with scoped(tenant=tenant):
            found = await self.agent.ainvoke(*self._given(conversation, text, tenant))
        return found["messages"][-1].text


class Chain(Chats):
    """Hands over the answer with the next question."""

    def __init__(self, model, memory):
        super().__init__(model)
        self.chain = RollingSummary(memory) | model
        self.answers = {}

    def _given(self, conversation, text, tenant):
        before = self.answers.get((conversation, tenant), [])
        return [*before, HumanMessage(text)], {"configurable": {"thread_id": conversation}}

    def say(self, conversation, text, *, tenant=""):
        with scoped(tenant=tenant):
            answer = self.chain.invoke(*self._given(conversation, text, tenant))
        self.answers[conversation, tenant] = [answer]
        return answer.text

    async def asay(self, conversation, text, *, tenant=""):
        with scoped(tenant=tenant):
            answer = await self.chain.ainvoke(*self._given(conversation, text, tenant))
        self.answers[conversation, tenant] = [answer]
        return answer.text


class TestRollingSummaryMiddleware(ConversationMemoryContract):
    def make_app(self, memory, *, tools=False):
        return Agent(Recorder(), memory, [search] if tools else [])


class TestRollingSummary(ConversationMemoryContract):
    tools = False

    def make_app(self, memory, *, tools=False):
        return Chain(Recorder(), memory)
