"""LangChain's few-shot templates with examples picked by costwise."""

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.example_selectors import BaseExampleSelector
from langchain_core.prompts import (
    ChatPromptTemplate,
    FewShotChatMessagePromptTemplate,
    FewShotPromptTemplate,
    PromptTemplate,
)

from costwise_core.errors import ConfigError
from costwise_core.testing.fakes import HashingEmbedder
from langchain_costwise import FewShotSelector

EXAMPLES = [
    {"input": "Where is my parcel?", "output": "shipping"},
    {"input": "Is my bill right?", "output": "billing"},
    {"input": "How do I reset my password?", "output": "account"},
]


class TestFewShotSelector:
    async def test_in_a_text_template_sync_and_async(self):
        prompt = FewShotPromptTemplate(
            example_selector=FewShotSelector(EXAMPLES, k=1),
            example_prompt=PromptTemplate.from_template("{input} -> {output}"),
            suffix="{input} ->",
            input_variables=["input"],
        )
        text = prompt.format(input="I forgot my password")
        assert text.startswith("How do I reset my password? -> account")
        assert await prompt.aformat(input="I forgot my password") == text

    @pytest.mark.parametrize("embeddings", [None, HashingEmbedder()])
    async def test_in_a_chat_template(self, embeddings):
        shots = FewShotChatMessagePromptTemplate(
            example_selector=FewShotSelector(EXAMPLES, embeddings=embeddings, k=2),
            example_prompt=ChatPromptTemplate.from_messages(
                [("human", "{input}"), ("ai", "{output}")]
            ),
            input_variables=["input"],
        )
        prompt = ChatPromptTemplate.from_messages(
            [("system", "Label."), shots, ("human", "{input}")]
        )
        messages = prompt.invoke({"input": "Where is the parcel?"}).to_messages()
        assert [m.type for m in messages] == ["system", "human", "ai", "human", "ai", "human"]
        assert messages[-2].content == "shipping"
        assert (await prompt.ainvoke({"input": "Where is the parcel?"})).to_messages() == messages

    def test_langchain_embeddings(self):
        selector = FewShotSelector(EXAMPLES, embeddings=DeterministicFakeEmbedding(size=16), k=1)
        assert selector.select_examples({"input": "Is my bill right?"}) == [EXAMPLES[1]]

    async def test_one_more_example(self):
        selector = FewShotSelector(EXAMPLES, embeddings=HashingEmbedder(), k=1)
        assert isinstance(selector, BaseExampleSelector)
        selector.select_examples({"input": "warm up"})
        selector.add_example({"input": "Do you ship to Norway?", "output": "countries"})
        await selector.aadd_example({"input": "Do you have an app?", "output": "app"})
        picked = await selector.aselect_examples({"input": "Do you ship to Norway?"})
        assert [one["output"] for one in picked] == ["countries"]

    def test_what_is_picked_is_the_callers_to_change(self):
        selector = FewShotSelector(EXAMPLES, k=1)
        selector.select_examples({"input": "parcel"})[0]["output"] = "changed"
        assert selector.select_examples({"input": "parcel"}) == [EXAMPLES[0]]

    def test_token_budget_and_several_fields(self):
        rows = [{"question": "Q" * n, "context": "c " * 20, "answer": "a"} for n in (1, 2, 3)]
        selector = FewShotSelector(rows, input_keys=("question", "context"), max_tokens=30)
        picked = selector.select_examples({"question": "Q", "context": "c"})
        assert len(picked) == 1

    def test_a_missing_field_is_named(self):
        with pytest.raises(ConfigError, match=r"'input' .* 'inputs'"):
            FewShotSelector([{"inputs": "a", "output": "b"}])
        with pytest.raises(ConfigError, match="none"):
            FewShotSelector(EXAMPLES).select_examples({})

    def test_what_embeds_must_be_one(self):
        with pytest.raises(ConfigError, match="an embedder has a name"):
            FewShotSelector(EXAMPLES, embeddings=object())
