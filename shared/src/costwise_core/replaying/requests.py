"""A call boiled down to what the findings need: numbers and digests, and of its words the least.

The log may be large, so nothing of it stays in memory but this and the passages of a few calls.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from costwise_core.cache.cacheable import Cacheability, before_lookup, before_store, day
from costwise_core.cache.key import canonical, fingerprint
from costwise_core.cache.question import MAX_QUESTION_CHARS
from costwise_core.replaying.calls import LoggedCall, Said
from costwise_core.replaying.prompts import Parts, parts_of
from costwise_core.tokens import count_tokens
from costwise_core.types import Usage

__all__ = ["BLOCK", "Request", "TokenRates", "request_of"]

BLOCK: Final = 512
"""Characters of a block of a prompt, about 128 tokens: the step in which OpenAI caches prefixes."""

_MOST_BLOCKS: Final = 400
_ANSWER: Final = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One paid call, boiled down.

    Args:
        place: Its row's place among the calls of the log.
        at: Seconds since the epoch; None is not known.
        model: As the provider names it.
        tenant: Whose data it was.
        user: Who asked.
        feature: What for.
        conversation: As the log names it.
        usage: Tokens paid for.
        processing: The price tier.
        mark: How good the answer was, in [0, 1]; None is not known.
        exact: Equal for equal questions of equal scope; empty if it may not be reused.
        near: Equal for questions that may share an answer if they mean the same; likewise.
        question: The question, where similarity may be measured on it.
        answer: Its beginning, to compare answers by.
        passages: Digests of the retrieved passages.
        head_tokens: Of tools and system prompt: what comes before the conversation.
        context_tokens: Of the retrieved passages.
        context_from: Tokens before the first of them.
        talk: Role and characters of each message of the conversation, in order.
        tokens_per_char: Of this prompt.
        before: Digest of what was said before the question; after: that and the answer.
        after: Likewise.
        blocks: Digests of the prompt's beginnings, one `BLOCK` after the other.
        ledger: Whether only a ledger's hashes are known.
        why_not: In one word why the answer may not be reused; "" if it may.
    """

    place: int
    at: float | None
    model: str
    tenant: str = ""
    user: str = ""
    feature: str = ""
    conversation: str = ""
    usage: Usage = field(default_factory=Usage)
    processing: str = "standard"
    mark: float | None = None
    exact: str = ""
    near: str = ""
    question: str = field(default="", repr=False)
    answer: str = field(default="", repr=False)
    passages: frozenset[str] = frozenset()
    head_tokens: int = 0
    context_tokens: int = 0
    context_from: int = 0
    talk: tuple[tuple[str, int], ...] = ()
    tokens_per_char: float = 0.25
    before: str = ""
    after: str = ""
    blocks: "array[int]" = field(default_factory=lambda: array("Q"), repr=False)
    ledger: bool = False
    why_not: str = ""


class TokenRates:
    """How many tokens a character is, by model: counted on the first prompts, then taken over.

    Counting every prompt would take longer than all the rest.
    """

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[int, int]]] = {}

    def tokens(self, text: str, model: str) -> int:
        """Return about how many tokens a text is."""
        counted = self._seen.setdefault(model, [])
        if len(counted) < _COUNTED and text:
            piece = text[:_PIECE]
            counted.append((count_tokens(piece, model).tokens, len(piece)))
        tokens, chars = map(sum, zip(*counted, strict=True)) if counted else (0, 1)
        return round(len(text) * tokens / chars)


_COUNTED: Final = 200
_PIECE: Final = 2_000


def request_of(call: LoggedCall, place: int, rates: TokenRates) -> tuple[Request, Parts]:
    """Boil a call down.

    Returns:
        The request, and the parts of its prompt for whoever needs a few of them.

    Example:
        >>> call = LoggedCall(model="gpt-4o", messages=(Said(role="user", text="Open?"),))
        >>> request_of(call, 0, TokenRates())[0].question
        'Open?'
    """
    parts = parts_of(call)
    if call.prompt_hash or not call.messages:
        return _of_ledger(call, place), parts
    chars = max(len(call.tools) + sum(len(one.text) for one in call.messages), 1)
    usage = call.usage or _estimated(call, rates)
    each = usage.input_tokens / chars if chars > 1 else 0.25
    if not call.whole or each > 2:  # there was more in the prompt than its words
        each = min(each, 0.25)
    allowed = _allowed(parts.question, call)
    today = "" if call.at is None else day(allowed, call.at)
    undated = allowed.ttl_class == "daily" and call.at is None
    may = allowed.allowed and not undated and not call.shape.count("previous_response_id")
    scope = (call.tenant, call.model, call.shape, call.tools, today)
    asked = canonical(parts.question)
    around = fingerprint(parts.system, parts.history, parts.template)
    exact = fingerprint(*scope, around, *parts.context, asked, volatile=()) if may else ""
    split = parts.near and len(parts.question) <= MAX_QUESTION_CHARS
    talk = tuple((one.role, len(one.text)) for one in call.messages if one.role != "system")
    head = len(call.tools) + sum(len(one.text) for one in call.messages if one.role == "system")
    return (
        Request(
            place=place,
            at=call.at,
            model=call.model,
            tenant=call.tenant,
            user=call.user,
            feature=call.feature,
            conversation=call.conversation,
            usage=usage,
            processing=call.processing,
            mark=call.mark,
            exact=exact,
            near=fingerprint(*scope, around, volatile=()) if may and split else "",
            question=asked if may and split else "",
            answer=call.answer[:_ANSWER] if may else "",
            passages=frozenset(fingerprint(one, volatile=())[:16] for one in parts.context),
            head_tokens=round(head * each),
            context_tokens=round(sum(map(len, parts.context)) * each),
            context_from=round(parts.context_from * each),
            talk=talk,
            tokens_per_char=each,
            before=_digest(call, parts.before) if parts.before else "",
            after=_digest(call, call.messages, call.answer),
            blocks=array("Q", _blocks(call)),
            why_not=allowed.reason if not allowed.allowed else "undated" if undated else "",
        ),
        parts,
    )


def _allowed(question: str, call: LoggedCall) -> Cacheability:
    """Ask the cache's policy; of an answer that the log leaves out only what is told of it."""
    facts = call.facts
    if call.answer or facts.finish_reason or facts.tool_calls:
        return before_store(question, call.answer, call=facts)
    return before_lookup(question, call=facts)


def _of_ledger(call: LoggedCall, place: int) -> Request:
    return Request(
        place=place,
        at=call.at,
        model=call.model,
        tenant=call.tenant,
        user=call.user,
        feature=call.feature,
        usage=call.usage or Usage(),
        processing=call.processing,
        mark=call.mark,
        exact=call.prompt_hash,
        blocks=array("Q", [int(call.prefix_hash[:16], 16)] if call.prefix_hash else []),
        ledger=True,
    )


def _estimated(call: LoggedCall, rates: TokenRates) -> Usage:
    sent = "\n".join((call.tools, *(one.text for one in call.messages)))
    return Usage(
        input_tokens=rates.tokens(sent, call.model),
        output_tokens=rates.tokens(call.answer, call.model),
        estimated=True,
    )


def _digest(call: LoggedCall, messages: Sequence[Said], answer: str | None = None) -> str:
    said = [f"{one.role} {one.text.strip()}" for one in messages if one.role != "system"]
    if answer is not None:
        said.append(f"assistant {answer.strip()}")
    text = "\0".join((call.tenant, call.model, *said))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _blocks(call: LoggedCall) -> Iterator[int]:
    """Yield a number for each beginning of the prompt; equal numbers are equal beginnings."""
    digest = hashlib.blake2b(f"{call.tenant}\0{call.model}\0".encode(errors="surrogatepass"))
    text, most = call.tools, BLOCK * _MOST_BLOCKS
    for one in call.messages:
        if len(text) >= most:
            break
        text += f"\n{one.role}\n{one.text[:most]}"
    for start in range(0, min(len(text), most) - BLOCK + 1, BLOCK):
        digest.update(text[start : start + BLOCK].encode("utf-8", "surrogatepass"))
        yield int.from_bytes(digest.copy().digest()[:8], "big")
