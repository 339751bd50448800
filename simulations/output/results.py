"""A result to keep beside the code: the table, the picture, and where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .picture import write_picture
from .runs import Run, absolute, to_json_line, write_text
from .tables import comparison_table, text_table


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
    rows, base = comparison_table(runs), absolute(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    table, picture, data = (base.with_name(base.name + end) for end in (".md", ".png", ".json"))
    plain = [json.loads(to_json_line(asdict(row))) for row in rows]
    result = {"environment": dict(environment), "rows": plain}
    write_text(data, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    first, *others = text_table(rows)
    lines = [first, ["---", *["---:"] * (len(first) - 1)], *others]
    made = f"Made by `{environment.get('command')}`; the environment is in {data.name}."
    markdown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(table, f"{markdown}\n\n{made}\n")
    return [data, table, write_picture(runs, picture)]
