"""LlamaIndex's LLMs in a benchmark: a real client, a server that counts."""

from collections.abc import Iterator
from typing import Any

import pytest

from costwise_core import BenchPrompt, benchmark_models
from llamaindex_costwise import LLMAsker
from llamaindex_costwise.testing import ScriptedLLM
from tests.openai_server import Provider

openai_like = pytest.importorskip("llama_index.llms.openai_like")


@pytest.fixture
def server() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.close()


def client(server: Provider, **settings: Any) -> Any:
    given = {"model": "gpt-4o", "api_base": server.url, "api_key": "none", "is_chat_model": True}
    return openai_like.OpenAILike(**given, max_retries=0, reuse_client=False, **settings)


def test_what_the_provider_reports_is_in_the_report(server, tmp_path):
    prompts = [BenchPrompt(question=f"Which city, {n}?", answers=("Paris is it",)) for n in (1, 2)]
    models = {"gpt-4o": LLMAsker(client(server))}
    for _ in range(2):
        report = benchmark_models(models, prompts, tmp_path / "run.jsonl", quality="exact")
    (one,) = report.models
    assert len(server.asked) == 2
    assert (one.input_tokens, one.output_tokens, one.estimated, one.unpriced) == (28, 10, 0, 0)
    assert one.quality.value == 1.0


def test_an_answer_that_was_cut_off_says_so(server):
    server.caps = True
    assert LLMAsker(client(server, max_tokens=1)).ask("Which city?").finish_reason == "length"


def test_an_llm_that_does_not_chat_completes():
    llm = ScriptedLLM(is_chat=False)
    said = LLMAsker(llm).ask("Which city?")
    assert [kind for kind, *_ in llm._calls] == ["complete"]
    assert said.usage is not None
