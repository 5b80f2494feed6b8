"""Where a text says something that a summary must not lose: numbers, names, codes, sentences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from costwise_core.cache.guards.quantities import amounts, is_number, is_span
from costwise_core.cache.guards.reading import read, stem
from costwise_core.cache.words import FILLERS, LEADS, phrases

__all__ = ["codes", "decides", "names", "open_ended", "quantities"]

_CJK: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_CODE: Final = re.compile(
    r"https?://[^\s<>\"'）」』]+[^\s<>\"'）」』.,;:!?)\]]"
    r"|[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,4}"
    rf"|(?<![^\W{_CJK}])(?:(?![{_CJK}])\w)++(?:[-_./:#](?:(?![{_CJK}])\w)++)*+"
)
_DIGIT: Final = re.compile(r"\d")
_LETTER: Final = re.compile(r"[^\W\d_]")
# Numbers with an ending that belongs to them: "3rd", "7pm", "48k", "20min", "5kg".
_COUNTED: Final = re.compile(r"\d[\d.,:]*(?:[^\W\d_]{1,3}|mins?|years?|hours?|days?)")
_PHONE: Final = re.compile(
    r"(?<![\w.,])(?:(?:\+\d|\(?0)\d{0,4}\)?(?:[ ./-]\(?\d{1,8}\)?){1,6}|\d{3}[-.]\d{3}[-.]\d{4})"
    r"(?![\w]|[.,]\d)"
)
_MIN_PHONE: Final = 8

_WORD: Final = re.compile(
    r"\d{1,2}\.(?= [^\W\d_]{3,10}\b)"  # "3. März"
    rf"|[£$€¥₹₩₽]?\d(?:[\d.,:/-]*\d)?[%‰]?(?:[{_CJK}%]|[^\W\d_]{{1,3}}(?![^\W_]))?"
    rf"|(?:(?![{_CJK}])[^\W\d_])+(?:['’](?:(?![{_CJK}])[^\W\d_])+)*|[£$€¥₹₩₽%‰]"
)
_JOINED: Final = re.compile(r"\s{0,3}|\s(?:of|the|de|del)\s")
_JOINED_DATE: Final = re.compile(r"\s{0,3}(?:,|of|the|de|del)\s{1,3}")
_YEAR: Final = re.compile(r"(?:19|20)\d\d")
# Numbers and months only beside a number: "may", "second", "one".
_VAGUE: Final = frozenset("may march mar sun sat second min mins m c f g zero one".split())

_NAME: Final = re.compile(rf"(?:(?![{_CJK}])[^\W\d_])+(?:['’&-](?:(?![{_CJK}])[^\W\d_])+)*")
_SURNAMES: Final = (
    "王李张張刘劉陈陳杨楊赵趙黄黃周吴吳徐孙孫胡朱高林何郭马馬罗羅梁宋郑鄭谢謝韩韓唐冯馮于董萧程曹袁邓鄧"
    "许許傅沈曾彭吕呂苏蘇卢盧蒋蔣蔡贾賈丁魏薛叶葉余潘杜戴夏钟鍾汪田任姜范方石姚谭譚廖"
)
_TITLED: Final = re.compile(
    rf"[{_SURNAMES}][{_CJK}]{{0,2}}?(?:先生|女士|小姐|老师|老師|教授|经理|經理)"
    rf"|[{_CJK}]{{1,4}}(?:公司|银行|銀行|大学|大學|医院|醫院)|[\u3400-\u9fff]{{1,3}}(?:さん|様|氏)"
    r"|[\uac00-\ud7af]{1,4}(?:씨|님)"
    r"|[「『《“][^「」『』《》“”\n]{1,40}[」』》”]"
    r"|[\u30a1-\u30fa\u30fc・]{3,20}"
)
_OPENS: Final = re.compile(r"[.!?:;…。！？\n*•\"“„«]")
_LONGEST_NAME: Final = 8  # words
_ABBREVIATED: Final = frozenset("mr mrs ms dr prof st mt hr fr sr sra".split())
_WITHIN: Final = frozenset("of the de del la van von der du da di bin al y e".split())
_CALLS: Final = frozenset((*LEADS.split(), *"wow congrats bye yup nope gosh omg lol".split()))
_GERMAN: Final = frozenset("ich der das ist wie mein meine kann und ein eine den dem wird".split())

_DECIDES: Final = phrases(
    r"""
    (?:decided|decision|agreed|agree to|settled on|chose|chosen|confirmed|approved|booked)\b
    (?:signed|cancelled|canceled|postponed|scheduled|deadline|due (?:on|by)|promised)\b
    let['’]?s (?:go with|do|take|use|meet|keep)\b
    (?:we['’]ll|we will|we(?: a|['’])re going to|i['’]ll (?:take|go with)|going with)\b
    (?:go for the|the plan is|action item)\b
    (?:beschlossen|entschieden|entscheidung|vereinbart|geeinigt|bestätigt|gebucht|storniert)\b
    (?:abgesagt|verschoben|frist|bis spätestens|wir nehmen)\b
    (?:décidé|décision|convenu|confirmé|réservé|annulé|reporté|échéance|(?:on|nous) pren)
    (?:decidido|decisión|acordado|acordamos|confirmado|reservado|cancelado|aplazado|plazo)\b
    """
)
_OPEN: Final = phrases(
    r"""
    (?:tbd|tba|to be (?:decided|confirmed|determined))\b
    still (?:open|unclear|pending|waiting)\b
    not (?:yet )?(?:sure|decided|clear)\b
    needs? to (?:check|find out|ask|decide)\b
    (?:will (?:check|find out)|get back to)\b
    (?:(?:noch|ist) (?:offen|unklar)|noch nicht (?:klar|entschieden)|zu klären)\b
    (?:à (?:décider|confirmer|vérifier)|reste à)\b
    (?:pendiente|por (?:decidir|confirmar))\b
    """
)
_DECIDES_DENSE: Final = re.compile(
    "决定|決定|同意|确认|確認|预订|予約|取消|截止|约定|合意|결정|확인|예약"
)
_OPEN_DENSE: Final = re.compile("待定|待确认|尚未|还没决定|未定|検討中|미정")


def codes(text: str) -> Iterator[tuple[int, int]]:
    """Yield where addresses, phone numbers, ids, versions and the like stand.

    Example:
        >>> text = "Order INV-204 of a@b.org, 3 parts, v2.1, the 3rd"
        >>> [text[start:end] for start, end in codes(text)]
        ['INV-204', 'a@b.org', 'v2.1']
    """
    for match in _PHONE.finditer(text):
        if len(re.sub(r"\D", "", match[0])) >= _MIN_PHONE:
            yield match.span()
    for match in _CODE.finditer(text):
        if "://" in match[0] or "@" in match[0] or _is_mixed(match[0]):
            yield match.span()


def _is_mixed(word: str) -> bool:
    both = _DIGIT.search(word) is not None and _LETTER.search(word) is not None
    return both and _COUNTED.fullmatch(word) is None


def quantities(text: str) -> Iterator[tuple[int, int]]:
    """Yield where numbers, amounts, dates and times stand, each with the word that it counts.

    Example:
        >>> text = "Three seats on 5 May 2026 at 7 pm for $40 or 20 % less; 共3件"
        >>> [text[start:end] for start, end in quantities(text)]
        ['Three seats', '5 May 2026', '7 pm', '$40', '20 %', '3件']
    """
    run: list[re.Match[str]] = []
    tokens = list(_WORD.finditer(text))
    for at, token in enumerate(tokens):
        beside = bool(run) and _joined(run, text[run[-1].end() : token.start()])
        if _belongs(token[0], beside, tokens[at + 1][0] if at + 1 < len(tokens) else ""):
            if not beside:
                yield from _span(run)
                run = []
            run.append(token)
        elif run and token[0].casefold() not in _WITHIN:
            close = not text[run[-1].end() : token.start()].strip()
            counted = close and token[0].isalpha() and token[0].casefold() not in FILLERS
            yield from _span([*run, token] if counted and _counts(run) else run)
            run = []
    yield from _span(run)


def _joined(run: list[re.Match[str]], gap: str) -> bool:
    if _JOINED.fullmatch(gap):
        return True
    return _JOINED_DATE.fullmatch(gap) is not None and any(one[0].isalpha() for one in run)


def _belongs(token: str, beside: bool, after: str) -> bool:  # noqa: FBT001 - three facts of a word
    word = token.casefold()
    if word in _VAGUE or word == "may":
        return beside or (word in ("may", "march", "mar") and after[:1].isdigit())
    return is_number(word) or (beside and is_span(stem(word)))


def _counts(run: list[re.Match[str]]) -> bool:
    """Whether a run is one number that says not of what."""
    if len(run) != 1 or run[0][0].endswith(".") or _YEAR.fullmatch(run[0][0]):
        return False
    values = amounts(read(run[0][0]))
    return len(values) == 1 and not values[0][1] and values[0][0].isdecimal()


def _span(run: list[re.Match[str]]) -> Iterator[tuple[int, int]]:
    if run:
        yield run[0].start(), run[-1].end()


def names(text: str) -> Iterator[tuple[int, int]]:
    """Yield where people, places, products and organisations are named, as far as signs tell.

    In scripts with capitals those are words with one that does not come from the beginning of a
    sentence; in German, where every noun has one, only several in a row, and acronyms. In Chinese
    and Japanese, what has a title, is quoted or is spelled in katakana.

    Example:
        >>> text = "Is Jo Ann Smith in New York? Then NASA called. 王先生也在。"
        >>> sorted(text[start:end] for start, end in names(text))
        ['Jo Ann Smith', 'NASA', 'New York', '王先生']
    """
    for match in _TITLED.finditer(text):
        yield match.span()
    words = _capitalised(text)
    inside = {one.word.casefold() for one in words if one.capital and not one.opens}
    common = {one.word for one in words if one.word.islower()}
    run: list[_Word] = []
    for at, one in enumerate([*words, _END]):
        after = words[at + 1] if at + 1 < len(words) else _END
        joins = (
            0 < len(run) < _LONGEST_NAME
            and one.joined
            and (one.capital or (one.word in _WITHIN and after.capital and after.joined))
        )
        if joins:
            run.append(one)
            continue
        if found := _name(run, inside, common):
            yield found
        run = [one] if one.capital else []


@dataclass(frozen=True, slots=True)
class _Word:
    word: str
    start: int
    end: int
    capital: bool
    opens: bool  # a sentence, so that its capital says nothing
    joined: bool  # to the word before it, by one blank
    german: bool


_END: Final = _Word("", 0, 0, capital=False, opens=True, joined=False, german=False)


def _capitalised(text: str) -> list[_Word]:
    found: list[_Word] = []
    offset = 0
    for line in text.splitlines(keepends=True):
        matches = list(_NAME.finditer(line))
        german = len(_GERMAN & {match[0].casefold() for match in matches}) > 1
        shouted = len(matches) > 1 and line.isupper()
        cursor, before = 0, ""
        for match in matches:
            gap = line[cursor : match.start()]
            opens = not cursor or (
                _OPENS.search(gap) is not None and before.casefold() not in _ABBREVIATED
            )
            found.append(
                _Word(
                    word=match[0],
                    start=offset + match.start(),
                    end=offset + match.end(),
                    capital=match[0][0].isupper() and not shouted,
                    opens=opens,
                    joined=bool(cursor) and gap in (" ", ". ") and not opens,
                    german=german,
                )
            )
            cursor, before = match.end(), match[0]
        offset += len(line)
    return found


def _name(run: list[_Word], inside: set[str], common: set[str]) -> tuple[int, int] | None:
    """Return where the name in a run of capitals stands, None if they say something else."""
    while run and _says_nothing(run[0].word):
        run = run[1:]
    while run and (_says_nothing(run[-1].word) or not run[-1].capital):
        run = run[:-1]
    if not run:
        return None
    first = run[0]
    word = first.word.casefold()
    unsure = first.opens and not _is_acronym(first.word) and word not in inside
    # "Anna Smith called" opens with a name, "Blue Nile" may, "Tomorrow Anna" does not.
    if unsure and (len(run) == 1 or word in common):
        rest = [replace(one, opens=False) for one in run[1:]]
        return _name(rest, inside, common)
    if first.german and len(run) == 1 and not _is_acronym(first.word):
        return None
    return run[0].start, run[-1].end


def _says_nothing(word: str) -> bool:
    plain = word.casefold().replace("’", "'")
    return (
        plain in _CALLS
        or plain in FILLERS
        or plain.partition("'")[0] in FILLERS
        or is_number(plain)
    )


def _is_acronym(word: str) -> bool:
    return any(map(str.isupper, word[1:]))


def decides(sentence: str) -> bool:
    """Whether a sentence says that something is settled.

    Example:
        >>> decides("We agreed on Lisbon."), decides("Lisbon is nice.")
        (True, False)
    """
    return bool(_DECIDES.search(sentence.casefold()) or _DECIDES_DENSE.search(sentence))


def open_ended(sentence: str) -> bool:
    """Whether a sentence says that something is not settled yet.

    Example:
        >>> open_ended("The venue is still open."), open_ended("The venue is large.")
        (True, False)
    """
    return bool(_OPEN.search(sentence.casefold()) or _OPEN_DENSE.search(sentence))
