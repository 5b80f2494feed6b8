"""Answers of a batch on the bill: at the batch's price, under the tags they were asked for with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from costwise_core.batch.asking import Outcome
from costwise_core.notes import Notes
from costwise_core.tracking import Recorder, recorder
from costwise_core.usage import usage_of
from costwise_core.waterfall import STAGES, LeftOut

__all__ = ["origin_of", "prompt_text", "write_down", "write_late"]

_OPERATIONS: Final = {"/v1/embeddings": "embedding", "/v1/completions": "completion"}
_DEEPEST: Final = 20
_PIECE: Final = 60


def origin_of(body: Mapping[str, Any]) -> str:
    """Return, as JSON, what the bills around know of a request: they may be gone when it is paid.

    Example:
        >>> origin_of({"model": "gpt-4o"})
        '{}'
    """
    active = recorder()
    if active is None:
        return "{}"
    notes = active.notes.of(prompt_text(body))
    return json.dumps(
        {
            "tags": dict(active.tags),
            "baseline": active.baseline_model,
            "left_out": [[one.stage, one.tokens, one.kind, one.why] for one in notes],
        }
    )


def prompt_text(body: Mapping[str, Any]) -> str:
    r"""Return all text in the messages of a request.

    Example:
        >>> prompt_text({"system": "Be brief.", "messages": [{"role": "user", "content": "RAG?"}]})
        'Be brief.\nRAG?'
    """
    found: list[str] = []
    for name in ("system", "instructions", "messages", "input", "prompt"):
        _collect(body.get(name), found, _DEEPEST)
    return "\n".join(found)


def write_down(
    active: Recorder,
    rows: Sequence[tuple[str, str, bytes, str, str, dict[str, Any] | None]],
) -> None:
    """Write answers to the bills and ledgers around, each once."""
    for ident, endpoint, body, origin, processing, answer in rows:
        known, asked = _origin(origin), _asked(body)
        prompt = prompt_text(asked)
        writer = replace(
            active,
            tags=MappingProxyType({**active.tags, **known["tags"]}),
            baseline_model=known["baseline"] or active.baseline_model,
            processing=processing,
            notes=_notes(prompt, known["left_out"]),
        )
        writer.record(
            operation=_OPERATIONS.get(endpoint, "chat"),
            model=_model(answer) or _model(asked),
            usage=usage_of(answer),
            id=f"batch:{ident}",
            prompt=prompt,
        )


def write_late(active: Recorder, late: Sequence[Outcome]) -> None:
    """Write answers that a batch brought when they had been asked for in real time too."""
    writer = replace(active, processing="batch")
    for one in late:
        writer.record(
            operation="chat",
            model=_model(one.body),
            usage=usage_of(one.body),
            id=f"batch:{one.custom_id}",
            overhead=True,
            why="the batch answered after real time did",
        )


def _collect(value: Any, found: list[str], deepest: int) -> None:
    if isinstance(value, str):
        found.append(value)
    elif deepest and isinstance(value, list):
        for one in value:
            _collect(one, found, deepest - 1)
    elif deepest and isinstance(value, Mapping):
        for name in ("content", "text"):
            _collect(value.get(name), found, deepest - 1)


def _notes(prompt: str, left_out: Sequence[tuple[str, int, Any, str]]) -> Notes:
    """Return what was left out of a prompt as notes that are found by it again."""
    notes = Notes()
    for number, (stage, tokens, kind, why) in enumerate(left_out):
        notes.add(
            LeftOut(
                stage=stage,
                tokens=tokens,
                pieces=(prompt[:_PIECE],),
                source=str(number),
                kind=kind,
                why=why,
            )
        )
    return notes


def _origin(text: str) -> dict[str, Any]:
    """Read what `origin_of` wrote, trusting nothing in it."""
    nothing: dict[str, Any] = {"tags": {}, "baseline": "", "left_out": []}
    try:
        told = json.loads(text)
        tags = {str(name): str(value) for name, value in told.get("tags", {}).items()}
        left_out = [
            (str(stage), int(tokens), kind, str(why))
            for stage, tokens, kind, why in told.get("left_out", [])
            if stage in STAGES and kind in {"measured", "modelled", "sampled"} and tokens >= 0
        ]
        return {"tags": tags, "baseline": str(told.get("baseline", "")), "left_out": left_out}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return nothing


def _asked(body: bytes) -> Mapping[str, Any]:
    value = json.loads(body)
    return value if isinstance(value, Mapping) else {}


def _model(body: Mapping[str, Any] | None) -> str:
    model = (body or {}).get("model")
    return model if isinstance(model, str) else ""
