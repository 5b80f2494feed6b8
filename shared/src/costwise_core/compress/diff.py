"""What a compressor left out, word for word, for a person to look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from costwise_core.display_table import STYLE

if TYPE_CHECKING:
    from costwise_core.passages import Compressed, Passage, Span

__all__ = ["CompressionDiff"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressionDiff:
    """Passages with what was left out of them marked; `print` it, or show it in a notebook.

    Made by `Compressed.diff`.

    Args:
        compressed: What the compressor made.

    Example:
        >>> from costwise_core import Compressed, Passage
        >>> kept = Passage(id="1", text="b.", original="a. b.", spans=((3, 5),))
        >>> result = Compressed(
        ...     passages=(kept,), given=(kept.restored(),), tokens_before=4, tokens_after=2,
        ...     reason="compressed",
        ... )
        >>> print(CompressionDiff(compressed=result))
        2 of 4 tokens kept
        [1] [-a. -]b.
    """

    compressed: "Compressed"

    def __str__(self) -> str:
        """Return the passages, what was left out between [- and -]."""
        lines = [self._heading()]
        for passage, pieces, why in self._passages():
            text = "".join(piece if kept else f"[-{piece}-]" for piece, kept in pieces)
            lines.append(f"{self._label(passage)}{text}" + (f"  ({why})" if why else ""))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        blocks = []
        for passage, pieces, why in self._passages():
            text = "".join(
                escape(piece) if kept else f"<del>{escape(piece)}</del>" for piece, kept in pieces
            )
            note = f"<small>{escape(why)}</small>" if why else ""
            blocks.append(
                f"<p class=passage><b>{escape(self._label(passage))}</b>{text} {note}</p>"
            )
        return (
            f'<div class="costwise-table costwise-diff">{STYLE}{_STYLE}'
            f'<p class="net">{escape(self._heading())}</p>{"".join(blocks)}</div>'
        )

    def _heading(self) -> str:
        result = self.compressed
        return f"{result.tokens_after:,} of {result.tokens_before:,} tokens kept"

    @staticmethod
    def _label(passage: "Passage") -> str:
        name = passage.title or passage.id
        return f"[{name}] " if name else ""

    def _passages(self) -> "Iterator[tuple[Passage, list[tuple[str, bool]], str]]":
        """Yield each given passage in its pieces, and why it went if it did."""
        result = self.compressed
        kept = {_key(passage): passage for passage in result.passages}
        gone = {_key(one.passage): one.why for one in result.dropped}
        for given in result.given:
            text = given.restored().text
            passage = kept.get(_key(given))
            if passage is None:
                yield given, [(text, False)], gone.get(_key(given), "dropped")
            else:
                yield given, list(_pieces(text, passage.spans)), passage.why


def _key(passage: "Passage") -> tuple[str, str]:
    return passage.id, passage.restored().text


def _pieces(text: str, spans: "tuple[Span, ...]") -> Iterator[tuple[str, bool]]:
    if not spans:
        yield text, True
        return
    place = 0
    for start, end in sorted(spans):
        if start > place:
            yield text[place:start], False
        yield text[start:end], True
        place = end
    if place < len(text):
        yield text[place:], False


_STYLE: Final = (
    "<style>.costwise-diff p.passage{opacity:1;max-width:90ch;margin:8px 0}"
    ".costwise-diff del{opacity:.45;text-decoration-color:#d0702c}"
    ".costwise-diff small{opacity:.6}</style>"
)
