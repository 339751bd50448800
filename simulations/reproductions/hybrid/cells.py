"""Hybrid decentralized optimization (arXiv 2210.07703): nodes with and without gradients.

Few nodes with gradients, many without, and both together: logistic regression and an MLP in
lockstep, decentralized and in star form; a CNN through the library's own loop.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ...settings import SettingsError
from ..base import Cell, Options, Reproduction, Result
from .cases import CHECKED, EXPERIMENTS, MULTIPLES, SEEDS, Experiment
from .draw import draw
from .network import Network
from .notes import notes
from .runs import POINTS, Setup
from .tables import table

TASKS = ("fashion-mnist", "mnist")
DRAWN = 0.05  # of the rounds, with directions that are really drawn
NETWORK_SEEDS, NETWORK_ROUNDS = (0, 1), 32
SMALL = {
    "logistic": ("law", Experiment((), 3, 6, 4, (0.01, 0.01), POINTS)),
    "mlp": ("drawn", Experiment((16, 16), 3, 6, 4, (0.5, 0.1), POINTS)),
}


def cells(options: Options) -> dict[str, Cell]:
    """``logistic-0``, ``mlp-0``, …, ``drawn-logistic-0``, ``check-mlp``, ….

    The cells that are checked are of the digits, which are always there.
    """
    task = options.task or TASKS[0]
    if task not in TASKS:
        raise SettingsError(f"hybrid is about --task {' or '.join(TASKS)}, not {task!r}")
    if options.rounds is not None and options.rounds < POINTS:
        raise SettingsError(f"--rounds must be at least {POINTS} here, not {options.rounds}")
    made = {}
    for name, whole in EXPERIMENTS.items():
        rounds = min(whole.rounds, options.rounds or whole.rounds)
        experiment = replace(whole, rounds=rounds)
        for seed in SEEDS:
            setup = Setup(name, experiment, task, options.data_root, seed)
            made[f"{name}-{seed}"] = setup.cell()
        if name == "logistic":
            setup = replace(setup, seed=SEEDS[0], directions="drawn", share=DRAWN)
            made[f"drawn-{name}-{SEEDS[0]}"] = setup.cell()
    rounds = min(NETWORK_ROUNDS, options.rounds or NETWORK_ROUNDS) // 4 * 4  # T/4, T/2 and T
    for seed in NETWORK_SEEDS:
        made[f"cnn-{seed}"] = Network(task, options.data_root, seed, rounds).cell()
    for name, (directions, experiment) in SMALL.items():
        made[f"check-{name}"] = Setup(name, experiment, CHECKED, None, 0, directions).cell()
    made["check-cnn"] = Network(CHECKED, None, 0, 4, 4, (0, 2, 4), (1.0,), 4, examples=200).cell()
    return made


def differences(committed: Result, again: Result) -> list[str]:
    """Every loss that was measured, to a thousandth."""
    before, found = _losses(committed), []
    for name, losses in _losses(again).items():
        for one, other in zip(before[name], losses, strict=True):
            if one != other and not (one and other and math.isclose(one, other, rel_tol=1e-3)):
                found.append(f"{name}: a loss is {other}, committed is {one}")
    return found


def _losses(result: Result) -> dict[str, list[float | None]]:
    """All that were measured on the way, by who and at which multiple of the step."""
    if "runs" in result:
        return {
            f"{name} FO, × {multiple:g}": run["losses"] or [None]
            for name, runs in result["runs"].items()
            for multiple, run in zip(result["multiples"], runs, strict=True)
        }
    return {
        f"{family}, × {multiple:g}": curve
        for family, measured in result["families"].items()
        for multiple, curve in zip(MULTIPLES, measured["losses"], strict=True)
    }


REPRODUCTION = Reproduction(
    summary="zeroth- and first-order nodes together, decentralized and in star form (2210.07703)",
    cells=cells,
    usual=("*",),
    table=table,
    notes=notes,
    draw=draw,
    checked=(*(f"check-{name}" for name in SMALL), "check-cnn"),
    differences=differences,
)
