"""What a tool returned to an agent, made smaller."""

import json
from collections.abc import Iterable, Sequence

from costwise_core.compress.watched import Watched
from costwise_core.drive import Flow
from costwise_core.passages import Compressed, Passage, Span

__all__ = ["asked_for", "shorten_texts"]


def shorten_texts(
    compressor: Watched,
    question: str,
    texts: Sequence[str],
    *,
    documents: Sequence[str] = (),
    json_too: bool = False,
) -> Flow[tuple[list[str], Compressed]]:
    r"""Compress the texts of one tool result together.

    A result made of known documents is compressed document by document; what stands around one
    (its heading, its number) stays or goes with it.

    Args:
        compressor: Does the work.
        question: What the agent wants to know.
        texts: The texts of the result, in order.
        documents: The documents that `texts` was written from, in order, if they are known.
        json_too: Whether texts that are JSON may be cut; they are no JSON any more then.

    Returns:
        As many texts as were given, "" for one that was left out whole, and the compressor's
        result.

    Example:
        >>> from costwise_core.drive import run
        >>> class Longest:
        ...     def compress(self, question, passages):
        ...         kept = max(passages, key=lambda passage: len(passage.text))
        ...         return Compressed(
        ...             passages=(kept,), given=passages, reason="compressed",
        ...             tokens_before=9, tokens_after=5,
        ...         )
        >>> found = "[1] Oslo.\n\n[2] Oslo is in Norway."
        >>> texts, _ = run(shorten_texts(
        ...     Watched(Longest()), "Oslo?", [found], documents=["Oslo.", "Oslo is in Norway."]
        ... ))
        >>> texts
        ['[2] Oslo is in Norway.']
    """
    pieces = {
        f"{at}.{number}": (at, span)
        for at, text in enumerate(texts)
        if text.strip() and (json_too or not _is_json(text))
        for number, span in enumerate(_spans(text, documents) or [(0, len(text))])
    }
    result = yield from compressor.flow(
        question,
        [Passage(text=texts[at][slice(*span)], id=key) for key, (at, span) in pieces.items()],
    )
    if result.reason != "compressed" or not result.passages:
        # An agent that gets an empty answer asks again, and providers refuse empty messages.
        return list(texts), result
    kept = {passage.id: passage.text for passage in result.passages}
    return [
        _rewritten(text, [(span, kept.get(key)) for key, (of, span) in pieces.items() if of == at])
        for at, text in enumerate(texts)
    ], result


def asked_for(question: str, arguments: Iterable[object]) -> str:
    r"""Return what a tool was called for: the user's question and the call's own words.

    Both count: the question alone misses what the agent is looking for at this step, the call
    alone what for.

    Example:
        >>> asked_for("Who runs the maker of Nimbus?", ["Nimbus maker", 5])
        'Who runs the maker of Nimbus?\nNimbus maker'
    """
    words = [question, *(item for item in arguments if isinstance(item, str))]
    return "\n".join(dict.fromkeys(word.strip() for word in words if word.strip()))


def _spans(text: str, documents: Sequence[str]) -> list[Span]:
    """Return where the documents stand in the text, nothing if that is not plain to see."""
    spans: list[Span] = []
    for document in documents:
        start = text.find(document)
        if not document.strip():
            continue
        if start < (spans[-1][1] if spans else 0) or text.rfind(document) != start:
            return []
        spans.append((start, start + len(document)))
    return spans


def _rewritten(text: str, pieces: Sequence[tuple[Span, str | None]]) -> str:
    if not pieces:
        return text
    parts, cursor = [], 0
    for (start, end), kept in pieces:
        if kept is not None:
            parts += [text[cursor:start], kept]
        cursor = end
    if parts:
        # What stood between two documents would open the text if the first was left out.
        parts = [parts[0].lstrip("\n") if pieces[0][1] is None else parts[0], *parts[1:]]
        parts.append(text[cursor:])
    return "".join(parts)


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
