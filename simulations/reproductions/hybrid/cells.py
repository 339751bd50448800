"""Hybrid decentralized optimization (arXiv 2210.07703): nodes with and without gradients.

Few nodes with gradients, many without, and both together: logistic regression and an MLP in
lockstep, decentralized and in star form; a CNN through the library's own loop.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ...settings import SettingsError
from ..base import Cell, Options, Reproduction, Result
from .cases import CHECKED, EXPERIMENTS, SEEDS, Experiment
from .runs import POINTS, Setup

TASKS = ("fashion-mnist", "mnist")
DRAWN = 0.25  # of the rounds, with directions that are really drawn
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
    for name, (directions, experiment) in SMALL.items():
        made[f"check-{name}"] = Setup(name, experiment, CHECKED, None, 0, directions).cell()
    return made


def differences(committed: Result, again: Result) -> list[str]:
    """Every loss on the way, to a thousandth."""
    found = []
    for family, new in again["families"].items():
        old = committed["families"][family]
        for was, now in zip(old["losses"], new["losses"], strict=True):
            for round, one, other in zip(again["at"], was, now, strict=True):
                if one != other and not (one and other and math.isclose(one, other, rel_tol=1e-3)):
                    found.append(f"{family}: loss of round {round} is {other}, committed is {one}")
    return found


REPRODUCTION = Reproduction(
    summary="zeroth- and first-order nodes together, decentralized and in star form (2210.07703)",
    cells=cells,
    usual=("*",),
    table=lambda r: [["x"]],
    notes=lambda r: [],
    draw=lambda r, p: None,
    checked=tuple(f"check-{name}" for name in SMALL),
    differences=differences,
)
