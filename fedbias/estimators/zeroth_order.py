"""From forward passes alone: slopes of the loss along random directions.

A slope s_k belongs to a direction u_k ~ N(0, I) that its seed stands for, and the estimate is
(1/n)·Σ_k s_k u_k (:mod:`fedbias.directions`). In the limit of a small radius it has the mean ∇f
and, about it, (d+1)/n times ‖∇f‖² of spread (:mod:`fedbias.theory.zeroth_order`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import numpy as np

from fedbias import checks
from fedbias.directions import combination, fill, shift
from fedbias.notation import setting
from fedbias.objectives import Batch, Objective
from fedbias.randomness import Purpose
from fedbias.turn import Turn
from fedbias.vectors import Vector

from .base import Estimate, Estimator


class _Slopes(Estimator):
    """Estimates that are seeds and slopes; all the directions of a turn see the same batch."""

    directions: int

    def __post_init__(self) -> None:
        checks.whole(self.name, "directions", self.directions, least=1, most=2**16)

    @abstractmethod
    def _slopes(
        self, objective: Objective, point: Vector, batch: Batch | None, seed: int
    ) -> tuple[float, Vector]:
        """The loss at the point, and s_k for every direction, not finite where there is none."""

    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        batch = turn.batch(objective.size, "replacement")
        seed = int(turn.stream(Purpose.DIRECTION).integers(2**63))
        with np.errstate(over="ignore", invalid="ignore"):
            loss, slopes = self._slopes(objective, point, batch, seed)
            slopes = slopes.astype(np.float32)
        kept = np.isfinite(slopes)
        if not kept.any():
            raise ValueError(f"{self}: the loss is not finite along any of its directions")
        turn.dropped += int((~kept).sum())
        turn.examples += self._passes * (objective.size if batch is None else batch.size)
        slopes[~kept] = np.nan
        return Estimate(combination(seed, slopes, point.size, point.dtype), loss)

    @property
    @abstractmethod
    def _passes(self) -> int:
        """Over the batch."""

    @property
    def draws_batches(self) -> bool:
        return True

    @property
    def most_directions(self) -> int:
        return self.directions


@setting("two_point")
class TwoPoint(_Slopes):
    """Slopes from differences of the loss: (F(x+νu) − F(x))/ν, or (F(x+νu) − F(x−νu))/(2ν).

    The forward difference costs one pass per direction and one more, the central one two per
    direction. Needs ``loss`` alone, in evaluation mode, and one vector besides the point.

    Both have the mean ∇F_ν(x), with F_ν the mean of F over N(x, ν²I): biased by nothing for
    quadratics, by at most (ν/2)·L·(d+3)^{3/2} for an L-smooth loss (Nesterov and Spokoiny 2017;
    :func:`fedbias.theory.difference_bias`). The forward difference also has (ν/2)·uᵀ∇²F·u in every
    slope, which spreads the estimates; in the central one it cancels. NOT guaranteed: anything
    below the loss's own rounding ε|F|, which counts as ε|F|/ν in every slope; with a radius below
    the point's rounding all slopes are 0. Directions whose loss is not finite are left out and
    counted, which biases what is left. Slopes are rounded to float32. The
    loss that is reported is F(x); for central differences F_ν(x), as far as the directions show it.
    """

    directions: int
    radius: float  # ν
    central: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real(self.name, "radius", self.radius, above=0)
        checks.flag(self.name, "central", self.central)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    @property
    def _passes(self) -> int:
        return 2 * self.directions if self.central else self.directions + 1

    def _slopes(
        self, objective: Objective, point: Vector, batch: Batch | None, seed: int
    ) -> tuple[float, Vector]:
        moved = np.empty_like(point)
        ahead, behind = np.empty(self.directions), np.empty(self.directions)
        if not self.central:
            behind[:] = objective.loss(point, batch)
        for k in range(self.directions):
            shift(point, self.radius, (seed, k), moved)
            ahead[k] = objective.loss(moved, batch)
            if self.central:
                np.subtract(point, moved, out=moved)  # to 2x − (x + νu), as far on the other side
                np.add(point, moved, out=moved)
                behind[k] = objective.loss(moved, batch)
        slopes = (ahead - behind) / (2 * self.radius if self.central else self.radius)
        at = (ahead + behind) / 2 if self.central else behind
        known = np.isfinite(slopes)
        return float(at[known].mean()) if known.any() else float("nan"), slopes


@setting("forward_gradient")
class ForwardGradient(_Slopes):
    """Slopes ⟨u, ∇F(x)⟩ by forward-mode differentiation (Baydin et al. 2022).

    Unbiased; needs ``directional`` and one vector besides the point. The loss is taken in
    evaluation mode, as by :class:`TwoPoint`. Slopes are rounded to float32.
    """

    directions: int

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"directional"})

    @property
    def _passes(self) -> int:
        return self.directions + 1

    def _slopes(
        self, objective: Objective, point: Vector, batch: Batch | None, seed: int
    ) -> tuple[float, Vector]:
        along, slopes = np.empty_like(point), np.empty(self.directions)
        for k in range(self.directions):
            fill(along, (seed, k))
            slopes[k] = cast(Any, objective).directional(point, along, batch)
        return objective.loss(point, batch), slopes


two_point, forward_gradient = TwoPoint, ForwardGradient
