"""Tables in a terminal: with rich where there is one, as aligned plain text otherwise."""

from __future__ import annotations

import sys
from collections.abc import Container, Sequence
from typing import TextIO

from .rows import Row
from .tables import text_table

# In a narrow terminal: how far names are folded, and what is left out after that, in this order.
_FOLDED = 16
_SPARE = ("best", "time", "samples", "measuring", "rounds", "average batch", "ηλ", "uplink")


def print_table(rows: Sequence[Row], stream: TextIO | None = None) -> None:
    """Print the rows of a comparison; the reference stands out."""
    bold = {place for place, row in enumerate(rows) if row.reference and rows[1:]}
    print_lines(text_table(rows), stream, bold)


def print_lines(
    lines: Sequence[Sequence[str]], stream: TextIO | None = None, bold: Container[int] = ()
) -> None:
    """Print lines of text, headings first; ``bold`` are numbers of lines below the headings."""
    stream = stream or sys.stdout
    try:
        from rich.console import Console
    except ImportError:
        _print_plain(lines, stream)
        return
    console = Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(header_style="bold", border_style="dim")
        if sum(_widths(lines)) + 3 * len(lines[0]) + 1 > console.width:
            lines = _narrowed(lines, console.width)
            table.box, table.show_edge, table.padding = box.SIMPLE_HEAD, False, (0, 1, 0, 0)
            table.pad_edge = False
        for place, heading in enumerate(lines[0]):
            table.add_column(heading, justify="right" if place else "left", no_wrap=place > 0)
        for place, line in enumerate(lines[1:]):
            table.add_row(*map(Text, line), style="bold" if place in bold else None)
        console.print(table)
    else:
        _print_plain(lines, stream)


def _narrowed(lines: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Break the headings, and leave out columns until the others fit beside folded names."""
    narrow = [[heading.replace(" ", "\n") for heading in lines[0]], *map(list, lines[1:])]
    for spare in _SPARE:
        first, *others = _widths(narrow)
        if min(first, _FOLDED) + sum(others) + 2 * len(others) <= width:
            break
        kept = [place for place, cell in enumerate(narrow[0]) if cell != spare.replace(" ", "\n")]
        narrow = [[line[place] for place in kept] for line in narrow]
    return narrow


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    columns = zip(*lines, strict=True)
    return [max(len(part) for cell in column for part in cell.split("\n")) for column in columns]


def _print_plain(lines: Sequence[Sequence[str]], stream: TextIO) -> None:
    widths = _widths(lines)
    for line in lines:
        name, *others = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([name, *others]), file=stream, flush=True)
