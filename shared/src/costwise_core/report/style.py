"""The looks of a report: one style sheet, scoped, for pages and notebooks, light and dark."""

from html import escape
from typing import Final

__all__ = ["in_notebook", "on_a_page"]

# Every colour is checked for contrast: text at least 4.5 to 1 on its background, bars 3 to 1.
_LIGHT: Final = (
    "--ink:#1b2026;--soft:#59636e;--paper:#f5f6f8;--card:#fff;--line:#e3e6ea;--rail:#eceff2;"
    "--whole:#7c8896;--paid:#4a6fa5;--less:#2a9256;--more:#c2611f;--good:#1d7a45;--bad:#a94d12;"
    "--tint:#eef6f0"
)
_DARK: Final = (
    "--ink:#e7eaee;--soft:#9aa5b1;--paper:#0e1114;--card:#171b20;--line:#272d34;--rail:#252b32;"
    "--whole:#7d8a99;--paid:#6f9bd8;--less:#3fb96b;--more:#e08a4a;--good:#5fcf8a;--bad:#f0a36b;"
    "--tint:#15231b"
)
_RULES: Final = """
.cw{color:var(--ink);background:var(--paper);font:14px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",sans-serif;font-variant-numeric:tabular-nums;text-align:left;
-webkit-text-size-adjust:100%;padding:24px;border-radius:8px;container-type:inline-size}
.cw *{box-sizing:border-box}
.cw h1,.cw h2,.cw h3,.cw p,.cw dl,.cw dd,.cw ol{margin:0;padding:0;border:0;color:inherit}
.cw h1{font-size:15px;font-weight:600}
.cw h2{font-size:15px;font-weight:600;margin-bottom:2px}
.cw .soft,.cw .meta{color:var(--soft)}
.cw .meta{font-size:13px}
.cw header{display:flex;flex-wrap:wrap;gap:4px 16px;justify-content:space-between;
align-items:baseline}
.cw .hero{font-size:clamp(26px,4.6vw,40px);line-height:1.15;font-weight:650;
letter-spacing:-.02em;margin:18px 0 4px}
.cw .hero.good{color:var(--good)}
.cw .hero.bad{color:var(--bad)}
.cw .tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(158px,1fr));gap:12px;
margin:20px 0 12px}
.cw .tile,.cw .card{background:var(--card);border:1px solid var(--line);border-radius:10px}
.cw .tile{padding:12px 14px 0;display:flex;flex-direction:column;overflow:hidden;min-height:104px}
.cw .tile dt{color:var(--soft);font-size:12.5px;font-weight:400}
.cw .tile dd{font-size:22px;font-weight:600;letter-spacing:-.01em;line-height:1.3}
.cw .tile dd small{font-size:12.5px;font-weight:400;color:var(--soft);letter-spacing:0;
display:block}
.cw .tile .spark{margin:auto -14px 0;width:calc(100% + 28px);height:30px}
.cw .card{padding:18px 20px;margin:0 0 12px;min-width:0}
.cw .pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));
gap:12px;margin-bottom:12px}
.cw .pair .card{margin:0}
.cw .scroll{overflow-x:auto;margin-top:10px}
.cw .tall{max-height:392px;overflow-y:auto}
.cw .tall thead th{position:sticky;top:0;background:var(--card);box-shadow:0 1px var(--line)}
.cw table{border-collapse:collapse;width:100%;margin:0;color:inherit;font:inherit;
font-variant-numeric:tabular-nums;display:table}
.cw caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.cw tr{background:none!important}
.cw th,.cw td{padding:6px 0 6px 18px;border:0;text-align:right;white-space:nowrap;
font-weight:400;vertical-align:middle;background:none}
.cw th:first-child,.cw td:first-child{padding-left:0}
.cw thead th{color:var(--soft);font-size:12.5px}
.cw thead th,.cw thead td{padding-top:0;border-bottom:1px solid var(--line)}
.cw tbody tr+tr>*{border-top:1px solid var(--line)}
.cw tbody th,.cw .words{text-align:left}
.cw tbody th{white-space:normal;overflow-wrap:anywhere;min-width:120px}
.cw tbody th .share{display:block;margin-top:4px}
.cw code{font:12.5px/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;color:inherit;
background:none;padding:0}
.cw .falls th,.cw .falls td{padding-top:0;padding-bottom:0;height:34px}
.cw .falls tbody tr+tr>*{border-top:0}
.cw .falls tbody th{min-width:0;white-space:nowrap}
.cw .falls .whole th,.cw .falls .whole td{font-weight:600}
.cw .falls small{color:var(--soft);font-size:12px}
.cw .falls .change:is(.modelled,.sampled) rect{opacity:.55}
.cw .falls .picture{width:55%;min-width:180px}
.cw svg{display:block;max-width:none}
.cw rect.whole{fill:var(--whole)}
.cw rect.less{fill:var(--less)}
.cw rect.more{fill:var(--more)}
.cw rect.paid{fill:var(--paid)}
.cw rect.rail{fill:var(--rail)}
.cw rect.fill{fill:var(--paid)}
.cw rect.hover{fill:transparent}
.cw g:hover rect.hover{fill:var(--rail)}
.cw svg line{stroke:var(--whole);stroke-width:1}
.cw svg line.grid{stroke:var(--line)}
.cw svg text{fill:var(--soft);font-size:11.5px}
.cw .spark polygon{fill:var(--paid);opacity:.13}
.cw .spark polyline{fill:none;stroke:var(--paid);stroke-width:1.5;
vector-effect:non-scaling-stroke;stroke-linejoin:round}
.cw .plot{display:grid;grid-template-columns:auto 1fr;margin-top:10px}
.cw .trend{overflow:visible}
.cw .days{grid-column:2;display:flex;justify-content:space-between;color:var(--soft);
font-size:11.5px;margin-top:4px}
.cw .legend{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--soft);font-size:12.5px}
.cw .legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.cw .legend .paid{background:var(--paid)}
.cw .legend .less{background:var(--less)}
.cw ol.advice{list-style:none;margin-top:6px}
.cw ol.advice li{display:grid;grid-template-columns:112px 1fr;gap:2px 22px;
padding:12px 0;margin:0}
.cw ol.advice li+li{border-top:1px solid var(--line)}
.cw .stake{font-size:19px;font-weight:600;line-height:1.25;color:var(--good)}
.cw .stake.soft{color:var(--soft);font-weight:400}
.cw .stake small{display:block;font-size:12px;font-weight:400;color:var(--soft)}
.cw .advice h3{font-size:14px;font-weight:600;overflow-wrap:anywhere}
.cw .advice p{max-width:80ch}
.cw .advice p+p{font-size:12.5px;color:var(--soft);margin-top:2px}
.cw .note{font-size:13px;color:var(--soft);max-width:90ch}
.cw .note+.note{margin-top:4px}
@media (max-width:560px){.cw{padding:16px}}
@container (max-width:1000px){.cw .tiles{grid-template-columns:repeat(3,1fr)}}
@container (max-width:560px){.cw .card{padding:16px}
.cw ol.advice li{grid-template-columns:1fr}.cw .tiles{grid-template-columns:1fr 1fr}
.cw .falls .picture{min-width:96px}
.cw .falls :is(th,td):nth-child(4){display:none}
.cw th,.cw td{padding-left:14px}}
@media print{.cw .tall{max-height:none}.cw{background:#fff;padding:0}
.cw .card,.cw .tile{break-inside:avoid}}
"""

_STYLE: Final = (
    "<style>"
    f".cw{{{_LIGHT}}}"
    f"@media (prefers-color-scheme:dark){{.cw{{{_DARK}}}}}"
    # A notebook says itself whether it is dark, whatever the system around it is.
    f"[data-theme=light] .cw,[data-jp-theme-light=true] .cw,.vscode-light .cw{{{_LIGHT}}}"
    f"[data-theme=dark] .cw,[data-jp-theme-light=false] .cw,.vscode-dark .cw{{{_DARK}}}"
    f"{_RULES.replace(chr(10), '')}</style>"
)
"""For everything inside an element of class "cw"."""

_PAGE_STYLE: Final = (
    "<style>:root{color-scheme:light dark}body{margin:0;background:#f5f6f8}"
    "@media (prefers-color-scheme:dark){body{background:#0e1114}}"
    "main.cw{max-width:1180px;margin:0 auto;border-radius:0}"
    "@media (min-width:900px){main.cw{padding:36px 32px}}</style>"
)
"""For a page that holds nothing else."""


def on_a_page(title: str, body: str) -> str:
    """Return a page of its own, which may load nothing from anywhere.

    Args:
        title: Plain text.
        body: HTML, everything foreign in it escaped.

    Example:
        >>> "<title>A &amp; B</title>" in on_a_page("A & B", "<p>All well.</p>")
        True
    """
    # A lone half of a surrogate pair is text to Python, but no file can hold it.
    title, body = (text.encode("utf-8", "replace").decode() for text in (escape(title), body))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title>{_STYLE}{_PAGE_STYLE}</head>"
        f'<body><main class="cw">{body}</main></body></html>\n'
    )


def in_notebook(body: str) -> str:
    """Return the same for a notebook's cell.

    Example:
        >>> in_notebook("<p>All well.</p>").endswith('<div class="cw"><p>All well.</p></div>')
        True
    """
    return f'{_STYLE}<div class="cw">{body}</div>'
