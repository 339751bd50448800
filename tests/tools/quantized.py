"""Quantized runs with all that is hidden in their turns, and a quadratic that never ends."""

from dataclasses import dataclass, field

import numpy as np

import fedbias as fb
from fedbias import theory
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.problems import Squares
from fedbias.server import apply, plan_for
from fedbias.state import ServerState


@dataclass
class Recorder:
    """An objective that notes where it is asked for gradients."""

    inner: object
    asked: list = field(default_factory=list)

    dim = property(lambda self: self.inner.dim)
    size = property(lambda self: self.inner.size)

    def loss(self, point, batch=None):
        return self.inner.loss(point, batch)

    def gradient(self, point, batch=None):
        self.asked.append(point.copy())
        return self.inner.gradient(point, batch)


@dataclass(frozen=True)
class Turned:
    """One client's turn: u_i = arrived − error."""

    plan: fb.Plan
    report: fb.Report
    arrived: np.ndarray  # q_i
    memory: dict  # pending after it

    @property
    def error(self):
        return self.memory["feedback.error"]

    @property
    def compressed(self):
        return self.arrived - self.error


def walk(objective, algorithm, start, rounds):
    """One client, round by round: the states x̂_0 … x̂_K and the turns between them."""
    state, ledger, states, turns = ServerState(start), Ledger(), [], []
    states.append(state)
    for _ in range(rounds):
        plan = plan_for(algorithm, state, 0)
        report, ledger = respond(objective, plan, ledger)
        arrived = fb.decode(report.packet, plan.radius)
        turns.append(Turned(plan, report, arrived, dict(ledger.pending)))
        state, outcome = apply(algorithm, state, [report])
        assert outcome.applied == (0,), outcome.refused
        states.append(state)
    return states, turns


@dataclass(frozen=True)
class Case:
    """A random least squares problem with x* = 0, L = 1, μ = 1/κ and ‖x_0 − x*‖ = 1.

    At x* = 0 rounding is relative to the distance, so that a run contracts for as long as floats
    go, and no rate is corrupted by double precision.
    """

    objective: Squares
    start: np.ndarray
    method: theory.Tuned
    preset: fb.preset_radius

    def algorithm(self, feedback, compressor):
        return Algorithm(self.method.optimizer, compressor=compressor, feedback=feedback)


def endless(method, dim, seed=0, condition=10.0):
    """A :class:`Case`; D is larger than 1 by rounding alone."""
    problem = fb.LeastSquares.random(dim, condition, seed)
    objective = Squares(problem.objectives[0].features, np.zeros(2 * dim))
    start = np.random.default_rng(seed).standard_normal(dim)
    constants = problem.lipschitz * (1 + 1e-9), problem.strong_convexity * (1 - 1e-9)
    return Case(
        objective,
        start / np.linalg.norm(start),
        theory.tuned(method, *constants),
        fb.preset_radius(*constants, distance=1 + 1e-9),
    )


def unquantized(case, rounds):
    """z_0 … z_K: the method without any quantization."""
    return fb.run([case.objective], case.method.optimizer, case.start, rounds).points


class Spy(fb.uniform):
    """A uniform quantizer that notes what it is given, u_0, u_1, …"""

    @property
    def given(self):
        return self.__dict__.setdefault("_given", [])

    def encode(self, vector, rng=None, radius=None):
        self.given.append(vector.copy())
        return super().encode(vector, rng, radius)
