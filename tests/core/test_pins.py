"""Pins: the exact things that a question mentions stay, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.compress.pins import answers_wh, pinned
from costwise_core.text.segments import segment


def pins(question, *sentences):
    text = "\n\n".join(sentences)
    pieces = segment(text)
    assert len(pieces) == len(sentences)
    return pinned(question, text, pieces)


@pytest.mark.parametrize(
    ("question", "sentence", "why"),
    [
        ("What does error E1234-X mean?", "Code e1234-x: no paper", "the identifier E1234-X"),
        ("Is 1,000 too much?", "We paid $1000 for it", "the number 1,000"),
        ("Who won in 1994?", "In 1994 Brazil won", "the number 1994"),
        ("What was wrong on Apollo 6?", "Apollo 6 shook", "the number 6"),
        ("Where is `max_retries` set?", "Set max_retries  to 3", "the code max_retries"),
        ("Where is max_retries set?", "Set `max_retries` here", "the identifier max_retries"),
        ("What does --no-cache do?", "Use --no-cache always", "the identifier --no-cache"),
        ("Who wrote “The  Raven”?", "Poe wrote the raven", "the quote The  Raven"),
        ("Who said 'to be'?", "Hamlet says to be or not", "the quote to be"),
        ("谁写了《红楼梦》？", "曹雪芹写了红楼梦", "the quote 红楼梦"),
        ("See https://a.b/c?d=1.", "It is at https://A.b/c?d=1 now", "the URL https://a.b/c?d=1"),
        ("Who is ada@x.org?", "Write to ada@x.org today", "the URL ada@x.org"),
        ("What is in app.config?", "Edit app.config first", "the identifier app.config"),
    ],
)
def test_what_is_mentioned_stays(question, sentence, why):
    assert pins(question, "Something else", sentence) == {1: f"holds {why}"}


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("Who won?", "In 1994 Brazil won 3 times"),
        ("Who won in 1994?", "It cost 11994 or 1,994.5"),
        ("What did Apollo 6 do?", "Apollo 7 took 6 days"),
        ("What is E12?", "See E123 and E-12"),
        ("It's Ann's and Bob's?", "s and Bob"),
        ("", "Anything 1"),
    ],
)
def test_nothing_else_does(question, sentence):
    assert pins(question, "Something else", sentence) == {}


@given(st.text(max_size=200), st.text(max_size=300))
def test_any_text_will_do(question, text):
    pieces = segment(text)
    found = pinned(question, text, pieces)
    assert set(found) <= set(range(len(pieces)))
    assert all(why.startswith("holds the ") for why in found.values())
    for piece in pieces:
        assert 0.0 <= answers_wh(question, text[piece.start : piece.end]) <= 1.0


def test_a_question_that_is_a_page_of_numbers_costs_no_square():
    text = " ".join(f"Line {i} of it." for i in range(300))
    assert len(pinned("1 2 3 4 " * 20_000, text, segment(text))) < 300


@pytest.mark.parametrize(
    ("question", "better", "worse"),
    [
        ("When was it built?", "It was built in 1889.", "It was built by Eiffel."),
        ("Wann wurde er gebaut?", "Er wurde am 3. Mai fertig.", "Er ist hoch."),
        ("它是什么时候建的？", "建于1889年。", "它很高。"),
        ("How many won?", "In all, 32 teams.", "It was in 1994."),
        ("How many won?", "It was seven teams.", "It was a team."),
        ("How many of the 32 teams won?", "Only 5 did.", "Of 32 teams some did."),
        ("Wie viele gewannen?", "Es waren 12.", "Es waren viele."),
        ("有多少人？", "有三百人。", "人都走了。"),
        ("Who built it?", "It was Gustave Eiffel.", "It was a man."),
        ("Who built it when he was old?", "It was Gustave Eiffel.", "It was in 1889."),
        ("Who built the Eiffel Tower?", "It was Maurice Koechlin.", "The Eiffel Tower stands."),
        ("Wer baute ihn?", "Er wurde von Gustave Eiffel gebaut.", "er ist hoch."),
        ("Where is it?", "It stands in Paris.", "It stands there."),
        ("它在哪里？", "在浙江省。", "很高。"),
    ],
)
def test_the_kind_of_thing_that_is_asked_for(question, better, worse):
    assert answers_wh(question, better) > answers_wh(question, worse)


def test_a_question_of_no_kind_gives_no_hint():
    assert answers_wh("Explain it.", "In 1889, Gustave Eiffel paid 5 francs in Paris.") == 0.0
