"""What a question in a conversation may be looked up as.

"And in Germany?" is another question in every conversation, so matching the last message alone
serves wrong answers. A question in a conversation is one of three things:

* It stands alone ("Unrelated, but are you open on bank holidays?") and is looked up alone.
* It leans on the conversation ("how much is it?"). A rewriter may make it stand alone; without one
  it is looked up together with a digest of the conversation, and matches only where the digests
  agree (`costwise_core.cache.agreement`).
* It answers or points into the last message ("yes, do that", "the second one"), where one word of
  that message decides. It is looked up under the exact conversation only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from costwise_core.cache.agreement import Turn, content_words, digest, disagreement, is_exact
from costwise_core.cache.dependence import Dependence, dependence
from costwise_core.cache.key import fingerprint
from costwise_core.cache.rewrite import check_rewritten, rewrite_prompt
from costwise_core.drive import Flow, call
from costwise_core.protocols import Completer
from costwise_core.tracking import calling
from costwise_core.types import Neighbour

__all__ = [
    "FOLLOW_UP",
    "Bypass",
    "Standalone",
    "in_context",
    "leans_on",
    "question_of",
    "self_contained",
]

FOLLOW_UP: Final = "follow-up"
"""`Scope.context` of questions stored with a digest, so that they never meet the others."""

MAX_DIGEST_CHARS: Final = 6_000
_OPEN, _CLOSE = " ⟦", "⟧"


@dataclass(frozen=True, kw_only=True, slots=True)
class Standalone:
    """What to look a question up as.

    Args:
        text: The question, with the digest of its conversation in ⟦ ⟧ if it needs one.
        context: What belongs into `Scope.context`.
        how: "alone", "rewritten" or "digest".
        why: One sentence for a person.
    """

    text: str
    context: str
    how: Literal["alone", "rewritten", "digest"]
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bypass:
    """The question may only be looked up exactly, under its whole conversation.

    Args:
        context: Fingerprint of the conversation, for `Scope.context`.
        why: One sentence for a person.
    """

    context: str
    why: str


def self_contained(
    turns: Sequence[Turn], question: str, rewriter: Completer | None = None
) -> Flow[Standalone | Bypass]:
    """Decide what a question in a conversation is looked up as; drive it with `run` or `arun`.

    Args:
        turns: The conversation before the question, oldest first.
        question: The last message of the user.
        rewriter: Asked only for a question that leans on the conversation. What it returns is used
            only if `check_rewritten` finds nothing wrong with it.

    Example:
        >>> from costwise_core.drive import run
        >>> turns = [Turn(role="user", text="What does Nimbus Fibre cost?")]
        >>> run(self_contained(turns, "and with TV?")).text
        'and with TV? ⟦q Nimbus Fibre cost⟧'
    """
    found = dependence(turns, question)
    if found.kind == "alone":
        return Standalone(text=_plain(question), context="", how="alone", why=found.why)
    if rewriter is not None and found.kind == "follow-up":
        try:
            with calling(overhead=True):
                answer = yield from call(rewriter.complete, rewrite_prompt(turns, question))
        except Exception as error:  # noqa: BLE001 - a rewriter is a help, never a condition
            why = f"the rewriter failed with {type(error).__name__}"
        else:
            answer = answer.strip().strip('"')
            why = check_rewritten(turns, question, answer)
            if not why:
                return Standalone(text=_plain(answer), context="", how="rewritten", why=found.why)
        found = Dependence(kind=found.kind, why=f"{found.why}; {why}")
    facts = digest(turns)
    if found.kind == "reply" or not facts or len(facts) > MAX_DIGEST_CHARS:
        why = found.why if facts else f"{found.why}, and nothing that was said is a fact"
        return Bypass(
            context=fingerprint(
                *(part for turn in turns for part in (turn.role, turn.text)), volatile=()
            ),
            why=why if len(facts) <= MAX_DIGEST_CHARS else f"{why}; the conversation is too long",
        )
    return Standalone(
        text=f"{_plain(question)}{_OPEN}{facts}{_CLOSE}",
        context=FOLLOW_UP,
        how="digest",
        why=found.why,
    )


def leans_on(turns: Sequence[Turn], question: str, answer: str) -> str:
    """Return the number or name an answer takes from the conversation, or "" if it takes none.

    The last check before an answer is stored under a question alone: one that repeats what only the
    conversation said was not given to the question alone, whatever its words look like.

    Example:
        >>> turns = [Turn(role="user", text="I have tickets for the Lantern Rooms.")]
        >>> leans_on(turns, "Can I bring a guide dog?", "Yes, the Lantern Rooms allow them.")
        'Lantern'
        >>> leans_on(turns, "Can I bring a guide dog?", "Yes, guide dogs are welcome.")
        ''
    """
    asked = {word.casefold() for word in content_words(question)}
    said = {word for turn in turns for word in content_words(turn.text) if is_exact(word)} - asked
    repeated = said.intersection(content_words(answer))
    return min((word for word in repeated if word.casefold() not in asked), default="")


def question_of(text: str) -> str:
    """Return the question of a `Standalone.text`, which is the part to embed and compare.

    Example:
        >>> question_of("and with TV? ⟦q Nimbus Fibre cost⟧")
        'and with TV?'
    """
    return text.partition(_OPEN)[0]


def _facts_of(text: str) -> str:
    return text.partition(_OPEN)[2].removesuffix(_CLOSE)


def _plain(question: str) -> str:
    """Take the signs a digest is set in out of a question, so that nobody can write one."""
    return question.translate({ord("⟦"): "[", ord("⟧"): "]"})


def in_context(text: str, neighbours: Sequence[Neighbour]) -> list[Neighbour] | str:
    """Keep the neighbours that were asked in a conversation which agrees with this one.

    Args:
        text: `Standalone.text` of the question.
        neighbours: What was found near it.

    Returns:
        The neighbours that are left, their questions without the digest as a policy should see
        them; or one sentence on how the nearest conversation differs when none is left.

    Example:
        >>> in_context("how much is it? ⟦q Nimbus Fibre cost⟧", [])
        []
    """
    facts, why = _facts_of(text), ""
    agreeing = []
    for neighbour in neighbours:
        entry = neighbour.entry
        differs = disagreement(facts, _facts_of(entry.question))
        if differs:
            why = why or differs
        else:
            bare = question_of(entry.question)
            if bare != entry.question:
                neighbour = replace(neighbour, entry=replace(entry, question=bare))  # noqa: PLW2901
            agreeing.append(neighbour)
    return agreeing if agreeing or not why else why
