"""A result to keep beside the code: the table, the picture, and where they came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from .picture import write_picture
from .rows import comparison_table
from .runs import Run, absolute, to_json_line, write_text
from .tables import text_table


def save_result(
    runs: Sequence[Run], path: str | Path, environment: Mapping[str, Any]
) -> list[Path]:
    """Write ``path``.json, .md and .png, small enough to commit.

    Parameters
    ----------
    runs : sequence of Run
        One per row, in the order of the table.
    path : str or Path
        Without an ending.
    environment : mapping
        The command, the versions, the machine and the duration.
    """
    rows = comparison_table(runs)
    plain = [json.loads(to_json_line(asdict(row))) for row in rows]
    return _save(
        path, environment, {"rows": plain}, text_table(rows), [], partial(write_picture, runs)
    )


def save_finding(
    path: str | Path,
    environment: Mapping[str, Any],
    lines: Sequence[Sequence[str]],
    notes: Sequence[str],
    results: Mapping[str, Mapping[str, Any]],
    draw: Callable[[Mapping[str, Any], Path], None] | None = None,
) -> list[Path]:
    """Write what a reproduction or a benchmark came to, in the same files.

    Parameters
    ----------
    lines : sequence of rows of text
        The table, headings first.
    notes : sequence of str
        Sentences below it.
    results : mapping
        The cells' results, plain values.
    draw : callable, optional
        (results, path of a PNG).
    """
    picture = None if draw is None else partial(draw, results)
    return _save(path, environment, {"notes": notes, "cells": results}, lines, notes, picture)


def _save(
    path: str | Path,
    environment: Mapping[str, Any],
    data: Mapping[str, Any],
    lines: Sequence[Sequence[str]],
    notes: Sequence[str],
    picture: Callable[[Path], object] | None,
) -> list[Path]:
    base = absolute(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    kept, table, drawn = (base.with_name(base.name + end) for end in (".json", ".md", ".png"))
    whole = {"environment": dict(environment), **data}
    write_text(kept, json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    first, *others = lines
    ruled = [first, ["---", *["---:"] * (len(first) - 1)], *others]
    made = f"Made by `{environment.get('command')}`; the environment is in {kept.name}."
    markdown = "\n".join(f"| {' | '.join(line)} |" for line in ruled)
    sentences = "".join(f"- {note}\n" for note in notes)
    write_text(table, f"{markdown}\n\n{sentences}{sentences and chr(10)}{made}\n")
    if picture is None:
        return [kept, table]
    picture(drawn)
    return [kept, table, drawn]
