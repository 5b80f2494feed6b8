"""What models are asked, and what a right answer is, where that is known."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from costwise_core.errors import ConfigError, nearest

__all__ = ["BenchPrompt", "read_prompts"]

_MOST_CHARS: Final = 10_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchPrompt:
    r"""One question, and what is known of its answer.

    Args:
        question: As a user asks it.
        answers: Ways to word a right answer; none if nobody knows.
        passages: What was retrieved for it, put before the question.
        system: Instructions, put before all.

    Example:
        >>> BenchPrompt(question="How tall?", passages=("It is 330 m tall.",)).text
        'It is 330 m tall.\n\nHow tall?'
    """

    question: str
    answers: tuple[str, ...] = ()
    passages: tuple[str, ...] = field(default=(), repr=False)
    system: str = field(default="", repr=False)

    @property
    def text(self) -> str:
        """What is sent."""
        return "\n\n".join(part for part in (self.system, *self.passages, self.question) if part)

    @property
    def key(self) -> str:
        """32 hexadecimal digits that are the same where the same is sent."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def read_prompts(path: str | Path) -> list[BenchPrompt]:
    """Read prompts from a JSONL file; of several that send the same, the first counts.

    A line is an object with `question` and, if you like, `answers` (a list of texts; `answer` is
    one), `passages` (texts, or objects with a `text`) and `system`. Other fields are left alone.

    Raises:
        ConfigError: if the file cannot be read, is empty, or a line is not understood.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "prompts.jsonl")
        ...     _ = path.write_text('{"question": "17 * 23?", "answer": "391"}')
        ...     read_prompts(path)
        [BenchPrompt(question='17 * 23?', answers=('391',))]
    """
    found: dict[str, BenchPrompt] = {}
    try:
        for prompt in _lines(Path(path)):
            found.setdefault(prompt.key, prompt)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text.") from error
    if not found:
        raise ConfigError(f"there are no prompts in {path}.")
    return list(found.values())


def _lines(path: Path) -> Iterator[BenchPrompt]:
    with path.open(encoding="utf-8") as lines:
        number = 0
        while line := lines.readline(_MOST_CHARS + 1):
            number += 1
            where = f"line {number} of {path}"
            if len(line) > _MOST_CHARS:
                raise ConfigError(f"{where} has more than {_MOST_CHARS:,} characters.")
            if line.strip():
                yield _prompt(line, where)


def _prompt(line: str, where: str) -> BenchPrompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(f"{where} is no JSON.") from None
    if not isinstance(row, Mapping) or not isinstance(row.get("question"), str):
        names = row if isinstance(row, Mapping) else ()
        near = next(filter(None, (nearest(str(name), ("question",)) for name in names)), "")
        raise ConfigError(f'{where} must be an object with a text "question".{near}')
    given = row.get("answers", row.get("answer"))
    return BenchPrompt(
        question=row["question"],
        answers=_texts(given, f"the answers in {where}"),
        passages=_texts(row.get("passages"), f"the passages in {where}"),
        system="\n\n".join(_texts(row.get("system"), f"the system prompt in {where}")),
    )


def _texts(given: Any, what: str) -> tuple[str, ...]:
    if given is None:
        return ()
    several = given if isinstance(given, list) else [given]
    texts = [one.get("text") if isinstance(one, Mapping) else one for one in several]
    texts = [str(one) if isinstance(one, int | float) else one for one in texts]
    found = tuple(text for text in texts if isinstance(text, str))
    if len(found) < len(texts):
        raise ConfigError(f"{what} must be texts, got {str(given)[:60]}.")
    return found
