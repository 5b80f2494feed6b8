"""LangChain's models in a benchmark: a real client, a server that counts."""

from collections.abc import Iterator

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser

from costwise_core import BenchPrompt, benchmark_models
from langchain_costwise import ChatAsker
from tests.openai_server import Provider

ChatOpenAI = pytest.importorskip("langchain_openai").ChatOpenAI


@pytest.fixture
def server() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.close()


def client(server: Provider) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o", api_key="none", base_url=server.url, max_retries=0)


def test_what_the_provider_reports_is_in_the_report(server, tmp_path):
    prompts = [BenchPrompt(question=f"Which city, {n}?", answers=("Paris is it",)) for n in (1, 2)]
    models = {"gpt-4o": ChatAsker(client(server))}
    for _ in range(2):
        report = benchmark_models(models, prompts, tmp_path / "run.jsonl", quality="exact")
    (one,) = report.models
    assert len(server.asked) == 2
    assert (one.input_tokens, one.output_tokens, one.estimated, one.unpriced) == (28, 10, 0, 0)
    assert one.quality.value == 1.0


def test_no_cache_answers_for_the_model(server):
    set_llm_cache(InMemoryCache())
    try:
        asker = ChatAsker(client(server))
        assert asker.ask("Which city?").usage == asker.ask("Which city?").usage
    finally:
        set_llm_cache(None)
    assert len(server.asked) == 2


def test_a_chain_that_ends_in_text_is_asked_too():
    chain = FakeListChatModel(responses=["391"]) | StrOutputParser()
    assert ChatAsker(chain).ask("17 * 23?").text == "391"


def test_an_answer_that_was_cut_off_says_so(server):
    server.caps = True
    model = client(server).model_copy(update={"max_tokens": 1})
    assert ChatAsker(model).ask("Which city?").finish_reason == "length"
