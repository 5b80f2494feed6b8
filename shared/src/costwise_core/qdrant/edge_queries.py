"""Queries as the engine takes them: what is asked, of which vector, how widely, what to show."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from costwise_core.errors import ConfigError
from costwise_core.qdrant.edge_filters import as_filter
from costwise_core.qdrant.edge_mirror import mirrored, parsed
from costwise_core.qdrant.edge_points import Spaces, point_id, scored_of
from costwise_core.qdrant.extras import client_models, client_package, edge_module

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["Reader", "answers_to", "as_order", "as_params", "as_request", "as_shown"]

_LIMIT: Final = 10
_RRF_K: Final = 2
_MMR_DIVERSITY: Final = 0.5
_SAFE_OVERSAMPLING: Final = 2.0
_WORKS: Final = (
    "What works: a vector, a point's id, NearestQuery (also with mmr), RecommendQuery, "
    "FusionQuery, RrfQuery, OrderByQuery and SampleQuery."
)


class Reader(NamedTuple):
    """What a query must know about the collection it goes to."""

    spaces: Spaces
    vector_of: Callable[[int | UUID, str], Any]
    """Returns the stored vector of a point, for queries that name the point."""
    quantized: bool
    """Whether scores may be those of quantized vectors."""


def as_request(asked: "models.QueryRequest", reader: Reader) -> Any:
    """Return the engine's request for the client's.

    Raises:
        ConfigError: if a part of it needs a server, or does not fit the collection.
        VectorError: if the query's vector is unusable.
    """
    if asked.shard_key is not None or asked.lookup_from is not None:
        raise ConfigError("shard_key and lookup_from need a server; leave them out.")
    using = asked.using or ""
    query, named = _query(asked.query, using, asked.limit, reader)
    return edge_module().QueryRequest(
        limit=_LIMIT if asked.limit is None else asked.limit,
        offset=asked.offset,
        query=query,
        prefetches=_prefetches(asked.prefetch, reader),
        filter=_without(as_filter(asked.filter), named),
        score_threshold=asked.score_threshold,
        params=as_params(
            asked.params, scored=asked.score_threshold is not None and reader.quantized
        ),
        with_payload=as_shown(asked.with_payload),
        with_vector=asked.with_vector or False,
    )


def answers_to(
    asked: "Sequence[models.QueryRequest]", reader: Reader, ask: Callable[[str, Any], Any]
) -> "list[models.QueryResponse]":
    """Return the answers to queries, in their order.

    Args:
        asked: The client's requests.
        reader: What they must know about their collection.
        ask: Calls the engine by a method's name.

    Raises:
        ConfigError: if a part of one needs a server, or does not fit the collection.
        VectorError: if a query's vector is unusable.
    """
    # The package offers another model by the name of the answer: one for its own embedding.
    answer = client_package().http.models.QueryResponse
    wanted = [parsed(client_models().QueryRequest, request) for request in asked]
    requests = [as_request(request, reader) for request in wanted]
    answers = ask("query_batch", edge_module().QueryBatchRequest(requests))
    return [
        answer(points=[scored_of(p, with_vector=bool(request.with_vector)) for p in found])
        for request, found in zip(wanted, answers, strict=True)
    ]


def as_params(given: "models.SearchParams | None", *, scored: bool = False) -> Any:
    """Return the engine's search parameters for the client's.

    Args:
        given: As the caller said.
        scored: Whether a quantized score would be compared to a threshold. Unless the caller says
            otherwise, such a search compares again by the original vectors: a binary score is a
            count of bits, and each one passes each threshold.

    Raises:
        ConfigError: if the engine has no such parameter.

    Example:
        >>> as_params(None, scored=True).quantization.rescore
        True
    """
    models, edge = client_models(), edge_module()
    wanted = parsed(models.SearchParams, given)
    if wanted is None and not scored:
        return None
    params = wanted if wanted is not None else models.SearchParams()
    quantization = params.quantization or models.QuantizationSearchParams()
    if scored and quantization.rescore is None and not quantization.ignore:
        quantization = models.QuantizationSearchParams(
            rescore=True, oversampling=max(_SAFE_OVERSAMPLING, quantization.oversampling or 0.0)
        )
    corpus = getattr(params.idf, "corpus", None)
    return edge.SearchParams(
        hnsw_ef=params.hnsw_ef,
        exact=bool(params.exact),
        quantization=mirrored(quantization),
        indexed_only=bool(params.indexed_only),
        acorn=mirrored(params.acorn),
        idf=edge.IdfParams(corpus=as_filter(corpus)) if corpus is not None else None,
    )


def as_shown(given: Any) -> Any:
    """Return which part of the payloads to show, as the engine takes it.

    Example:
        >>> as_shown(["title"])
        ['title']
    """
    edge, models = edge_module(), client_models()
    if isinstance(given, models.PayloadSelectorInclude):
        return edge.PayloadSelector.Include(given.include)
    if isinstance(given, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(given.exclude)
    return list(given) if isinstance(given, (list, tuple)) else bool(given)


def as_order(given: Any) -> Any:
    """Return in which order to go through points, as the engine takes it.

    Example:
        >>> as_order("year").key
        'year'
    """
    if given is None:
        return None
    edge = edge_module()
    if isinstance(given, str):
        return edge.OrderBy(given)
    order = parsed(client_models().OrderBy, given)
    return edge.OrderBy(order.key, mirrored(order.direction), mirrored(order.start_from))


def _prefetches(given: Any, reader: Reader) -> list[Any]:
    if given is None:
        return []
    model = client_models().Prefetch
    return [
        _prefetch(parsed(model, one), reader)
        for one in (given if isinstance(given, list) else [given])
    ]


def _prefetch(asked: "models.Prefetch", reader: Reader) -> Any:
    if asked.lookup_from is not None:
        raise ConfigError("lookup_from needs a server; leave it out.")
    query, named = _query(asked.query, asked.using or "", asked.limit, reader)
    return edge_module().Prefetch(
        limit=_LIMIT if asked.limit is None else asked.limit,
        query=query,
        prefetches=_prefetches(asked.prefetch, reader),
        params=as_params(
            asked.params, scored=asked.score_threshold is not None and reader.quantized
        ),
        filter=_without(as_filter(asked.filter), named),
        score_threshold=asked.score_threshold,
    )


def _query(
    asked: Any, using: str, limit: int | None, reader: Reader
) -> tuple[Any, list[int | UUID]]:
    """Return the engine's query, and the points it names, which are no answers to it."""
    if asked is None:
        return None, []
    edge = edge_module()
    match type(asked).__name__:
        case "NearestQuery" if asked.mmr is not None:
            vector, named = _vector(asked.nearest, using, reader)
            said = asked.mmr.diversity
            diversity = _MMR_DIVERSITY if said is None else said
            candidates = asked.mmr.candidates_limit or limit or _LIMIT
            return edge.Mmr(vector, 1.0 - diversity, candidates, using=using), named
        case "NearestQuery":
            return _query(asked.nearest, using, limit, reader)
        case "FusionQuery":
            fusion = str(asked.fusion.value)
            return (edge.Fusion.Dbsf() if fusion == "dbsf" else edge.Fusion.Rrf(_RRF_K)), []
        case "RrfQuery":
            return edge.Fusion.Rrf(asked.rrf.k or _RRF_K, asked.rrf.weights), []
        case "OrderByQuery":
            return as_order(asked.order_by), []
        case "SampleQuery":
            return edge.Sample.Random, []
        case "RecommendQuery":
            return _recommended(asked.recommend, using, reader)
        case name if name.endswith("Query"):
            raise ConfigError(f"{name} needs a server. {_WORKS}")
        case _:
            vector, named = _vector(asked, using, reader)
            return edge.Query.Nearest(vector, using=using), named


def _vector(given: Any, using: str, reader: Reader) -> tuple[Any, list[int | UUID]]:
    if isinstance(given, (int, str, UUID)) and not isinstance(given, bool):
        ident = point_id(given)
        vector = reader.vector_of(ident, using)
        if vector is None:
            raise ConfigError(f"point {given} has no vector {using!r} to look for.")
        return vector, [ident]
    return reader.spaces.checked(given, using), []


def _recommended(asked: Any, using: str, reader: Reader) -> tuple[Any, list[int | UUID]]:
    import numpy as np  # noqa: PLC0415

    edge = edge_module()
    liked = [_vector(one, using, reader) for one in asked.positive or []]
    disliked = [_vector(one, using, reader) for one in asked.negative or []]
    named = [ident for _, idents in [*liked, *disliked] for ident in idents]
    positive, negative = [v for v, _ in liked], [v for v, _ in disliked]
    strategy = asked.strategy.value if asked.strategy else "average_vector"
    if strategy != "average_vector":
        if not positive and not negative:
            raise ConfigError("recommending needs at least one example.")
        kind = "RecommendBestScore" if strategy == "best_score" else "RecommendSumScores"
        examples = edge.RecommendQuery(positive, negative)
        return getattr(edge.Query, kind)(examples, using=using), named
    if not positive or using in reader.spaces.sparse:
        raise ConfigError(
            "the strategy average_vector needs a positive example and dense vectors; best_score "
            "and sum_scores do without."
        )
    mean = np.mean(positive, axis=0)
    if negative:
        mean = mean + mean - np.mean(negative, axis=0)
    return edge.Query.Nearest(reader.spaces.checked(mean, using), using=using), named


def _without(filter_: Any, named: list[int | UUID]) -> Any:
    """Return the filter with these points left out."""
    if not named:
        return filter_
    edge = edge_module()
    parts: Mapping[str, Any] = {"must": [filter_]} if filter_ is not None else {}
    return edge.Filter(must_not=[edge.HasIdCondition(set(named))], **parts)
