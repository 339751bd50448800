"""A smooth non-convex loss, and examples without limit: what rates are measured with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from fedbias import checks
from fedbias.estimators import Estimate, Estimator
from fedbias.notation import setting
from fedbias.objectives import Batch, Objective, Statistics, loss_and_gradient
from fedbias.randomness import Purpose
from fedbias.turn import Turn
from fedbias.vectors import Vector, squared_norm


@dataclass(frozen=True, eq=False)
class GemanMcClure:
    """f(x) = Σ_j c_j·x_j²/(1 + x_j²), the robust loss of Geman and McClure (1987).

    Not convex where |x_j| > 1/√3; the one stationary point is the minimiser 0, near which the
    curvatures are 2c_j. It has no data: examples come from an estimator such as :class:`Noisy`.

    Attributes
    ----------
    scales : ndarray, shape (dim,)
        c_j > 0.
    size : int
        Stands for examples without limit; a client's weight where weights go by examples.
    """

    scales: Vector
    size: int = 2**62

    @property
    def dim(self) -> int:
        """Length of the point."""
        return int(self.scales.size)

    @property
    def lipschitz(self) -> float:
        """L = 2·max c_j: |φ''(t)| = |2 − 6t²|/(1 + t²)³ ≤ 2 for φ(t) = t²/(1 + t²)."""
        return 2 * float(self.scales.max())

    @property
    def minimizer(self) -> Vector:
        """x* = 0, where f(x*) = 0."""
        return np.zeros_like(self.scales)

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """f(point); the batch makes no difference."""
        squares = point * point
        return float(np.sum(self.scales * squares / (1 + squares)))

    def gradient(self, point: Vector, batch: Batch | None = None) -> Vector:
        """2c_j·x_j/(1 + x_j²)²; the batch makes no difference."""
        slope: Vector = 2 * self.scales * point / (1 + point * point) ** 2
        return slope


@setting("noisy")
class Noisy(Estimator):
    """The mean of b gradients ∇f_m + σξ_i, ξ_i ~ N(0, I), drawn at once: unbiased.

    A batch-size test is given the variances of those b examples, from their own distribution as
    well, so that b = 10^12 costs no more than b = 2. No batch size means as many as the client has.
    """

    sigma: float  # σ

    def __post_init__(self) -> None:
        checks.real(self.name, "sigma", self.sigma, least=0)

    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        loss, gradient = loss_and_gradient(objective, point)
        count = objective.size if turn.batch_size is None else turn.batch_size
        noise = (
            self.sigma
            / math.sqrt(count)
            * turn.stream(Purpose.BATCH).standard_normal(gradient.size)
        )
        mean = gradient + noise.astype(gradient.dtype)
        turn.examples += count
        if turn.measure is not None:
            spread = self._spread(mean.size, count, turn.stream(Purpose.BATCH))
            found = _statistics(loss, mean, spread, turn.measure.measures)
            turn.statistic = turn.measure.statistic(found)
        return Estimate(mean, loss)

    @property
    def draws_batches(self) -> bool:
        return True

    @property
    def measuring_needs(self) -> frozenset[str]:
        return frozenset()

    def _spread(self, dim: int, count: int, rng: Generator) -> Vector:
        """Var_i(g_ij) of ``count`` examples: σ²·χ²_{b−1}/(b−1), independent of their mean."""
        if count < 2:
            return np.zeros(dim)
        spread: Vector = self.sigma * self.sigma * rng.chisquare(count - 1, dim) / (count - 1)
        return spread


def _statistics(loss: float, mean: Vector, spread: Vector, what: str | None) -> Statistics:
    # The noise looks alike in every orthonormal basis, so let the first axis be the mean's.
    along = squared_norm(mean) * float(spread[0]) if what == "along" else math.nan
    variances = spread if what == "variances" else None
    return Statistics(loss, mean, float(spread.sum()), along, variances)


noisy = Noisy
