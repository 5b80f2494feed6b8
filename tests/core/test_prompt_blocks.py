"""Instruction blocks: sent when needed, in a stable order, in doubt rather sent than not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core.errors import ConfigError
from costwise_core.prompt.blocks import Block, InstructionBlocks, Like
from costwise_core.testing.fakes import HashingEmbedder

ROLE = Block(name="role", text="You sell bikes.")
REFUNDS = Block(name="refunds", text="Refunds take a week.", when=("refund", "money back"))
ORDERS = Block(name="orders", text="Look the order up.", when=re.compile(r"#\d{4,}"))
LONG = Block(name="long", text="Summarise first.", when=lambda request: len(request) > 200)
TONE = Block(name="tone", text="Be kind.")
ALL = [REFUNDS, ROLE, ORDERS, LONG, TONE]


def included(built):
    return [choice.name for choice in built.choices if choice.included]


class TestConditions:
    @pytest.mark.parametrize(
        ("request_", "names"),
        [
            ("Do you have red bikes?", ["role", "tone"]),
            ("I want REFUNDS!", ["refunds", "role", "tone"]),
            ("Give me my money back", ["refunds", "role", "tone"]),
            ("Back to the money", ["role", "tone"]),
            ("Where is #12345?", ["role", "orders", "tone"]),
            ("why " * 60, ["role", "long", "tone"]),
            ("", ["role", "tone"]),
            ("\ud800", ["role", "tone"]),
        ],
    )
    def test_each_kind(self, request_, names):
        assert included(InstructionBlocks(ALL).build(request_)) == names

    def test_words_of_scripts_without_spaces(self):
        block = Block(name="refund", text="退款需要一周。", when=("退款",))
        assert included(InstructionBlocks([block]).build("我想退款可以吗")) == ["refund"]
        assert included(InstructionBlocks([block]).build("我想买车")) == []

    def test_likeness(self):
        like = Like(requests=("I want my money back", "send it back"), min_cosine=0.6)
        blocks = InstructionBlocks(
            [ROLE, Block(name="refunds", text="A week.", when=like)], embedder=HashingEmbedder()
        )
        built = blocks.build("I want my money back now")
        assert included(built) == ["role", "refunds"]
        assert "'I want my money back' (cosine 0." in built.choices[1].why
        assert included(blocks.build("Do you sell bells?")) == ["role"]

    def test_what_cannot_be_asked_is_included_and_says_why(self):
        class Broken:
            name = "broken"

            def embed(self, texts, role="query"):
                raise ConnectionError("no network")

        def fails(request):
            raise KeyError(request)

        like = Like(requests=("x",), min_cosine=0.5)
        blocks = InstructionBlocks(
            [Block(name="a", text="A", when=like), Block(name="b", text="B", when=fails)],
            embedder=Broken(),
        )
        built = blocks.build("secret")
        assert included(built) == ["a", "b"]
        assert [choice.why for choice in built.choices] == [
            "its condition raised ConnectionError",
            "its condition raised KeyError",
        ]

    async def test_async_builds_the_same(self):
        like = Like(requests=("I want my money back",), min_cosine=0.6)
        blocks = InstructionBlocks(
            [ROLE, Block(name="refunds", text="A week.", when=like)], embedder=HashingEmbedder()
        )
        assert await blocks.abuild("my money back") == blocks.build("my money back")


class TestText:
    def test_the_beginning_is_the_same_for_every_request(self):
        built = [InstructionBlocks(ALL).build(r) for r in ("refund", "#12345", "hello")]
        assert {one.text[: one.steady] for one in built} == {"You sell bikes.\n\nBe kind."}

    def test_order_is_that_given(self):
        built = InstructionBlocks(ALL).build("refund for #12345")
        assert built.text == (
            "You sell bikes.\n\nBe kind.\n\nRefunds take a week.\n\nLook the order up."
        )

    def test_tokens_saved(self):
        blocks = InstructionBlocks([ROLE, REFUNDS])
        assert blocks.build("refund").tokens_saved == 0
        assert blocks.build("hello").tokens_saved > 3

    def test_no_blocks(self):
        built = InstructionBlocks([]).build("hello")
        assert (built.text, built.steady, built.tokens, built.tokens_saved) == ("", 0, 0, 0)

    @given(st.text(max_size=300))
    def test_any_request(self, request):
        built = InstructionBlocks(ALL).build(request)
        assert built.text.startswith("You sell bikes.\n\nBe kind.")
        assert len(built.choices) == len(ALL)


class TestBadInput:
    def test_two_of_one_name(self):
        with pytest.raises(ConfigError, match="'role'"):
            InstructionBlocks([ROLE, ROLE])

    def test_likeness_needs_an_embedder(self):
        like = Like(requests=("x",), min_cosine=0.5)
        with pytest.raises(ConfigError, match="give an embedder"):
            InstructionBlocks([Block(name="a", text="A", when=like)])

    @pytest.mark.parametrize("when", ["refund", 3, (), ("",), ("...",)])
    def test_conditions_not_understood(self, when):
        with pytest.raises(ConfigError, match="'a'"):
            InstructionBlocks([Block(name="a", text="A", when=when)])

    def test_like_needs_requests_and_a_cosine(self):
        with pytest.raises(ConfigError, match="at least one"):
            Like(requests=(), min_cosine=0.5)
        with pytest.raises(ConfigError, match="min_cosine"):
            Like(requests=("x",), min_cosine=1.5)
