"""Where a log comes from: rows of files, tables and ledgers, and what was wrong with them.

A log is somebody else's file. A damaged line is counted and passed over, sizes are limited, and no
message ever quotes what a row says.
"""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

from costwise_core.errors import ConfigError
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.replaying.calls import LoggedCall, shown
from costwise_core.replaying.shapes import openai_call, plain_call
from costwise_core.replaying.traces import langfuse_calls, langsmith_calls
from costwise_core.types import CallRecord

__all__ = ["FORMATS", "Ledger", "Seen", "calls_in"]

MAX_LINE: Final = 32 * 2**20
"""Bytes of one row; a longer one counts as damaged."""

MAX_BYTES: Final = 16 * 2**30
"""Bytes of a log once it is unpacked; beyond, reading stops and says so."""

_MAX_ARRAY: Final = 512 * 2**20
_TRIED: Final = 1_000

Seen = Counter[str]
"""What was met: "rows", "damaged", "calls", "other rows", "cut short", and each format's name."""


class Ledger(Protocol):
    """What has records: `MemoryLedger`, `SQLiteLedger`."""

    def records(self) -> Iterable[CallRecord]:
        """Return all records."""
        ...


FORMATS: Final = (
    "OpenAI-style requests and responses (`messages` or `input` beside `choices` or `output`), "
    "LangSmith runs (`run_type`), Langfuse traces (`observations`) or observations "
    "(`type`: GENERATION), rows with `question` and `answer`, or a costwise ledger"
)
"""What is read, in words."""


def calls_in(source: Any, seen: Seen, *, model: str = "") -> Iterator[LoggedCall]:
    """Yield every call of a log, in the log's order.

    Args:
        source: A path, a ledger, a pandas DataFrame, or anything that yields mappings.
        seen: Is told what was met.
        model: Of calls that name none.

    Raises:
        ConfigError: if there is no such file, or nothing in it looks like a call.

    Example:
        >>> seen = Seen()
        >>> found = list(calls_in([{"question": "Open?", "answer": "Yes."}, 7], seen))
        >>> len(found), seen["damaged"]
        (1, 1)
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise ConfigError(f"there is no log at {path}.")
        if _starts(path, b"SQLite format 3"):
            with SQLiteLedger(path) as ledger:
                yield from _ledger_calls(ledger, seen)
            return
        rows = _file_rows(path, seen)
    elif hasattr(source, "records") and callable(source.records):
        yield from _ledger_calls(source, seen)
        return
    elif hasattr(source, "columns") and hasattr(source, "to_dict"):
        rows = (_without_nan(row) for row in source.to_dict("records"))
    elif isinstance(source, Mapping):
        rows = _unwrapped(source)
    elif isinstance(source, Iterable) and not isinstance(source, bytes):
        rows = iter(source)
    else:
        raise ConfigError(f"a log must be a path, a table or rows, got {type(source).__name__}.")
    yield from _row_calls(rows, seen, model)


def _row_calls(rows: Iterable[Any], seen: Seen, model: str) -> Iterator[LoggedCall]:
    names: dict[str, None] = {}
    for row in rows:
        seen["rows"] += 1
        if not isinstance(row, Mapping):
            seen["damaged"] += 1
            continue
        kind = _kind(row)
        if kind is None:
            seen["other rows"] += 1
            if not seen["calls"]:
                names.update(dict.fromkeys(row))
                if seen["rows"] >= _TRIED:
                    break
            continue
        try:
            found = list(_READERS[kind](row, model))
        except (TypeError, ValueError, AttributeError, KeyError, IndexError, RecursionError):
            seen["damaged"] += 1  # and never why: the words of the error may be those of a prompt
            continue
        seen[kind] += 1
        seen["calls"] += len(found)
        if not found:
            seen["other rows"] += 1
        yield from found
    if not seen["calls"] and (names or seen["damaged"]):
        told = f" Its rows have: {shown(names)}." if shown(names) else ""
        raise ConfigError(
            f"no call was found in {seen['rows']:,} rows ({seen['damaged']:,} damaged). "
            f"Known are {FORMATS}.{told}"
        )


def _openai(row: Mapping[str, Any], model: str) -> Iterator[LoggedCall]:
    yield openai_call(row, model)


def _plain(row: Mapping[str, Any], model: str) -> Iterator[LoggedCall]:
    yield plain_call(row, model)


_READERS: Final[dict[str, Callable[[Mapping[str, Any], str], Iterator[LoggedCall]]]] = {
    "LangSmith": langsmith_calls,
    "Langfuse": langfuse_calls,
    "OpenAI-style": _openai,
    "questions and answers": _plain,
}


def _kind(row: Mapping[str, Any]) -> str | None:
    names = row.keys()
    if "run_type" in names:
        return "LangSmith"
    if isinstance(row.get("observations"), list):
        return "Langfuse"
    if "type" in names and not {"traceId", "trace_id"}.isdisjoint(names):
        return "Langfuse"
    if "messages" in names or not _WRAPPED.isdisjoint(names):
        return "OpenAI-style"
    if "input" in names and not {"output", "choices", "response", "usage"}.isdisjoint(names):
        return "OpenAI-style"
    return None if _ASKS.isdisjoint(names) else "questions and answers"


_WRAPPED: Final = frozenset(("request", "body", "kwargs", "input_body"))
_ASKS: Final = frozenset(("question", "query", "prompt", "user_input"))


# --- files --------------------------------------------------------------------------------------


def _starts(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _file_rows(path: Path, seen: Seen) -> Iterator[Any]:
    with _opened(path) as file:
        try:
            yield from _json_rows(file, seen)
        except (EOFError, gzip.BadGzipFile, OSError):
            seen["cut short"] += 1  # what could be unpacked was read


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if _starts(path, b"\x1f\x8b") else path.open("rb")


def _json_rows(file: IO[bytes], seen: Seen) -> Iterator[Any]:
    first = file.readline(MAX_LINE)
    if first.lstrip()[:1] == b"[" or first.strip() == b"{":
        whole = first + file.read(_MAX_ARRAY)
        if len(whole) > _MAX_ARRAY:
            raise ConfigError("one JSON document may have 512 MB; write one row a line instead.")
        try:
            yield from _unwrapped(json.loads(whole))
        except (ValueError, RecursionError):
            raise ConfigError(
                "the file is one JSON document and damaged; one row a line would lose one row only."
            ) from None
        return
    read, line = 0, first
    while line:
        read += len(line)
        if read > MAX_BYTES:
            seen["cut short"] += 1
            return
        if not line.endswith(b"\n") and len(line) >= MAX_LINE:
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                read += len(rest)
            yield None  # damaged
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield from _unwrapped(row)
        line = file.readline(MAX_LINE)


def _unwrapped(document: Any) -> Iterator[Any]:
    """Yield the rows of a document that is a list, or holds one under the usual names."""
    if isinstance(document, Mapping) and _kind(document) is None:
        for name in ("data", "runs", "traces", "rows", "records"):
            if isinstance(document.get(name), list):
                yield from document[name]
                return
    if isinstance(document, list):
        yield from document
    else:
        yield document


def _without_nan(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(name): value for name, value in row.items() if value is not None and not _nan(value)
    }


def _nan(value: object) -> bool:
    if isinstance(value, list | dict | tuple) or hasattr(value, "__array__"):
        return False
    return bool(value != value)  # noqa: PLR0124 - NaN and NaT are not themselves


# --- our own ledger -----------------------------------------------------------------------------


def _ledger_calls(ledger: Ledger, seen: Seen) -> Iterator[LoggedCall]:
    for record in ledger.records():
        seen["rows"] += 1
        if record.tier or not record.answers:
            seen["other rows"] += 1
            continue
        seen["ledger"] += 1
        seen["calls"] += 1
        tags = dict(record.tags)
        yield LoggedCall(
            model=record.model,
            usage=record.usage,
            at=record.at,
            tenant=tags.get("tenant", ""),
            user=tags.get("user", ""),
            feature=tags.get("endpoint") or tags.get("feature", ""),
            processing=tags.get("processing", "standard"),
            prompt_hash=record.prompt_hash,
            prefix_hash=record.prefix_hash,
        )
