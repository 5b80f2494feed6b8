"""What a retriever that searches as tuned is given: how to search, or a plan that says it."""

from costwise_core.errors import ConfigError
from costwise_core.qdrant.search_config import SearchConfig

__all__ = ["search_of"]


def search_of(given: object) -> SearchConfig:
    """Return the `SearchConfig` given, or that of a plan.

    Raises:
        ConfigError: if it is neither and has none.

    Example:
        >>> search_of(SearchConfig(hnsw_ef=64)).hnsw_ef
        64
    """
    found = given if isinstance(given, SearchConfig) else getattr(given, "search", None)
    if not isinstance(found, SearchConfig):
        raise ConfigError(
            f"a SearchConfig is wanted, or a plan that has one as `.search`, got {given!r}."
        )
    return found
