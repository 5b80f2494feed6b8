"""Answers in and out as lines of JSON: from one store to another, and from people into a cache.

A line holds question, answer, scope and what the answer was drawn from, but no vector: another
store may well have another embedder, and embedding again is quick. What was stored for exact
repeats only stays so, and so does what was looked up in other words than it was asked in (a
follow-up that a rewriter completed): its bare question means something else.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from costwise_core.cache.cache import Cache
from costwise_core.cache.conversation import question_of
from costwise_core.cache.key import canonical, question_key
from costwise_core.cache.lines import (
    MAX_LINE_BYTES,
    Damage,
    line_of,
    parsed,
    question_and_answer,
    read_lines,
    writing,
)
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import EntryTooLargeError, VectorError
from costwise_core.protocols import CacheStore, Embedder
from costwise_core.types import Entry, Scope, Selection, Vector

__all__ = ["Damage", "Imported", "Warmed", "awarm", "export_jsonl", "import_jsonl", "warm"]

_BATCH: Final = 256
_DAMAGE_TOLD: Final = 100
_ALL: Final = Selection()
_TOO_LONG: Final = f"longer than {MAX_LINE_BYTES:,} bytes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What became of the lines of a file.

    Args:
        stored: Entries put into the store.
        known: Lines passed over because the store, or the file, has an answer as new or newer.
        expired: Lines passed over because their time is up.
        damaged: Lines that are no entries.
        damage: What is wrong with the first 100 of those.
    """

    stored: int = 0
    known: int = 0
    expired: int = 0
    damaged: int = 0
    damage: tuple[Damage, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmed:
    """What became of the rows a cache was warmed with.

    Args:
        stored: Answers the cache keeps.
        refused: Answers it did not take; its `stats.not_stored` says why.
        damaged: Rows without a question and an answer.
        damage: What is wrong with the first 100 of those.
    """

    stored: int = 0
    refused: int = 0
    damaged: int = 0
    damage: tuple[Damage, ...] = ()


def export_jsonl(
    store: CacheStore, file: str | os.PathLike[str], *, selection: Selection = _ALL
) -> int:
    """Write the selected entries to a file, oldest first, and return how many there were.

    The file appears when it is complete, with mode 0600, for it holds answers. Memory does not grow
    with the number of entries.

    Args:
        store: Where to read.
        file: Path of the file; one that exists is replaced.
        selection: Which entries.

    Raises:
        StoreError: if the store cannot be used; there is no new file then.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> old, new = MemoryStore(), MemoryStore()
        >>> _ = Cache(old).store("What is RAG?", Scope(tenant="acme"), "A method.")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_jsonl(old, f"{folder}/answers.jsonl")
        ...     import_jsonl(new, f"{folder}/answers.jsonl").stored
        1
        1
        >>> Cache(new).lookup("what is RAG?", Scope(tenant="acme")).answer
        'A method.'
    """
    count = 0
    with writing(file) as write:
        for entry in store.entries(selection):
            write(line_of(entry))
            count += 1
    return count


def import_jsonl(
    store: CacheStore,
    file: str | os.PathLike[str],
    *,
    embedder: Embedder | None = None,
    clock: Callable[[], float] = time.time,
) -> Imported:
    """Put the entries of a file into a store; doing it again changes nothing.

    A line is a JSON object with `question`, `answer` and `scope`: the key of a scope or an object
    of `Scope`'s fields. It may have `text`, `key`, `group`, `near`, `tenant`, `model`, `corpus`,
    `tags`, `documents` (pairs of id and version), `usage`, `created`, `expires`, `worth` and
    `uses`, as in `Entry`. What gives no time of storing was stored when the file was written. A
    line that is no entry is counted and told of, and the others go on.

    Args:
        store: Where to put them.
        file: Path of the file. It is believed: whoever may write it may write answers.
        embedder: Embeds questions, as many as 256 at a time; without one the entries serve exact
            repeats only.
        clock: Returns seconds since the epoch.

    Raises:
        StoreUnavailableError: if the store is gone; what was put stays, and the import can be done
            again.
        OSError: if the file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from costwise_core import MemoryStore
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "faq.jsonl")
        ...     _ = path.write_text('{"question": "What is RAG?", "answr": "A method."}')
        ...     import_jsonl(MemoryStore(), path).damage[0].why
        "unknown field 'answr'. Did you mean 'answer'?"
    """
    written = Path(file).stat().st_mtime
    lines, total = read_lines(file), Imported()
    while batch := list(islice(lines, _BATCH)):
        total = _import(store, batch, total, embedder, written=written, now=clock())
    return total


def warm(
    cache: Cache,
    rows: Iterable[Mapping[str, Any]] | str | os.PathLike[str],
    scope: Scope,
    *,
    progress: Callable[[int], None] | None = None,
) -> Warmed:
    """Give a cache answers that are known before anybody asks, such as those of an FAQ.

    The cache's admission policy and time to live apply as to any answer.

    Args:
        cache: What to fill; its embedder embeds up to 256 questions at a time.
        rows: Objects with `question` and `answer`, and if known `text`, `tags`, `documents` (pairs
            of id and version) and `worth`; or the path of a file with one such object a line.
        scope: The scope they will be asked in.
        progress: Called after every batch with the number of rows done.

    Raises:
        Exception: whatever reading the rows or embedding raises.

    Example:
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> cache, scope = Cache(MemoryStore()), Scope(tenant="acme")
        >>> faq = [
        ...     {"question": "What is RAG?", "answer": "A method."},
        ...     {"question": "Cancel my order 4711.", "answer": "Done."},
        ... ]
        >>> done = warm(cache, faq, scope)
        >>> done.stored, done.refused, dict(cache.stats.not_stored)
        (1, 1, {'action': 1})
    """
    return run(_warm(cache, _rows(rows), scope, progress))


async def awarm(
    cache: Cache,
    rows: Iterable[Mapping[str, Any]] | str | os.PathLike[str],
    scope: Scope,
    *,
    progress: Callable[[int], None] | None = None,
) -> Warmed:
    """Do what `warm` does, without blocking the event loop.

    Example:
        >>> import asyncio
        >>> from costwise_core import Cache, MemoryStore, Scope
        >>> faq = [{"question": "What is RAG?", "answer": "A method."}]
        >>> asyncio.run(awarm(Cache(MemoryStore()), faq, Scope())).stored
        1
    """
    return await arun(_warm(cache, _rows(rows), scope, progress))


# --- importing ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """An entry, its line, and whether its question is to be embedded."""

    entry: Entry
    line: int
    near: bool


def _import(
    store: CacheStore,
    batch: Sequence[tuple[int, bytes | None]],
    total: Imported,
    embedder: Embedder | None,
    *,
    written: float,
    now: float,
) -> Imported:
    damage = list[Damage]()
    newest: dict[tuple[str, str], _Read] = {}
    known = expired = 0
    for line, text in batch:
        try:
            if text is None:
                raise ValueError(_TOO_LONG)  # noqa: TRY301 - told of like the others
            entry, near = parsed(text, created=written)
        except ValueError as error:
            damage.append(Damage(line=line, why=str(error)))
            continue
        if entry.expires is not None and entry.expires <= now:
            expired += 1
            continue
        name = (entry.scope, entry.key)
        if name in newest:
            known += 1
            if newest[name].entry.created > entry.created:
                continue
        near = near and embedder is not None and question_key(entry.question) == entry.key
        newest[name] = _Read(entry=entry, line=line, near=near)
    fresh = _fresh(store, newest, "" if embedder is None else embedder.name)
    known += len(newest) - len(fresh)
    failed = _put(store, _embedded(fresh, embedder), [one.line for one in fresh])
    damage += failed
    return Imported(
        stored=total.stored + len(fresh) - len(failed),
        known=total.known + known,
        expired=total.expired + expired,
        damaged=total.damaged + len(damage),
        damage=(*total.damage, *sorted(damage, key=lambda one: one.line))[:_DAMAGE_TOLD],
    )


def _fresh(
    store: CacheStore, newest: Mapping[tuple[str, str], _Read], embedder: str
) -> list[_Read]:
    """Leave out what the store has as new or newer; the same entry gains a vector it lacked."""
    there = dict[tuple[str, str], Entry]()
    if newest:
        # Not by get, which would count as a use.
        for entry in store.entries(Selection(keys=tuple({key for _, key in newest}))):
            there[entry.scope, entry.key] = entry

    def is_fresh(name: tuple[str, str], read: _Read) -> bool:
        old = there.get(name)
        if old is None or old.created < read.entry.created:
            return True
        return old.created == read.entry.created and read.near and old.embedder != embedder

    return [read for name, read in newest.items() if is_fresh(name, read)]


def _embedded(fresh: Sequence[_Read], embedder: Embedder | None) -> list[Entry]:
    near = [read for read in fresh if read.near]
    if embedder is None or not near:
        return [read.entry for read in fresh]
    vectors = embedder.embed([question_of(canonical(read.entry.question)) for read in near])
    found = {read.line: vector for read, vector in zip(near, vectors, strict=True)}
    return [
        replace(read.entry, vector=found[read.line], embedder=embedder.name)
        if read.near
        else read.entry
        for read in fresh
    ]


def _put(store: CacheStore, entries: Sequence[Entry], lines: Sequence[int]) -> list[Damage]:
    """Put all at once, or one by one when one of them cannot be kept."""
    damage = list[Damage]()
    try:
        store.put(entries)
    except (VectorError, EntryTooLargeError) as error:
        if len(entries) == 1:
            return [Damage(line=lines[0], why=str(error))]
        for entry, line in zip(entries, lines, strict=True):
            damage += _put(store, [entry], [line])
    return damage


# --- warming --------------------------------------------------------------------------------------


_Numbered = tuple[int, Mapping[str, Any] | bytes | None]


def _rows(rows: Iterable[Mapping[str, Any]] | str | os.PathLike[str]) -> Iterator[_Numbered]:
    if isinstance(rows, str | os.PathLike):
        return iter(read_lines(rows))
    return iter(enumerate(rows, 1))


def _warm(
    cache: Cache,
    rows: Iterator[_Numbered],
    scope: Scope,
    progress: Callable[[int], None] | None,
) -> Flow[Warmed]:
    stored = refused = done = damaged = 0
    damage = list[Damage]()
    while batch := (yield from call(_next, rows)):
        good = list[dict[str, Any]]()
        for line, row in batch:
            try:
                if row is None:
                    raise ValueError(_TOO_LONG)  # noqa: TRY301 - told of like the others
                good.append(question_and_answer(row))
            except ValueError as error:
                damaged += 1
                damage.append(Damage(line=line, why=str(error)))
        vectors = yield from _vectors(cache, [row["question"] for row in good])
        for row, vector in zip(good, vectors, strict=True):
            kept = yield from call(cache.store, scope=scope, vector=vector, **row)
            stored, refused = stored + bool(kept), refused + (not kept)
        del damage[_DAMAGE_TOLD:]
        done += len(batch)
        if progress is not None:
            progress(done)
    return Warmed(stored=stored, refused=refused, damaged=damaged, damage=tuple(damage))


def _next(rows: Iterator[_Numbered]) -> list[_Numbered]:
    return list(islice(rows, _BATCH))


def _vectors(cache: Cache, questions: Sequence[str]) -> Flow[Sequence[Vector | None]]:
    if cache.embedder is None or not questions:
        return [None] * len(questions)
    asked = [question_of(canonical(question)) for question in questions]
    vectors: Sequence[Vector] = list((yield from call(cache.embedder.embed, asked)))
    return vectors
