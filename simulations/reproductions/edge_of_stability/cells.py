"""Cells of ``reproduce edge-of-stability``: each is a federated run of the app."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...cell import run_cell
from ...output import Progress, Run
from ...settings import SettingsError, make_settings
from ..base import Cell, Options, Reproduction, Result
from .cases import SEEDS, TASKS, cases, checks, run_of
from .draw import draw
from .notes import notes
from .tables import table


def cells(options: Options) -> dict[str, Cell]:
    """``fixed-0.1-0``, …, ``c-1.9-2``, …, and the small ones that are checked."""
    task = options.task or "fashion-mnist"
    if task not in TASKS:
        listed = " or ".join(TASKS)
        raise SettingsError(f"edge-of-stability is about --task {listed}, not {task!r}")
    given = {"data_root": options.data_root, "rounds": options.rounds}
    asked = {key: value for key, value in given.items() if value is not None}
    made = {
        f"{name}-{seed}": _cell(name, task, run_of(case.settings, task, seed) | asked)
        for name, case in cases().items()
        for seed in SEEDS
    }
    return made | {name: _cell(name, "digits", values) for name, values in checks().items()}


def _cell(case: str, task: str, values: Mapping[str, Any]) -> Cell:
    settings = make_settings(values, "the options")

    def compute(folder: Path, progress: Progress, resume: bool) -> Result:
        run = run_cell(settings, folder, progress=progress, resume=resume)
        return {"case": case, "task": task, "seed": settings.seed, **result_of(run)}

    # Where the data lies does not change the result.
    return Cell(settings.model_dump(exclude={"data_root"}), compute)


def result_of(run: Run) -> Result:
    """What the tables need of a run: loss per round; λ̂ with its limit, and accuracy, on the way.

    A measurement is made before the round's step: that of the first round is at x_0.
    """
    at = [int(k) - 1 for k, _ in run.curve("round", "sharpness")]
    limits = dict(run.curve("round", "stability_limit"))
    return {
        "train_loss": [short(loss) for loss in run.values("train_loss")],
        "at": at,
        "sharpness": [short(value) for value in run.values("sharpness")],
        "residual": [short(value) for value in run.values("sharpness_residual")],
        "limit": [short(limits[k + 1]) for k in at],
        "step": [short(value) for k, value in run.curve("round", "step_size") if k - 1 in at],
        "products": [int(count) for count in run.values("sharpness_products")],
        "measuring_bytes": int(sum(run.values("sharpness_bytes"))),
        "accuracy": [[int(k), value] for k, value in run.curve("round", "accuracy")],
        "training_bytes": int(sum(run.values("uplink_bytes") + run.values("downlink_bytes"))),
        "seconds": run.environment["duration"],
    }


def short(number: float) -> float | None:
    """Six digits, as plain JSON has them."""
    return float(f"{number:.6g}") if math.isfinite(number) else None


def differences(committed: Result, again: Result) -> list[str]:
    """Every train loss and every λ̂, to a thousandth."""
    return [
        f"{word} of round {k} is {new}, committed is {old}"
        for key, word in (("train_loss", "train loss"), ("sharpness", "sharpness"))
        for k, (old, new) in enumerate(zip(committed[key], again[key], strict=True))
        if old is None or new is None or not math.isclose(old, new, rel_tol=1e-3)
    ]


REPRODUCTION = Reproduction(
    summary="sharpness up to 2/η, and step sizes c/λ̂, of an MLP on Fashion-MNIST (2501.09137)",
    cells=cells,
    usual=("fixed-*", "c-*", "unbounded-*", "sparse-*", "momentum-*"),
    table=table,
    notes=notes,
    draw=draw,
    checked=tuple(checks()),
    differences=differences,
)
