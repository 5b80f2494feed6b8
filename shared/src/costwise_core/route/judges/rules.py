"""Faults that can be seen without knowing the right answer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from costwise_core.cache.cacheable import REASONS, CachePolicy, CallFacts, before_store
from costwise_core.route.judges.arithmetic import equations
from costwise_core.route.routes import Ask, Candidate, Judgement

__all__ = ["RuleJudge", "hedges_in"]

_MOST_CHARS: Final = 20_000
_FAULTS: Final = CachePolicy(
    allow=frozenset(REASONS) - {"refusal", "truncated", "empty", "error"},
)
_WRONG_SUM: Final = 0.1
_BROKEN: Final = 0.1
_TOO_SHORT: Final = 0.2
_HEDGED: Final = 0.4

_HEDGES: Final = re.compile(
    r"\b(?:maybe|perhaps|possibly|presumably|might be|unclear|"
    r"not (?:entirely |quite )?(?:sure|clear|certain)|hard to (?:say|tell)|"
    r"(?:i|we) (?:think|guess|believe|assume|suspect)|"
    r"as far as i (?:know|can tell)|without (?:more|further) (?:information|context|details)|"
    r"(?:there|this) (?:seems|appears) to be (?:a|an|some) (?:mistake|error|confusion)|"
    r"i (?:made|apologi[sz]e for) (?:a|the) (?:mistake|error|confusion)|"
    r"(?:doesn't|does not) make sense|"
    r"vielleicht|möglicherweise|vermutlich|nicht (?:ganz )?sicher|unklar|"
    r"ich (?:glaube|denke|vermute)|"
    r"peut-être|sans doute|pas (?:sûre?|certaine?)|je (?:crois|pense|suppose)|"
    r"quizás?|tal vez|posiblemente|no estoy segur[oa]|(?:creo|supongo) que|"
    r"forse|non (?:sono|è) (?:sicur[oa]|chiaro)|(?:credo|penso) che|"
    r"talvez|não tenho certeza|acho que|misschien|niet zeker|ik denk)\b"
    r"|也许|或许|可能是|不确定|不太清楚|かもしれ|たぶん|おそらく|아마|возможно|наверное|не уверен",
    re.IGNORECASE,
)
_BROKEN_OFF: Final = re.compile(r"(?:[=,(\[{<:]|\s[-+*/]|<<\d[\d.]*[-+*/=][^<>\n]*)\s*\Z")
_WANTS_MORE: Final = re.compile(
    r"\b(?:explain|describe|discuss|compare|contrast|summari[sz]e|outline|elaborate|essay|"
    r"in detail|step by step|pros and cons|write (?:an?|the|me)|"
    r"erklär\w*|beschreib\w*|vergleich\w*|"
    r"fass\w* .{0,40}zusammen|expliqu\w+|décri\w+|compar(?:ez|er)|résum\w+|"
    r"expli(?:ca|que)\w*|describ[ae]|compara|resum[ae]|spiega|descrivi|riassumi)\b"
    r"|解释|描述|比较|总结|説明|要約",
    re.IGNORECASE,
)
_LENGTH: Final = re.compile(
    r"\b(?:at least|no less than|mindestens|au moins|al menos|almeno) (\d{2,4})"
    r" (?:words|wörter|mots|palabras|parole)\b",
    re.IGNORECASE,
)
_LEAST_WORDS: Final = 8
_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleJudge:
    """Finds what makes an answer useless whatever was asked: no training, no model, under 1 ms.

    Scored 0 are answers that are empty, cut off, held back by the provider, an error message, a
    refusal or "I do not know" in several languages. Lower than 0.5 are sums that do not add up
    ("3 * 4 = 13"), answers that break off or are far too short for what was asked, and hedging.
    An answer without a fault gets 1, which says that none was found, not that it is right.

    Example:
        >>> ask = Ask(question="How many eggs are 3 boxes of 4?")
        >>> RuleJudge().judge(ask, Candidate(text="3 * 4 = 13 eggs.")).why
        'a sum is wrong: it says 13 and comes to 12'
        >>> RuleJudge().judge(ask, Candidate(text="3 * 4 = 12 eggs.")).score
        1.0
    """

    blocking = False

    def judge(self, ask: Ask, answer: Candidate) -> Judgement:
        """Score an answer by its worst fault."""
        worst = min(_found(ask, answer), key=lambda one: one.score, default=None)
        return worst or Judgement(score=1.0, why="no rule speaks against it")


def hedges_in(text: str) -> list[str]:
    """Return the words with which a text says that it is not sure.

    Example:
        >>> hedges_in("Perhaps it is 12, but I am not sure.")
        ['Perhaps', 'not sure']
    """
    return [match[0] for match in _HEDGES.finditer(text[:_MOST_CHARS])]


def _found(ask: Ask, answer: Candidate) -> Iterator[Judgement]:
    calls = bool(answer.tool_calls)
    if not (calls and not answer.text.strip()):
        call = CallFacts(finish_reason="" if calls else answer.finish_reason)
        verdict = before_store("", answer.text, call=call, policy=_FAULTS)
        if not verdict.allowed:
            yield Judgement(score=0.0, why=verdict.why)
    for sum_ in equations(answer.text):
        if not sum_.holds:
            why = f"a sum is wrong: it says {sum_.said:g} and comes to {sum_.value:g}"
            yield Judgement(score=_WRONG_SUM, why=why)
    if _breaks_off(answer.text):
        yield Judgement(score=_BROKEN, why="it breaks off")
    if hedges := hedges_in(answer.text):
        yield Judgement(score=_HEDGED, why=f"it hedges: {hedges[0]!r}")
    length, least = len(_WORD.findall(answer.text[:_MOST_CHARS])), _least_words(ask.question)
    if length < least and not calls:
        why = f"{length} words are too few: the question asks for {least} or more"
        yield Judgement(score=_TOO_SHORT, why=why)


def _breaks_off(text: str) -> bool:
    """Whether a text ends where none can, though nobody said that it was cut off."""
    return text.count("```") % 2 == 1 or bool(_BROKEN_OFF.search(text[-80:]))


def _least_words(question: str) -> int:
    """Return how many words an answer needs at the very least."""
    question = question[:_MOST_CHARS]
    if wanted := _LENGTH.search(question):
        return int(wanted[1]) // 2
    return _LEAST_WORDS if _WANTS_MORE.search(question) else 0
