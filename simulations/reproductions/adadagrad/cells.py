"""Adaptive batch sizes with AdaGrad and AdaGrad-Norm (arXiv 2402.11215), at equal samples.

Five ways to choose the batch size on the same budget of samples, with the same step size; what
the batch-size tests do where clients differ; how far compression moves what they look at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbias import batching

from ...output import Progress
from ...settings import SettingsError
from ..base import Cell, Options, Reproduction, Result
from .draw import draw
from .notes import notes
from .probes import COMPRESSED, PARTITIONS, compression_cell, tests_cell
from .runs import EARLY, measured
from .steps import STEPS, steps_cell
from .tables import table
from .ways import BUDGETS, OPTIMIZERS, SEEDS, WAYS, Setup, rules

OTHER_TASKS = ("fashion-mnist", "mnist")  # of one shape


@dataclass(frozen=True)
class Comparison:
    """One cell: all the ways on one setup and seed."""

    setup: Setup
    seed: int

    @property
    def step_size(self) -> float:
        """The one of all the ways."""
        return STEPS[self.setup.data, self.setup.model, self.setup.optimizer]

    def cell(self) -> Cell:
        """It with all that decides its result."""
        known = rules(self.setup.budget)
        settings = self._settings(known["adaptive"]).model_dump(exclude={"data_root"})
        ways = {way: repr(known[way]) if way in known else "the adaptive run's" for way in WAYS}
        return Cell(settings | {"batch_size": ways}, self.compute)

    def compute(self, folder: Path, progress: Progress, resume: bool) -> Result:
        """All the runs, one after another, each in a folder of its own."""
        known, runs = rules(self.setup.budget), dict[str, Result]()
        progress.start(len(WAYS), folder.name)
        for way in WAYS:
            rule = known.get(way) or batching.constant_batch(round(runs["adaptive"]["average"]))
            runs[way] = measured(self._settings(rule), folder / way, resume)
            progress.update({"round": len(runs)})
        progress.finish()
        return {
            "task": self.setup.task,
            "model": self.setup.model,
            "optimizer": self.setup.optimizer,
            "seed": self.seed,
            "step_size": self.step_size,
            "budget": self.setup.budget.samples,
            "runs": runs,
            # Without what was done again because the command was interrupted.
            "seconds": round(sum(run["seconds"] for run in runs.values()), 1),
        }

    def _settings(self, rule: batching.BatchSize) -> Any:
        return self.setup.settings(self.seed, self.step_size, rule, self.setup.budget.samples)


def cells(options: Options) -> dict[str, Cell]:
    """``steps-digits-linear-adagrad``, ``digits-linear-adagrad-0``, ``tests-iid``, …."""
    other = options.task or OTHER_TASKS[0]
    if other not in OTHER_TASKS:
        raise SettingsError(
            f"adadagrad has digits anyway, and beside it --task {' or '.join(OTHER_TASKS)}, "
            f"not {other!r}"
        )
    if options.rounds is not None and options.rounds < EARLY:
        raise SettingsError(f"--rounds must be at least {EARLY} here, not {options.rounds}")
    setups = [
        Setup(data, model, optimizer, task, options.data_root or "", options.rounds)
        for data, model in BUDGETS
        for task in [data if data == "digits" else other]
        for optimizer in OPTIMIZERS
    ]
    made = {f"steps-{setup.name}": steps_cell(setup) for setup in setups}
    for setup in setups:
        made |= {f"{setup.name}-{seed}": Comparison(setup, seed).cell() for seed in SEEDS}
    for partition in PARTITIONS:
        made[f"tests-{partition}"] = tests_cell(partition, options.rounds)
    for partition in COMPRESSED:
        made[f"compression-{partition}"] = compression_cell(partition, options.rounds)
    return made


def differences(committed: Result, again: Result) -> list[str]:
    """Batch sizes and losses of the first rounds, to a fiftieth and a thousandth.

    The size of "average" is known only at the end of another run, so it is left out.
    """
    found = []
    for way, run in again["runs"].items():
        if way == "average":
            continue
        pairs = zip(committed["runs"][way]["early"], run["early"], strict=True)
        for k, (old, new) in enumerate(pairs, start=1):
            if not _close(old, new):
                found.append(f"{way}: size and loss of round {k} are {new}, committed is {old}")
    return found


def _close(old: Any, new: Any) -> bool:
    sizes = math.isclose(old[0], new[0], rel_tol=0.02)
    return sizes and math.isclose(old[1], new[1], rel_tol=1e-3)


REPRODUCTION = Reproduction(
    summary="adaptive, constant and stage-wise batch sizes at equal samples (2402.11215)",
    cells=cells,
    usual=("*",),
    table=table,
    notes=notes,
    draw=draw,
    checked=("digits-linear-adagrad-0", "digits-cnn-adagrad_norm-0", "tests-sorted"),
    differences=differences,
    check_options=Options(rounds=EARLY),
)
