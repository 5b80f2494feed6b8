"""Retrieved passages on their way to the prompt, and what a compressor made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from costwise_core.errors import CostwiseError, nearest
from costwise_core.types import Saving, Vector

if TYPE_CHECKING:
    from costwise_core.compress.diff import CompressionDiff
    from costwise_core.protocols import TokenCounter

__all__ = ["Compressed", "Dropped", "Passage", "Span", "tokens_of"]

Span: TypeAlias = tuple[int, int]
"""Start and end (exclusive) of a verbatim piece, in characters of the original text."""

GAP: Final = " [...] "


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """One retrieved text, whole or compressed.

    Args:
        text: What would go into the prompt.
        id: Of the document or node; need not be unique, "" is unknown.
        title: Its title, heading or file name; counts when relevance is judged.
        header: What the prompt carries before the text, such as rendered metadata, and which is
            paid for with it; None if that is the title.
        score: Relevance, higher is better; None is unknown. What the retriever gave, until a scorer
            puts its own there.
        vector: Embedding of the whole text where the vector store handed it over.
        metadata: Whatever else is known; carried along, never changed.
        original: The text as it was retrieved, None while `text` is that.
        spans: Which pieces of the original `text` consists of, in order; empty is all of it.
        why: One sentence for a person: why it was kept.
        ref: The caller's own object, carried along untouched.

    Example:
        >>> passage = Passage(text="b.", original="a. b.", spans=((3, 5),))
        >>> passage.original[slice(*passage.spans[0])]
        'b.'
        >>> passage.restored().text
        'a. b.'
    """

    text: str
    id: str = ""
    title: str = ""
    header: str | None = None
    score: float | None = None
    vector: Vector | None = field(default=None, compare=False, repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    original: str | None = None
    spans: tuple[Span, ...] = ()
    why: str = ""
    ref: Any = field(default=None, compare=False, repr=False)

    @property
    def heading(self) -> str:
        """What the prompt carries before the text: the header, or else the title, and a newline."""
        header = self.title if self.header is None else self.header
        return f"{header}\n" if header else ""

    def restored(self) -> "Passage":
        """Return the passage with the text it was retrieved with."""
        if self.original is None:
            return self
        return replace(self, text=self.original, original=None, spans=(), why="")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A passage that was left out, and why."""

    passage: Passage
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Compressed:
    """What a compressor made of some passages; keeps everything needed to undo it.

    Args:
        passages: What should go into the prompt, in this order.
        given: What the compressor was given.
        dropped: Passages left out whole.
        tokens_before: Of all given passages, headers or titles included.
        tokens_after: Of all kept ones.
        reason: One of a small set of words that are counted: "compressed", or for input passed
            through as it was "short", "no_question", "no_passages", "not_worth_it", "no_price",
            "no_saving", "timeout", "error".
        why: One sentence for a person, with the numbers the decision rests on.
        saving: The dollars, where they were asked for (`WhenWorthIt`) and something was saved.

    Example:
        >>> result = Compressed.unchanged([Passage(text="a", id="1")], tokens=1, reason="short")
        >>> result.share_kept, result.restore("1").text
        (1.0, 'a')
    """

    passages: tuple[Passage, ...]
    given: tuple[Passage, ...]
    tokens_before: int
    tokens_after: int
    reason: str
    why: str = ""
    dropped: tuple[Dropped, ...] = ()
    saving: Saving | None = None

    @classmethod
    def unchanged(
        cls, passages: Sequence[Passage], *, tokens: int, reason: str, why: str = ""
    ) -> "Compressed":
        """Return the result of leaving everything as it is."""
        given = tuple(passages)
        return cls(
            passages=given,
            given=given,
            tokens_before=tokens,
            tokens_after=tokens,
            reason=reason,
            why=why,
        )

    @property
    def tokens_saved(self) -> int:
        """Tokens that need not be sent; never counted below the truth."""
        return self.tokens_before - self.tokens_after

    @property
    def share_kept(self) -> float:
        """Tokens kept of all tokens, 1.0 when there were none."""
        return self.tokens_after / self.tokens_before if self.tokens_before else 1.0

    def diff(self) -> "CompressionDiff":
        """Return the passages with what was left out marked, to print or show in a notebook."""
        from costwise_core.compress.diff import CompressionDiff  # noqa: PLC0415 - only to look

        return CompressionDiff(compressed=self)

    def restore(self, passage_id: str) -> Passage:
        """Return a given passage as it was retrieved, whether it was kept or not.

        Raises:
            CostwiseError: if no passage had this id.
        """
        for passage in self.given:
            if passage.id == passage_id:
                return passage.restored()
        known = [passage.id for passage in self.given]
        raise CostwiseError(
            f"no passage has the id {passage_id!r}; there were {len(known)} passages."
            + nearest(passage_id, known)
        )


def tokens_of(passages: Sequence[Passage], count: "TokenCounter") -> list[int]:
    """Return how many tokens each passage adds to a prompt, its header or title included.

    Example:
        >>> tokens_of([Passage(text="a b", title="c"), Passage(text="a")], lambda t: len(t.split()))
        [3, 1]
    """
    return [count(f"{passage.heading}{passage.text}") for passage in passages]
