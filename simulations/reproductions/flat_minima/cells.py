"""Flat minima (arXiv 2501.09137): steps and sharpness of a two-layer linear net's limit against η.

Gradient descent on ½(aᵀb − Φ)², by one client, by four that differ, and by the same four through
Flower's messages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from fedbias import theory

from ...output import Progress
from ..base import Cell, Options, Reproduction, Result
from .cases import (
    CHECKED,
    CLIENTS,
    DRAWN,
    ENDLESS,
    FINE,
    GRIDS,
    LONG_ROUNDS,
    MULTIPLES,
    ROUGH,
    ROUNDS,
    SHARPER,
    STARTS,
    TARGET,
)
from .draw import draw
from .notes import notes
from .runs import endless, measure
from .tables import table

_LEAST = 20  # rounds: the fastest runs are there


@dataclass(frozen=True)
class Setup:
    """A start, and the steps that are taken from it.

    Attributes
    ----------
    multiples : tuple of float
        η·λ_GF.
    rounds : int
        At most so many.
    """

    start: str
    multiples: tuple[float, ...]
    rounds: int

    def cell(self) -> Cell:
        """It with all that decides its result."""
        settings = {
            "point": list(STARTS[self.start].point),
            "target": TARGET,
            "clients": CLIENTS,
            "multiples": list(self.multiples),
            "rounds": self.rounds,
            "measured": [ROUGH, FINE],
        }
        return Cell(settings, self.compute)

    def compute(self, folder: Path, progress: Progress, resume: bool) -> Result:
        """A run for every multiple."""
        progress.start(len(self.multiples), folder.name)
        point, runs = STARTS[self.start].vector, []
        flow = theory.shallow_flow_limit(theory.shallow_imbalance(point), TARGET)
        for place, multiple in enumerate(self.multiples):
            drawn = multiple in DRAWN.get(self.start, ())
            found = measure(point, multiple / flow, self.rounds, drawn=drawn)
            runs.append({"multiple": multiple} | found)
            progress.update({"round": place + 1})
        progress.finish()
        return {"start": self.start, "runs": runs}


def cells(options: Options) -> dict[str, Cell]:
    """``near``, ``far``, ``wide``, ``opposed``, ``endless``, ``check-near``, ``check-wide``."""
    options.check_own("flat-minima has its own problem", _LEAST)
    rounds = min(ROUNDS, options.rounds or ROUNDS)
    made = {name: Setup(name, MULTIPLES, rounds).cell() for name in GRIDS}
    made["opposed"] = _opposed(rounds)
    made["endless"] = _endless(min(LONG_ROUNDS, options.rounds or LONG_ROUNDS))
    for name in ("near", "wide"):
        made[f"check-{name}"] = Setup(name, CHECKED, rounds).cell()
    return made


def differences(committed: Result, again: Result) -> list[str]:
    """Steps to ± 2, λ_∞ to 1e-9, and whether Flower's points are the loop's, to the bit."""
    before, found = {run["multiple"]: run for run in committed["runs"]}, []
    for run in again["runs"]:
        old, where = before[run["multiple"]], f"at η·λ_GF = {run['multiple']:g}"
        if not _near(run["steps"], old["steps"]):
            found.append(f"steps {where} are {run['steps']}, committed are {old['steps']}")
        one, other = old["norm_square"], run["norm_square"]
        if not math.isclose(one, other, rel_tol=1e-9):
            found.append(f"λ_∞ {where} is {other:.12g}, committed is {one:.12g}")
        if not run["identical"]:
            found.append(f"Flower's points {where} are not those of the loop")
    return found


def _near(one: list[int | None], other: list[int | None]) -> bool:
    return all(
        a == b or (a is not None and b is not None and abs(a - b) <= 2)
        for a, b in zip(one, other, strict=True)
    )


def _opposed(rounds: int) -> Cell:
    """The start from which a step of 1.9 > √2 ends sharper than the flow."""
    start = STARTS["opposed"]

    def work(folder: Path, progress: Progress, resume: bool) -> Result:
        found = measure(start.vector, SHARPER, rounds, drawn=True)
        return {"start": "opposed", "runs": [{"multiple": SHARPER * found["flow"]} | found]}

    settings = {"point": list(start.point), "target": TARGET, "clients": CLIENTS}
    return Cell(settings | {"step_size": SHARPER, "rounds": rounds}, work)


def _endless(rounds: int) -> Cell:
    """The first table's last entry."""
    start = STARTS["near"]

    def work(folder: Path, progress: Progress, resume: bool) -> Result:
        flow = theory.shallow_flow_limit(theory.shallow_imbalance(start.vector), TARGET)
        return {"start": "near", "multiple": ENDLESS} | endless(
            start.vector, ENDLESS / flow, rounds
        )

    settings = {"point": list(start.point), "target": TARGET, "rounds": rounds}
    return Cell(settings | {"multiple": ENDLESS}, work)


REPRODUCTION = Reproduction(
    summary="steps and sharpness of a linear net's limit against the step size (2501.09137)",
    cells=cells,
    usual=("*",),
    table=table,
    notes=notes,
    draw=draw,
    checked=("check-near", "check-wide"),
    differences=differences,
)
