"""Differential quantization (arXiv 2002.02508): contraction and bits against R, beside the theory.

The gradient method and its accelerated forms on least squares and on ridge-regularised logistic
regression, one client; scalar and E8 quantizers, naive quantization and none.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from fedbias import theory

from ...output import Progress
from ..base import Cell, Options, Reproduction, Result
from . import digits
from .draw import draw
from .notes import notes
from .runs import (
    ACCURACY,
    EARLY,
    EXTREME,
    METHODS,
    measure,
    problem_of,
    short,
    summary,
)
from .tables import table

SEEDS = (0, 1, 2, 3, 4)
RATES = (1, 2, 3, 4, 5, 6, 7, 8)  # R
FULL = (64,)  # R of a gradient in double precision
CONDITIONS = (1.5, 10.0, 100.0)
DIGITS_ROUNDS, DIGITS_RATES = 1500, (1, 2, 3, 4, 5, 6, 8)
PRESET_NAIVE = {"gd": ("naive",)}
TEN = ("nag", "e8", 4)  # how all ten digits are told apart


@dataclass(frozen=True)
class Setup:
    """A method and a way to send its gradients, on one problem, at several R.

    Attributes
    ----------
    kappa : float or None
        κ; None where the data decide.
    rounds : int
        At most so many.
    """

    problem: str
    method: str
    way: str
    n: int
    kappa: float | None
    rates: tuple[int, ...]
    rounds: int

    def cell(self) -> Cell:
        """It with all that decides its result."""
        settings = asdict(self) | {
            "rates": list(self.rates),
            "measured": [ACCURACY, EARLY, EXTREME],
        }
        if self.problem == "digits":
            return Cell(settings | {"digit": digits.CLASS, "ridge": digits.RIDGE}, self.compute)
        return Cell(settings | {"seeds": list(SEEDS)}, self.compute)

    def compute(self, folder: Path, progress: Progress, resume: bool) -> Result:
        """The runs at every R, and what theory says of the method."""
        progress.start(len(self.rates), folder.name)
        runs = []
        for place, bits in enumerate(self.rates):
            runs.append(self._at(bits))
            progress.update({"round": place + 1})
        progress.finish()
        known = asdict(self) | self._constants()
        return {key: known[key] for key in known if key != "rates"} | {"runs": runs}

    def _at(self, bits: int) -> Result:
        if self.kappa is None:
            return digits.measure(self.method, self.way, bits, self.rounds)
        job = (self.method, self.way, bits, self.n, self.kappa)
        return {"R": bits} | summary([measure(*job, seed, self.rounds) for seed in SEEDS])

    def _constants(self) -> Result:
        if self.kappa is None:
            found = digits.constants()
            return found | _sigma(self.method, found["lipschitz"], found["strong_convexity"])
        problem, _ = problem_of(self.n, self.kappa, SEEDS[0])
        return _sigma(self.method, problem.lipschitz, problem.strong_convexity)


def cells(options: Options) -> dict[str, Cell]:
    """``gd-scalar-10``, …, ``nag-e8-1.5-n64``, ``digits-hb-none``, …, ``digits-ten``."""
    options.check_own("differential-quantization has its own problems", 2 * EARLY)
    made = {}
    for setup in _setups(options.rounds or DIGITS_ROUNDS):
        parts = ["digits"] if setup.problem == "digits" else []
        parts += [setup.method, setup.way]
        parts += [] if setup.problem == "digits" else [f"{setup.kappa:g}"]
        parts += [f"n{setup.n}"] if setup.n == 64 else []
        made["-".join(parts)] = setup.cell()
    made["digits-ten"] = _ten(options.rounds or DIGITS_ROUNDS)
    return made


def differences(committed: Result, again: Result) -> list[str]:
    """The first rounds to a millionth; the rest where both made as many rounds.

    Errors of rounding stay as they are while the distance shrinks: on another processor the last
    points differ, and contractions only agree to a hundredth.
    """
    if "runs" not in again:
        return _differ("accuracy", committed, again, 0.01)
    known = {run["R"]: run for run in committed["runs"]}
    found = []
    for run in again["runs"]:
        old = known.get(run["R"], {})
        found += _differ("early", old, run, 1e-6)
        if committed["rounds"] == again["rounds"]:
            for name, tolerance in (("rounds", 0.0), ("bits", 1e-9), ("contraction", 0.01)):
                found += _differ(name, old, run, tolerance)
    return found


def _differ(name: str, committed: Result, again: Result, tolerance: float) -> list[str]:
    old, new = committed.get(name), again.get(name)
    one, other = (value[0] if isinstance(value, list) else value for value in (old, new))
    if one == other or (
        None not in (one, other) and math.isclose(one, other, rel_tol=tolerance)  # type: ignore[arg-type]
    ):
        return []
    return [f"{name} at R = {again['R']} is {other}, committed is {one}"]


def _sigma(method: str, lipschitz: float, convexity: float) -> Result:
    return {"sigma": short(theory.tuned(METHODS[method], lipschitz, convexity).rate)}


def _setups(most: int) -> list[Setup]:
    """All the cells but that of the ten digits."""
    made = []

    def add(problem: str, method: str, way: str, n: int, kappa: float | None, rounds: int) -> None:
        usual = RATES if problem == "squares" else DIGITS_RATES
        rates = FULL if way == "none" else usual
        made.append(Setup(problem, method, way, n, kappa, rates, min(rounds, most)))

    for kappa in CONDITIONS:
        for method in METHODS:
            # The unquantized gradient method itself needs up to 338 rounds at κ = 100.
            rounds = (450 if method == "gd" else 300) if kappa == 100 else 200
            for way in _ways(method, kappa):
                add("squares", method, way, 16, kappa, rounds)
    for method in METHODS:
        for way in ("none", "scalar", "e8"):
            add("squares", method, way, 64, CONDITIONS[0], 200)
    for method in METHODS:
        for way in ("none", "scalar", "e8", "own", "naive-own", *PRESET_NAIVE.get(method, ())):
            add("digits", method, way, 65, None, DIGITS_ROUNDS)
    return made


def _ways(method: str, kappa: float) -> list[str]:
    """Naive quantization has preset ranges for the gradient method alone."""
    preset = PRESET_NAIVE.get(method, ())
    if kappa == 10:
        return ["none", "scalar", "e8", "safe", "own", *preset, "naive-own"]
    return ["none", "scalar", "e8", *(preset or ("naive-own",))]


def _ten(most: int) -> Cell:
    method, way, bits = TEN

    def work(folder: Path, progress: Progress, resume: bool) -> Result:
        return digits.ten_classes(method, way, bits, most)

    settings = {"method": method, "way": way, "R": bits, "ridge": digits.RIDGE, "rounds": most}
    return Cell(settings, work)


REPRODUCTION = Reproduction(
    summary="contraction and bits of differentially quantized GD, NAG and HB (2002.02508)",
    cells=cells,
    usual=("*",),
    table=table,
    notes=notes,
    draw=draw,
    checked=("gd-scalar-1.5", "hb-e8-1.5", "nag-scalar-10", "digits-nag-e8"),
    differences=differences,
)
