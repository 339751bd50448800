"""From gradients: of all the data, of a batch, of one step of meta-learning."""

from __future__ import annotations

from typing import Any, cast

from fedbias import checks
from fedbias.notation import setting
from fedbias.objectives import Batch, Objective, loss_and_gradient
from fedbias.turn import Turn
from fedbias.vectors import Vector

from .base import Estimate, Estimator


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

    @property
    def aims_at_gradient(self) -> bool:
        return False

    def samples(self, batch_size: int | None, size: int) -> int:
        return 3 * super().samples(batch_size, size)


def _measured(
    objective: Objective, point: Vector, batch: Batch | None, turn: Turn
) -> tuple[float, Vector]:
    """Loss and gradient, with the statistic that a batch-size test asks for."""
    if turn.measure is None:
        return loss_and_gradient(objective, point, batch)
    found = cast(Any, objective).per_example_statistics(point, batch, turn.measure.measures)
    turn.statistic = turn.measure.statistic(found)
    return found.loss, found.gradient


exact, minibatch, meta = Exact, Minibatch, Meta
