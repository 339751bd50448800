"""The biases that ``reproduce biases`` compares under: problems, estimators, and what is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import fedbias as fb
from fedbias import theory
from fedbias.problems import FewShot, PolicySearch
from fedbias.randomness import Purpose, generator
from fedbias.vectors import Vector

from .floors import Problem

STEPS = ("covered", "larger")  # the names of the two step sizes


@dataclass(frozen=True)
class Case:
    """A bias on a problem.

    Attributes
    ----------
    make : callable
        The problem, from ``arguments``.
    start : float
        Every entry of x_0.
    rounds : tuple of int
        For the two step sizes.
    bias : callable
        (problem, x_k, round, seed) → E[ĝ | the rounds before] − ∇f(x_k).
    fixed : bool
        Whether that is a function of the point alone, and not 0.
    """

    make: Callable[..., Any]
    arguments: Mapping[str, Any]
    estimator: fb.Estimator
    batch_size: int | None
    start: float
    rounds: tuple[int, int]
    bias: Callable[[Any, Vector, int, int], Vector]
    fixed: bool = True


def reshuffling_bias(
    problem: Problem, point: Vector, round: int, seed: int, batch_size: int
) -> Vector:
    """E[ĝ | the epoch so far] − ∇f: the examples still to come are not all there are.

    For a batch size that divides the clients' sizes, and rounds that all were applied.
    """
    parts = []
    for client, objective in enumerate(problem.objectives):
        epoch, seen = divmod(round * batch_size, objective.size)
        order = generator(seed, epoch, client, Purpose.SHUFFLE).permutation(objective.size)
        parts.append(objective.gradient(point, order[seen:]))
    to_come: Vector = np.mean(parts, axis=0)
    return to_come - problem.gradient(point)


def step_sizes(problem: Problem, start: Vector, beta: float) -> tuple[float, float]:
    """The largest γ that the theory covers for β, and 1/(2λ), on four and three digits.

    λ is the largest |eigenvalue| of ∇²f(x_0): L for a quadratic f, and far below the L that can be
    proved for a policy.
    """
    limit = theory.momentum_step_limit(
        problem.lipschitz, beta, pl=problem.strong_convexity is not None
    )
    digits = 10.0 ** (3 - math.floor(math.log10(limit)))
    width = 1e-4
    slopes = [
        problem.gradient(start + width * unit) - problem.gradient(start - width * unit)
        for unit in np.eye(start.size)
    ]
    curvature = float(np.abs(np.linalg.eigvalsh(np.stack(slopes) / (2 * width))).max())
    return math.floor(limit * digits) / digits, float(f"{0.5 / curvature:.3g}")


_LEAST_SQUARES = {"dim": 20, "condition": 10.0, "seed": 0, "clients": 4}
_SINES = {"tasks": 20, "examples": 50, "seed": 0, "inner_step_size": 0.5}
_CHAIN = {"states": 4, "discount": 0.6, "horizon": 4, "trajectories": 10, "seed": 0}
CASES = {
    "reshuffled": Case(
        make=fb.LeastSquares.random,
        arguments=_LEAST_SQUARES,
        estimator=fb.minibatch("reshuffle"),
        batch_size=4,
        start=0.0,
        rounds=(2000, 500),
        bias=lambda problem, point, round, seed: reshuffling_bias(problem, point, round, seed, 4),
        fixed=False,
    ),
    "replacement": Case(
        make=fb.LeastSquares.random,
        arguments=_LEAST_SQUARES,
        estimator=fb.minibatch("replacement"),
        batch_size=4,
        start=0.0,
        rounds=(2000, 500),
        bias=lambda problem, point, round, seed: np.zeros_like(point),
        fixed=False,
    ),
    "maml": Case(
        make=FewShot.sines,
        arguments=_SINES,
        estimator=fb.meta(0.5),
        batch_size=5,
        start=1.0,
        rounds=(1000, 500),
        bias=lambda problem, point, round, seed: problem.bias(point, 5),
    ),
    "reinforce": Case(
        make=PolicySearch.chain,
        arguments=_CHAIN | {"ridge": 0.2, "clients": 3},
        estimator=fb.exact(),
        batch_size=None,
        start=0.0,
        rounds=(4000, 1000),
        bias=lambda problem, point, round, seed: problem.bias(point),
    ),
}
