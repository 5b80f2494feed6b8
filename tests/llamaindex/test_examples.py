"""LlamaIndex's templates with examples picked by costwise."""

import threading

import pytest
from llama_index.core import Document, MockEmbedding, PromptTemplate, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import RichPromptTemplate

from costwise_core.errors import ConfigError
from costwise_core.testing.fakes import HashingEmbedder
from llamaindex_costwise import Example, FewShotSelector

EXAMPLES = [
    Example(question="Where is my parcel?", answer="shipping"),
    Example(question="Is my bill right?", answer="billing"),
    Example(question="How do I reset {my} password?", answer="account"),
]


class Locked(HashingEmbedder):
    """Like real models, it cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class TestFewShotSelector:
    def test_in_a_template(self):
        selector = FewShotSelector(EXAMPLES, k=1, template="{question} -> {answer}")
        prompt = PromptTemplate(
            "{shots}\n{query_str} ->", function_mappings={"shots": selector.render}
        )
        text = prompt.format(query_str="I forgot my password")
        assert text == "How do I reset {my} password? -> account\nI forgot my password ->"

    def test_in_a_rich_template(self):
        selector = FewShotSelector(EXAMPLES, k=1)
        prompt = RichPromptTemplate(
            "{{ shots }}\n\nQ: {{ query_str }}", function_mappings={"shots": selector.render}
        )
        assert "A: shipping" in prompt.format(query_str="Where is the parcel?")

    @pytest.mark.parametrize("embed_model", [None, Locked(), MockEmbedding(embed_dim=8)])
    async def test_in_a_query_engine(self, embed_model):
        selector = FewShotSelector(EXAMPLES, k=2, embed_model=embed_model)
        prompt = PromptTemplate(
            "{shots}\n\n{context_str}\nQ: {query_str}\nA:",
            function_mappings={"shots": selector.render},
        )
        index = VectorStoreIndex.from_documents(
            [Document(text="Parcels take two days.")], embed_model=MockEmbedding(embed_dim=8)
        )
        engine = index.as_query_engine(llm=MockLLM(), text_qa_template=prompt)
        answer = str(engine.query("Where is my parcel?"))  # the mock says the prompt back
        assert "A: shipping" in answer
        assert "Parcels take two days." in answer
        assert str(await engine.aquery("Where is my parcel?")) == answer

    def test_a_partly_filled_template_shares_the_embed_model(self):
        selector = FewShotSelector(EXAMPLES, k=1, embed_model=Locked())
        prompt = PromptTemplate(
            "{shots}|{query_str}|{more}", function_mappings={"shots": selector.render}
        )
        filled = prompt.partial_format(query_str="Is my bill right?")
        assert "A: billing" in filled.format(more="x")

    def test_a_template_can_be_written_down(self):
        prompt = PromptTemplate(
            "{shots}", function_mappings={"shots": FewShotSelector(EXAMPLES).render}
        )
        assert prompt.model_dump()["function_mappings"]["shots"].endswith("render")

    async def test_async_renders_the_same(self):
        selector = FewShotSelector(EXAMPLES, embed_model=HashingEmbedder())
        rendered = await selector.arender(query_str="Where is my bill?")
        assert rendered == selector.render(query_str="Where is my bill?")

    def test_a_missing_variable_is_named(self):
        with pytest.raises(ConfigError, match=r"'query_str' .* 'query'"):
            FewShotSelector(EXAMPLES).render(query="x")
