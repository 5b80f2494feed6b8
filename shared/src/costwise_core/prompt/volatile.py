"""Text in a prompt that differs from call to call, and so ends what a provider can cache."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from costwise_core.passages import Span
from costwise_core.prompt.worked import CODE, blanked

__all__ = ["Changing", "changing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Changing:
    """A piece of text that differs from call to call.

    Args:
        span: Where it is.
        what: What it is, for a person.
        each: How often it changes: with each "call" (or user), or each "day".

    Example:
        >>> Changing(span=(0, 4), what="an id of the call", each="call").each
        'call'
    """

    span: Span
    what: str
    each: Literal["call", "day"]


_MONTHS: Final = (
    r"(?:jan(?:uary?)?|feb(?:ruary?)?|mar(?:ch)?|märz|apr(?:il)?|may|mai|june?|juni|july?|juli|"
    r"aug(?:ust)?|sep(?:t(?:ember)?)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)"
)
_DATE: Final = (
    rf"(?:\d{{4}}-\d{{2}}-\d{{2}}|\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}}"
    rf"|{_MONTHS}\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}|\d{{1,2}}\.? {_MONTHS}\.? \d{{4}}"
    r"|\d{4}年\d{1,2}月\d{1,2}日)"
)
_ISO_TIME: Final = (
    r"\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2})?(?:[.,]\d{1,9})?(?:Z|[+-]\d{2}:?\d{2})?"
)
_CLOCK: Final = r"\d{1,2}:\d{2}(?::\d{2})?"
_NOW: Final = (
    r"(?:today(?:'s date)?|current (?:date|time)|date today|time now|the (?:date|time) is|"
    r"heutiges datum|heute ist|aktuelles datum|今天|当前日期)[^.\n\d]{0,30}?"
)
_CALL_ID: Final = (
    r"\b(?:request|trace|run|span|correlation|session|conversation|thread|message|event|"
    r"transaction)[ _-]?(?:id|uuid)\"?\s{0,3}(?:is|[:=])\s{0,3}\"?(?=[\w-]{0,40}\d)[\w-]{5,64}"
)
_UUID: Final = (  # only where it is called an id: a bare one may be part of an address or a format
    r"\b\w{0,30}(?:id|key|token)\"?\s{0,3}(?:is|[:=])\s{0,3}\"?"
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"
)
_EPOCH: Final = r"\b(?:timestamp|epoch|ts|time)\"?\s{0,3}[:=]\s{0,3}1[5-9]\d{8}(?:\d{3})?\b"
_RANDOM: Final = r"\b(?:nonce|random seed|cache[ -]?buster)\"?\s{0,3}[:=]\s{0,3}\"?\w{4,64}"
_WHO: Final = r"(?:user|customer|client|caller|patient|student)(?:['’]s)?"
_NAME: Final = r"\"?[A-Z][\w'’-]{1,30}(?: [A-Z][\w'’-]{1,30}){0,2}(?=[.,;:!)\n\"]|\s*\Z)"
_NAMED: Final = (
    rf"\b(?:(?i:{_WHO} (?:full |first |last )?name(?: is|:)\s{{0,3}})"
    rf"|(?i:you are (?:now |currently )?(?:talking|speaking|chatting) (?:to|with) )){_NAME}"
)
_SIGNED_IN: Final = (
    r"\b(?:(?:logged[- ]in|current|active) user(?: is|:)\s{0,3}[\w.@+-]{2,64}"
    rf"|{_WHO} e-?mail(?: address)?(?: is|:)\s{{0,3}}[\w.+-]{{1,64}}@[\w.-]{{3,64}})"
)
_DATE_FIELD: Final = r"\{\{?\s{0,2}(?:\w{1,20}[_.])?(?:date|today)\s{0,2}\}?\}"
_FIELD: Final = (
    r"\{\{?\s{0,2}(?:\w{1,20}[_.])?(?:time|now|timestamp|datetime|uuid|guid|nonce|username|email|"
    r"question|query|input|context|context_str|query_str|documents|docs|passages|history|message|"
    r"(?:request|session|trace|conversation|thread|user|customer)(?:_?(?:id|name|email|profile))?)"
    r"\s{0,2}\}?\}"
)

_CHANGING: Final[tuple[tuple[re.Pattern[str], str, Literal["call", "day"]], ...]] = (
    (re.compile(_ISO_TIME), "the time", "call"),
    (re.compile(f"(?i){_NOW}(?:{_DATE}[^.\\n\\d]{{0,12}})?{_CLOCK}"), "the time", "call"),
    (re.compile(f"(?i){_NOW}{_DATE}"), "the date", "day"),
    (re.compile(rf"(?im)^[ \t*-]*(?:date|datum|日期)\**:\s{{0,3}}{_DATE}"), "the date", "day"),
    (re.compile(f"(?i){_CALL_ID}"), "an id of the call", "call"),
    (re.compile(f"(?i){_UUID}"), "an id", "call"),
    (re.compile(f"(?i){_EPOCH}"), "the time", "call"),
    (re.compile(f"(?i){_RANDOM}"), "a random value", "call"),
    (re.compile(_NAMED), "a user's name", "call"),
    (re.compile(f"(?i){_SIGNED_IN}"), "a user's name", "call"),
    (re.compile(f"(?i){_DATE_FIELD}"), "the date", "day"),
    (re.compile(f"(?i){_FIELD}"), "a field filled in for each call", "call"),
)
_AS_EXAMPLE: Final = re.compile(
    r"(?i)(?:e\.g\.|for example|for instance|such as|like|format(?:ted)?(?: as)?|z\. ?b\.)\W{0,3}"
    r"(?:\S{1,20} ){0,3}\W?$"
)


def changing(text: str) -> list[Changing]:
    """Return what differs from call to call, in order: times, ids, names, and fields for them.

    A date counts only where the text says that it is today's. Nothing counts that is given as an
    example of a format.

    Example:
        >>> [one.what for one in changing("Founded on 2019-04-01. Today is 2026-11-21. Be brief.")]
        ['the date']
    """
    bare = blanked(text, CODE)
    found: list[Changing] = []
    taken = bytearray(len(bare))
    for pattern, what, each in _CHANGING:
        for match in pattern.finditer(bare):
            start, end = match.span()
            if any(taken[start:end]) or _AS_EXAMPLE.search(bare[max(0, start - 60) : start]):
                continue
            taken[start:end] = b"1" * (end - start)
            found.append(Changing(span=(start, end), what=what, each=each))
    return sorted(found, key=lambda one: one.span)
