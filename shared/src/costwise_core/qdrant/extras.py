"""The two optional packages, imported when first used; one place says which extra brings them."""

from typing import Any

from costwise_core.errors import MissingExtraError

__all__ = ["client_models", "client_package", "edge_module"]


def client_package() -> Any:
    """Return the module `qdrant_client`.

    Raises:
        MissingExtraError: if it is not installed.

    Example:
        >>> client_package().__name__
        'qdrant_client'
    """
    try:
        import qdrant_client  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("a Qdrant server's client", "qdrant") from error
    return qdrant_client


def client_models() -> Any:
    """Return the module `qdrant_client.models`.

    Raises:
        MissingExtraError: if it is not installed.

    Example:
        >>> client_models().Distance("Cosine").value
        'Cosine'
    """
    return client_package().models


def edge_module() -> Any:
    """Return the module `qdrant_edge`.

    Raises:
        MissingExtraError: if it is not installed.

    Example:
        >>> edge_module().__name__
        'qdrant_edge'
    """
    try:
        import qdrant_edge  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("Qdrant's engine in this process", "edge") from error
    return qdrant_edge
