"""What a client computes: estimates of ∇f_m, most of them biased.

An estimator is a setting with one method. ``needs`` names the capabilities it asks of the
objective (:mod:`fedbias.objectives`); ``inner`` is the estimator it transforms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from fedbias import checks
from fedbias.notation import setting
from fedbias.objectives import Batch, Objective, loss_and_gradient
from fedbias.turn import Turn
from fedbias.vectors import Vector, norm

_MOMENTUM = "local_steps.momentum"


@dataclass(frozen=True)
class Estimate:
    """What an estimator returns.

    Attributes
    ----------
    vector : ndarray, shape (dim,)
        The estimate g_m.
    loss : float
        The loss at the plan's point, on the examples that were looked at there.
    """

    vector: Vector
    loss: float


class Estimator(ABC):
    """A way to estimate a client's gradient at a point."""

    name: ClassVar[str]

    @abstractmethod
    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        """The estimate at ``point``, shape (dim,); randomness and memory come from the turn."""

    @property
    def needs(self) -> frozenset[str]:
        """The capabilities it asks of the objective."""
        return frozenset({"gradient"})

    @property
    def draws_batches(self) -> bool:
        """Whether a batch size has any meaning for it."""
        return False

    @property
    def measuring_needs(self) -> frozenset[str] | None:
        """The capabilities that measuring a batch's examples asks for; None if it cannot."""
        return None

    def samples(self, batch_size: int | None, size: int) -> int:
        """How many examples an estimate is made of, for a client with ``size`` of them."""
        return size if batch_size is None else batch_size


class _Wrapped(Estimator):
    """An estimator that transforms another one, its ``inner``."""

    inner: Estimator

    def __post_init__(self) -> None:
        checks.instance(self.name, "inner", self.inner, Estimator, "exact()")

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    @property
    def draws_batches(self) -> bool:
        return self.inner.draws_batches

    def samples(self, batch_size: int | None, size: int) -> int:
        return self.inner.samples(batch_size, size)


@setting("exact")
class Exact(Estimator):
    """∇f_m over all the client's data: no bias, no noise."""

    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        loss, gradient = loss_and_gradient(objective, point)
        turn.examples += objective.size
        return Estimate(gradient, loss)


@setting("minibatch")
class Minibatch(Estimator):
    """∇f_m over ``batch_size`` examples, which the server chooses.

    ``order="replacement"`` draws them independently: unbiased. ``"reshuffle"`` goes through a new
    random order in every epoch (a batch may straddle two): less spread over an epoch, but biased
    given what was already seen.
    """

    order: str = "replacement"

    def __post_init__(self) -> None:
        checks.choice("minibatch", "order", self.order, ("replacement", "reshuffle"))

    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        batch = turn.batch(objective.size, self.order)
        loss, gradient = _measured(objective, point, batch, turn)
        turn.examples += objective.size if batch is None else batch.size
        return Estimate(gradient, loss)

    @property
    def draws_batches(self) -> bool:
        return True

    @property
    def measuring_needs(self) -> frozenset[str]:
        return frozenset({"per_example_statistics"})


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


@setting("meta")
class Meta(Estimator):
    """∇F_m for F_m(x) = f_m(x − α∇f_m(x)): one-step MAML, Finn et al. 2017.

    ∇F_m(x) = (I − α∇²f_m(x))·∇f_m(x − α∇f_m(x)), so the objective must offer ``hvp``. With the
    client's whole data inside and outside it is exact for F_m, and biased for f_m.

    With a batch size b the inner step and the Hessian are taken on one batch, the support, and the
    outer gradient on another, the query, both drawn with replacement. That is biased for F_m, as
    the support's noise enters twice: for quadratic f_m by α²·E[(Ĥ − H)·H·(ĝ − g)], with Ĥ and ĝ
    the support's Hessian and gradient, which falls as 1/b (:meth:`fedbias.problems.FewShot.bias`).
    """

    inner_step_size: float  # α

    def __post_init__(self) -> None:
        checks.real("meta", "inner_step_size", self.inner_step_size, least=0)

    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        support = turn.batch(objective.size, "replacement")
        query = turn.batch(objective.size, "replacement")
        loss, first = loss_and_gradient(objective, point, support)
        _, second = loss_and_gradient(objective, point - self.inner_step_size * first, query)
        curved = cast(Vector, cast(Any, objective).hvp(point, second, support))
        turn.examples += 3 * (objective.size if support is None else support.size)
        return Estimate(second - self.inner_step_size * curved, loss)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"gradient", "hvp"})

    @property
    def draws_batches(self) -> bool:
        return True

    def samples(self, batch_size: int | None, size: int) -> int:
        return 3 * super().samples(batch_size, size)


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

    def samples(self, batch_size: int | None, size: int) -> int:
        return self.count * self.inner.samples(batch_size, size)


def _measured(
    objective: Objective, point: Vector, batch: Batch | None, turn: Turn
) -> tuple[float, Vector]:
    """Loss and gradient, with the statistic that a batch-size test asks for."""
    if turn.measure is None:
        return loss_and_gradient(objective, point, batch)
    found = cast(Any, objective).per_example_statistics(point, batch, turn.measure.measures)
    turn.statistic = turn.measure.statistic(found)
    return found.loss, found.gradient


def clip(vector: Vector, radius: float) -> Vector:
    """min(1, τ/‖v‖)·v."""
    length = norm(vector)
    return vector if length <= radius else vector * (radius / length)


exact, minibatch, clipped, normalised = Exact, Minibatch, Clipped, Normalised
meta, local_steps = Meta, LocalSteps
