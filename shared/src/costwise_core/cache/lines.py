"""One entry as one line of JSON, and one line as an entry, where nothing read is taken on trust."""

# ruff: noqa: TRY004 - damage in a file is a ValueError, whatever its kind

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from costwise_core.cache.key import question_key
from costwise_core.errors import nearest
from costwise_core.types import Entry, Scope, Usage

__all__ = [
    "MAX_LINE_BYTES",
    "Damage",
    "line_of",
    "parsed",
    "question_and_answer",
    "read_lines",
    "writing",
]

MAX_LINE_BYTES: Final = 16_000_000
"""No line may be longer; the rest of one that is gets passed over unread."""

_NEEDED: Final = ("question", "answer")
_TEXTS: Final = (*_NEEDED, "text", "group", "tenant", "model", "corpus")
_FIELDS: Final = (
    *_TEXTS,
    *("key", "scope", "near", "tags", "documents", "usage", "created", "expires", "worth", "uses"),
)
_FAQ: Final = ("question", "answer", "text", "tags", "documents", "worth")
_SCOPE: Final = tuple(field.name for field in fields(Scope))
_USAGE: Final = {field.name: type(field.default) for field in fields(Usage)}
_MAX_COUNT: Final = 2**53
_REST: Final = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A line that was passed over.

    Args:
        line: Its number in the file, the first being 1.
        why: What is wrong with it; no text of the line itself but names of fields.
    """

    line: int
    why: str


def line_of(entry: Entry) -> dict[str, Any]:
    """Return an entry as an object for JSON, without what is at its default and without its vector.

    Example:
        >>> line = line_of(Entry(key="k", scope="s", question="What is RAG?", answer="A method."))
        >>> line["question"], line["near"]
        ('What is RAG?', False)
    """
    texts = {name: getattr(entry, name) for name in _TEXTS}
    line = {name: text for name, text in texts.items() if text or name in _NEEDED}
    line |= {"key": entry.key, "scope": entry.scope}
    if entry.vector is None:
        line["near"] = False
    usage = {name: value for name in _USAGE if (value := getattr(entry.usage, name))}
    ends = None if entry.expires is None or math.isinf(entry.expires) else entry.expires
    others = {
        "tags": list(entry.tags),
        "documents": [list(document) for document in entry.documents],
        "usage": usage,
        "worth": entry.worth,
        "uses": entry.uses,
    }
    line |= {name: value for name, value in others.items() if value}
    line["created"] = entry.created
    return line if ends is None else line | {"expires": ends}


def parsed(line: bytes, *, created: float) -> tuple[Entry, bool]:
    """Read one line; `created` is the time of storing where it gives none.

    Returns:
        The entry without a vector, and whether similar questions may be served its answer.

    Raises:
        ValueError: if the line is no entry; the message says what is wrong and what would be right.

    Example:
        >>> line = b'{"question": "What is RAG?", "answer": "A method.", "scope": {"tenant": "a"}}'
        >>> entry, near = parsed(line, created=5.0)
        >>> entry.tenant, entry.created, near
        ('a', 5.0, True)
        >>> parsed(b'{"qestion": "What is RAG?"}', created=5.0)
        Traceback (most recent call last):
        ValueError: unknown field 'qestion'. Did you mean 'question'?
    """
    row = _object(line)
    _check_fields(row, _FIELDS)
    texts: dict[str, Any] = _scope(row)
    texts |= {name: _text(row, name) for name in _NEEDED}
    others = [name for name in _TEXTS if name in row and name not in _NEEDED]
    texts |= {name: _text(row, name, empty=True) for name in others}
    near = row.get("near", True)
    if not isinstance(near, bool):
        raise ValueError("near is true or false")
    return (
        Entry(
            **texts,
            key=_text(row, "key") if "key" in row else question_key(texts["question"]),
            tags=_tags(row.get("tags", [])),
            documents=_documents(row.get("documents", [])),
            usage=_usage(row.get("usage", {})),
            created=_number(row.get("created", created), "created"),
            expires=None if row.get("expires") is None else _number(row["expires"], "expires"),
            worth=_dollars(row.get("worth", 0.0)),
            uses=_count(row.get("uses", 0), "uses"),
        ),
        near,
    )


def question_and_answer(row: bytes | Mapping[str, Any]) -> dict[str, Any]:
    """Read one row of an FAQ, as the arguments of `Cache.store` with those names.

    Raises:
        ValueError: if it is none; the message says what is wrong and what would be right.

    Example:
        >>> question_and_answer({"question": "What is RAG?", "answer": "A method."})
        {'question': 'What is RAG?', 'answer': 'A method.'}
    """
    row = _object(row) if isinstance(row, bytes) else row
    _check_fields(row, _FAQ)
    found: dict[str, Any] = {name: _text(row, name) for name in _NEEDED}
    if "text" in row:
        found["text"] = _text(row, "text", empty=True)
    for name, read in (("tags", _tags), ("documents", _documents), ("worth", _dollars)):
        if name in row:
            found[name] = read(row[name])
    return found


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines that are not empty with their numbers; None for one that is too long."""
    with Path(path).open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(_REST)
                yield number, None
            elif line.strip():
                yield number, line


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open a file of lines that appears, whole and with mode 0600, when all has been written.

    Yields:
        What writes one object as one line.
    """
    target = Path(path)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor
            yield lambda row: _write(file, row)
        Path(part).replace(target)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _write(file: BinaryIO, row: Mapping[str, Any]) -> None:
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can only write as an escape
        line = json.dumps(row, allow_nan=False).encode()
    file.write(line + b"\n")


# --- reading --------------------------------------------------------------------------------------


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except ValueError:
        raise ValueError("a number with too many digits") from None
    if not isinstance(row, dict):
        raise ValueError(f"a line is a JSON object, got {_name(row)}")
    return row


def _check_fields(row: Mapping[str, Any], known: tuple[str, ...], within: str = "") -> None:
    for name in row:
        if name not in known:
            label = str(name)[:40]
            raise ValueError(f"unknown field {label!r}{within}.{nearest(label, known)}")


def _text(row: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not (value or empty):
        what = "a text" if empty else "a text that is not empty"
        raise ValueError(f"{name} must be {what}, got {_name(value)}")
    return value


def _scope(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the scope's key and the fields of it that entries are selected by."""
    given = row.get("scope")
    if not isinstance(given, dict):
        return {"scope": _text(row, "scope")}
    _check_fields(given, _SCOPE, " in scope")
    scope = Scope(**{name: _text(given, name, empty=True) for name in given})
    found = {"tenant": scope.tenant, "model": scope.model, "corpus": scope.corpus}
    for name, value in found.items():
        if row.get(name, value) != value:
            raise ValueError(f"{name} is one thing in the scope and another beside it")
    return found | {"scope": scope.key}


def _tags(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(tag, str) for tag in value):
        raise ValueError("tags must be a list of texts")
    return tuple(value)


def _documents(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(pair, list | tuple) and [type(part) for part in pair] == [str, str]
        for pair in value
    ):
        raise ValueError('documents must be a list of pairs such as ["handbook.pdf", "v8"]')
    return tuple((document, version) for document, version in value)


def _usage(value: object) -> Usage:
    if not isinstance(value, dict):
        raise ValueError(f"usage must be an object, got {_name(value)}")
    _check_fields(value, tuple(_USAGE), " in usage")
    usage = Usage()
    for name, number in value.items():
        if _USAGE[name] is bool:
            if not isinstance(number, bool):
                raise ValueError(f"{name} is true or false")
        else:
            _count(number, name)
        usage = replace(usage, **{name: number})
    return usage


def _count(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_COUNT:
        raise ValueError(f"{name} must be a whole number, 0 or more")
    return value


def _number(value: object, name: str) -> float:
    # Compared before it is turned into a float, which an int may be too large for.
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e300 < value < 1e300:
        raise ValueError(f"{name} must be a finite number, got {_name(value)}")
    return float(value)


def _dollars(value: object) -> float:
    worth = _number(value, "worth")
    if worth < 0:
        raise ValueError("worth is in dollars, 0 or more")
    return worth


def _name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if value is None or value == "":
        return "nothing"
    return names.get(type(value), "a number")
