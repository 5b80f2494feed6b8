"""Embed models in both directions, and the embedding cache where LlamaIndex's own is wrong."""

import asyncio
import math

import numpy as np
import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.schema import TextNode

from costwise_core.errors import VectorError
from llamaindex_costwise import CachedEmbedding, CostwiseEmbedding, LlamaIndexEmbedder
from llamaindex_costwise.testing import WordEmbedding


class RoleEmbedder:
    """A core embedder that treats queries and documents differently, and counts."""

    name = "roles-1"

    def __init__(self):
        self.asked = []

    def embed(self, texts, role="query"):
        self.asked.append((tuple(texts), role))
        rows = np.float32([[1 + len(text), 1 if role == "query" else 0] for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


async def test_roles_and_batches_reach_the_embedder():
    embedder = RoleEmbedder()
    model = CostwiseEmbedding(embedder=embedder)
    query, text = model.get_query_embedding("moon"), model.get_text_embedding("moon")
    assert query != text
    assert await model.aget_query_embedding("moon") == query
    assert await model.aget_text_embedding("moon") == text
    embedder.asked.clear()
    batch = model.get_text_embedding_batch(["moon", "sun", "moon"])
    assert batch == await model.aget_text_embedding_batch(["moon", "sun", "moon"])
    assert embedder.asked == [(("moon", "sun", "moon"), "document")] * 2
    assert batch[0] == text
    assert model.model_name == "roles-1"


async def test_it_embeds_an_index():
    model = CostwiseEmbedding(embedder=LlamaIndexEmbedder(WordEmbedding()))
    texts = ["the moon is round", "trees are green", "fish swim"]
    index = VectorStoreIndex([TextNode(text=text) for text in texts], embed_model=model)
    retriever = index.as_retriever(similarity_top_k=1)
    assert retriever.retrieve("is the moon round")[0].text == texts[0]
    assert (await retriever.aretrieve("do fish swim"))[0].text == texts[2]


async def test_asynchronous_calls_leave_the_loop_free():
    here = asyncio.get_running_loop()

    class Blocking(RoleEmbedder):
        def embed(self, texts, role="query"):
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            assert here.is_running()
            return super().embed(texts, role)

    assert len(await CostwiseEmbedding(embedder=Blocking()).aget_query_embedding("moon")) == 2


def test_names_tell_models_apart():
    names = {
        LlamaIndexEmbedder(model).name
        for model in (
            WordEmbedding(),
            WordEmbedding(dim=8),
            WordEmbedding(model_name="b"),
            MockEmbedding(embed_dim=8),
        )
    }
    assert len(names) == 4
    assert LlamaIndexEmbedder(WordEmbedding()).name == LlamaIndexEmbedder(WordEmbedding()).name
    assert LlamaIndexEmbedder(WordEmbedding(embed_batch_size=3)).name in names
    assert LlamaIndexEmbedder(CostwiseEmbedding(embedder=RoleEmbedder())).name == "roles-1"


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [0.0, 0.0], [math.inf, 1.0]])
async def test_unusable_vectors_are_refused(bad):
    class Bad(WordEmbedding):
        def _vector(self, text):
            return bad

    with pytest.raises(VectorError):
        LlamaIndexEmbedder(Bad()).embed(["moon"])
    with pytest.raises(VectorError):
        await LlamaIndexEmbedder(Bad()).aembed(["moon"], "document")


def test_vectors_become_unit_vectors():
    embedder = LlamaIndexEmbedder(WordEmbedding(scale=3.0))
    rows = embedder.embed(["the moon", "a sun"], "document")
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1.0, 1.0])
    assert not embedder.unit
    assert embedder.embed([]).shape[0] == 0


def test_llama_indexs_own_cache_mixes_models_and_ours_does_not():
    from llama_index.core.storage.kvstore import SimpleKVStore

    shared = SimpleKVStore()
    theirs = [WordEmbedding(embeddings_cache=shared), WordEmbedding(dim=8, embeddings_cache=shared)]
    assert [len(m.get_query_embedding("moon")) for m in theirs] == [256, 256]  # the fault
    ours = [CachedEmbedding(model=WordEmbedding()), CachedEmbedding(model=WordEmbedding(dim=8))]
    assert [len(m.get_query_embedding("moon")) for m in ours] == [256, 8]


def test_one_store_of_vectors_serves_two_models():
    from costwise_core.embed.vectors import MemoryVectors

    store = MemoryVectors()
    models = [
        CachedEmbedding(model=WordEmbedding(), cache=store),
        CachedEmbedding(model=WordEmbedding(dim=8), cache=store),
        CachedEmbedding(model=WordEmbedding(), cache=store),
    ]
    assert [len(m.get_query_embedding("moon")) for m in models] == [256, 8, 256]
    assert len(models[2]._model._queries) == 0


async def test_each_text_is_embedded_once_in_each_role():
    plain = WordEmbedding()
    model = CachedEmbedding(model=plain)
    texts = ["the moon", "the sun", "the moon"]
    first = model.get_text_embedding_batch(texts)
    assert plain._texts == ["the moon", "the sun"]
    assert await model.aget_text_embedding_batch(texts) == first
    assert model.get_text_embedding("the sun") == first[1]
    assert len(plain._texts) == 2
    model.get_query_embedding("the moon")
    await model.aget_query_embedding("the moon")
    assert plain._queries == ["the moon"]
    assert first[0] == pytest.approx(WordEmbedding()._vector("the moon"), abs=1e-6)


def test_only_real_calls_are_counted():
    counter = TokenCountingHandler(tokenizer=str.split)
    model = CachedEmbedding(model=WordEmbedding())
    model.callback_manager = CallbackManager([counter])
    model.get_query_embedding("the moon")
    model.get_query_embedding("the moon")
    assert counter.total_embedding_token_count == 2


def test_serialised_they_hold_no_vector_and_no_model():
    model = CachedEmbedding(model=WordEmbedding())
    model.get_query_embedding("the moon")
    assert set(model.to_dict()) >= {"model_name", "class_name"}
    assert "embedder" not in model.to_dict()
    assert CachedEmbedding.class_name() == "CachedEmbedding"
