"""Answers that proved right, as training data for a smaller model."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from costwise_core.cache.conversation import question_of
from costwise_core.cache.key import question_key
from costwise_core.cache.lines import writing
from costwise_core.errors import ConfigError
from costwise_core.protocols import CacheStore
from costwise_core.types import Entry, Selection

__all__ = ["export_finetuning"]

_ALL: Final = Selection()


def export_finetuning(
    store: CacheStore,
    file: str | os.PathLike[str],
    *,
    min_uses: int = 2,
    system: str = "",
    selection: Selection = _ALL,
    all_tenants: bool = False,
) -> int:
    """Write question/answer pairs in the chat format of fine-tuning services; return how many.

    A line is `{"messages": [...]}` with the question as the user's and the answer as the
    assistant's. Taken are answers that were served `min_uses` times or that a second model call
    agreed with (two entries of one group), the most used one of each group, oldest first. Left out
    is what makes no sense by itself: follow-ups, and answers that are a framework's dump without a
    text. Equal pairs are written once.

    Args:
        store: Where to read; it is read twice.
        file: Path of the file, which appears when it is complete, with mode 0600.
        min_uses: How often an answer must have been served to count as verified, at least 1.
        system: A system message to put before every pair; "" for none.
        selection: Which entries. It names a tenant or a scope, as a model trained on two tenants
            tells one about the other.
        all_tenants: Whether the selection need not.

    Raises:
        ConfigError: if no tenant is named or `min_uses` is below 1.
        StoreError: if the store cannot be used; there is no new file then.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> store = MemoryStore()
        >>> cache, scope = Cache(store), Scope(tenant="acme")
        >>> _ = cache.store("What is RAG?", scope, "A method.")
        >>> _ = [cache.lookup("What is RAG?", scope) for _ in range(2)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "train.jsonl")
        ...     export_finetuning(store, path, selection=Selection(tenant="acme"))
        ...     "A method." in path.read_text()
        1
        True
    """
    if min_uses < 1:
        raise ConfigError(f"min_uses must be at least 1, got {min_uses!r}.")
    if selection.tenant is None and selection.scope is None and not all_tenants:
        raise ConfigError(
            "training data of several tenants would mix; name one with "
            "selection=Selection(tenant=...), or pass all_tenants=True if they may."
        )
    chosen = _chosen(store, selection, min_uses)
    first = [{"role": "system", "content": system}] if system else []
    written = set[bytes]()
    with writing(file) as write:
        for entry in _in_order(store, selection):
            if (entry.scope, entry.key) not in chosen:
                continue
            pair = _digest(entry.question, entry.plain)
            if pair not in written:
                written.add(pair)
                said = (("user", entry.question), ("assistant", entry.plain))
                turns = [{"role": role, "content": text} for role, text in said]
                write({"messages": [*first, *turns]})
    return len(written)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """Members of one group, and the best of them."""

    members: int
    uses: int
    best: tuple[int, float, str]


def _chosen(store: CacheStore, selection: Selection, min_uses: int) -> set[tuple[str, str]]:
    """Return scope and key of the best entry of every verified group."""
    groups = dict[tuple[str, str], _Group]()
    for entry in store.entries(selection):
        if not _stands_alone(entry):
            continue
        name = (entry.scope, entry.group or entry.key)
        rank = (-entry.uses, entry.created, entry.key)
        found = groups.get(name, _Group(members=0, uses=0, best=rank))
        groups[name] = _Group(
            members=found.members + 1,
            uses=found.uses + entry.uses,
            best=min(found.best, rank),
        )
    return {
        (scope, group.best[-1])
        for (scope, _), group in groups.items()
        if group.members >= 2 or group.uses >= min_uses
    }


def _stands_alone(entry: Entry) -> bool:
    asked_in_full = (
        question_of(entry.question) == entry.question and question_key(entry.question) == entry.key
    )
    is_text = bool(entry.text.strip()) or not _is_object(entry.answer)
    return asked_in_full and is_text and bool(entry.plain.strip())


def _is_object(answer: str) -> bool:
    """Return whether an answer is an object of JSON, as the adapters write them."""
    try:
        return answer.lstrip().startswith("{") and isinstance(json.loads(answer), dict)
    except (ValueError, RecursionError):
        return False


def _in_order(store: CacheStore, selection: Selection) -> Iterator[Entry]:
    """Yield entries oldest first; those of one moment in an order that no store can change."""
    bare = (replace(entry, vector=None) for entry in store.entries(selection))
    for _, same in groupby(bare, key=lambda entry: entry.created):
        yield from sorted(same, key=lambda entry: (entry.scope, entry.key))


def _digest(question: str, answer: str) -> bytes:
    parts = [part.encode("utf-8", "surrogatepass") for part in (question, answer)]
    data = len(parts[0]).to_bytes(8, "little") + b"".join(parts)
    return hashlib.blake2b(data, digest_size=16).digest()
