"""One run of ``reproduce feedback``, and what is measured of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

import fedbias as fb
from fedbias.compressors import Compressor
from fedbias.optimizers import Optimizer
from fedbias.state import Outcome, ServerState
from fedbias.vectors import Vector, norm

from .cases import Problem, Setting

TINY = 1e-10  # of the start: a run that gets there is over
NEAR = 1e-6  # speed: rounds to this share of the start
FAR = 1e3  # a run that is so many times as far from x* as its start has diverged
EARLY = 20  # the round whose gap --check compares
POINTS = 5  # every so many rounds of a kept curve


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

    def watch(round: int, state: ServerState, outcome: Outcome) -> None:
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
