"""What ``reproduce feedback`` compares: clients that differ, feedbacks, settings, steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

import fedbias as fb
from fedbias import theory
from fedbias.compressors import Compressor
from fedbias.optimizers import Optimizer
from fedbias.randomness import SERVER, Purpose, generator
from fedbias.vectors import norm

from ...data.datasets import digits

Problem = fb.LeastSquares | fb.Logistic

SEEDS = (0, 1, 2, 3, 4)
ROUNDS = 150
SHARES = {"1": 1.0, "1/4": 0.25}  # of the tuned step of gradient descent
FEEDBACKS: Mapping[str, fb.Feedback] = {
    "none": fb.no_feedback(),
    "error feedback": fb.error_feedback(),
    "EF21": fb.ef21(),
    "differential": fb.differential(),
    "with memory": fb.differential(memory=True),
}
COMPRESSORS: Mapping[str, Callable[[int], Compressor]] = {
    "uniform": fb.uniform,
    "e8": partial(fb.lattice, "E8"),
}


@dataclass(frozen=True)
class Setting:
    """Who takes part: a share of the clients in every round, and how often a reply is lost."""

    share: float
    loss: float

    def asked(self, clients: int, seed: int, round: int) -> list[int]:
        """The clients of a round."""
        return fb.sample_clients(seed, round, range(clients), math.ceil(self.share * clients))

    def missing(self, clients: int, seed: int, round: int) -> list[int]:
        """The clients whose reply does not arrive."""
        return fb.lost(seed, round, range(clients), self.loss)


SETTINGS = {
    "full": Setting(1.0, 0.0),
    "full-lossy": Setting(1.0, 0.2),
    "half": Setting(0.5, 0.0),
    "half-lossy": Setting(0.5, 0.2),
}


# The problems -------------------------------------------------------------------------------------


def squares(seed: int, clients: int = 8) -> Problem:
    """Least squares, κ = 10: 32 rows a client, whose truth is off the common one by as much."""
    problem = fb.LeastSquares.random(16, 10.0, seed, clients)
    rng = generator(seed, 0, SERVER, Purpose.MODEL)
    features = np.concatenate([f.features for f in problem.objectives])
    targets = np.concatenate(
        [f.targets + f.features @ rng.standard_normal(16) for f in problem.objectives]
    )
    return fb.LeastSquares(features, targets, clients)


def one_digit(seed: int) -> Problem:
    """The digit ``seed`` against all others, κ ≤ 20: ten clients, each with one digit or nearly.

    Logistic loss of centred pixels; the examples are sorted by their digit.
    """
    data = digits()
    order = np.argsort(data.train_y, kind="stable")
    pixels = data.train_x.reshape(len(order), -1).astype(np.float64)[order]
    rows = np.hstack([pixels - pixels.mean(axis=0), np.ones((len(order), 1))])
    labels = np.where(data.train_y[order] == seed, 1.0, -1.0)
    curvature = float(np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1]) / 4
    return fb.Logistic(rows, labels, curvature / 19, clients=10)


PROBLEMS: Mapping[str, Callable[[int], Problem]] = {
    "squares": squares,
    "digits": one_digit,
    "alone": partial(squares, clients=1),
}


@cache
def problem_of(name: str, seed: int) -> Problem:
    """The problem of a seed; it is used again and again."""
    return PROBLEMS[name](seed)


def heterogeneity(problem: Problem) -> float:
    """The clients' gradients at x* over those at x_0 = 0, root mean squares: 0 if all are alike."""
    there, start = (
        math.sqrt(np.mean([norm(f.gradient(point)) ** 2 for f in problem.objectives]))
        for point in (problem.minimizer, np.zeros_like(problem.minimizer))
    )
    return there / start


def step_of(problem: Problem, way: str) -> Optimizer:
    """The server's step: tuned to L and μ as without compression, or a share of that."""
    known = problem.lipschitz, problem.strong_convexity
    if way not in SHARES:
        return theory.tuned(way, *known).optimizer
    return fb.gradient_descent(SHARES[way] * 2 / sum(known))
