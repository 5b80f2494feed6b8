"""Whether a question needs the conversation before it: pronouns, ellipsis, "the second one".

The rules lean to the safe side: a question wrongly taken to depend costs a hit, never an answer.
English is covered best; other languages by their commonest words. Time is linear in the text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from costwise_core.cache.agreement import Turn, content_words
from costwise_core.cache.key import canonical
from costwise_core.cache.words import DAYS, LEADS, asks, either, stem, words

__all__ = ["GENERAL", "Dependence", "dependence", "points_outside", "vocabulary"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependence:
    """Whether a question needs the conversation before it.

    Args:
        kind: "alone", "follow-up", or "reply" when it answers or points into the last message.
        why: One sentence for a person.
    """

    kind: Literal["alone", "follow-up", "reply"]
    why: str

    @property
    def dependent(self) -> bool:
        """True unless the question stands alone."""
        return self.kind != "alone"


# Words are joined into one expression each; those with a space are phrases.
# fmt: off
_NEW_TOPIC: Final = re.compile(
    r"(?i)\b(?:unrelated|off topic|side note|in general"
    r"|(?:different|separate|new|general|random) "
    r"(?:one|thing|topic|subject|question|q|query|note)"
    r"|on a (?:different|separate) (?:note|subject|topic)"
    r"|andere frage|autre question|otra pregunta|altra domanda|outra pergunta|andere vraag)\b"
    r"|另外|別の質問|ところで"
)
_CONTINUES: Final = re.compile(
    rf"(?i)^(?:(?:{either(LEADS)}|thank you|got it)[\s,.!]+)*"
    rf"(?:what about|how about|why not|how so|how come|"
    rf"{either('and so but or then also plus why')}|"
    rf"{either('und oder aber dann et ou mais alors donc y o pero entonces e ma allora')}|"
    rf"{either('en maar dus')}"
    r")\b|^(?:那|还有|而且|それで|じゃあ|では)"
)
# Expletives ("is there", "it is possible to") and "that" before a clause stand for nothing.
_EXPLETIVE: Final = re.compile(
    r"(?i)\b(?:(?:is|are|was|were|will|if) there\b(?! (?:yet|now|too)\b)"
    r"|there(?:'s| is| are| was| were| will)\b"
    r"|(?:is|was|would|will) it (?:possible|ok|okay|true|worth|better|safe|legal|necessary|normal"
    r"|free to|raining|allowed|a problem)\b"
    r"|how long does it (?:usually |normally |typically )?take (?:to|for)\b"
    r"|it (?:takes|is possible|'s possible)\b|so that\b"
    r"|(?:say|says|said|think|know|mean|sure|told|believe|claim|true) that\b)"
)
_PRONOUN: Final = re.compile(r"(?i)\b(?:it|its|it's|they|them|their|es|sie|ihn|il|elle|lo|la)\b")
# "If I buy a lamp, can I return it?" brings what its pronoun stands for.
_ANTECEDENT: Final = re.compile(
    rf"(?i)\b(?:{either('a an any some every each someone something')}|"
    rf"{either('ein eine einen un une una')})"
    rf"\s+\w+.{{0,80}}?{_PRONOUN.pattern.removeprefix('(?i)')}"
)
_MINE: Final = re.compile(
    rf"(?i)\b(?:{either('my mine our mein meine meinen unser mon ma mes mi mis meu minha mijn')})\b"
    r"|我的|私の"
)
_POINTS: Final = re.compile(
    rf"(?i)\b(?:{either('it its they them their theirs he him his she her hers this that these')}|"
    rf"{either('those there same either neither both else otherwise above previous')}|"
    rf"{either('earlier former latter')}|ones?(?! of\b)|another(?: one\b|(?! \w))|"
    r"instead(?! of\b)|too(?=\s*(?:[?.!,]|$))|"
    rf"{either('dies diese dieser dieses damit davon dort ihn ihm cela ça celui celle ceux eso')}|"
    rf"{either('esto ese esa allí questo questa quello quella isso isto aquilo daar deze dit dat')}"
    r")\b|[它他她]|这个|那个|それ|これ|あれ|その|この"
)
# One word of the last message decides what these mean.
_PICKS: Final = re.compile(
    rf"(?i)\b(?:the|your|that) (?:{either('first second third fourth last former latter other')}|"
    rf"{either('next cheaper cheapest bigger smaller dearer earlier later')}) "
    rf"(?:{either('one option slot choice offer suggestion plan date time')})\b"
    r"|\b(?:the|your|that) (?:first|second|third|former|latter)\s*(?:[?.!,]|$)"
    r"|\boption (?:\d|[a-d]|one|two|three)\b|第[一二三]个|[一二三]番目"
)
_THAT: Final = re.compile(
    rf"(?i)\b(?:{either('that this those these dies das cela ça eso questo isso dat')})"
    r"\s*(?:[?.!,]|$)|这个|那个|それ"
)
# Too general to say what a question is about.
GENERAL: Final = frozenset(map(stem, words(
    "long take time much cost price pay charge fee total extra month monthly week weekly year day "
    "today tomorrow tonight soon early late new old option choice recommend suggest best better "
    "cheap cheaper cheapest difference different work happen change use start stop end leave stay "
    "keep send give put add remove move book order buy sell return cancel check find show contact "
    "call email finish left back away money amount number date place way kind type sort detail "
    "information info include cover apply available possible allow able mean explain wait speed "
    "free full half part people person user answer reply problem issue first second last not "
    "usual normal up down off open close join next earlier later instead"
)))
# fmt: on


def dependence(turns: Sequence[Turn], question: str) -> Dependence:
    """Say whether a question needs the conversation before it, by rules.

    Args:
        turns: The conversation before the question, oldest first.
        question: The last message of the user.

    Example:
        >>> turns = [Turn(role="user", text="What does Fibre 150 cost?"),
        ...          Turn(role="assistant", text="£26 a month.")]
        >>> dependence(turns, "and with the TV add-on?").kind
        'follow-up'
        >>> dependence(turns, "Is there a mobile app for Android?").kind
        'alone'
        >>> dependence(turns, "the second one, please").kind
        'reply'
    """
    if not turns:
        return Dependence(kind="alone", why="nothing was said before it")
    text = canonical(question)
    said = content_words(_NEW_TOPIC.sub(" ", text))
    about = {word.casefold() for word in said} - GENERAL
    continues = None if _NEW_TOPIC.search(text) else _CONTINUES.search(text)
    if not asks(text) and not (continues and text.endswith("?")):
        return Dependence(kind="reply", why="it asks nothing, so it answers the last message")
    picks = _PICKS.search(text) or (None if about else _THAT.search(text))
    if picks:
        return Dependence(kind="reply", why=f"{picks[0]!r} points into the last message")
    if continues:
        return Dependence(kind="follow-up", why=f"it goes on with {continues[0].strip()!r}")
    points = _POINTS.search(_without_harmless(text))
    if points:
        return Dependence(kind="follow-up", why=f"{points[0]!r} stands for something said before")
    known = about & vocabulary(turns)
    if _announced(turns, text):
        needed, new = 2, about if not _MINE.search(text) else about - known
    elif _MINE.search(text):
        return Dependence(kind="follow-up", why="it is about something of the asker's own")
    else:
        needed, new = (4 if known else 3), about - known
    # "Can I bring a dog?" does not say where, so two words are too few; a name counts twice.
    names = sum(word[0].isupper() and word not in DAYS for word in said if word.casefold() in new)
    if len(new) + names < needed:
        topic = f"the conversation has been about {min(known)!r}" if known else "it says too little"
        return Dependence(kind="follow-up", why=topic)
    return Dependence(kind="alone", why="it names what it is about and points at nothing before")


def points_outside(text: str) -> bool:
    """Return whether a question goes on with, or stands for, something that was said before it.

    Example:
        >>> points_outside("Can I return it?"), points_outside("If I buy a lamp, can I return it?")
        (True, False)
    """
    return any(rule.search(text) for rule in (_CONTINUES, _PICKS)) or bool(
        _POINTS.search(_without_harmless(text))
    )


def vocabulary(turns: Sequence[Turn]) -> frozenset[str]:
    """Return the content words of a conversation, lower case and stemmed."""
    return frozenset(word.casefold() for turn in turns for word in content_words(turn.text))


def _announced(turns: Sequence[Turn], text: str) -> bool:
    """Whether the user said that a new topic follows, here or in a message of its own before."""
    if _NEW_TOPIC.search(text):
        return True
    if len(turns) < 2 or turns[-1].role != "assistant":
        return False
    # "One last general thing." "Sure, go ahead." The assistant has said nothing since.
    return len(content_words(turns[-1].text)) <= 2 and bool(_NEW_TOPIC.search(turns[-2].text))


def _without_harmless(text: str) -> str:
    """Cut the pronouns that stand for nothing, or for something in the question itself."""
    text = _EXPLETIVE.sub(" ", _NEW_TOPIC.sub(" ", text))
    own = _ANTECEDENT.search(text)
    return text if own is None else _PRONOUN.sub(" ", text)
