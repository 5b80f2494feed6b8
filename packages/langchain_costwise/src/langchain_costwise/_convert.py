"""What LangChain hands a cache (a JSON dump, a settings string) as a question and an exact scope.

Whatever is not the question decides the scope. Nothing is loaded into objects here: the dump is
read as plain JSON, and a dump that cannot be understood is matched as plain text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from langchain_core.load import dumps
from langchain_core.messages import BaseMessage

from costwise_core.cache.agreement import Turn
from costwise_core.cache.cacheable import CallFacts
from costwise_core.cache.key import VOLATILE, Volatile, fingerprint
from costwise_core.cache.question import MAX_QUESTION_CHARS, Question, split_question
from costwise_core.context import RequestContext
from costwise_core.types import Miss, Scope

__all__ = ["CHAT", "TEXT", "Request", "prompt_text", "read_request", "write_prompt"]

CHAT: Final = "langchain-chat"
TEXT: Final = "langchain-text"
"""The shapes of stored answers: messages, or plain text."""

# Differs between two runs of one conversation, and no model is shown it.
_UNSEEN = frozenset(
    {
        "id",
        "response_metadata",
        "usage_metadata",
        "artifact",
        "example",
        "type",
        "tool_call_chunks",
        "chunk_position",
    }
)
# A text block with other keys than these is matched as a whole.
_PLAIN_TEXT = frozenset({"type", "text", "id", "index", "cache_control", "annotations"})
_IDS = frozenset(("id", "call_id", "tool_call_id", "tool_use_id"))
_GIVEN = frozenset(("args", "arguments", "input", "output", "content"))
_ROLES = {"AIMessageChunk": "ai", "HumanMessageChunk": "human", "SystemMessageChunk": "system"}

_ADDRESS = re.compile(r"\bat 0x[0-9A-Fa-f]{4,}")
_MODEL = re.compile(
    r"""["'](?:model_name|model|model_id|deployment_name)["'](?::|,) ["']([^"']+)["']"""
)
_STRUCTURED = re.compile(
    r"""\('(?:response_format|response_schema|response_json_schema|guided_json|format)', (?!None)"""
    r"""|"(?:response_format|response_schema)": (?!null)"""
)
_TEMPERATURE = re.compile(r"""["']temperature["'](?::|,) (\d+(?:\.\d+)?)\b""")
_INDENTED = re.compile(r"\n[ \t]")


_PLAIN: Final = CallFacts()


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One model call as the cache sees it.

    Args:
        question: The text similarity may be measured on.
        scope: Everything else that decides the answer.
        turns: The conversation before the question where it is plain text; else it is in `scope`.
        near: Whether a similar question's answer may serve.
        facts: What the cache's admission policy is told about the call.
    """

    question: str
    scope: Scope
    turns: tuple[Turn, ...] = ()
    near: bool
    facts: CallFacts = _PLAIN


def read_request(
    prompt: str,
    llm_string: str,
    context: RequestContext,
    *,
    volatile: Sequence[Volatile] = VOLATILE,
) -> Request | Miss:
    """Take a call apart, or say why it has no key that another call could share.

    Args:
        prompt: What `BaseCache.lookup` gets: a dump of messages, or plain text.
        llm_string: The model and its settings, as LangChain writes them.
        context: What the caller said about the request.
        volatile: Rules for parts of the system prompt that do not count.
    """
    if _ADDRESS.search(llm_string):
        # An address is no name: another object may get it, and the same object gets another.
        return Miss(
            reason="unstable_model",
            why="the model's settings hold an object that is only named by its memory address",
        )
    messages = _messages(prompt)
    if messages is None:
        question = _split(prompt, context.question)
        scope = Scope(kind=TEXT, template=_exact(question.around))
        turns: tuple[Turn, ...] = ()
        facts = _PLAIN
    else:
        question, scope, turns, facts = _conversation(messages, context.question, volatile)
    names, given = _MODEL.findall(llm_string), _TEMPERATURE.findall(llm_string)
    return Request(
        question=question.text,
        scope=Scope(
            kind=scope.kind,
            model=names[-1] if names else "",
            tools=_exact(llm_string),
            system=scope.system,
            template=scope.template,
            context=scope.context,
        ),
        turns=turns,
        near=question.near,
        facts=replace(
            facts,
            temperature=float(given[-1]) if given else None,
            structured=bool(_STRUCTURED.search(llm_string)),
        ),
    )


def write_prompt(messages: Sequence[BaseMessage]) -> str:
    """Return messages as LangChain writes them for a cache."""
    return dumps([message.model_copy(update={"id": None}) for message in messages])


def prompt_text(prompt: str) -> str:
    """Return the text of all messages, to estimate tokens where the provider reports none."""
    messages = _messages(prompt)
    if messages is None:
        return prompt
    parts = (part for message in messages for part in _turn(message, {})["content"])
    return "\n".join(text for kind, text in parts if kind == "text")


def _messages(prompt: str) -> list[dict[str, Any]] | None:
    if not prompt.startswith("[{"):
        return None
    try:
        dump = json.loads(prompt)
    except ValueError:
        return None
    for item in dump:
        if not (isinstance(item, dict) and "lc" in item and isinstance(item.get("kwargs"), dict)):
            return None
    return list(dump)


def _conversation(
    messages: list[dict[str, Any]], question: str, volatile: Sequence[Volatile]
) -> tuple[Question, Scope, tuple[Turn, ...], CallFacts]:
    ids: dict[str, int] = {}
    turns = [_turn(message, ids) for message in messages]
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "human"), default=None)
    kinds = [kind for kind, _ in turns[last]["content"]] if last is not None else []
    facts = CallFacts(
        tool_derived=any(turn["role"] in {"tool", "function"} for turn in turns[(last or 0) :])
        or any("tool" in kind for kind in kinds),
        text_only=all(kind in {"text", "media:text"} or "tool" in kind for kind in kinds),
    )
    said = _said(turns, last)
    found = Question(text="", around="", near=False)
    if last is not None:
        texts = [part for part in turns[last]["content"] if part[0] == "text"]
        if texts:
            found = _split(texts[-1][1], question)
            texts[-1][1] = found.around
    only_text = all(kind == "text" for kind in kinds)
    system = ""
    for turn in turns:
        if turn["role"] == "system":
            texts = [text for _, text in turn["content"]]
            turn["content"] = fingerprint(*texts, volatile=volatile)
            system = _exact(system + turn["content"])
    near = found.near and only_text and said is not None
    turns[len(turns) - 1 - len(said or ()) : -1] = []
    history = _exact(_dump(turns))
    if not found.text.strip():
        # Without a word from a person (a bare picture, a system prompt) the whole is the question.
        found, near = Question(text=history, around="", near=False), False
    found = Question(text=found.text, around="", near=near)
    return found, Scope(kind=CHAT, system=system, context=history), said or (), facts


def _said(turns: list[dict[str, Any]], last: int | None) -> tuple[Turn, ...] | None:
    """Return what was said before the last message; None if that was more than plain text."""
    first = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    if last != len(turns) - 1 or any(
        turn["role"] not in {"human", "ai"}
        or turn.keys() != {"role", "content"}
        or any(kind != "text" for kind, _ in turn["content"])
        for turn in turns[first:last]
    ):
        return None
    return tuple(
        Turn(
            role="user" if turn["role"] == "human" else "assistant",
            text="\n".join(text for _, text in turn["content"]),
        )
        for turn in turns[first:last]
    )


def _turn(message: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    fields = dict(message["kwargs"])
    path = message.get("id")
    role = str(fields.get("type") or (path[-1] if isinstance(path, list) and path else ""))
    turn = {name: value for name, value in fields.items() if name not in _UNSEEN and value}
    turn["role"] = _ROLES.get(role, role)
    turn["content"] = [_part(block, ids) for block in _blocks(fields.get("content"))]
    extra = turn.pop("additional_kwargs", {})
    if turn["role"] == "ai":
        # What a provider adds to an answer is not what the next call is made from.
        extra = {name: extra[name] for name in ("function_call",) if name in extra}
    if extra:
        turn["additional_kwargs"] = extra
    for name in ("tool_calls", "invalid_tool_calls", "tool_call_id"):
        if name in turn:
            turn[name] = _numbered(
                turn[name] if name != "tool_call_id" else {name: turn[name]}, ids
            )
    return turn


def _blocks(content: object) -> list[Any]:
    if content is None or content == "":
        return []
    return content if isinstance(content, list) else [content]


def _part(block: object, ids: dict[str, int]) -> list[str]:
    if isinstance(block, str):
        return ["text", block]
    if (
        isinstance(block, dict)
        and isinstance(block.get("text"), str)
        and block.keys() <= _PLAIN_TEXT
    ):
        return ["text", block["text"]]
    kind = str(block.get("type")) if isinstance(block, dict) else ""
    # The id of a tool call is random; the id of a picture or a file is what it shows.
    if "tool" in kind or kind in {"function_call", "reasoning", "thinking"}:
        block = _numbered(block, ids)
    return [f"media:{kind}", _exact(_dump(block))]


def _numbered(value: Any, ids: dict[str, int]) -> Any:
    """Give call ids, which are random, the number in which they came up."""
    if isinstance(value, list):
        return [_numbered(item, ids) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: ids.setdefault(item, len(ids))
        if name in _IDS and isinstance(item, str)
        else (item if name in _GIVEN else _numbered(item, ids))
        for name, item in value.items()
    }


def _split(text: str, question: str) -> Question:
    if question and question in text:
        before, _, after = text.rpartition(question)
        near = len(question) <= MAX_QUESTION_CHARS
        found = Question(text=question, around=f"{before}\x00{after}", near=near)
    else:
        found = split_question(text)
    if found.near and not _INDENTED.search(found.text):
        return found
    # Keys forget line breaks and indentation, which is fine for a question and wrong for code.
    return Question(text=found.text, around=f"{found.around}\x00{found.text}", near=False)


def _exact(text: str) -> str:
    return fingerprint(text, volatile=()) if text else ""


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
