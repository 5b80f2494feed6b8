"""Pieces of one paid stream, for more than one reader."""

from typing import TypeVar

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse

from costwise_core.types import Hit
from llamaindex_costwise._request import without_usage
from llamaindex_costwise.events import marker

__all__ = ["copied", "relayed"]

PieceT = TypeVar("PieceT", ChatResponse, CompletionResponse)


def copied(piece: PieceT) -> PieceT:
    """Return a copy of all that readers may change; the provider's own object is not touched."""
    update = {"additional_kwargs": dict(piece.additional_kwargs)}
    if isinstance(piece, ChatResponse):
        return piece.model_copy(update={**update, "message": piece.message.model_copy(deep=True)})
    return piece.model_copy(update=update)


def relayed(piece: PieceT, hit: Hit) -> PieceT:
    """Return a piece of somebody else's paid stream, marked, without what trackers would bill."""
    note = {"costwise": marker(hit)}
    piece.raw = dict(note)
    piece.additional_kwargs = note
    piece.logprobs = None
    if isinstance(piece, ChatResponse):
        message = piece.message
        message.additional_kwargs = without_usage(message.additional_kwargs)
    return piece
