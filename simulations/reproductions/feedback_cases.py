"""What ``reproduce feedback`` runs: problems whose clients differ, feedbacks, steps, measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

import fedbias as fb
from fedbias import theory
from fedbias.compressors import Compressor
from fedbias.optimizers import Optimizer
from fedbias.randomness import SERVER, Purpose, generator
from fedbias.vectors import Vector, norm

from ..data.datasets import digits
from .floors import Problem

SEEDS = (0, 1, 2, 3, 4)
ROUNDS = 150
TINY = 1e-10  # of the start: a run that gets there is over
NEAR = 1e-6  # speed: rounds to this share of the start
FAR = 1e3  # a run that is so many times as far from x* as its start has diverged
EARLY = 20  # the round whose gap --check compares
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
        return fb.sample_clients(seed, round, range(clients), round_up(self.share * clients))

    def missing(self, clients: int, seed: int, round: int) -> list[int]:
        """The clients whose reply does not arrive."""
        return fb.lost(seed, round, range(clients), self.loss)


SETTINGS = {
    "full": Setting(1.0, 0.0),
    "full-lossy": Setting(1.0, 0.2),
    "half": Setting(0.5, 0.0),
    "half-lossy": Setting(0.5, 0.2),
}


def round_up(number: float) -> int:
    """A share of the clients is at least one of them."""
    return math.ceil(number)


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


# A run and what is measured of it -----------------------------------------------------------------


class _FarAway(Exception):
    """The run has diverged."""


@dataclass(frozen=True)
class Trace:
    """A run.

    Attributes
    ----------
    gaps : ndarray or None
        (f(x_k) − f*)/(f(x_0) − f*) for k = 0, 1, …, to ``TINY`` at most; None: it diverged.
    wire_bits : int
        Of all packets that arrived, a round; 0 if it diverged.
    early : float or None
        The gap in round ``EARLY``, if the run came so far.
    """

    gaps: Vector | None
    wire_bits: int = 0
    early: float | None = None


def follow(
    problem: Problem,
    optimizer: Optimizer,
    compressor: Compressor,
    feedback: fb.Feedback,
    setting: Setting,
    rounds: int,
    seed: int,
) -> Trace:
    """Run the federation from x_0 = 0 until it is there, has diverged or ran out of rounds."""
    clients, start = len(problem.objectives), np.zeros_like(problem.minimizer)
    limit, early = FAR * norm(problem.minimizer), list[float]()
    scale = problem.loss(start) - problem.minimum

    def watch(round: int, state: fb.server.ServerState, outcome: fb.server.Outcome) -> None:
        if outcome.refused or not norm(state.point - problem.minimizer) <= limit:
            raise _FarAway
        if round + 1 == EARLY:
            early.append((problem.loss(state.point) - problem.minimum) / scale)

    try:
        history = fb.run(
            *(problem.objectives, optimizer, start, rounds),
            compressor=compressor,
            feedback=feedback,
            participation=partial(setting.asked, clients, seed),
            lost=partial(setting.missing, clients, seed),
            stop=fb.until(loss=problem.minimum + TINY * scale),
            on_round=watch,
            keep="last",
            seed=seed,
        )
    except _FarAway:
        return Trace(None, early=next(iter(early), None))
    gaps = np.maximum((history.losses - problem.minimum) / scale, TINY)
    bits = round(float(np.mean(history.wire_bits)))
    return Trace(None if end(gaps) > 1 else gaps, bits, next(iter(early), None))


def end(gaps: Vector) -> float:
    """Where a run ended: the median over the last tenth of its rounds, or there at once."""
    return TINY if gaps[-1] <= TINY else float(np.median(gaps[-tenth(gaps) :]))


def stays(gaps: Vector) -> bool:
    """Whether a run has a floor: its last third did not halve the gap (medians of tenths)."""
    if gaps[-1] <= TINY:
        return False
    first = len(gaps) - len(gaps) // 3
    return end(gaps) > 0.5 * float(np.median(gaps[first : first + tenth(gaps)]))


def reached(gaps: Vector) -> int | None:
    """The first round with a gap of at most ``NEAR``."""
    low = gaps <= NEAR
    return int(np.argmax(low)) if low.any() else None


def tenth(gaps: Vector) -> int:
    """A tenth of the rounds, one at least."""
    return max(1, len(gaps) // 10)


def mean_gap(gaps: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(math.log(gap) for gap in gaps) / len(gaps))
