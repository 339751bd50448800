"""Estimators that transform another one: clipped, normalised, over many local steps."""

from __future__ import annotations

import numpy as np

from fedbias import checks
from fedbias.notation import setting
from fedbias.objectives import Objective
from fedbias.turn import Turn
from fedbias.vectors import Vector, norm

from .base import Estimate, Estimator
from .first_order import Exact, Minibatch
from .mixed import ByCapability

_MOMENTUM = "local_steps.momentum"


class _Wrapped(Estimator):
    """An estimator that transforms another one, its ``inner``."""

    inner: Estimator

    def __post_init__(self) -> None:
        checks.instance(self.name, "inner", self.inner, Estimator, "exact()")
        if isinstance(self.inner, ByCapability):
            raise ValueError(f"{self.name}: write it inside by_capability(…), once for each kind")

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    @property
    def draws_batches(self) -> bool:
        return self.inner.draws_batches

    @property
    def aims_at_gradient(self) -> bool:
        return self.inner.aims_at_gradient

    def samples(self, batch_size: int | None, size: int) -> int:
        return self.inner.samples(batch_size, size)


@setting("clipped")
class Clipped(_Wrapped):
    """min(1, τ/‖g‖)·g: biased wherever it clips (arXiv 2403.00853). τ = ∞ changes nothing."""

    radius: float  # τ
    inner: Estimator = Exact()

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("clipped", "radius", self.radius, above=0, infinite=True)

    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        inner = self.inner.estimate(objective, point, turn)
        return Estimate(clip(inner.vector, self.radius), inner.loss)


@setting("normalised")
class Normalised(_Wrapped):
    """g/‖g‖, and 0 for g = 0: keeps the direction alone."""

    inner: Estimator = Exact()

    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        inner = self.inner.estimate(objective, point, turn)
        length = norm(inner.vector)
        return Estimate(inner.vector / length if length > 0 else inner.vector, inner.loss)

    @property
    def aims_at_gradient(self) -> bool:
        return False


@setting("local_steps")
class LocalSteps(_Wrapped):
    """The pseudo-gradient x − x_H of H local steps (McMahan et al. 2017; Reddi et al. 2021).

    Locally v ← momentum·v + g, x ← x − step_size·v, with g from ``inner``. A server step of 1 is
    FedAvg. It has the length of H steps, not of one gradient: divide by H·step_size to compare.
    With momentum the buffer v lives on in the client's memory.
    """

    count: int  # H
    step_size: float
    momentum: float = 0.0
    inner: Estimator = Minibatch()

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.inner, LocalSteps):
            raise ValueError("local_steps: inner must be an estimate of one step, not local_steps")
        checks.whole("local_steps", "count", self.count, least=1)
        checks.real("local_steps", "step_size", self.step_size, above=0)
        checks.real("local_steps", "momentum", self.momentum, least=0, below=1)

    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        local, loss = point, 0.0
        velocity = turn.memory.get(_MOMENTUM, np.zeros_like(point))
        measure, turn.measure = turn.measure, None
        for step in range(self.count):
            if step == self.count - 1:  # a batch-size test looks at the last step
                turn.measure = measure
            inner = self.inner.estimate(objective, local, turn)
            loss = inner.loss if step == 0 else loss
            velocity = self.momentum * velocity + inner.vector
            local = local - self.step_size * velocity
        if self.momentum > 0:
            turn.memory[_MOMENTUM] = velocity
        return Estimate(point - local, loss)

    @property
    def measuring_needs(self) -> frozenset[str] | None:
        return self.inner.measuring_needs  # for local tests, which look at the last step

    @property
    def aims_at_gradient(self) -> bool:
        return False

    def samples(self, batch_size: int | None, size: int) -> int:
        return self.count * self.inner.samples(batch_size, size)


def clip(vector: Vector, radius: float) -> Vector:
    """min(1, τ/‖v‖)·v."""
    length = norm(vector)
    return vector if length <= radius else vector * (radius / length)


clipped, normalised, local_steps = Clipped, Normalised, LocalSteps
