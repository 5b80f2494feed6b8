"""What query engines and retrievers share: a corpus that is named, and a query in its scope."""

from collections.abc import Callable

from llama_index.core.schema import QueryBundle

from costwise_core.cache import Cache, fingerprint
from costwise_core.context import current_request
from costwise_core.errors import ConfigError
from costwise_core.types import Scope
from llamaindex_costwise._request import UnstableModelError

__all__ = ["check_corpus", "given", "scope_of"]


def check_corpus(corpus: str, who: str) -> None:
    """Raise a `ConfigError` if nobody said what is searched."""
    if not corpus:
        raise ConfigError(
            f"corpus must name what the {who} searches and its version, such as 'handbook-v7'; "
            f"two {who}s with one cache would share answers without it."
        )


def given(query: QueryBundle) -> str:
    """Return a digest of what retrieval would go by besides the question."""
    return fingerprint(repr(query.custom_embedding_strs), repr(query.embedding), volatile=())


def scope_of(
    query: QueryBundle, cache: Cache, require: tuple[str, ...], own: Callable[[], Scope]
) -> Scope | None:
    """Return the whole scope of a query, or None (counted) if it is not to be cached.

    Args:
        query: The query.
        cache: Where it is counted.
        require: Fields that must be known.
        own: Makes the part of the scope that the engine or retriever itself knows.
    """
    try:
        context = current_request()
        if context.uncached:
            cache.count_miss("bypass", "the caller asked for no cache")
            return None
        if query.image_path:
            cache.count_miss("modality", "the query holds a picture")
            return None
        scope = context.complete(own(), require)
    except UnstableModelError as error:
        cache.count_miss("unstable_model", str(error))
        return None
    except Exception as error:  # noqa: BLE001 - a cache fails open
        cache.count_error(error)
        cache.count_miss("unreadable", f"{type(error).__name__} while reading the query")
        return None
    if isinstance(scope, str):
        cache.count_miss("no_scope", scope)
        return None
    return scope
