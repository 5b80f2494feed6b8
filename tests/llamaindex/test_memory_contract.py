"""Every way to give a LlamaIndex app a conversation's memory keeps the contract of a memory."""

import asyncio

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.chat_engine import CondensePlusContextChatEngine, SimpleChatEngine
from llama_index.core.memory import InsertMethod, Memory
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode

from costwise_core import Conversation, scoped
from costwise_core.testing.memories import ConversationMemoryContract
from llamaindex_costwise import RecallBlock, RollingSummaryBlock, RollingSummaryMemory
from tests.llamaindex.fakes import deprecations
from tests.llamaindex.remembering import SEARCH, Recorder, Shelf

pytestmark = [
    deprecations,
    # LlamaIndex's synchronous methods open event loops that they never close.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Chats:
    """One engine or agent for each turn, as in a service that keeps nothing."""

    def __init__(self, memory_for, *, tools):
        self.llm, self.memory_for, self.tools = Recorder(), memory_for, tools

    @property
    def prompts(self):
        return [[(one.role.value, one.content or "") for one in p] for p in self.llm.prompts]

    def say(self, conversation, text, *, tenant=""):
        if self.tools:
            return asyncio.run(self.asay(conversation, text, tenant=tenant))
        with scoped(tenant=tenant):
            return str(self.engine(conversation, tenant).chat(text))

    async def asay(self, conversation, text, *, tenant=""):
        with scoped(tenant=tenant):
            if not self.tools:
                return str(await self.engine(conversation, tenant).achat(text))
            agent = FunctionAgent(tools=[SEARCH], llm=self.llm, streaming=False)
            return str(await agent.run(text, memory=self.memory_for(conversation, tenant)))

    def engine(self, conversation, tenant):
        memory = self.memory_for(conversation, tenant)
        return SimpleChatEngine.from_defaults(llm=self.llm, memory=memory, system_prompt="Be kind.")


class Page(BaseRetriever):
    def _retrieve(self, query_bundle):
        return [NodeWithScore(node=TextNode(text="Ferries leave at nine."), score=1.0)]


class Rag(Chats):
    def engine(self, conversation, tenant):
        return CondensePlusContextChatEngine.from_defaults(
            Page(),
            llm=self.llm,
            memory=self.memory_for(conversation, tenant),
            skip_condense=True,
            system_prompt="Be kind.",
        )


class TestRollingSummaryMemory(ConversationMemoryContract):
    app_class = Chats

    def make_app(self, memory, *, tools=False):
        kept = {}

        def memory_for(conversation, tenant):
            chat = Conversation(id=conversation, tenant=tenant)
            return kept.setdefault(
                chat, RollingSummaryMemory.from_defaults(memory=memory, conversation=chat)
            )

        return self.app_class(memory_for, tools=tools)


class TestRollingSummaryMemoryForRag(TestRollingSummaryMemory):
    app_class = Rag


class TestBlocks(ConversationMemoryContract):
    whole = False  # the newest turns are in LlamaIndex's queue

    def make_app(self, memory, *, tools=False):
        rolling = RollingSummaryBlock(memory=memory)
        blocks, shelf = [rolling, RecallBlock(beside=rolling)], {}

        def memory_for(conversation, tenant):
            return Memory.from_defaults(
                session_id=conversation,
                memory_blocks=blocks,
                insert_method=InsertMethod.USER,
                token_limit=700,
                token_flush_size=100,
                chat_store=shelf.setdefault((conversation, tenant), Shelf()),
            )

        return Chats(memory_for, tools=tools)
