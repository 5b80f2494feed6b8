"""Engines are selected without an LLM: by words or vectors, the cheaper one where two fit."""

import logging

import pytest
from llama_index.core import Document, SummaryIndex
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.retrievers import RouterRetriever
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata

from costwise_core.errors import ConfigError
from llamaindex_costwise import CostSelector
from llamaindex_costwise.testing import WordEmbedding

ORDERS = ToolMetadata(name="orders", description="Where orders and parcels are.")
LAW = ToolMetadata(name="law", description="What contracts and their clauses mean.")
DEEP = ToolMetadata(name="deep", description="What contracts and their clauses mean.")
LAWYERS = [ORDERS, DEEP, LAW]


@pytest.fixture(params=["words", "vectors"])
def selector(request):
    def make(**settings):
        embed_model = WordEmbedding() if request.param == "vectors" else None
        return CostSelector(embed_model=embed_model, **settings)

    return make


async def test_the_description_that_fits(selector):
    for question, index in (("Where are my orders?", 0), ("Which clauses do contracts need?", 1)):
        found = selector().select([ORDERS, LAW], question)
        assert found.ind == index
        assert "fits best" in found.reason
        assert await selector().aselect([ORDERS, LAW], question) == found


@pytest.mark.parametrize(("costs", "index"), [({"law": 1, "deep": 9, "orders": 0}, 2), ({}, 1)])
def test_of_two_that_fit_the_cheaper(selector, costs, index):
    found = selector(costs=costs).select(LAWYERS, "Which clauses do contracts need?")
    assert found.ind == index
    assert "cheapest of 2" in found.reason


def test_one_without_a_cost_is_dear(selector):
    assert selector(costs={"law": 5}).select(LAWYERS, "contracts and clauses").ind == 2


def test_nothing_fits():
    found = CostSelector(costs={"law": 1, "orders": 2, "deep": 3}).select(LAWYERS, "Hello!")
    assert found.ind == 2
    assert "no description fits better" in found.reason


def test_a_single_choice(selector):
    assert selector().select([LAW], "contracts").ind == 0


def test_descriptions_are_embedded_once():
    model = WordEmbedding()
    selector = CostSelector(embed_model=model)
    for question in ("Where are my orders?", "And parcels?", "What do contracts mean?"):
        selector.select([ORDERS, LAW], question)
    assert len(model._texts) == 2
    assert len(model._queries) == 3


def test_negative_cosines_tie_by_cost():
    class Opposite:
        name = "opposite"
        blocking = False

        def embed(self, texts, role="query"):
            import numpy as np

            signs = {"query": [[1.0, 0.0]], "document": [[-1.0, 0.0], [-0.99, 0.141]]}
            return np.array(signs[role], dtype=np.float32)

    selector = CostSelector(embed_model=Opposite(), costs={"orders": 1, "law": 2})
    assert selector.select([ORDERS, LAW], "?").ind == 0


async def test_router_query_engine_and_retriever(selector, caplog):
    caplog.set_level(logging.DEBUG)
    indexes = [SummaryIndex.from_documents([Document(text=text)]) for text in ("parcel", "clause")]
    tools = [
        QueryEngineTool(query_engine=index.as_query_engine(llm=MockLLM()), metadata=told)
        for index, told in zip(indexes, (ORDERS, LAW), strict=True)
    ]
    engine = RouterQueryEngine(selector=selector(), query_engine_tools=tools, llm=MockLLM())
    question = "Which clauses do contracts need, says Zaphod?"
    for answer in (engine.query(question), await engine.aquery(question)):
        assert answer.metadata["selector_result"].ind == 1
        assert answer.source_nodes[0].get_content() == "clause"
    assert "Zaphod" not in caplog.text
    choices = [
        RetrieverTool(retriever=index.as_retriever(), metadata=told)
        for index, told in zip(indexes, (ORDERS, LAW), strict=True)
    ]
    retriever = RouterRetriever(selector=selector(), retriever_tools=choices, llm=MockLLM())
    (node,) = retriever.retrieve(question)
    assert node.get_content() == "clause"


@pytest.mark.parametrize(
    ("wrong", "said"), [({"margin": 1}, "margin"), ({"costs": {"a": -1}}, "cost of 'a'")]
)
def test_wrong_arguments(wrong, said):
    with pytest.raises(ConfigError, match=said):
        CostSelector(**wrong)
