"""Segments: nothing lost, nothing doubled, and no sentence cut where it does not end."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.text.segments import LONGEST, segment

DATA = Path("../shared/data/rag")
PIECES = [
    "# Title\n",
    "- item\n",
    "1. item\n",
    "  more\n",
    "```\n",
    "```py\n",
    "| a | b |\n",
    "|---|---|\n",
    "    x = 1\n",
    "<table>",
    "</table>",
    "<pre>",
    "</pre>",
    "---\n",
    "Dr. No. ",
    "z. B. ",
    "今天。",
    "؟ ",
    "। ",
    "...",
    "\r\n",
    "\n\n",
    "\u2028",
    " ",
    "\t",
    "\x00",
    "\ud800",
    "e\u0301",
    "word",
    "3.5",
    "(\u201cA.\u201d)",
]
TEXTS = st.one_of(st.text(max_size=400), st.lists(st.sampled_from(PIECES)).map("".join))


def cut(text):
    return [(piece.kind, text[piece.start : piece.end]) for piece in segment(text)]


def texts(text):
    return [held for _, held in cut(text)]


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_only_white_space_is_outside_and_nothing_overlaps(text):
    at = 0
    for piece in segment(text):
        assert piece.start >= at
        assert not text[at : piece.start].strip()
        held = text[piece.start : piece.end]
        assert held
        assert held == held.strip()
        assert len(held) <= LONGEST[piece.kind]
        at = piece.end
    assert not text[at:].strip()


@pytest.mark.parametrize("text", ["", " ", "\n\n\t", "\u3000\u2028"])
def test_white_space_has_no_segments(text):
    assert segment(text) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith met Mrs. Jones at 5 p.m. in St. Louis.",
        "Fruit, e.g. Apples, i.e. Food.",
        "The U.S. Army bought No. 5 from J. K. Rowling.",
        "See Fig. 3, Vol. 2, pp. 7 of the report by E. I. du Pont.",
        "It rose by 3.5 percent to 1.000.000 in v. 2.0.",
        "Yahoo! is a company, and Jeopardy? is none.",
        "He asked “Why?” and left (without a word!).",
        "Well... maybe not.",
        "Das gilt z. B. für Hunde, d.h. Tiere, bzw. Katzen.",
        "Er wurde am 3. Mai 1945 in der 2. Kompanie befördert.",
        "Im Laufe des 18. und 19. Jahrhunderts wuchs die Stadt.",
        "Al-Biruni (973-1048 n. Chr.) war Gelehrter.",
        "M. Dupont habite av. Foch, c.-à-d. Paris.",
        "El Sr. García y la Dra. López llegaron.",
        "The court cited 268 U.S. 510 (1925).",
        "Jones et al. 1998 disagree.",
        "Trinity-St. Paul's (a.k.a. The Mutants) is open.",
        "Ludwig XIV. Hof war groß.",
        "It was founded in\n1994.",
    ],
)
def test_one_sentence_stays_one(sentence):
    assert texts(sentence) == [sentence]
    assert texts(f"{sentence} Then it ended.")[0].startswith(sentence)


@pytest.mark.parametrize(
    "sentences",
    [
        ["One.", "Two!", "Three?", "Four…", "Five."],
        ["He said “No.”", "Then he left (at last.)", "The end."],
        ["It was cited.[12]", "Then [note 3] it was not."],
        ["He moved to the U.S.", "The rest stayed."],
        ["They arrived at 6 p.m.", "However, nobody was there."],
        ["He scored 24.", "The game ended."],
        ["Das war am 3. Mai.", "Danach kam nichts."],
        ["¿Qué es?", "¡Nada!", "Bueno."],
        ["C’est fini.", "«Quoi?»", "Rien."],
        ["ما هذا؟", "هذا كتاب."],
        ["یہ ہے۔", "وہ ہے۔"],
        ["यह है।", "वह है।"],
        ["i went home.", "it was late."],
        ["Это дом.", "Он старый."],
    ],
)
def test_sentences_are_told_apart(sentences):
    assert texts(" ".join(sentences)) == sentences
    assert texts("\n".join(sentences)) == sentences


def test_scripts_without_spaces():
    assert texts("今天很好。明天呢？「好！」他说。完") == [
        "今天很好。",
        "明天呢？",
        "「好！」他说。",
        "完",
    ]


def test_hard_wrapped_lines_are_one_sentence():
    text = (
        "A sentence that somebody has wrapped at a fixed width goes on in\n"
        "the next line and ends here. Another one begins there, and it is\n"
        "Berlin that it ends with."
    )
    first, second = texts(text)
    assert first.endswith("at a fixed width goes on in\nthe next line and ends here.")
    assert second == "Another one begins there, and it is\nBerlin that it ends with."


def test_lines_that_stand_alone_are_cut():
    text = "Name: Ada\nBorn: 1815\nCity: London"
    assert texts(text) == text.split("\n")
    long = "It goes on " * 30
    assert len(texts(f"{long}end\nNext line\n{long}end")) == 3


def test_formulas_that_were_torn_apart_stay_together():
    assert texts("Burning needs O\n2 and gives CO\n2 to the air") == [
        "Burning needs O\n2 and gives CO\n2 to the air"
    ]


@pytest.mark.parametrize(
    "heading",
    ["# A", "### A b ###", "Title\n=====", "Title\n-----", "== History ==", "<h2>A</h2>"],
)
def test_headings(heading):
    assert cut(f"{heading}\nText. More.") == [
        ("heading", heading),
        ("sentence", "Text."),
        ("sentence", "More."),
    ]


def test_an_item_is_one_segment_with_its_continuation():
    text = "To do:\n- First. It goes on\n  here.\n- Second\n\n  with a paragraph.\n\nAfter. End."
    assert cut(text) == [
        ("sentence", "To do:"),
        ("list", "- First. It goes on\n  here."),
        ("list", "- Second\n\n  with a paragraph."),
        ("sentence", "After."),
        ("sentence", "End."),
    ]
    assert [kind for kind, _ in cut("1. a\n2. b\n  - c\n\n(iii) d\n• e\n* f")] == ["list"] * 6


def test_a_number_that_begins_a_wrapped_line_is_no_item():
    assert [kind for kind, _ in cut("It was founded in the year of our Lord\n1994. Then")] == [
        "sentence",
        "sentence",
    ]


@pytest.mark.parametrize(
    "table",
    [
        "| a | b |\n|---|---|\n| 1. X | 2 |",
        "a | b\n--- | ---\n1. X | 2",
        "| 1. X | 2 |\n| 3 | 4 |",
        "+---+---+\n| a | b |\n+---+---+",
        "Year\tPrice\n2020\t5\n2021\t6",
        "<table><tr><td>A. B</td></tr>\n\n<tr><td><table></table></td></tr></table>",
    ],
)
def test_tables_stay_whole(table):
    assert cut(f"Before.\n{table}\n\nAfter. End.") == [
        ("sentence", "Before."),
        ("table", table),
        ("sentence", "After."),
        ("sentence", "End."),
    ]


@pytest.mark.parametrize(
    "code",
    [
        "```python\nx = 1. \n\n# no heading\n```",
        "~~~\n```\n- a\n~~~",
        "````md\n```py\nx\n```\n````",
        "<pre>a. B\n\nc</pre>",
        "def f(x):\n    return g(x)\n\nclass A:\n    b = f(1)",
    ],
)
def test_code_stays_whole(code):
    assert cut(f"Before.\n\n{code}\n\nAfter. End.") == [
        ("sentence", "Before."),
        ("code", code),
        ("sentence", "After."),
        ("sentence", "End."),
    ]


def test_indented_code_and_indented_prose():
    assert cut("So:\n\n    x = f(1);\n\n    y = 2;\n\nEnd.")[1] == (
        "code",
        "x = f(1);\n\n    y = 2;",
    )
    assert [kind for kind, _ in cut("    Once upon a time. It was.\n    Two of us.")] == [
        "sentence"
    ] * 3


def test_a_statute_is_no_code():
    text = "It grants the right to be heard;\nthe right to counsel;\nand the right to appeal."
    assert {kind for kind, _ in cut(text)} == {"sentence"}


def test_a_chunk_that_begins_within_code_does_not_swallow_the_text_after_it():
    text = "x = 1\n```\nProse here. More prose.\n```python\ny = 2\n```\nEnd."
    assert [held for kind, held in cut(text) if kind == "sentence"] == [
        "x = 1",
        "Prose here.",
        "More prose.",
        "End.",
    ]
    assert cut("Text.\n```python\ny = 2\n\nz = 3")[1] == ("code", "```python\ny = 2\n\nz = 3")


def test_tags_that_are_never_closed_are_text():
    assert texts("Use <table> here. Not <pre> there.") == ["Use <table> here.", "Not <pre> there."]


@pytest.mark.parametrize(
    "text",
    ["word " * 50_000, "A" * 200_000, "今" * 5_000, "a, " * 2_000, "- " + "Word. " * 900],
    ids=["words", "base64", "dense", "commas", "item"],
)
def test_what_never_ends_is_cut(text):
    pieces = segment(text)
    assert max(piece.end - piece.start for piece in pieces) <= 1_000
    assert "".join(texts(text)).replace(" ", "") == text.replace(" ", "")
    if " " in text:  # between words only
        assert {word for held in texts(text) for word in held.split()} == set(text.split())


def test_a_huge_table_is_cut_between_rows():
    rows = [f"| {i} | x |" for i in range(2_000)]
    assert [row for held in texts("\n".join(rows)) for row in held.split("\n")] == rows


HOSTILE = {
    "stops": ".",
    "stops apart": ". ",
    "closers": ".)",
    "open tables": "<table>",
    "tables": "<table></table>",
    "tag": "<table ",
    "fences": "```\n",
    "languages": "```py\n",
    "rows": "a|b\n",
    "items": "- a\n\n",
    "initials": "A. ",
    "numbers": "1. ",
    "indented": "    a\n\n",
    "calls": "a(",
    "rules": "---\n",
    "spaces": " ",
    "lines": "Line\n",
    "dense": "今。",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_does_not_stall(unit):
    """Work that grew with the square of the length would take minutes here."""
    text = "a" + unit * (250_000 // len(unit))
    assert "".join("".join(texts(text)).split()) == "".join(text.split())


def test_a_megabyte():
    page = "# Title\n\nA sentence of e.g. 3.5 words. Another one\nhere.\n\n- item\n\n| a | b |\n\n"
    text = page * (1_000_000 // len(page))
    assert len(segment(text)) == 5 * text.count("# Title")


def answers(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} beside the project")
    if path.suffix == ".json":
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    for answer in question["answers"]:
                        yield paragraph["context"], answer["answer_start"], answer["text"]
    else:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                for question in row["qas"]:
                    for answer in question["answers"]:
                        yield row["context"], row["context"].find(answer), answer


@pytest.mark.parametrize("name", ["xquad.de.json", "xquad.zh.json", "squad-v1.1-dev.jsonl.gz"])
def test_answers_are_hardly_ever_cut(name):
    pieces, total, split = {}, 0, 0
    for text, start, answer in answers(name):
        held = pieces.setdefault(text, segment(text)) if text not in pieces else pieces[text]
        total += 1
        split += not any(
            piece.start <= start and start + len(answer.rstrip()) <= piece.end for piece in held
        )
    assert split / total < 0.005
