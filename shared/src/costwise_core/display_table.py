"""Tables for terminals and notebooks, drawn as the bill is."""

from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import Final

__all__ = ["STYLE", "as_html", "as_text", "usd"]


def usd(amount: Decimal) -> str:
    """Return dollars with as many decimals as show two digits of them, and at least cents.

    Example:
        >>> usd(Decimal("1234.5")), usd(Decimal("0.0001234")), usd(Decimal(-3))
        ('$1,234.50', '$0.00012', '-$3.00')
    """
    places = min(max(2, 1 - amount.adjusted()), 12) if amount else 2
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{places}f}"


def as_text(
    heading: str, rows: Sequence[Sequence[str]], *, left: int = 1, notes: Sequence[str] = ()
) -> str:
    """Return a table of plain text.

    Args:
        heading: The line above it.
        rows: Cells; the first row names the columns.
        left: How many of the first columns are aligned left; the others are numbers.
        notes: Lines below it.

    Example:
        >>> print(as_text("Fruit", [("", "pieces"), ("apples", "12")], notes=["all fresh"]))
        Fruit
                  pieces
          apples      12
          all fresh
    """
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:<{size}}" if column < left else f"{cell:>{size}}"
            for column, (cell, size) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n  ".join([heading, *lines, *notes])


def as_html(
    heading: str, rows: Sequence[Sequence[str]], *, left: int = 1, notes: Sequence[str] = ()
) -> str:
    """Return the same table as one self-contained HTML fragment, everything in it escaped.

    Example:
        >>> as_html("<1>", [("a",)]).count("&lt;1&gt;")
        1
    """

    def drawn(row: Sequence[str], tag: str) -> str:
        cells = (
            f"<{tag}{' class=words' if column < left else ''}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(row)
        )
        return f"<tr>{''.join(cells)}</tr>"

    head = drawn(rows[0], "th") if rows else ""
    body = "".join(drawn(row, "td") for row in rows[1:])
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f'<div class="costwise-table">{STYLE}<p class="net">{escape(heading)}</p>'
        f"<table><thead>{head}</thead><tbody>{body}</tbody></table>{below}</div>"
    )


# The colours are those of the bill: its own in light and dark, the notebook's where it names them.
_DARK: Final = (
    "--cw-ink:var(--jp-content-font-color1,var(--vscode-editor-foreground,#e6e9ec));"
    "--cw-paper:var(--jp-layout-color0,var(--vscode-editor-background,#16191d))"
)
STYLE: Final = (
    "<style>"
    ".costwise-table{"
    "--cw-ink:var(--jp-content-font-color1,var(--vscode-editor-foreground,#1c2126));"
    "--cw-paper:var(--jp-layout-color0,var(--vscode-editor-background,#fff));"
    "color:var(--cw-ink);background:var(--cw-paper);padding:12px 16px;width:fit-content;"
    "max-width:1000px;font:13px/1.4 system-ui,sans-serif;border-radius:6px}"
    f"@media (prefers-color-scheme:dark){{.costwise-table{{{_DARK}}}}}"
    f"[data-theme=dark] .costwise-table,[data-jp-theme-light=false] .costwise-table{{{_DARK}}}"
    ".costwise-table p{margin:4px 0;opacity:.75}"
    ".costwise-table p.net{font-size:20px;font-weight:600;opacity:1}"
    ".costwise-table table{border-collapse:collapse;margin:8px 0;color:inherit;font:inherit;"
    "font-variant-numeric:tabular-nums}"
    ".costwise-table tr{background:none}"
    ".costwise-table th,.costwise-table td{padding:3px 20px 3px 0;border:0;text-align:right;"
    "white-space:nowrap;font-weight:400;vertical-align:top;background:none}"
    ".costwise-table .words{text-align:left;white-space:normal}"
    ".costwise-table thead th{opacity:.6}"
    "</style>"
)
