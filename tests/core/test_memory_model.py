"""A fold by a real model: SmolLM2 behind llama.cpp's server on this machine."""

import pytest

from costwise_core import (
    Conversation,
    ConversationMemory,
    MemoryPrices,
    Message,
    OpenAICompatible,
    SQLiteConversations,
)
from tests.llama_server import NAME, serve

CHAT = Conversation(id="7", tenant="acme", user="ada")
DEAR = MemoryPrices(
    input=2.5, cache_read=2.5, cache_write=2.5, output=10, summary_input=0.1, summary_output=0.4
)
SAID = (
    ("I ordered a standing desk on 3 May, order AB-1234.", "Thanks, I see order AB-1234."),
    ("It cost 649 euros and has not come.", "It left our warehouse in Ghent on 9 May."),
    ("Please send it to Rua Augusta 12 in Lisbon.", "The address is Rua Augusta 12 now."),
    ("My colleague Przemek may take it in.", "I noted Przemek as the other recipient."),
    ("If it is not here by 20 May, I want my money back.", "Agreed: a refund after 20 May."),
)


class SmolLM2:
    """Asks the server, and keeps what it was asked and what it answered."""

    def __init__(self, url: str) -> None:
        self._model = OpenAICompatible(url, NAME, max_tokens=200, seconds=300)
        self.asked: list[str] = []
        self.answers: list[str] = []

    def complete(self, prompt: str) -> str:
        self.asked.append(prompt)
        self.answers.append(self._model.ask(prompt).text)
        return self.answers[-1]


@pytest.fixture(scope="module")
def url() -> str:
    return serve()


def conversation() -> list[Message]:
    found = []
    for turn, (asks, answers) in enumerate(SAID * 2):
        more = " I have been a customer of yours for many years and was always happy." * 2
        found.append(Message(role="user", text=asks + more, name="Ada", id=f"q{turn}"))
        found.append(Message(role="assistant", text=answers + more, id=f"a{turn}"))
    return [*found, Message(role="user", text="So when do I get my money back?", id="last")]


def test_a_real_model_folds_and_nothing_exact_is_lost(url, tmp_path):
    model, messages = SmolLM2(url), conversation()
    with SQLiteConversations(tmp_path / "chats.db") as store:
        memory = ConversationMemory(
            store, summariser=model, prices=DEAR, background=False, wait_seconds=300
        )
        for end in range(1, len(messages) + 1, 2):
            view = memory.view(CHAT, messages[:end])
        assert memory.stats.errors == {}
        assert model.answers
        assert memory.stats.folds["folded"] >= 1
        explained = memory.explain(CHAT)
        assert store.messages(CHAT) == [*explained.folded, *explained.view.kept]
    assert view.reason == "folded"
    assert view.kept[-1].id == "last"
    # A model of 135 million parameters forgets a lot: the exact facts are put back.
    sent = "\n".join(one.text for one in view.messages)
    for fact in ("AB-1234", "649", "Lisbon", "20 May"):
        assert fact in sent
    assert sum(one.tokens for one in explained.folded) > 5 * explained.summary.tokens
    assert explained.summary.tokens <= 160


async def test_a_real_model_folds_behind_async_code(url, tmp_path):
    model, messages = SmolLM2(url), conversation()
    with SQLiteConversations(tmp_path / "chats.db") as store:
        memory = ConversationMemory(store, summariser=model, prices=DEAR)
        for end in range(1, len(messages) + 1, 2):
            await memory.aview(CHAT, messages[:end])
            assert await memory.await_(300)
        assert memory.stats.folds["folded"] >= 1
        summary = (await memory.aexplain(CHAT)).summary
        await memory.aclose()
    assert summary.written == summary.folded > 0
