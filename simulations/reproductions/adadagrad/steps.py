"""The step sizes of ``reproduce adadagrad``, and the cells that they come from."""

from __future__ import annotations

from pathlib import Path

from ...output import Progress
from ..base import Cell, Result
from .runs import measured
from .ways import GRIDS, STEPS_SEED, Setup

# The best of each committed steps cell, as a test checks.
STEPS = {
    ("digits", "linear", "adagrad"): 3.0,
    ("digits", "linear", "adagrad_norm"): 30.0,
    ("digits", "cnn", "adagrad"): 0.03,
    ("digits", "cnn", "adagrad_norm"): 1.0,
    ("fashion-mnist", "linear", "adagrad"): 0.1,
    ("fashion-mnist", "linear", "adagrad_norm"): 3.0,
    ("fashion-mnist", "cnn", "adagrad"): 0.03,
    ("fashion-mnist", "cnn", "adagrad_norm"): 3.0,
}


def steps_cell(setup: Setup) -> Cell:
    """Constant small batches over a part of the samples, with every step size of the grid."""
    grid, samples = GRIDS[setup.model, setup.optimizer], setup.budget.steps
    known = [
        setup.settings(STEPS_SEED, step_size, setup.budget.small, samples) for step_size in grid
    ]

    def compute(folder: Path, progress: Progress, resume: bool) -> Result:
        progress.start(len(grid), folder.name)
        runs = dict[str, Result]()
        for step_size, settings in zip(grid, known, strict=True):
            name = f"{step_size:g}"
            runs[name] = measured(settings, folder / name, resume)
            progress.update({"round": len(runs)})
        progress.finish()
        return {
            "task": setup.task,
            "model": setup.model,
            "optimizer": setup.optimizer,
            "samples": samples,
            "losses": {name: run["train_loss"] for name, run in runs.items()},
            "seconds": round(sum(run["seconds"] for run in runs.values()), 1),
        }

    settings = known[0].model_dump(exclude={"data_root"})
    return Cell(settings | {"optimizer": [each.optimizer for each in known]}, compute)


def best(steps: Result) -> float:
    """The step size with the least train loss."""
    losses = steps["losses"]
    return float(min(losses, key=losses.__getitem__))
