"""``python -m simulations reproduce NAME``: compute, print, keep, or check against what is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..comparison import chosen
from ..output import Progress, describe_environment, print_lines, save_finding
from ..settings import SettingsError
from . import REPRODUCTIONS
from .base import Options, Reproduction, Results
from .runner import check, compute, kept

COMMITTED = Path(__file__).parents[1] / "results"


def reproduce(
    name: str,
    options: Options,
    folder: Path,
    *,
    patterns: Sequence[str] = (),
    resume: bool = False,
    save: Path | None = None,
    arguments: Sequence[str] = (),
) -> None:
    """Compute the cells; print, and leave behind, the table of all that the folder holds.

    Parameters
    ----------
    folder : Path
        For the cells, and for table, picture and JSON.
    patterns : sequence of str
        Of the cells to compute; the reproduction's usual ones by default.
    save : Path, optional
        Where else to keep table, picture and JSON, without an ending.
    """
    reproduction = known(name)
    cells = reproduction.cells(options)
    asked = chosen(cells, patterns or reproduction.usual)
    with Progress(cells=len(asked)) as progress:
        compute(asked, folder, progress, resume=resume)
    results = kept(cells, folder)
    lines, notes = reproduction.table(results), reproduction.notes(results)
    print_lines(lines)
    print(*notes, sep="\n")
    environment = describe_environment(arguments, sum(r["seconds"] for r in results.values()))
    for target in (folder / name, *([save] if save else [])):
        written = save_finding(target, environment, lines, notes, results, reproduction.draw)
        print(f"saved: {', '.join(str(path) for path in written)}")


def check_committed(name: str, options: Options) -> None:
    """Compute a small cell again and compare it with the committed result (ValueError)."""
    reproduction = known(name)
    where = replace(reproduction.check_options, data_root=options.data_root)
    reproduction = replace(reproduction, check_options=where)
    with Progress(cells=len(reproduction.checked)) as progress:
        differences = check(reproduction, committed(name), progress)
    if differences:
        raise ValueError("\n".join(differences))
    print(f"{', '.join(reproduction.checked)}: as committed in {COMMITTED / name}.json")


def committed(name: str) -> Results:
    """The committed results of a reproduction's cells (SettingsError if there are none)."""
    path = COMMITTED / f"{name}.json"
    if not path.is_file():
        raise SettingsError(f"{path} is not there: nothing to compare with")
    results: Results = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return results


def known(name: str) -> Reproduction:
    """The reproduction of this name (SettingsError names those there are)."""
    if name not in REPRODUCTIONS:
        listed = ", ".join(REPRODUCTIONS)
        raise SettingsError(f"there is no reproduction {name!r}; known: {listed}")
    return REPRODUCTIONS[name]
