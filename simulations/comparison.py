"""Several runs that differ in a few settings, side by side.

A comparison file is a preset with a table of cells on top::

    rounds = 60

    [cells."Top-2 %"]
    compressor = "top_k(fraction=0.02)"
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from .cell import run_cell
from .output import Progress, Run, absolute, mean_run, write_report
from .settings import Settings, SettingsError, make_settings, read_preset

T = TypeVar("T")


def read_cells(path: Path, overrides: Mapping[str, Any]) -> dict[str, Settings]:
    """The cells of a comparison file, in its order; overrides win over both levels.

    Raises
    ------
    SettingsError
        If there are no cells, or one of them cannot be run; names the cell.
    """
    table = read_preset(path)
    cells = table.pop("cells", None)
    if (
        not cells
        or not isinstance(cells, dict)
        or not all(isinstance(cell, dict) for cell in cells.values())
    ):
        raise SettingsError(f"{path} has no cells: a comparison needs tables like [cells.'name']")
    folders: dict[str, str] = {}
    for name in cells:
        if (other := folders.setdefault(slug(name).lower(), name)) != name:
            raise SettingsError(f"{path.name}: rename {name!r}: its folder is that of {other!r}")
    options = " + options" if overrides else ""
    return {
        name: make_settings({**table, **cell, **overrides}, f"{path.name}, cell {name!r}{options}")
        for name, cell in cells.items()
    }


def compare(
    cells: Mapping[str, Settings],
    folder: Path,
    *,
    seeds: int = 1,
    engine: str = "inline",
    arguments: Sequence[str] = (),
    resume: bool = False,
) -> tuple[list[Run], Path]:
    """Run every cell into a folder of its own below ``folder``; one report over all of them.

    Parameters
    ----------
    seeds : int
        Runs per cell, from the cell's own seed upwards; the results are their means.

    Returns
    -------
    runs : list of Run
        One per cell, named as in the comparison file.
    report : Path
    """
    means = []
    with Progress(cells=len(cells) * seeds) as progress:
        for name, settings in cells.items():
            runs = [
                run_cell(
                    settings.model_copy(update={"seed": seed}),
                    folder / slug(name) / (f"seed-{seed}" if seeds > 1 else ""),
                    title=f"{name}, seed {seed}" if seeds > 1 else name,
                    engine=engine,
                    progress=progress,
                    arguments=arguments,
                    resume=resume,
                )
                for seed in range(settings.seed, settings.seed + seeds)
            ]
            means.append(replace(mean_run(runs), name=name))
    return means, write_report(means, absolute(folder) / "report.html", folder.name)


def chosen(cells: Mapping[str, T], patterns: Sequence[str]) -> dict[str, T]:
    """The cells whose names match one of the patterns, in their own order.

    Raises
    ------
    SettingsError
        If a pattern matches none; names those there are.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in cells):
            raise SettingsError(f"there is no cell {pattern!r}; known: {', '.join(cells)}")
    return {n: cell for n, cell in cells.items() if any(fnmatchcase(n, p) for p in patterns)}


def slug(name: str) -> str:
    """A folder name for a cell."""
    return re.sub(r"[^\w.]+", "-", name.replace("%", "percent")).strip("-.") or "cell"
