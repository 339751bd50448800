"""SGD against parallel momentum under the other biases that arXiv 2403.00853 names.

Shuffled batches (beside batches drawn with replacement, which are unbiased), MAML on few-shot
regression, and REINFORCE with a truncated horizon on a tabular decision process. The paper has no
numbers for them: what is compared is β = 1 with β = 0.1 at the same step size, and both with what
the theory allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedbias.optimizers import HeavyBall
from fedbias.vectors import Vector

from ...output import Progress
from ..base import Cell, Options, Reproduction, Result
from .cases import CASES, STEPS, Case, step_sizes
from .floors import Recursion, Trace, follow, without_noise
from .tables import draw, notes, table

SEEDS = (0, 1, 2, 3, 4)
SERVERS = {"sgd": 1.0, "momentum": 0.1}  # β
SHARE, STAY = 0.25, 20  # speed: the first of so many rounds at most at this share of the start
WINDOW = 5  # floor: the mean over the last fifth of the rounds
POINTS = 120  # of a kept curve, evenly in log scale


@dataclass(frozen=True)
class Setup:
    """One cell: a server under a bias, for so many rounds.

    Attributes
    ----------
    curve : tuple of int
        The rounds whose measure is kept.
    """

    case: Case
    problem: Any
    optimizer: HeavyBall
    rounds: int
    curve: tuple[int, ...]

    def cell(self) -> Cell:
        """It with all that decides its result."""
        case = self.case
        settings = {
            "problem": case.make.__qualname__,
            **case.arguments,
            "estimator": repr(case.estimator),
            "batch_size": case.batch_size,
            "optimizer": repr(self.optimizer),
            "start": case.start,
            "rounds": self.rounds,
            "seeds": list(SEEDS),
            "measured": [SHARE, STAY, WINDOW, *self.curve],
        }
        return Cell(settings, self.compute)

    @property
    def start(self) -> Vector:
        """x_0."""
        return np.full(self.problem.objectives[0].dim, self.case.start)

    def compute(self, folder: Path, progress: Progress, resume: bool) -> Result:
        """The five runs, and what they come to."""
        progress.start(self.rounds * len(SEEDS), folder.name)
        traces = []
        for place, seed in enumerate(SEEDS):

            def shown(round: int, loss: float, before: int = place * self.rounds) -> None:
                progress.update({"round": before + round + 1, "train_loss": loss})

            trace = follow(
                self.problem,
                self.optimizer,
                self.start,
                self.rounds,
                estimator=self.case.estimator,
                batch_size=self.case.batch_size,
                seed=seed,
                shown=shown,
            )
            traces.append(trace)
        progress.finish()
        return self.summary(traces)

    def summary(self, traces: Sequence[Trace]) -> Result:
        """Floors, speeds and errors, a number per seed; curves as [round, mean, error]."""
        recursion, last = self._recursion(), self.rounds - 1
        window = range(last - self.rounds // WINDOW, last)  # the theory asks for each one's next
        values = np.stack([recursion.measure(trace) for trace in traces])
        errors = values.std(axis=0, ddof=1) / math.sqrt(len(traces))
        bound = getattr(self.problem, "bias_bound", None)
        return {
            "measure": "f − f*" if recursion.pl else "‖∇f‖²",
            "step_size": self.optimizer.step_size,
            "beta": self.optimizer.beta,
            "covered": recursion.covered,
            "curve": [[k, *_short([values[:, k].mean(), errors[k]])] for k in self.curve],
            "floor": _short(values[:, window].mean(axis=1)),
            "floor_bound": _short([recursion.floor_bound(trace, window) for trace in traces]),
            "alone": self._alone(recursion, window),
            "reached": [settled(path, SHARE * path[0]) for path in values],
            "error_square": _short([trace.errors[window].mean() for trace in traces]),
            "bias_square": _short(
                [
                    self._bias_square(trace, window, seed)
                    for trace, seed in zip(traces, SEEDS, strict=True)
                ]
            ),
            "bias_square_bound": bound and bound**2,
            "violations": sum(recursion.violations(trace) for trace in traces),
            "steps": last * len(traces),
        }

    def _recursion(self) -> Recursion:
        problem = self.problem
        return Recursion(
            self.optimizer.step_size,
            self.optimizer.beta,
            problem.lipschitz,
            problem.strong_convexity,
            getattr(problem, "minimum", 0.0),
        )

    def _bias_square(self, trace: Trace, window: range, seed: int) -> float:
        biases = [self.case.bias(self.problem, trace.points[k], k, seed) for k in window]
        return float(np.mean(np.sum(np.square(biases), axis=1)))

    def _alone(self, recursion: Recursion, window: range) -> list[float] | None:
        """Floor and bound of the same steps without noise, where the point decides the bias."""
        if not self.case.fixed:
            return None
        trace = without_noise(
            self.problem,
            self.optimizer,
            self.start,
            self.rounds,
            lambda point: self.case.bias(self.problem, point, 0, 0),
        )
        floor = float(np.mean(recursion.measure(trace)[window]))
        return _short([floor, recursion.floor_bound(trace, window)])


def cells(options: Options) -> dict[str, Cell]:
    """``reshuffled-covered-sgd``, …: two step sizes and two servers for every bias."""
    options.check_own("biases has its own problems", STAY)
    made = {}
    for name, case in CASES.items():
        problem = case.make(**case.arguments)
        start = np.full(problem.objectives[0].dim, case.start)
        sizes = step_sizes(problem, start, SERVERS["momentum"])
        for step, size, whole in zip(STEPS, sizes, case.rounds, strict=True):
            rounds = min(whole, options.rounds or whole)
            shown = {0, *(int(k) for k in np.geomspace(1, whole - 1, POINTS))}
            curve = tuple(sorted(k for k in shown if k < rounds))
            for server, beta in SERVERS.items():
                setup = Setup(case, problem, HeavyBall(size, beta), rounds, curve)
                made[f"{name}-{step}-{server}"] = setup.cell()
    return made


def settled(path: Vector, level: float) -> int | None:
    """The first of 20 rounds in a row that are at most at the level; None if there are none.

    In a row, because momentum swings through the minimum and out again.
    """
    low = np.convolve(path <= level, np.ones(STAY), "valid") == STAY
    return int(np.argmax(low)) if low.any() else None


def differences(committed: Result, again: Result) -> list[str]:
    """The curves of the rounds that both have, to a millionth."""
    known = {k: mean for k, mean, _ in committed["curve"]}
    return [
        f"{again['measure']} of round {k} is {mean}, committed is {known.get(k)}"
        for k, mean, _ in again["curve"]
        if not math.isclose(known.get(k, math.inf), mean, rel_tol=1e-6)
    ]


def _short(values: Sequence[float] | Vector) -> list[float]:
    return [float(f"{value:.10g}") for value in values]


REPRODUCTION = Reproduction(
    summary="SGD against momentum under shuffled batches, MAML and REINFORCE (2403.00853)",
    cells=cells,
    usual=("*",),
    table=table,
    notes=notes,
    draw=draw,
    checked=tuple(f"{name}-covered-momentum" for name in CASES),
    differences=differences,
    check_options=Options(rounds=100),
)
