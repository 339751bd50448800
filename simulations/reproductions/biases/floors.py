"""One federation measured against the truth, round by round: where it ends, and what theory says.

x_{k+1} = x_k − γv_k with v_k = (1−β)v_{k−1} + βĝ_k, SGD being β = 1. The error b_k = ĝ_k − ∇f(x_k)
of the averaged estimate holds its bias and its noise: the inequalities of :mod:`fedbias.theory`
are about every single path, whatever the errors are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

import fedbias as fb
from fedbias import theory
from fedbias.optimizers import HeavyBall, State
from fedbias.state import Outcome, ServerState
from fedbias.vectors import Vector


class Problem(Protocol):
    """A loss with its exact gradient and its constants; μ is None where f is not μ-PL."""

    objectives: Sequence[Any]
    lipschitz: float
    strong_convexity: float | None

    def loss(self, point: Vector) -> float:
        """f(point)."""

    def gradient(self, point: Vector) -> Vector:
        """∇f(point)."""


@dataclass(frozen=True)
class Trace:
    """What a run went through, round by round.

    Attributes
    ----------
    points : ndarray, shape (rounds, dim)
        x_k.
    losses, slopes, errors, velocity_errors : ndarray, shape (rounds,)
        f(x_k), ‖∇f(x_k)‖², ‖b_k‖² and E_k = ‖v_k − ∇f(x_k)‖².
    """

    points: Vector
    losses: Vector
    slopes: Vector
    errors: Vector
    velocity_errors: Vector


def follow(
    problem: Problem,
    optimizer: HeavyBall,
    start: Vector,
    rounds: int,
    *,
    estimator: fb.Estimator,
    batch_size: int | None,
    seed: int,
    shown: Callable[[int, float], None] = lambda round, loss: None,
) -> Trace:
    """Run a federation and measure it; ``shown`` is called with (round, loss) after every round."""
    velocities = []

    def on_round(round: int, state: ServerState, outcome: Outcome) -> None:
        velocities.append(state.optimizer["velocity"])
        shown(round, outcome.loss)

    history = fb.run(
        problem.objectives,
        optimizer,
        start,
        rounds,
        estimator=estimator,
        batch_size=batch_size,
        on_round=on_round,
        seed=seed,
    )
    return _measured(problem, optimizer.beta, history.points[:-1], np.stack(velocities))


def without_noise(
    problem: Problem,
    optimizer: HeavyBall,
    start: Vector,
    rounds: int,
    bias: Callable[[Vector], Vector],
) -> Trace:
    """The same steps along E[ĝ] = ∇f + bias itself."""
    point, points, velocities = start, [], []
    state: State = {}
    for _ in range(rounds):
        points.append(point)
        point, state = optimizer.update(point, problem.gradient(point) + bias(point), state)
        velocities.append(state["velocity"])
    return _measured(problem, optimizer.beta, np.stack(points), np.stack(velocities))


def _measured(problem: Problem, beta: float, points: Vector, velocities: Vector) -> Trace:
    exact = np.stack([problem.gradient(point) for point in points])
    sent = velocities.copy()  # ĝ_0 = v_0
    sent[1:] = (velocities[1:] - (1 - beta) * velocities[:-1]) / beta
    return Trace(
        points,
        np.array([problem.loss(point) for point in points]),
        np.sum(exact**2, axis=1),
        np.sum((sent - exact) ** 2, axis=1),
        np.sum((velocities - exact) ** 2, axis=1),
    )


@dataclass(frozen=True)
class Recursion:
    """What theory says of φ and of a run's measure, in its μ-PL form or its non-convex one.

    Attributes
    ----------
    step_size, beta, lipschitz : float
        γ, β and L.
    strong_convexity : float or None
        μ; None asks for the non-convex form.
    minimum : float
        f*. The non-convex form does not need it: there φ may be known up to a constant.
    """

    step_size: float
    beta: float
    lipschitz: float
    strong_convexity: float | None = None
    minimum: float = 0.0

    @property
    def pl(self) -> bool:
        """Whether it is the μ-PL form."""
        return self.strong_convexity is not None

    @property
    def covered(self) -> bool:
        """Whether γ is small enough for the recursion, and for its floor 2C/μ."""
        limit = theory.momentum_step_limit(self.lipschitz, self.beta, pl=self.pl)
        slow = self.step_size * (self.strong_convexity or 0.0) <= self.beta / 4
        return self.step_size <= limit and slow

    def measure(self, trace: Trace) -> Vector:
        """What the theory bounds: f(x_k) − f* in the μ-PL form, ‖∇f(x_k)‖² in the other."""
        return trace.losses - self.minimum if self.pl else trace.slopes

    def potentials(self, trace: Trace) -> list[float]:
        """φ_k, one per round."""
        gaps = (trace.losses - self.minimum).tolist()
        return [
            theory.momentum_potential(gap, error, self.step_size, self.beta, pl=self.pl)
            for gap, error in zip(gaps, trace.velocity_errors.tolist(), strict=True)
        ]

    def violations(self, trace: Trace) -> int:
        """How many φ_{k+1} are above their bound by more than rounding."""
        potentials = self.potentials(trace)
        rounding = 1e-12 * (1 + abs(potentials[0]))
        after = zip(potentials[1:], trace.errors[1:].tolist(), strict=True)
        before = zip(potentials, trace.slopes.tolist(), strict=True)
        return sum(
            phi > self._bound(*last, error) + rounding
            for last, (phi, error) in zip(before, after, strict=False)
        )

    def _bound(self, potential: float, slope: float, next_error: float) -> float:
        if self.strong_convexity is None:
            return theory.momentum_descent(potential, slope, next_error, self.step_size)
        return theory.momentum_contraction(
            potential, next_error, self.step_size, self.beta, self.strong_convexity
        )

    def floor_bound(self, trace: Trace, window: range) -> float:
        """The recursion summed over a window of rounds: a bound on the mean measure there.

        2C/μ or 2C, with C the mean of ‖b_{k+1}‖² over the window, and what φ still lost in it.
        """
        potentials = self.potentials(trace)
        lost = potentials[window.start] - potentials[window.stop]
        per_round = lost / len(window) / self.step_size
        square = float(np.mean(trace.errors[window.start + 1 : window.stop + 1]))
        if self.strong_convexity is None:
            return 2 * square + 2 * per_round
        floor = theory.momentum_floor(square, self.strong_convexity)
        return floor + per_round / self.strong_convexity
