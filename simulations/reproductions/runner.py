"""Compute a reproduction's cells one by one, each kept as soon as it is there."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..comparison import slug
from ..output import Progress
from ..output.runs import write_text
from ..settings import SettingsError
from .base import Cell, Reproduction, Result, Results

_RESULT = "result.json"


def compute(
    cells: Mapping[str, Cell], folder: Path, progress: Progress, *, resume: bool = False
) -> dict[str, Result]:
    """The cells' results, each with the ``seconds`` it took.

    Parameters
    ----------
    folder : Path
        Each cell keeps its result in a folder below, so that several processes may share the work.
    resume : bool
        Take the results that are there, and go on with the others where they were interrupted.

    Raises
    ------
    SettingsError
        If a kept result was computed with other settings.
    """
    results = {}
    for name, cell in cells.items():
        place = folder / slug(name)
        result = _kept(place, cell) if resume else None
        if result is None:
            place.mkdir(parents=True, exist_ok=True)
            (place / _RESULT).unlink(missing_ok=True)
            began = time.monotonic()
            result = cell.compute(place, progress, resume)
            result.setdefault("seconds", round(time.monotonic() - began, 1))
            whole = {"settings": dict(cell.settings), "result": result}
            write_text(place / _RESULT, json.dumps(whole, ensure_ascii=False, allow_nan=False))
        results[name] = result
    return results


def kept(cells: Mapping[str, Cell], folder: Path) -> dict[str, Result]:
    """All the results that lie in the folder, whichever command computed them, for these cells."""
    found = {}
    for name, cell in cells.items():
        with suppress(SettingsError):  # of other settings
            if (result := _kept(folder / slug(name), cell)) is not None:
                found[name] = result
    return found


def check(reproduction: Reproduction, committed: Results, progress: Progress) -> list[str]:
    """Compute the small cells again; sentences on what differs from the committed results."""
    cells = reproduction.cells(reproduction.check_options)
    missing = [name for name in reproduction.checked if name not in committed]
    if missing:
        return [f"the committed result has no cell {name!r}" for name in missing]
    with tempfile.TemporaryDirectory() as folder:
        again = compute({n: cells[n] for n in reproduction.checked}, Path(folder), progress)
    return [
        f"{name}: {difference}"
        for name in reproduction.checked
        for difference in reproduction.differences(committed[name], again[name])
    ]


def _kept(place: Path, cell: Cell) -> Result | None:
    path = place / _RESULT
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    # A setting that came later is at its default, which is what it was before.
    settings, before = json.loads(json.dumps(dict(cell.settings))), found["settings"]
    changed = [key for key in before if key not in settings or before[key] != settings[key]]
    if changed:
        raise SettingsError(
            f"{path} was computed with other settings ({', '.join(changed)}): give the same ones "
            "to resume, or another --name"
        )
    result: Result = found["result"]
    return result
