"""Extraction: verbatim pieces within one budget, whatever the text is."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core import (
    CachedEmbedder,
    Compressed,
    ExtractiveCompressor,
    MemoryVectors,
    OnnxEmbedder,
    Passage,
)
from costwise_core.compress.fusion import relevance
from costwise_core.compress.hops import asks_several, bridged
from costwise_core.compress.pieces import cut, joined
from costwise_core.errors import ConfigError
from costwise_core.passages import GAP
from costwise_core.testing.fakes import HashingEmbedder
from costwise_core.types import Matrix

QUESTION = "How long is the notice period of the Nimbus contract?"
FILLER = [
    "Fibre comes with a white router.",
    "The engineer calls an hour ahead.",
    "Television costs extra in winter.",
    "Our shops open at nine on Mondays.",
    "The catalogue is printed twice a year.",
]


def letters(text: str) -> int:
    return len(text)


def passages() -> list[Passage]:
    found = [
        Passage(id=str(i), title=f"Chapter {i}", text=" ".join(FILLER[i:] + FILLER[:i]))
        for i in range(5)
    ]
    text = found[3].text.replace("Our shops", "The notice period is 30 days. Our shops")
    found[3] = replace(found[3], text=text)
    return found


def small(**settings: object) -> ExtractiveCompressor:
    return ExtractiveCompressor(**{"min_tokens": 0, "counter": letters, **settings})  # type: ignore[arg-type]


def check(result: Compressed, given_: Sequence[Passage]) -> None:
    """Check what holds for every result."""
    assert result.given == tuple(given_)
    assert result.tokens_after <= result.tokens_before
    ids = [id(passage.ref) for passage in given_]
    assert [ids.index(id(passage.ref)) for passage in result.passages] == sorted(
        ids.index(id(passage.ref)) for passage in result.passages
    )
    for passage in result.passages:
        source = given_[ids.index(id(passage.ref))]
        assert passage.restored().text == source.restored().text
        if passage.original is None:
            assert passage.text == source.text
            continue
        assert joined(passage.original, passage.spans) == passage.text
        assert all(start < end for start, end in passage.spans)
        starts = [start for start, _ in passage.spans]
        assert starts == sorted(starts)
    assert len(result.passages) + len(result.dropped) == len(given_)


def test_keeps_the_sentence_that_answers() -> None:
    result = small(share=0.1).compress(QUESTION, passages())
    assert result.reason == "compressed"
    [kept] = [passage for passage in result.passages if passage.id == "3"]
    assert kept.text == "The notice period is 30 days."
    assert result.share_kept <= 0.1
    assert result.restore("3").text == passages()[3].text


def test_the_same_input_gives_the_same_bytes() -> None:
    first, again = (
        ExtractiveCompressor(embedder=HashingEmbedder(), share=0.3, min_tokens=0).compress(
            QUESTION, passages()
        )
        for _ in range(2)
    )
    assert first == again


def test_async_gives_the_same() -> None:
    compressor = small(embedder=HashingEmbedder(), share=0.3)
    assert asyncio.run(compressor.acompress(QUESTION, passages())) == compressor.compress(
        QUESTION, passages()
    )


def test_compressing_twice_keeps_offsets_into_the_first_original() -> None:
    once = small(share=0.6).compress(QUESTION, passages())
    twice = small(share=0.2).compress(QUESTION, once.passages)
    [kept] = [passage for passage in twice.passages if passage.id == "3"]
    assert kept.original == passages()[3].text
    assert joined(kept.original, kept.spans) == kept.text
    assert kept.restored().text == passages()[3].text


def test_text_that_was_rewritten_is_kept_or_left_out_whole() -> None:
    rewritten = Passage(text="notice period thirty days. call. pay.", original="Something else.")
    assert [piece.text for piece in cut([rewritten])] == [rewritten.text]
    other = Passage(text=" ".join(FILLER))
    result = small(share=0.3).compress(QUESTION, [rewritten, other])
    assert [passage.text for passage in result.passages] == [rewritten.text]
    assert result.passages[0].restored().text == "Something else."


def test_tables_and_code_are_whole_or_gone() -> None:
    table = "| plan | notice period |\n|---|---|\n| Nimbus | 30 days |\n| Cirrus | 10 days |"
    code = "```\ndef notice():\n    return 30\n```"
    text = f"{FILLER[0]} {FILLER[1]}\n\n{table}\n\n{FILLER[2]}\n\n{code}\n\n{' '.join(FILLER)}"
    for share in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9):
        result = small(share=share).compress(QUESTION, [Passage(text=text)])
        kept = "".join(passage.text for passage in result.passages)
        for whole in (table, code):
            assert whole in kept or not any(line in kept for line in whole.split("\n")[1:-1])
    assert table in small(share=0.4).compress(QUESTION, [Passage(text=text)]).passages[0].text


def test_a_marker_is_in_no_line_of_a_table() -> None:
    text = "a b.\n| a | b |\n| c | d |\nLast one."
    assert joined(text, [(0, 4), (5, 25)]).split("\n")[1] == GAP.strip()
    assert joined("One. Two. Three.", [(0, 4), (10, 16)]) == "One. [...] Three."


def test_what_the_question_mentions_exactly_is_pinned() -> None:
    given_ = [
        Passage(text=" ".join(FILLER * 4)),
        Passage(text=f"{FILLER[0]} See E1234-X there. {FILLER[1]}"),
    ]
    result = small(share=0.1).compress("Which router is it when the engineer sees E1234-X?", given_)
    assert "E1234-X" in result.passages[-1].text
    assert "identifier E1234-X" in result.passages[-1].why


def test_pins_never_take_the_whole_budget() -> None:
    rows = " ".join(f"Row {i} was logged in 1999." for i in range(200))
    given_ = [Passage(text=rows), Passage(text=f"The notice period is 30 days. {FILLER[0]}")]
    result = small(share=0.1).compress("What was the notice period in 1999?", given_)
    assert result.share_kept <= 0.1
    assert any("notice period is 30 days" in passage.text for passage in result.passages)


def test_what_was_said_before_is_left_out() -> None:
    answer = "The notice period of the Nimbus contract is 30 days."
    chunks = [
        Passage(text=f"{FILLER[0]} {answer}"),
        Passage(text=f"{answer} {FILLER[1]}"),
        Passage(text=" ".join(FILLER)),
    ]
    result = small(share=0.6).compress(QUESTION, chunks)
    assert sum(passage.text.count(answer) for passage in result.passages) == 1


def test_a_passage_that_a_relevant_one_names_is_relevant() -> None:
    films = [
        Passage(title="Jaws (film)", text="Jaws is a film. It was directed by Steven Spielberg."),
        Passage(title="Steven Spielberg", text="He was born in Cincinnati. He likes fish."),
        *(Passage(title=f"Film {i}", text=" ".join(FILLER[i:])) for i in range(4)),
    ]
    result = small(share=0.4).compress("Where was the director of Jaws born?", films)
    assert any("Cincinnati" in passage.text for passage in result.passages)


@pytest.mark.parametrize(
    ("question", "several"),
    [
        ("Which of both contracts has the longer notice period?", True),
        ("Is the Nimbus older or younger than the Cirrus?", True),
        ("Welche Frist haben die beiden Verträge?", True),
        ("两者有什么区别?", True),
        ("What is the notice period?", False),
        ("", False),
    ],
)
def test_questions_over_several_passages(question: str, several: bool) -> None:
    given_ = passages()
    result = small(share=0.2, several_share=0.6).compress(question or "?", given_)
    assert (result.share_kept > 0.2) == several
    assert ("compares" in result.why) == several


def test_several_names_and_a_further_passage() -> None:
    question = "Which film company founded by Steven Spielberg employed engineers Lucas trained?"
    names, of = [["dreamwork"], ["industri", "light"]], np.array([0, 1])
    alone, linked = np.log([0.99, 0.01]), np.log([0.99, 0.5])
    assert "several names" in asks_several(question, names, alone, linked, of)
    assert asks_several(question, names, alone, alone, of) == ""
    assert asks_several("Did Spielberg meet Lucas?", names, alone, linked, of) == ""
    assert asks_several(question.lower(), names, alone, linked, of) == ""


def test_names_do_not_vouch_for_their_own_passage() -> None:
    scores = np.log([0.9, 0.1])
    same = bridged(scores, [["jaw"], ["fish"]], [["jaw"], []], np.array([0, 1]))
    assert same.tolist() == scores.tolist()


def test_names_lead_on_twice() -> None:
    pieces = [["by", "spielberg"], ["born", "ohio"], ["ohio", "river"], ["fish"]]
    names = [["jaw"], ["spielberg"], ["ohio"], ["whale"]]
    before = np.log([0.97, 0.01, 0.01, 0.01])
    after = bridged(before, pieces, names, np.arange(4))
    assert (after - before > 1).tolist() == [False, True, True, False]


@settings(max_examples=60)
@given(
    question=st.lists(st.sampled_from("abcdef"), max_size=5),
    pieces=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=5), min_size=1, max_size=12),
    cosines=st.none() | st.lists(st.floats(-1, 1), min_size=12, max_size=12),
    every=st.integers(1, 4),
)
def test_relevance_is_a_probability(
    question: list[str], pieces: list[list[str]], cosines: list[float] | None, every: int
) -> None:
    of = np.arange(len(pieces)) // every
    near = None if cosines is None else np.array(cosines[: len(pieces)])
    scores = relevance(question, pieces, [[]] * len(pieces), of, near)
    assert np.exp(scores).sum() == pytest.approx(1)
    names = [["a"], ["b", "c"], *([[]] * len(pieces))][: len(pieces)]
    assert (bridged(scores, pieces, names, of) >= scores).all()


def test_what_the_question_asks_for_decides_within_a_passage() -> None:
    pieces, of = [["tower"], ["tower"], ["fish"]], np.array([0, 0, 1])
    scores = relevance(["tower"], pieces, [[], []], of, None, np.array([0.0, 1.0, 1.0]))
    assert scores.argmax() == 1


def test_a_floor_for_each_passage_is_the_one_thing_over_budget() -> None:
    result = small(share=0.05, keep_per_passage=1).compress(QUESTION, passages())
    assert [passage.id for passage in result.passages] == ["0", "1", "2", "3", "4"]
    assert result.share_kept > 0.05


def test_max_tokens_caps_every_share() -> None:
    compressor = small(share=0.5, several_share=0.9, max_tokens=100)
    result = compressor.compress("Compare both notice periods.", passages())
    assert 0 < result.tokens_after <= 100


def test_when_nothing_fits_the_best_piece_is_kept() -> None:
    result = small(share=1.0, max_tokens=1).compress(QUESTION, passages())
    assert [passage.text for passage in result.passages] == ["The notice period is 30 days."]


@pytest.mark.parametrize(
    ("question", "given_", "settings_", "reason"),
    [
        ("", passages(), {}, "no_question"),
        (" \n", passages(), {}, "no_question"),
        (QUESTION, [], {}, "no_passages"),
        (QUESTION, passages(), {"min_tokens": 10_000}, "short"),
        (QUESTION, passages(), {"share": 1.0}, "short"),
        (QUESTION, [Passage(text=" \n ")], {}, "no_saving"),
    ],
)
def test_input_that_comes_back_as_it_was(
    question: str, given_: list[Passage], settings_: dict[str, object], reason: str
) -> None:
    result = small(**settings_).compress(question, given_)
    assert result.reason == reason
    assert result.why
    assert result.passages == tuple(given_)


class Broken:
    name = "broken"

    def embed(self, texts: Sequence[str], role: str = "query") -> Matrix:
        raise ConnectionError(role, len(texts))


def test_an_embedder_that_fails_is_done_without() -> None:
    result = small(embedder=Broken(), share=0.1).compress(QUESTION, passages())
    assert any("30 days" in passage.text for passage in result.passages)
    assert "ConnectionError" in result.why


def test_it_fails_open() -> None:
    calls = []

    def counter(text: str) -> int:
        calls.append(text)
        if len(calls) > len(passages()):
            raise RuntimeError("no tokenizer")
        return len(text)

    result = small(counter=counter, share=0.1).compress(QUESTION, passages())
    assert result.reason == "error"
    assert "RuntimeError" in result.why
    assert result.passages == tuple(passages())


@pytest.mark.parametrize(
    "settings_",
    [
        {"share": 0.0},
        {"share": 1.1},
        {"share": float("nan")},
        {"several_share": 0},
        {"max_tokens": 0},
        {"keep_per_passage": -1},
        {"min_tokens": 1.5},
    ],
)
def test_wrong_settings(settings_: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings_))):
        small(**settings_)


def test_ingested_passages_cost_only_the_question() -> None:
    embedder = CachedEmbedder(HashingEmbedder(), cache=MemoryVectors())
    compressor = small(embedder=embedder, share=0.2)
    pieces = compressor.ingest(passages())
    assert pieces == 26
    before = embedder.stats.misses
    compressor.compress(QUESTION, passages())
    assert embedder.stats.misses == before + 1
    assert asyncio.run(compressor.aingest(passages())) == pieces
    with pytest.raises(ConfigError, match="embedder"):
        small().ingest(passages())


def test_one_huge_passage_embeds_a_bounded_number_of_pieces() -> None:
    embedded = []

    class Counting(HashingEmbedder):
        def embed(self, texts: Sequence[str], role: str = "query") -> Matrix:
            embedded.extend(texts)
            return super().embed(texts, role)  # type: ignore[arg-type]

    text = " ".join(f"Sentence number {i} says nothing of use to anybody." for i in range(20_000))
    text += " The notice period is 30 days."
    result = ExtractiveCompressor(embedder=Counting(), share=0.01).compress(
        QUESTION, [Passage(text=text)]
    )
    assert result.reason == "compressed"
    assert result.share_kept <= 0.01
    assert len(embedded) <= 1001
    assert "The notice period is 30 days." in result.passages[0].text


def test_other_scripts() -> None:
    german = "Die Zentrale liegt in Köln. Die Kündigungsfrist beträgt z. B. 30 Tage. Wir rufen an."
    chinese = "总部位于北京。合同的通知期为三十天。我们每天营业。"
    arabic = "يقع المقر في القاهرة. مدة الإشعار ثلاثون يوما. نحن مفتوحون كل يوم."
    for text, question, answer in (
        (german, "Wie lang ist die Kündigungsfrist?", "30 Tage."),
        (chinese, "通知期是多久?", "通知期为三十天。"),
        (arabic, "ما هي مدة الإشعار؟", "مدة الإشعار ثلاثون يوما."),
    ):
        [kept] = small(share=0.55).compress(question, [Passage(text=text)]).passages
        assert answer in kept.text
        assert kept.text != text


ANY = st.text(max_size=300) | st.from_regex(re.compile(r"([A-Za-z]{1,9}[ .!?\n|]){0,40}"))
ODD = st.sampled_from(
    ["\ud800 alone. Next.", "\x00\x01. \xff", "אחת. שתיים. שלוש.", "。。", "\r\n\r"]
)


@settings(max_examples=150)
@given(
    question=ANY | ODD,
    texts=st.lists(ANY | ODD, max_size=6),
    titles=st.lists(st.text(max_size=12), min_size=6, max_size=6),
    share=st.floats(0.01, 1.0),
    dense=st.booleans(),
)
def test_any_text(
    question: str, texts: list[str], titles: list[str], share: float, dense: bool
) -> None:
    given_ = [
        Passage(id="same", title=title, text=text, ref=object())
        for title, text in zip(titles, texts, strict=False)
    ]
    compressor = ExtractiveCompressor(
        embedder=HashingEmbedder() if dense else None,
        share=share,
        several_share=None,
        min_tokens=0,
        counter=letters,
    )
    result = compressor.compress(question, given_)
    check(result, given_)
    assert result.reason in {"compressed", "short", "no_question", "no_passages", "no_saving"}
    if result.reason == "compressed":
        pieces = sum(len(p.spans) or 1 for p in result.passages)
        assert result.tokens_after <= share * result.tokens_before or pieces == 1
    again = compressor.compress(question, result.passages)
    check(again, result.passages)


def test_the_default_model_finds_what_shares_no_word() -> None:
    given_ = [
        Passage(
            title="Terms", text="We began in 1999. You may quit with 30 days warning. Call us."
        ),
        Passage(title="Router", text=" ".join(FILLER)),
    ]
    question = "How do I cancel my subscription?"
    result = small(embedder=OnnxEmbedder(), share=0.25).compress(question, given_)
    assert "You may quit with 30 days warning." in result.passages[0].text
    assert [passage.title for passage in result.passages] == ["Terms"]
