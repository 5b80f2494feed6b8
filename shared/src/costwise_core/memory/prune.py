"""Messages without what nobody misses: courtesies, old tool results, what was said before."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from costwise_core.cache.guards.entities import proper_names
from costwise_core.cache.guards.lexicon import NEGATORS
from costwise_core.cache.guards.quantities import amounts
from costwise_core.cache.guards.reading import read
from costwise_core.cache.words import asks
from costwise_core.errors import ConfigError
from costwise_core.memory.facts_find import decides, open_ended
from costwise_core.memory.messages import Message
from costwise_core.passages import Passage

if TYPE_CHECKING:
    from costwise_core.near_duplicates import Similarity

__all__ = ["Pruned", "prune"]

_COURTESY: Final = frozenset(
    # English, German, French, Spanish: greetings, thanks, assent, praise and what goes with them.
    """
    hi hello hey hiya howdy greetings welcome morning afternoon evening night good great nice cool
    fine perfect awesome wonderful lovely excellent amazing brilliant super ok okay alright right
    sure yep yeah yes yup absolutely indeed exactly thanks thank thx ty cheers much many lot lots
    very so really too all again for that the a of you u your help time everyone there and it is i
    we this me my see soon later bye goodbye take care wow haha oh ah hm hmm mhm uh um gotcha
    understood noted got makes sense pleasure will have day appreciate appreciated kind glad happy
    to well please sounds be just am are re m s ll
    hallo guten gute gutes tag morgen abend nacht danke dankeschön vielen dank sehr schön gut prima
    toll alles klar genau gerne gern bitte tschüss wiedersehen auf bis bald dann dir ihnen euch die
    hilfe das ist ja jo passt verstanden herzlichen für
    bonjour bonsoir salut coucou merci beaucoup bien très parfait génial d accord oui au revoir à
    bientôt avec plaisir pour votre ton aide c est ça va bonne journée soirée je vous te en prie
    entendu compris
    hola buenos buenas días tardes noches gracias muchas mil por tu su ayuda muy perfecto vale sí
    claro adiós hasta luego pronto mañana entendido estupendo un saludo
    """.split()
)
_DENSE_COURTESY: Final = re.compile(
    r"(?:你好|您好|大家好|早上好|晚上好|谢谢|多谢|感谢|太好了|非常|很好|好的|好|嗯|哦|啊|呢|了|您|你|"
    r"再见|拜拜|明白|收到|行|可以|こんにちは|こんばんは|おはよう|ございます|ございました|ありがとう|"
    r"どうも|はい|了解|です|しました|よろしく|お願いします|안녕하세요|감사합니다|고마워요|네|알겠습니다)++"
)
_ASSENT: Final = frozenset(
    """
    yes yeah yep yup ok okay alright right sure absolutely indeed exactly perfect fine good great
    sounds all ja jo genau klar passt alles gut gerne gern oui d accord parfait ça va bien sí vale
    claro perfecto bien de
    """.split()
)
_DENSE_ASSENT: Final = re.compile(
    r"(?:好的|好|嗯|行|可以|明白|收到|了|はい|了解|です|しました|네|알겠습니다)*+"
)
_MOST_WORDS: Final = 20
_PROPOSES: Final = re.compile(
    r"(?i)\b(?:shall|should|could|would|may|might|can|will|i['’]ll|let['’]?s|let me|if|either|or|"
    r"soll|sollen|möchte|kann|könnte|würde|wenn|oder|dois|peux|veux|si|ou|puedo|debo|quiere|o)\b"
    r"|要不要|吗|可以|如果|还是|か[。\s]*$"
)
_SHORT: Final = 40
"""Characters: what is shorter is said twice on purpose ("next", "yes")."""
_RESULT: Final = 600
"""Characters up to which a tool result is left whole, some 150 tokens."""
_HEAD: Final = 300
"""Characters of a longer one that stay."""
_ALIKE: Final = 0.9
_MOST_COMPARED: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What is left of some messages.

    Args:
        messages: Those that stay, in order, some of them shortened.
        indexes: Where they stood.
        why: For each message that is gone or shortened, by its index, one phrase for a person.

    Example:
        >>> Pruned(messages=(), indexes=(), why={0: "a courtesy"}).why[0]
        'a courtesy'
    """

    messages: tuple[Message, ...]
    indexes: tuple[int, ...]
    why: Mapping[int, str]


def prune(messages: Sequence[Message], *, until: int | None = None) -> Pruned:
    """Leave out of old messages what nobody misses. The given messages stay as they are.

    - Courtesies go: greetings, thanks and assent, in English, German, French, Spanish, Chinese,
      Japanese and Korean; never one with a number, a name, a question or a negation, and never one
      that may answer a question, a proposal or a decision.
    - What was said before in the same words goes, questions excepted.
    - Long tool results, and those that a later one of the same tool repeats, keep their beginning
      and name the message that the store has whole. Results are never left out, nor are calls.

    Args:
        messages: Of one conversation, oldest first.
        until: Index of the first message that is left alone; None is behind the last one.

    Raises:
        ConfigError: if `until` is negative.

    Example:
        >>> talk = [Message(role="user", text="Book me 2 seats."),
        ...         Message(role="assistant", text="Done, row 7."),
        ...         Message(role="user", text="Great, thank you so much!")]
        >>> [message.text for message in prune(talk).messages]
        ['Book me 2 seats.', 'Done, row 7.']
    """
    if until is not None and until < 0:
        raise ConfigError(f"until must be at least 0, got {until}.")
    old = messages[:until]
    why: dict[int, str] = {}
    shorter: dict[int, Message] = {}
    repeated = _repeated_results(old)
    said: dict[tuple[str, str, tuple[str, ...]], int] = {}
    for at, message in enumerate(old):
        if message.role == "tool":
            if (short := _shortened(message, repeated.get(at))) is not None:
                shorter[at] = short
                why[at] = "repeated by a later result" if at in repeated else "a long tool result"
        elif not message.calls and message.role != "system":
            if _is_courtesy(message.text) and not _may_answer(old, at):
                why[at] = "a courtesy"
            elif (first := _said_before(message, at, said)) is not None:
                why[at] = f"said before, in message {first + 1}"
    kept = [at for at in range(len(messages)) if at not in why or at in shorter]
    return Pruned(
        messages=tuple(shorter.get(at, messages[at]) for at in kept),
        indexes=tuple(kept),
        why=MappingProxyType(why),
    )


def _is_courtesy(text: str) -> bool:
    if not text.strip() or "?" in text or "？" in text or len(text) > _MOST_WORDS * 12:
        return False
    reading = read(text)
    if len(reading.words) > 2 * _MOST_WORDS or reading.vocabulary & NEGATORS:
        return False
    if amounts(reading) or _named(reading.text) or asks(text):
        return False
    if reading.text.isascii() or not _has_dense(reading.text):
        return reading.vocabulary <= _COURTESY and len(reading.words) <= _MOST_WORDS
    return _DENSE_COURTESY.fullmatch(re.sub(r"[\W_]", "", reading.text)) is not None


def _only_agrees(text: str) -> bool:
    """Whether a message says yes and no more; one without any word is a thumb up."""
    if read(text).vocabulary <= _ASSENT:
        return True
    return _DENSE_ASSENT.fullmatch(re.sub(r"[\W_]", "", text)) is not None


def _named(text: str) -> bool:
    return any(name not in _COURTESY for name in proper_names(read(text)))


def _has_dense(text: str) -> bool:
    return any("\u3040" <= sign <= "\ud7af" for sign in text)


def _may_answer(messages: Sequence[Message], at: int) -> bool:
    """Whether a message says yes to something: then it is a decision, however short."""
    before = next((one.text for one in reversed(messages[:at]) if one.text.strip()), "")
    if _only_agrees(messages[at].text):
        return not _is_courtesy(before)
    asked = "?" in before or "？" in before or asks(before)
    return asked or decides(before) or open_ended(before) or bool(_PROPOSES.search(before))


def _said_before(
    message: Message, at: int, said: dict[tuple[str, str, tuple[str, ...]], int]
) -> int | None:
    if len(message.text) < _SHORT or "?" in message.text or asks(message.text):
        return None
    # The same words in the same order: only signs, spaces and capitals may differ.
    first = said.setdefault((message.role, message.name, read(message.text).words), at)
    return None if first == at else first


def _shortened(message: Message, repeated_by: str | None) -> Message | None:
    """Return a tool result with its beginning only; None if that would not be shorter."""
    text = message.text
    if not message.id or (repeated_by is None and len(text) <= _RESULT):
        return None
    head = text[:_HEAD]
    cut = max(head.rfind("\n"), head.rfind(". ") + 1, head.rfind(" "))
    head = head[: cut if cut > _HEAD // 2 else _HEAD].rstrip()
    if repeated_by is not None:
        note = f"[much as in message {repeated_by}; whole in message {message.id}]"
    else:
        left = len(text) - len(head)
        note = f"[{left:,} more characters, whole in message {message.id}]"
    short = note if repeated_by is not None else f"{head}\n{note}"
    if len(short) >= len(text):
        return None
    return replace(message, text=short, tokens=0, raw="")


def _repeated_results(messages: Sequence[Message]) -> dict[int, str]:
    """Return which tool results a later one of the same tool repeats, and that one's id."""
    found: dict[int, str] = {}
    by_tool: dict[str, list[int]] = {}
    for at, message in enumerate(messages):
        if message.role == "tool" and message.id and len(message.text) > _HEAD // 2:
            by_tool.setdefault(message.name, []).append(at)
    for places in by_tool.values():
        newest = places[-_MOST_COMPARED:]
        if len(newest) < 2:
            continue
        alike = _similarity([messages[at].text for at in newest])
        for i, at in enumerate(newest):
            row = alike(i)
            later = [j for j in range(len(newest) - 1, i, -1) if row[j] >= _ALIKE]
            if later:
                found[at] = messages[newest[later[0]]].id
    return found


def _similarity(texts: Sequence[str]) -> "Similarity":
    from costwise_core.near_duplicates import similarity  # noqa: PLC0415 - it brings numpy

    return similarity([Passage(text=text) for text in texts])
