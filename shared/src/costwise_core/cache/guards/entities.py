"""Names, and who does what to whom: "from A to B" is not "from B to A"."""

from typing import Final

from costwise_core.cache.guards.lexicon import FUNCTION_WORDS
from costwise_core.cache.guards.quantities import is_number
from costwise_core.cache.guards.reading import Reading, stem

__all__ = ["direction", "names", "proper_names"]

# German writes every noun with a capital, so there a capital says nothing.
_GERMAN: Final = frozenset("ich der das ist wie mein meine kann und ein eine den dem wird".split())
_NOT_NAMES: Final = frozenset("i ok okay faq pdf mr mrs ms dr".split())
_ALIASES: Final = {"us": "usa", "u.s": "usa", "gb": "uk", "america": "usa", "britain": "uk"}

_TOWARDS: Final = frozenset(
    ("to", "into", "onto", "towards", "nach", "zu", "zum", "zur", "vers", "à", "hacia", "naar")
)
_AWAY: Final = frozenset(
    ("from", "von", "vom", "aus", "depuis", "desde", "da", "dal", "dalla", "vanuit")
)
_THAN: Final = frozenset(("than", "als", "que", "di", "dan", "over"))
_BY: Final = frozenset(("by", "durch", "par", "por"))
_AFTER: Final = frozenset(("after", "nach", "après", "después", "dopo"))
_BEFORE: Final = frozenset(("before", "vor", "avant", "antes", "prima"))
_ROLES: Final = {
    word: role
    for role, words in (
        ("to", _TOWARDS),
        ("from", _AWAY),
        ("than", _THAN),
        ("by", _BY),
        ("after", _AFTER),
        ("before", _BEFORE),
    )
    for word in words
}
# "to" after these opens a verb, not a direction.
_BEFORE_VERB: Final = frozenset(
    "how need want like able possible going go have has had try trying tried due used wish way "
    "about allowed required love unable forgot supposed order do best easy hard ready".split()
)
_DETERMINERS: Final = frozenset(
    "a an the my your our his her their its this that another der die das den dem einen einem mein "
    "meine le la les l un une mon ma el los las mi il lo".split()
)


def names(asked: Reading, stored: Reading) -> str | None:
    """Speak when the questions name different people, places, products or organisations.

    A name is a word with a capital inside the sentence, or in capitals or camel case anywhere. It
    counts as present in the other question in any spelling of case, and an acronym also where the
    words it stands for are written out. German nouns and headline case are not taken for names.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> names(read("Can I fly with Delta?"), read("Is it possible to take a United flight?"))
        'only one of the two names "delta"'
    """
    missing = _unmatched(asked, stored) or _unmatched(stored, asked)
    return f'only one of the two names "{missing}"' if missing else None


def _unmatched(reading: Reading, other: Reading) -> str | None:
    found = _names(reading)
    if not found:
        return None
    known = other.vocabulary | {_ALIASES[word] for word in other.vocabulary & _ALIASES.keys()}
    found = [name for name in found if name not in known and _ALIASES.get(name) not in known]
    stems = frozenset(other.content) if found else frozenset()
    found = [name for name in found if stem(name) not in stems]
    if not found:
        return None
    # "SSP" is there where the other writes "statutory sick pay", and the other way round.
    ours, theirs = _initials(reading), _initials(other)
    short = {token.casefold() for token in other.surface if _is_acronym(token)}
    spelled = {letter for word in short if word in ours for letter in word}
    for name in found:
        if not (_is_acronym(name.upper()) and name in theirs) and name[0] not in spelled:
            return name
    return None


def _initials(reading: Reading) -> str:
    return "".join(word[0] for word in reading.words)


def _is_acronym(token: str) -> bool:
    return 2 <= len(token) <= 6 and token.isalpha() and token.isupper()


def proper_names(reading: Reading) -> tuple[str, ...]:
    """Return the words of a text that name people, places, products or organisations, in order.

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> proper_names(read("Does Anna fly to Oslo with SAS?"))
        ('anna', 'oslo', 'sas')
    """
    return tuple(_names(reading))


def _names(reading: Reading) -> list[str]:
    if reading.text.islower() or reading.text.isupper():
        return []
    found: list[str] = []
    lower = 0
    opens = True
    capitals_mean_names = len(reading.vocabulary & _GERMAN) < 2
    for token in reading.surface:
        if not token[0].isalpha():
            opens = token[0] in ".!?:"
            continue
        if token.islower():
            lower += len(token) > 3
        elif any(map(str.isupper, token[1:])):
            found.append(token.casefold())  # API, iPhone, McDonald
        elif capitals_mean_names and not opens and token[0].isupper():
            word = token.casefold().replace("’", "'").partition("'")[0]
            if word not in FUNCTION_WORDS:
                found.append(word)
        opens = False
    if len(found) > 3 and not lower:  # Headline Case
        return []
    return [name for name in found if not (name in _NOT_NAMES or is_number(name))]


def direction(asked: Reading, stored: Reading) -> str | None:
    """Speak when the same things change places: "from A to B", "is A cheaper than B", "A beat B".

    Example:
        >>> from costwise_core.cache.guards.reading import read
        >>> direction(read("Convert a Word file to PDF"), read("Convert a PDF to a Word file"))
        'the roles of "pdf" and "word" are exchanged'
    """
    if asked.words == stored.words:
        return None
    roles_asked, roles_stored = _roles(asked), _roles(stored)
    for role in roles_asked.keys() & roles_stored.keys():
        gone = roles_asked[role] - roles_stored[role]
        come = roles_stored[role] - roles_asked[role]
        left = gone & set(stored.content)
        right = come & set(asked.content)
        if left and right:
            return f'the roles of "{min(left)}" and "{min(right)}" are exchanged'
    for one, other in (("to", "from"), ("before", "after")):
        turned = roles_asked.get(one, set()) & roles_stored.get(other, set())
        turned |= roles_asked.get(other, set()) & roles_stored.get(one, set())
        if turned:
            return f'"{min(turned)}" is "{one}" in one and "{other}" in the other'
    return _two_swapped(asked, stored)


def _roles(reading: Reading) -> dict[str, set[str]]:
    """For each preposition of direction, the content words that directly follow its uses."""
    roles: dict[str, set[str]] = {}
    waiting = before = ""
    for word in reading.words:
        if word in _ROLES and before not in _BEFORE_VERB:
            waiting = _ROLES[word]
        elif waiting and word not in _DETERMINERS:
            base = stem(word)
            if base not in FUNCTION_WORDS:
                roles.setdefault(waiting, set()).add(base)
            waiting = ""
        before = word
    return roles


def _two_swapped(asked: Reading, stored: Reading) -> str | None:
    """Speak when two content words have changed places and all else stands still."""
    one, other = asked.content, stored.content
    if len(one) != len(other) or len(one) < 3:
        return None
    moved = [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    if len(moved) != 2:
        return None
    i, j = moved
    if j == i + 1 or one[i] != other[j] or one[j] != other[i]:
        return None  # neighbours change places freely: "male British accent"
    return f'the roles of "{one[i]}" and "{one[j]}" are exchanged'
