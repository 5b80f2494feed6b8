"""Words: what means the same meets, whatever way it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.text.words import words


@given(st.text(max_size=300))
def test_any_text_has_words_and_case_and_width_make_no_difference(text):
    found = words(text)
    assert all(found)
    assert found == words(text)
    wide = "".join(chr(ord(c) + 0xFEE0) if "0" <= c <= "z" and c.isalnum() else c for c in "Ab1")
    assert words(wide) == words("ab1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,000", "1000"),
        ("1,234,567.5", "1234567.5"),
        ("1.234.567,5", "1234567.5"),
        ("3,5", "3.5"),
        ("1\u202f000", "1000"),
        ("1’000", "1000"),
        ("１０００", "1000"),
        ("١٠٠٠", "1000"),
        ("tickets", "ticket"),
        ("companies", "Company"),
        ("STRASSE", "Straße"),
        ("Häusern", "Häuser"),
        ("Ihres Hauses", "ihrem Haus"),
        ("card's", "cards"),
        ("cafe\u0301", "café"),
        ("l'hôtel", "hôtel"),
    ],
)
def test_equal_words_meet(one, other):
    assert set(words(one)[-1:]) == set(words(other)[-1:])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.5", ["3.5"]),
        ("3.5kg", ["3.5kg", "3.5", "kg"]),
        ("1.000", ["1.000", "1000"]),
        ("2024-01-05", ["2024-01-05", "2024", "01", "05"]),
        ("1.2.3", ["1.2.3", "1", "2", "3"]),
        ("10:30", ["10:30", "10", "30"]),
        ("E1234-X.", ["e1234-x", "e1234", "x"]),
        ("snake_case", ["snake_case", "snak", "cas"]),
        ("and/or", ["or"]),
        ("C++ C#", ["c++", "c", "c#", "c"]),
        ("don't", ["don", "t"]),
        ("北京人", ["北", "北京", "京", "京人", "人"]),
        ("サン", ["サ", "サン", "ン"]),
        ("한국", ["한", "한국", "국"]),
        ("GPT模型", ["gpt", "模", "模型", "型"]),
        ("हिन्दी", ["हिन्दी"]),
        ("What is the price?", ["pric"]),
        ("\x00\ud800 - ... !", []),
    ],
)
def test_what_a_text_consists_of(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("unit", "last"),
    [("1, ", "1"), ("ab' ", "ab"), ("今", "今"), ("b\u0301", None), ("word ", "word")],
)
def test_long_input_does_not_stall(unit, last):
    """Work that grew with the square of the length would take minutes here."""
    found = words(unit * 300_000)
    assert found[-1] == last if last else len(found) == 1


@pytest.mark.parametrize("sign", "-,'_.@:")
def test_one_endless_word(sign):
    assert words(f"xy{sign}" * 100_000)[-1] == "xy"
