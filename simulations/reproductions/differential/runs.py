"""What ``reproduce differential-quantization`` runs on least squares, and what it measures there.

The minimiser is 0, so that floating point is relative to the distance from it: the contraction can
be measured over far more than the 11 digits that another minimiser leaves, and is not transient.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import fedbias as fb
from fedbias import theory
from fedbias.vectors import Vector, norm

from ..base import Result
from .ways import coded

METHODS = {"gd": "gradient_descent", "nag": "nesterov", "hb": "polyak"}
ACCURACY = 1e-6  # f − f* relative to the start's, where the server stops
EARLY = 5  # the round whose distance --check compares to a millionth
EXTREME = 1e120  # distances beyond it, or below its inverse, are not measured
SCALE_BITS = 64  # of a scale in the run's dtype


@functools.cache
def problem_of(dim: int, condition: float, seed: int) -> tuple[fb.LeastSquares, Vector]:
    """Random least squares moved to have its minimiser at 0, and x_0, which was 0 before."""
    original = fb.LeastSquares.random(dim, condition, seed)
    features = original.objectives[0].features
    return fb.LeastSquares(features, np.zeros(len(features))), -original.minimizer


def contraction(distances: Sequence[float] | Vector) -> float | None:
    """(d_b/d_a)^(1/(b−a)) from the middle a to the end b of what is in range; None if too short.

    The first half is the transient's, where factors such as HB's i + 1 still show.
    """
    shares = np.asarray(distances) / distances[0]
    extreme = (shares > EXTREME) | (shares < 1 / EXTREME)
    end = int(np.argmax(extreme)) - 1 if extreme.any() else len(shares) - 1
    middle = end // 2
    if end - middle < EARLY:
        return None
    return float((shares[end] / shares[middle]) ** (1 / (end - middle)))


def rounds_for(rate: float | None, most: int) -> int:
    """As many as stay in range at a known rate, and ``most`` at most."""
    if not rate or rate == 1:
        return most
    return max(2 * EARLY, min(most, math.floor(math.log(EXTREME) / abs(math.log(rate)))))


def stopping_round(losses: Vector, goal: float) -> int | None:
    """After how many rounds ``stop=until(loss=goal)`` ends a run with these losses; None: never.

    The loop asks after every round, not before the first.
    """
    below = np.flatnonzero(losses[1:] <= goal)
    return int(below[0]) + 1 if below.size else None


@dataclass(frozen=True)
class Measured:
    """What one run came to; ``rounds``, and ``bits`` a dimension, until the server stops."""

    theory: float | None
    contraction: float | None
    early: float
    rounds: int | None
    bits: float | None
    saturated: int
    boundary: int


def measure(
    method: str, way: str, bits: int, dim: int, condition: float, seed: int, most: int
) -> Measured:
    """One run of at most so many rounds."""
    problem, start = problem_of(dim, condition, seed)
    lipschitz, convexity = problem.lipschitz, problem.strong_convexity
    tuned = theory.tuned(METHODS[method], lipschitz, convexity)
    code = coded(way, bits, lipschitz, convexity, start)
    rate = code.theory(tuned)
    run = fb.run(
        problem.objectives,
        tuned.optimizer,
        start,
        rounds_for(rate, most),
        compressor=code.compressor,
        feedback=code.feedback,
        stop=fb.until(loss=problem.loss(start) / EXTREME**2),
    )
    distances = [norm(point) for point in run.points]
    rounds = stopping_round(run.losses, ACCURACY * problem.loss(start))
    return Measured(
        rate,
        contraction(distances),
        distances[EARLY] / distances[0],
        rounds,
        None if rounds is None else bits_sent(run, rounds, way),
        sum(len(outcome.saturated) for outcome in run.outcomes),
        getattr(code.compressor, "boundary", 0),
    )


def bits_sent(run: fb.History, rounds: int, way: str) -> float:
    """Payload bits a dimension of the first rounds; a scale that is sent counts."""
    scales = rounds * SCALE_BITS if way.endswith("own") else 0
    return (int(run.payload_bits[:rounds].sum()) + scales) / int(run.points.shape[1])


def summary(runs: Sequence[Measured]) -> Result:
    """The runs of several seeds at one R: contraction as [mean, least, largest], bits as a mean.

    Rounds and bits only where every run got there; ``early`` of the first seed.
    """
    rate = runs[0].theory  # the same for all seeds up to rounding
    rates = [run.contraction for run in runs if run.contraction]
    arrived = [run for run in runs if run.rounds is not None]
    every = len(arrived) == len(runs)
    middle = math.exp(sum(math.log(value) for value in rates) / len(rates)) if rates else None
    return {
        "theory": rate and short(rate),
        "contraction": middle and [short(middle), short(min(rates)), short(max(rates))],
        "early": short(runs[0].early),
        "rounds": _mean([run.rounds or 0 for run in arrived]) if every else None,
        "bits": _mean([run.bits or 0 for run in arrived]) if every else None,
        "saturated": sum(run.saturated for run in runs),
        "boundary": sum(run.boundary for run in runs),
    }


def short(value: float) -> float:
    """Ten digits."""
    return float(f"{value:.10g}")


def _mean(values: Sequence[float]) -> float:
    return short(sum(values) / len(values))
