"""The file that a benchmark writes as it goes: a paid answer is there before anything else is."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, BinaryIO, Final

from costwise_core.bench_models.prompts import BenchPrompt
from costwise_core.errors import StoreError, StoreUnavailableError, StoreVersionError
from costwise_core.types import Usage

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

__all__ = ["AnswersFile", "BenchAnswer", "read_answers"]

_FORMAT: Final = 1
_MOST_CHARS: Final = 20_000_000
_USAGE: Final = frozenset(one.name for one in fields(Usage))


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchAnswer:
    """What one model answered to one prompt. One line of the file.

    Args:
        model: The name it has in the benchmark.
        priced_as: What its calls are priced as.
        prompt: What it was asked.
        answer: What it said.
        usage: Tokens paid for, which may be an estimate.
        seconds: Wall time of the call.
        finish_reason: In the provider's words; "" if it did not say.
        at: Seconds since the epoch.
        mark: What a judge gave it, from 0 to 1; None if none was asked.

    Example:
        >>> prompt = BenchPrompt(question="17 * 23?")
        >>> BenchAnswer(model="m", priced_as="m", prompt=prompt, answer="391", usage=Usage()).mark
    """

    model: str
    priced_as: str
    prompt: BenchPrompt
    answer: str = field(repr=False)
    usage: Usage
    seconds: float = 0.0
    finish_reason: str = ""
    at: float = 0.0
    mark: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What an answer is known by: there is one for each."""
        return self.model, self.prompt.key


def read_answers(path: str | Path) -> list[BenchAnswer]:
    """Read the answers in a benchmark's file, the latest of each model to each prompt.

    An unfinished last line, which a killed process leaves, is passed over.

    Raises:
        StoreError: if the file cannot be read, or another line is none of ours.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "run.jsonl")
        ...     _ = path.write_text("")
        ...     read_answers(path)
        []
    """
    try:
        with Path(path).open("rb") as file:
            return list({one.key: one for one, _ in _lines(file, Path(path))}.values())
    except OSError as error:
        raise StoreUnavailableError(f"{path} cannot be read: {error.strerror}.") from error


class AnswersFile:
    """Appends answers, each of which is on the disk when `add` returns. Thread-safe.

    Only one process at a time may have it open.

    Args:
        path: A JSONL file; made with mode 0600 if it is not there.

    Raises:
        StoreError: on entry, if it is no file of ours, or another process has it open.

    Example:
        >>> import tempfile
        >>> answer = BenchAnswer(
        ...     model="m",
        ...     priced_as="m",
        ...     prompt=BenchPrompt(question="17 * 23?"),
        ...     answer="391",
        ...     usage=Usage(input_tokens=9, output_tokens=2),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with AnswersFile(Path(folder, "run.jsonl")) as file:
        ...         file.add(answer)
        ...     read_answers(Path(folder, "run.jsonl")) == [answer]
        True
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = Lock()
        self._file: BinaryIO | None = None
        self.answers: dict[tuple[str, str], BenchAnswer] = {}
        """All there are, by model and prompt."""

    def __enter__(self) -> "AnswersFile":
        """Open the file, read what is there, and cut off what a killed process left unfinished."""
        try:
            number = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(number, "r+b", buffering=0)
            if fcntl is not None:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._close()
            raise StoreUnavailableError(f"{self._path} is open in another process.") from error
        except OSError as error:
            self._close()
            raise StoreUnavailableError(
                f"{self._path} cannot be opened: {error.strerror}."
            ) from error
        try:
            end = 0
            for answer, end in _lines(self._file, self._path):  # noqa: B007 - the last is needed
                self.answers[answer.key] = answer
            self._file.truncate(end)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._close()

    def add(self, answer: BenchAnswer) -> None:
        """Write an answer; an earlier one of the model to the prompt counts no longer.

        Raises:
            StoreUnavailableError: if it cannot be written.
        """
        line = json.dumps({"format": _FORMAT, **asdict(answer)}) + "\n"
        with self._lock:
            if self._file is None:
                raise StoreUnavailableError(f"{self._path} is not open.")
            try:
                data = memoryview(line.encode())
                while data:
                    data = data[self._file.write(data) :]
                os.fsync(self._file.fileno())
            except OSError as error:
                raise StoreUnavailableError(
                    f"{self._path} cannot be written: {error.strerror}."
                ) from error
            self.answers[answer.key] = answer

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()  # which gives the lock back
            self._file = None


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[BenchAnswer, int]]:
    """Yield the answers, each with where its line ends."""
    file.seek(0)
    end = number = 0
    with os.fdopen(os.dup(file.fileno()), "rb") as lines:
        while line := lines.readline(_MOST_CHARS + 1):
            number += 1
            if not line.endswith(b"\n") and len(line) <= _MOST_CHARS:
                return
            end += len(line)
            yield _answer(line, f"line {number} of {path}"), end


def _answer(line: bytes, where: str) -> BenchAnswer:
    try:
        row: Mapping[str, Any] = json.loads(line)
        known = row["format"] == _FORMAT
        prompt, usage, mark = row["prompt"], row["usage"], row.get("mark")
        answer = BenchAnswer(
            model=str(row["model"]),
            priced_as=str(row["priced_as"]),
            prompt=BenchPrompt(
                question=str(prompt["question"]),
                answers=tuple(map(str, prompt["answers"])),
                passages=tuple(map(str, prompt["passages"])),
                system=str(prompt["system"]),
            ),
            answer=str(row["answer"]),
            usage=Usage(**{name: value for name, value in usage.items() if name in _USAGE}),
            seconds=float(row["seconds"]),
            finish_reason=str(row["finish_reason"]),
            at=float(row["at"]),
            mark=None if mark is None else float(mark),
        )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise StoreError(
            f"{where} is no answer of a benchmark; it was written by something else, or damaged."
        ) from error
    if not known:
        raise StoreVersionError(f"{where} was written by a newer costwise.")
    return answer
