"""The convex problem of ``reproduce differential-quantization``: digits, one against the rest."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import fedbias as fb
from fedbias import theory
from fedbias.objectives import Batch
from fedbias.problems.linear import LogisticLoss
from fedbias.vectors import Vector, norm

from ...data.datasets import Dataset, digits
from ..base import Result
from .runs import ACCURACY, EARLY, METHODS, bits_sent, rounds_for, short
from .ways import coded

RIDGE = 0.01
CLASS = 8  # the digit that is hardest to tell from the rest
_CLASSES = 10


@dataclass(frozen=True, eq=False)
class Recorded:
    """A logistic loss that keeps the points z_i at which its gradient was asked for."""

    inner: LogisticLoss
    points: list[Vector]

    @property
    def dim(self) -> int:
        """Length of the point."""
        return self.inner.dim

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.inner.size

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """The loss itself."""
        return self.inner.loss(point, batch)

    def gradient(self, point: Vector, batch: Batch | None = None) -> Vector:
        """The gradient itself."""
        self.points.append(point)
        return self.inner.gradient(point, batch)


@functools.cache
def images() -> Dataset:
    """The digits, as they are split for all tasks."""
    return digits()


def features(inputs: NDArray[np.float32]) -> Vector:
    """64 pixels in [0, 1] and a 1 for the bias, shape (n, 65)."""
    flat = inputs.reshape(len(inputs), -1).astype(np.float64)
    return np.hstack([flat, np.ones((len(flat), 1))])


@functools.cache
def problem_of(digit: int) -> fb.Logistic:
    """One digit against the rest, one client."""
    data = images()
    labels = np.where(data.train_y == digit, 1.0, -1.0)
    return fb.Logistic(features(data.train_x), labels, RIDGE)


def accuracy(point: Vector) -> float:
    """The share of test images on the right side of ``CLASS`` against the rest."""
    data = images()
    return float(np.mean((features(data.test_x) @ point > 0) == (data.test_y == CLASS)))


def settled(digit: int, method: str, way: str, bits: int, most: int) -> tuple[fb.History, Recorded]:
    """A run from 0 until the server stops it, and where it took its gradients."""
    problem = problem_of(digit)
    lipschitz, convexity = problem.lipschitz, problem.strong_convexity
    tuned = theory.tuned(METHODS[method], lipschitz, convexity)
    code = coded(way, bits, lipschitz, convexity, problem.minimizer)
    rate = code.theory(tuned)
    start = np.zeros_like(problem.minimizer)
    gap = problem.loss(start) - problem.minimum
    recorded = Recorded(problem.objectives[0], [])
    run = fb.run(
        [recorded],
        tuned.optimizer,
        start,
        rounds_for(rate, most) if rate and rate > 1 else most,
        compressor=code.compressor,
        feedback=code.feedback,
        stop=fb.until(loss=problem.minimum + ACCURACY * gap),
    )
    return run, recorded


def measure(method: str, way: str, bits: int, most: int) -> Result:
    """One run on ``CLASS`` against the rest.

    ``deviation`` is the largest ‖z_i − x_i‖ from the unquantized iterates, where the run arrives.
    """
    run, recorded = settled(CLASS, method, way, bits, most)
    rounds, minimizer = len(run.outcomes), problem_of(CLASS).minimizer
    deviation = None
    if run.stopped and way in ("scalar", "e8"):
        plain = unquantized(method, rounds)
        deviation = short(
            max(norm(z - x) for z, x in zip(recorded.points, plain[:rounds], strict=True))
        )
    return {
        "R": bits,
        "theory": None,  # the curvature that matters is not μ here
        "contraction": None,
        "early": short(norm(run.points[EARLY] - minimizer) / norm(minimizer)),
        "rounds": rounds if run.stopped else None,
        "bits": bits_sent(run, rounds, way) if run.stopped else None,
        "saturated": sum(len(outcome.saturated) for outcome in run.outcomes),
        "accuracy": short(accuracy(run.points[-1])) if run.stopped else None,
        "deviation": deviation,
    }


def unquantized(method: str, rounds: int) -> Vector:
    """The points of the method itself, shape (rounds + 1, 65)."""
    problem = problem_of(CLASS)
    tuned = theory.tuned(METHODS[method], problem.lipschitz, problem.strong_convexity)
    start = np.zeros_like(problem.minimizer)
    return fb.run(problem.objectives, tuned.optimizer, start, rounds).points


def constants() -> Result:
    """What the problem is: κ, L, μ, D and what could be proved of D without knowing x*."""
    problem = problem_of(CLASS)
    lipschitz, convexity, point = problem.lipschitz, problem.strong_convexity, problem.minimizer
    return {
        "digit": CLASS,
        "n": point.size,
        "kappa": short(lipschitz / convexity),
        "lipschitz": short(lipschitz),
        "strong_convexity": convexity,
        "distance": short(norm(point)),
        "distance_bound": short(norm(problem.gradient(np.zeros_like(point))) / convexity),
        "best_accuracy": short(accuracy(point)),
    }


def ten_classes(method: str, way: str, bits: int, most: int) -> Result:
    """All ten digits against the rest, by the same rule: test accuracy, exact and quantized."""
    data, runs = images(), []
    for digit in range(_CLASSES):
        runs.append(settled(digit, method, way, bits, most)[0])
    inputs = features(data.test_x)
    exact = np.stack([problem_of(digit).minimizer for digit in range(_CLASSES)], axis=1)
    found = np.stack([run.points[-1] for run in runs], axis=1)
    return {
        "R": bits,
        "rounds": [len(run.outcomes) if run.stopped else None for run in runs],
        "bits": short(sum(bits_sent(run, len(run.outcomes), way) for run in runs)),
        "accuracy": short(float(np.mean((inputs @ found).argmax(axis=1) == data.test_y))),
        "best_accuracy": short(float(np.mean((inputs @ exact).argmax(axis=1) == data.test_y))),
    }
