"""The parts that a report's page is put together from: its style, its sections, its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--text:#1b2027;--soft:#5b6573;
--line:#e1e5ea}
@media(prefers-color-scheme:dark){:root{--page:#14171b;--card:#1d2127;--text:#e6e9ed;
--soft:#9aa4b1;--line:#333942}}
*{box-sizing:border-box}
body{margin:0;padding:2rem 1rem 3rem;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:70rem;margin:auto}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:0 0 .75rem}
p{margin:.25rem 0 1.25rem;max-width:46rem}
.soft{color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:1.1rem 1.25rem;margin:0 0 1.25rem}
.wide{overflow-x:auto;margin:0 -1.25rem;padding:0 1.25rem;background:
linear-gradient(to right,var(--card) 40%,transparent) 0 0/3rem 100% no-repeat local,
linear-gradient(to left,var(--card) 40%,transparent) 100% 0/3rem 100% no-repeat local,
linear-gradient(to right,var(--line),transparent) 0 0/1rem 100% no-repeat scroll,
linear-gradient(to left,var(--line),transparent) 100% 0/1rem 100% no-repeat scroll}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
.full{width:100%}
th,td{padding:.4rem .6rem;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child{padding-left:0}th:last-child,td:last-child{padding-right:0}
thead th{color:var(--soft);font-weight:600;vertical-align:bottom}
tbody th{font-weight:600}
.numbers th+th,.numbers td{text-align:right}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));
gap:.7rem 1.5rem;margin:0;font-size:.9rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;list-style:none;padding:0;margin:0 0 1rem;
font-size:.9rem}
.note{margin:.75rem 0 0;font-size:.85rem}
.key{width:22px;height:10px;margin-right:.5rem;vertical-align:middle}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1.5rem}
figure{margin:0}
figcaption{font-size:.9rem;font-weight:600;margin-bottom:.4rem}
figure svg{display:block;width:100%;height:auto;font-size:12px;fill:var(--text)}
figure svg svg{display:inline;overflow:hidden}
.mid{text-anchor:middle}.end{text-anchor:end}svg .soft{fill:var(--soft)}
.grid,.axis{fill:none;stroke:var(--line)}.axis{stroke:var(--soft)}
.curve polyline,.key line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}
.curve circle{fill:var(--c)}.curve path{fill:none;stroke:var(--c);stroke-width:1.5}
.limit polyline{fill:none;stroke:var(--c);stroke-dasharray:4 3}
code{font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
pre{margin:0 0 .9rem;white-space:pre-wrap}
@media(max-width:32rem){figure svg{font-size:15px}th,td{padding:.35rem .5rem}}
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
<h1>{title}</h1>
<p>{summary}</p>
{sections}
</main></body>
</html>
"""


def page(title: str, summary: str, style: str, sections: Sequence[str]) -> str:
    """Put a whole page together; `sections` and `style` are HTML and CSS, the rest is text."""
    return _PAGE.format(
        title=escape(title),
        summary=escape(summary),
        style=_STYLE + style,
        sections="\n".join(section for section in sections if section),
    )


def section(title: str, content: str) -> str:
    """Frame some HTML under a heading; nothing where there is no content."""
    return f"<section><h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def table(
    headings: Sequence[str], names: Sequence[str], lines: Sequence[Sequence[str]], kind: str
) -> str:
    """Make a table that scrolls where it is too wide.

    Parameters
    ----------
    headings : sequence of str
        One text per column.
    names : sequence of str
        The first cell of every row, already HTML.
    lines : sequence
        The other cells of every row, as text.
    kind : str
        The style classes.
    """
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines]
    rows = [
        f'<tr><th scope="row">{name}</th>{others}</tr>'
        for name, others in zip(names, cells, strict=True)
    ]
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def pairs(mapping: Mapping[str, object], keys: Sequence[str]) -> str:
    """List the given keys of a mapping with their values."""
    items = [
        f"<div><dt>{escape(key)}</dt><dd>{escape(write_value(mapping, key))}</dd></div>"
        for key in keys
    ]
    return f'<dl class="pairs">{"".join(items)}</dl>' if items else ""


def shared(mappings: Sequence[Mapping[str, object]]) -> tuple[list[str], list[str]]:
    """Split the keys of some mappings into those with one value everywhere and the others."""
    keys = list(dict.fromkeys(key for mapping in mappings for key in mapping))
    same = [
        key
        for key in keys
        if all(key in mapping and mapping[key] == mappings[0].get(key) for mapping in mappings)
    ]
    return same, [key for key in keys if key not in same]


def write_value(mapping: Mapping[str, object], key: str) -> str:
    """Write a value as a settings file would, but text without its quotes."""
    value = mapping.get(key)
    if value is None or value == "":
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
