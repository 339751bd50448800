"""One cell of ``reproduce hybrid``: all federations of an experiment and seed, and their curves."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from ...output import Progress
from ...threads import one_thread
from ..base import Cell, Result
from .cases import (
    BATCH,
    EVALUATED,
    FINAL,
    MOMENTUM,
    MULTIPLES,
    PAPER,
    RADIUS,
    Examples,
    Experiment,
    examples,
)
from .dense import Array, Dense, measure
from .draws import Drawn, Law
from .lockstep import FAMILIES, Draw, Lockstep

POINTS = 20  # of a curve, beside its start
DIVERGED = 10.0  # times the start's loss
_FORMS: Mapping[str, tuple[Draw, int, int]] = {
    "law": (Law, 1, 15),
    "drawn": (Drawn, os.cpu_count() or 1, 4),
}  # threads, block


@dataclass(frozen=True)
class Setup:
    """One cell: an experiment's populations, steps and weights, with one seed.

    Attributes
    ----------
    directions : {"law", "drawn"}
        How they come about.
    share : float
        The part of the rounds that is computed.
    """

    name: str
    experiment: Experiment
    task: str
    data_root: str | None
    seed: int
    directions: str = "law"
    share: float = 1.0

    def cell(self) -> Cell:
        """It with all that decides its result."""
        settings = asdict(self.experiment) | {
            "hidden": list(self.experiment.hidden),
            "steps": list(self.experiment.steps),
            "task": self.task,
            "seed": self.seed,
            "by": self.directions,
            "share": self.share,
            "multiples": list(MULTIPLES),
            "batch": BATCH,
            "radius": RADIUS,
            "momentum": MOMENTUM,
            "final": FINAL,
            "measured": [EVALUATED, POINTS, DIVERGED],
        }
        return Cell(settings, self.compute)

    def compute(self, folder: Path, progress: Progress, resume: bool) -> Result:
        """All the rounds."""
        one_thread()
        draw, threads, block = _FORMS[self.directions]
        first, zeroth = self.experiment.first, self.experiment.zeroth
        data = examples(self.task, self.data_root, first, zeroth, self.seed)
        state = Lockstep(self.experiment, data, self.seed, draw, threads=threads, block=block)
        curves, began = Curves(data), monotonic()
        last = round(self.share * self.experiment.rounds)
        progress.start(last, folder.name)
        while True:
            if state.round in marks(self.experiment.rounds):
                curves.add(state)
            if state.round == last:
                break
            state.step()
            progress.update({"round": state.round} | curves.shown)
        progress.finish()
        seconds = monotonic() - began
        return {
            "experiment": self.name,
            "task": self.task,
            "nodes": [first, zeroth],
            "dim": state.net.dim,
            "directions": self.experiment.directions,
            "by": self.directions,
            "seed": self.seed,
            "rounds": self.experiment.rounds,
            "at": marks(self.experiment.rounds)[: len(curves.losses)],
            "families": curves.result(),
            "seconds": round(seconds, 1),
            "normals": last * zeroth * self.experiment.directions * state.net.dim,
        }


class Curves:
    """What is measured of the mean models and of the star form's, round by round."""

    def __init__(self, data: Examples) -> None:
        self._data = data
        self.losses: list[Array] = []
        self._accuracies: list[Array] = []
        self._spreads: list[Array] = []
        self._shares: list[Array] = []
        self._gone = np.zeros((len(FAMILIES), len(MULTIPLES)), np.bool_)

    @property
    def shown(self) -> dict[str, float]:
        """The hybrid at the paper's steps."""
        loss, accuracy = self.losses[-1][2, PAPER], self._accuracies[-1][2, PAPER]
        return {"train_loss": float(loss), "accuracy": float(accuracy)}

    def add(self, state: Lockstep) -> None:
        """Measure; who has diverged is not followed any more."""
        shape = len(FAMILIES), len(MULTIPLES)
        means, spreads = state.mean_models()
        points = np.concatenate([means, state.star.points])
        losses, accuracies = (np.full(shape, np.nan) for _ in range(2))
        for place in zip(*np.nonzero(~self._gone), strict=True):
            point = points[place[0] * len(MULTIPLES) + place[1]]
            losses[place], accuracies[place] = _measured(state.net, point, self._data)
        start = self.losses[0] if self.losses else losses
        self._gone = ~(losses <= DIVERGED * start)
        for found in (losses, accuracies):
            found[self._gone] = np.nan
        self.losses.append(losses)
        self._accuracies.append(accuracies)
        self._spreads.append(np.where(self._gone[:3], np.nan, spreads.reshape(3, -1)))
        self._shares.append(state.star.shares(state.round).reshape(-1, len(MULTIPLES))[-1])
        state.drop(self._gone)

    def result(self) -> dict[str, Any]:
        """Family → what was measured, a list for each multiple; None where it diverged.

        Losses at all the marks, the rest at T/4, T/2 and T.
        """
        found: dict[str, Any] = {}
        for place, family in enumerate(FAMILIES):
            found[family] = {
                "losses": _columns([each[place] for each in self.losses]),
                "accuracies": _columns([each[place] for each in _told(self._accuracies)]),
            }
            if place < 3:
                found[family]["spreads"] = _columns([each[place] for each in _told(self._spreads)])
        found[FAMILIES[-1]]["shares"] = _columns(_told(self._shares))
        return found


def marks(rounds: int) -> list[int]:
    """When a run is measured: T/4, T/2 and T are among them."""
    return [round(rounds * k / POINTS) for k in range(POINTS + 1)]


def _told(values: Sequence[Array]) -> list[Array]:
    """Those at T/4, T/2 and T, as far as it got."""
    return [values[k] for k in (POINTS // 4, POINTS // 2, POINTS) if k < len(values)]


def _columns(values: Sequence[Array]) -> list[list[float | None]]:
    return [[short(row[k]) for row in values] for k in range(len(MULTIPLES))]


def short(number: float) -> float | None:
    """Five digits, as plain JSON has them."""
    return float(f"{number:.5g}") if math.isfinite(number) else None


def _measured(net: Dense, point: Array, data: Examples) -> tuple[float, float]:
    """The loss on the first training examples and the accuracy on all the test data."""
    with np.errstate(all="ignore"):
        loss, _ = measure(net, point, data.inputs[:EVALUATED], data.labels[:EVALUATED])
        _, accuracy = measure(net, point, data.test_inputs, data.test_labels)
    return loss, accuracy
