"""Polarity: a question and its negation, and words that mean opposite things."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from costwise_core.cache.guards.lexicon import NEGATORS
from costwise_core.cache.guards.reading import Reading, stem, uninflected

__all__ = ["negation", "opposites"]

# fmt: off
# Inside verbs of Japanese and Korean.
_NEGATIVE_ENDINGS: Final = ("ない", "なく", "ません", "ずに", "않", "없")

# Each line is an axis: words towards one end, then words towards the other.
_AXES: Final = (
    ("increase raise rise grow gain higher more most maximum max highest greater top boost extend",
     "decrease reduce lower less fewer least minimum min lowest fall drop cut decline shorten"),
    ("bigger larger biggest longer longest", "smaller smallest shorter shortest"),
    ("up", "down"),
    ("on", "off"),
    ("enable activate open unlock start begin resume allow permit unblock",
     "disable deactivate close lock stop end pause block ban forbid prohibit freeze"),
    ("allowed legal permitted", "banned illegal forbidden prohibited"),
    ("add join enrol enroll subscribe register include insert install connect link",
     "remove leave withdraw unsubscribe exclude delete uninstall disconnect cancel unlink"),
    ("accept approve agree grant confirm", "decline reject deny refuse disagree revoke dismiss"),
    ("buy purchase", "sell"),
    ("deposit", "withdraw"),
    ("send lend export upload push publish", "receive borrow import download pull unpublish"),
    ("pass succeed win success", "fail lose loss failure"),
    ("profit gain earn income asset credit",
    "loss lose spend expense expenditure liability debit debt"),
    ("advantage benefit pro strength", "disadvantage drawback con weakness risk"),
    ("cheap cheaper cheapest", "expensive dearer costly"),
    ("fast faster fastest quick", "slow slower slowest"),
    ("good better best positive", "bad worse worst negative"),
    ("hot warm hotter warmer", "cold cool colder cooler"),
    ("early earlier earliest", "late later latest"),
    ("old older oldest", "new newer newest young younger youngest"),
    ("pre", "post"),
    ("buyer", "seller"), ("lender", "borrower"), ("employer", "employee"), ("landlord", "tenant"),
    ("sender", "recipient receiver"), ("parent mother father", "child son daughter"),
    ("arrival arrive", "departure depart"),
    ("domestic local", "international foreign abroad overseas"),
    ("public", "private"), ("online", "offline"), ("full", "part partial empty"),
    ("single", "joint"),
    ("true", "false"), ("left", "right"), ("inside indoor", "outside outdoor"),
    ("above over", "below under"),
    ("always", "never"), ("fixed", "variable"), ("gross", "net"),
    ("personal", "business corporate"),
    ("morning", "evening night"), ("day", "night"), ("north", "south"), ("east", "west"),
    ("husband", "wife"),
    ("male", "female"), ("healthy", "unhealthy sick"), ("encrypt", "decrypt"), ("hire", "fire"),
    ("push", "pull"),
    ("show", "hide"), ("archive", "restore"), ("ascending", "descending"), ("debit", "credit"),
    ("with", "without"), ("bull", "bear"), ("long", "short"), ("call", "put"), ("heads", "tails"),
    ("erhöhen kaufen öffnen aktivieren einschalten hinzufügen annehmen sperren",
     "senken verkaufen schließen deaktivieren ausschalten entfernen ablehnen entsperren"),
    ("augmenter acheter ouvrir activer ajouter accepter",
    "réduire vendre fermer désactiver supprimer refuser"),
    ("aumentar comprar abrir activar añadir aceptar",
    "reducir vender cerrar desactivar quitar rechazar"),
    ("增加 提高 开 买 上 升 加 増 開 買", "减少 降低 关 卖 下 降 减 減 閉 売"),
)
_PREFIXES: Final = ("un", "in", "im", "ir", "il", "dis", "non", "de", "mis", "anti", "ent")
_PREFIX_PAIRS: Final = tuple(
    (one, other)
    for one, other in (
        ("pre", "post"), ("over", "under"), ("in", "out"), ("up", "down"), ("im", "ex"),
        ("in", "ex"),
        ("in", "de"), ("maxi", "mini"), ("inter", "intra"), ("hyper", "hypo"), ("ein", "aus"),
        ("auf", "zu"),
        ("macro", "micro"), ("en", "dis"), ("em", "im"),
    )
)
# fmt: on


_EITHER: Final = tuple({*_PREFIXES, *(one for one, _ in _PREFIX_PAIRS)})


def _ends() -> dict[str, frozenset[tuple[int, int]]]:
    table: dict[str, set[tuple[int, int]]] = {}
    for axis, ends in enumerate(_AXES):
        for end, words in enumerate(ends):
            for word in words.split():
                table.setdefault(word, set()).add((axis, end))
                if word.isascii():
                    table.setdefault(_key(word), set()).add((axis, end))
    return {word: frozenset(found) for word, found in table.items()}


def _key(word: str) -> str:
    return f"={uninflected(word)}"


_ENDS: Final = _ends()


def negation(asked: Reading, stored: Reading) -> str | None:
    """Speak when one question is negated and the other is not.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> negation(read("Which plans include calls?"), read("Which plans don't include calls?"))
        'only one of the two is negated ("not")'
    """
    one, other = _negator(asked), _negator(stored)
    if bool(one) == bool(other):
        return None
    return f'only one of the two is negated ("{one or other}")'


def _negator(reading: Reading) -> str:
    found = reading.vocabulary & NEGATORS
    if found:
        if found == {"not"} and _only_or_not(reading.words):
            return ""
        return min(found)
    if not reading.text.isascii():
        return next((part for part in _NEGATIVE_ENDINGS if part in reading.text), "")
    return ""


def _only_or_not(words: tuple[str, ...]) -> bool:
    """Whether each "not" belongs to "or not", which negates nothing."""
    return all(before == "or" for before, word in pairwise(("", *words)) if word == "not")


def opposites(asked: Reading, stored: Reading) -> str | None:
    """Speak when the questions hold opposite words, whatever else was reworded.

    Opposites come from a list of common words ("buy" and "sell") and from prefixes: "lock" and
    "unlock", "pre-tax" and "post-tax", "import" and "export". A question that holds both ends of
    an axis ("from before to after") takes neither side.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> opposites(read("How do I lock my card?"), read("Can I unlock the card in the app?"))
        '"lock" and "unlock" are opposites'
    """
    only_asked = asked.vocabulary - stored.vocabulary
    only_stored = stored.vocabulary - asked.vocabulary
    if not only_asked or not only_stored:
        return None
    ends_asked, ends_stored = _sides(only_asked), _sides(only_stored)
    for (axis, end), word in ends_asked.items():
        this, that = (axis, end), (axis, 1 - end)
        if that in ends_stored and that not in ends_asked and this not in ends_stored:
            return f'"{word}" and "{ends_stored[that]}" are opposites'
    return _by_prefix(only_asked, only_stored) or _by_prefix(only_stored, only_asked)


def _sides(words: Iterable[str]) -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    for word in sorted(words):
        for end in _ENDS.get(word) or _ENDS.get(_key(word)) or ():
            found.setdefault(end, word)
    return found


def _by_prefix(words: frozenset[str], others: frozenset[str]) -> str | None:
    prefixed = sorted(word for word in words if word.startswith(_EITHER))
    if not prefixed:
        return None
    stems = {stem(word): word for word in others}
    for word in prefixed:
        for prefix in _PREFIXES:
            if word.startswith(prefix) and len(word) > len(prefix) + 2:
                plain = stems.get(stem(word[len(prefix) :]))
                if plain is not None:
                    return f'"{plain}" and "{word}" are opposites'
        for one, other in _PREFIX_PAIRS:
            if (
                word.startswith(one)
                and len(word) > len(one) + 2
                and other + word[len(one) :] in others
            ):
                return f'"{word}" and "{other + word[len(one) :]}" are opposites'
    return None
