"""Beginnings of prompts that were sent again while the provider could still have had them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from costwise_core.prompt.provider_cache import CacheTerms, terms_of
from costwise_core.prompt_hash import PREFIX
from costwise_core.replaying.requests import BLOCK, Request

__all__ = ["Prefix", "prefixes_of"]

_SECONDS: Final = 300
_MOST: Final = 2_000_000
_LEDGER_TOKENS: Final = PREFIX // 4
_COMMON_LEAST: Final = 1_024


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """What a request could have read from the provider's prompt cache, and had to write there.

    Args:
        read: Tokens; 0 is nothing.
        write: Tokens, where writing is by request and costs more.
        marked: Whether the request must say so; otherwise the provider does it by itself, or not.
        least: Tokens that a prefix must have.
    """

    read: int = 0
    write: int = 0
    marked: bool = False
    least: int = 0


def prefixes_of(requests: Sequence[Request]) -> dict[int, Prefix]:
    """Return, by place, what requests could have read and written.

    A prefix counts if it is as long as the provider asks for and was sent by the same tenant to the
    same model within the last five minutes, the shortest time that providers keep one.

    Args:
        requests: In the order of time; those without a time have no prefix.

    Example:
        >>> from array import array
        >>> from costwise_core.types import Usage
        >>> sent = [Request(place=n, at=60.0 * n, model="gpt-4o", blocks=array("Q", range(9)),
        ...                 usage=Usage(input_tokens=1500), tokens_per_char=0.3)
        ...         for n in range(2)]
        >>> prefixes_of(sent)
        {1: Prefix(read=1280, write=0, marked=False, least=1024)}
    """
    last: dict[int, tuple[float, int]] = {}
    terms: dict[str, CacheTerms | None] = {}
    reads: dict[int, int] = {}
    writes: dict[int, int] = {}
    for place, request in enumerate(requests):
        if request.model not in terms:
            terms[request.model] = terms_of(request.model)
        known = terms[request.model]
        if request.at is None or not len(request.blocks) or known is None:
            continue
        shared, by = _shared(request, last)
        tokens = _tokens(request, shared, known)
        if tokens:
            reads[place] = tokens
            if known.how == "marked" and by >= 0:
                writes[by] = max(writes.get(by, 0), tokens)
        for block in request.blocks:
            last[block] = (request.at, place)
        if len(last) > _MOST:
            now = request.at
            last = {block: one for block, one in last.items() if now - one[0] <= _SECONDS}
    found = {}
    for place in sorted(reads.keys() | writes.keys()):
        read = reads.get(place, 0)
        known = terms[requests[place].model]
        found[place] = Prefix(
            read=read,
            write=max(0, writes.get(place, 0) - read),
            marked=known is not None and known.how == "marked",
            least=0 if known is None or requests[place].ledger else known.least,
        )
    return found


def _shared(request: Request, last: dict[int, tuple[float, int]]) -> tuple[int, int]:
    """Return how many blocks were sent lately, and by whom; a shorter prefix was no less lately."""

    def lately(n: int) -> bool:
        seen = last.get(request.blocks[n - 1])
        return seen is not None and (request.at or 0.0) - seen[0] <= _SECONDS

    low, high = 0, len(request.blocks)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if lately(middle) else (low, middle - 1)
    return low, last[request.blocks[low - 1]][1] if low else -1


def _tokens(request: Request, blocks: int, terms: CacheTerms) -> int:
    if request.ledger:  # of a ledger only this beginning is known, and that it is long enough
        return _LEDGER_TOKENS if blocks and terms.least <= _COMMON_LEAST else 0
    tokens = min(int(blocks * BLOCK * request.tokens_per_char), request.usage.input_tokens)
    tokens -= tokens % terms.step
    return tokens if tokens >= terms.least else 0
