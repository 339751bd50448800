"""The star form: one point per population, weighting and step, and the weights of its kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cases import FEW, MANY, MOMENTUM, MULTIPLES, WEIGHTS, Experiment
from .dense import Array, squared

_STEPS = len(MULTIPLES)
_LOOKS_BACK = 10  # rounds of the variances' running mean, as the library has it
STARS = tuple(f"star {name}" for name in (FEW, MANY, *WEIGHTS))


@dataclass
class Kind:
    """What the star form knows of one kind of nodes.

    Attributes
    ----------
    nodes : int
        How many.
    total : ndarray, shape (25, d)
        The sum of their estimates at each point in this round.
    squares : ndarray, shape (5,)
        Σ‖g‖² at the points that need variances.
    variances : ndarray, shape (5,)
        The running mean of an estimate's variance.
    """

    nodes: int
    total: Array
    squares: Array
    variances: Array

    def measure(self, round: int) -> None:
        """Take this round's Σ‖g − ḡ‖²/(n − 1) into the running mean."""
        mean = squared(self.total[-_STEPS:]) / self.nodes
        seen = (self.squares - mean) / (self.nodes - 1)
        self.variances += (seen - self.variances) / min(round + 1, _LOOKS_BACK)


class Star:
    """All the points of an experiment and seed, (25, d): few, many and the weightings, × steps."""

    def __init__(self, experiment: Experiment, start: Array) -> None:
        self.points = np.tile(start, (len(STARS) * _STEPS, 1))
        self._buffers = np.zeros_like(self.points)
        self._steps = (1 - MOMENTUM) * steps_of(experiment)
        self.kinds = [
            Kind(nodes, np.zeros_like(self.points), np.zeros(_STEPS), np.zeros(_STEPS))
            for nodes in (experiment.first, experiment.zeroth)
        ]

    def clear(self) -> None:
        """Forget the last round's estimates."""
        for kind in self.kinds:
            kind.total[:], kind.squares[:] = 0, 0

    def shares(self, round: int) -> Array:
        """The weight of all nodes with gradients together at each point, shape (25,)."""
        first, zeroth = self.kinds
        shares = np.full((len(STARS), _STEPS), first.nodes / (first.nodes + zeroth.nodes))
        shares[0], shares[1] = 1, 0
        shares[3] = 0.5  # each kind has a copy of the data
        if round:
            precise, vague = first.nodes / first.variances, zeroth.nodes / zeroth.variances
            shares[4] = precise / (precise + vague)
        return shares.reshape(-1)

    def move(self, round: int, decay: float) -> None:
        """Momentum as Polyak has it: the decay is inside."""
        shares = self.shares(round)
        self._buffers *= self.points.dtype.type(MOMENTUM)
        for kind, weights in zip(self.kinds, (shares, 1 - shares), strict=True):
            self._buffers += self._column(decay * weights / kind.nodes) * kind.total
            kind.measure(round)
        self.points -= self._column(self._steps) * self._buffers

    def _column(self, values: Array) -> Array:
        column: Array = values.astype(self.points.dtype)[:, None]
        return column


def steps_of(experiment: Experiment) -> Array:
    """η at every point: the population's own; the hybrid's is that of the many."""
    few, many = experiment.steps
    return np.concatenate([base * np.array(MULTIPLES) for base in (few, many, many, many, many)])
