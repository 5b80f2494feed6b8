"""Whether an answer is the JSON that was asked for."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from costwise_core.errors import ConfigError
from costwise_core.route.judges.json_schema import breach
from costwise_core.route.routes import Ask, Candidate, Judgement

__all__ = ["SchemaJudge"]

_MOST_CHARS: Final = 1_000_000
_MOST_SHOWN: Final = 120
_FENCED: Final = re.compile(r"\A\s*```\w{0,20}\s*\n(?P<json>.*?)\n?\s*```\s*\Z", re.DOTALL)


class Model(Protocol):
    """A pydantic model class, or whatever else validates JSON."""

    def model_validate_json(self, json_data: str, /) -> object:
        """Return the value that a JSON text holds.

        Raises:
            ValueError: if it does not fit.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemaJudge:
    """Checks that an answer is JSON, alone or in one code fence, and that it fits a schema.

    An answer that fits gets 1 and any other 0: half a record is none. It says nothing of whether
    the values are right; combine it with other judges (`AllOf`).

    Args:
        schema: A JSON schema, or a pydantic model class; None for any JSON. Of JSON schema it
            knows types, properties, required and additional ones, items, enumerations, bounds,
            patterns, combinations and references within the schema; the rest it passes over.

    Raises:
        ConfigError: if the schema is neither.

    Example:
        >>> judge = SchemaJudge(schema={"type": "object", "required": ["year"]})
        >>> judge.judge(Ask(question="When?"), Candidate(text='{"year": 1889}')).score
        1.0
        >>> judge.judge(Ask(question="When?"), Candidate(text='{"month": 3}')).why
        "the answer lacks 'year'"
    """

    schema: Mapping[str, Any] | type[Model] | None = None
    blocking = False

    def __post_init__(self) -> None:
        if not (self.schema is None or isinstance(self.schema, Mapping) or _validates(self.schema)):
            raise ConfigError(
                "schema must be a JSON schema (a mapping) or a pydantic model class, got "
                f"{type(self.schema).__name__}."
            )

    def judge(self, ask: Ask, answer: Candidate) -> Judgement:  # noqa: ARG002 - the protocol
        """Score an answer 1 if it fits, else 0."""
        wrong = self._wrong(answer.text)
        return Judgement(
            score=0.0 if wrong else 1.0, why=wrong[:_MOST_SHOWN] or "it is the JSON asked for"
        )

    def _wrong(self, text: str) -> str:
        """Say what is wrong; "" if nothing is."""
        if len(text) > _MOST_CHARS:
            return f"the answer is longer than {_MOST_CHARS:,} characters"
        fenced = _FENCED.match(text)
        text = fenced["json"] if fenced else text
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return "the answer is not JSON"
        schema: Any = self.schema
        if schema is None:
            return ""
        if isinstance(schema, Mapping):
            found = breach(value, schema)
            return f"the answer {found}" if found else ""
        try:
            schema.model_validate_json(text)
        except Exception as error:  # noqa: BLE001 - validators of the user's own raise anything
            return f"the answer does not fit {schema.__name__}: {_first_error(error)}"
        return ""


def _validates(schema: object) -> bool:
    return callable(getattr(schema, "model_validate_json", None))


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _first_error(error: Exception) -> str:
    """Return where a value does not fit and why, without the value."""
    errors = getattr(error, "errors", None)
    if callable(errors) and (found := errors()):
        where = ".".join(map(str, found[0].get("loc", ()))) or "the whole"
        return f"{where}: {found[0].get('msg', '')}"
    return type(error).__name__
