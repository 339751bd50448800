"""One client's turn: settle the memory, estimate, feed back, compress, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import numpy as np

from fedbias.compressors import identity
from fedbias.estimators import Estimate, Estimator
from fedbias.ledger import Ledger, pend, settle
from fedbias.objectives import Batch, Objective, capabilities, loss_and_gradient, require
from fedbias.packets import Packet
from fedbias.rounds import Measured, Plan, Report
from fedbias.turn import Turn
from fedbias.vectors import Vector, norm


def respond(objective: Objective, plan: Plan, ledger: Ledger) -> tuple[Report, Ledger]:
    """Answer a plan.

    Pure in (plan, ledger) for a deterministic objective: a repeated plan is answered from the
    committed memory with identical bytes, and nothing is committed before the next plan says so.

    Parameters
    ----------
    objective : Objective
        The client's own loss; its ``buffers``, where it has some, are overwritten by the plan's.
    plan : Plan
        What the server asks.
    ledger : Ledger
        The client's memory.

    Returns
    -------
    report : Report
    ledger : Ledger
        To keep until the next plan.

    Raises
    ------
    ValueError
        If the objective lacks a capability or has another dim; or if the estimate is not finite.
    """
    kind = plan.estimator.kind_of(objective)
    if plan.measure is not None:
        require(objective, plan.estimator.measuring_needs or (), repr(plan.measure))
    ledger = settle(ledger, plan.acknowledged)
    turn = Turn(
        *(plan.seed, plan.round, plan.client, plan.batch_size, dict(ledger.memory)),
        shift=plan.shift,
        radius=plan.radius,
        measure=plan.measure,
    )
    _restore_buffers(objective, plan)
    point = plan.feedback.query(plan.point, turn)
    estimate = estimate_at(objective, plan.estimator, point, turn)
    packet = _packet_of(estimate, plan, turn)
    buffers = None if plan.buffers is None else identity().encode(cast(Any, objective).buffers)
    loss = estimate.loss if point is plan.point else _loss_there(objective, plan)
    sent = plan.feedback.sent(packet, turn) if plan.measure_bias else None
    measured = None if sent is None else _measured(objective, plan, sent, turn)
    report = replace(
        report_of(objective, packet, loss, kind, turn),
        lost_memory=ledger.lost,
        buffers=buffers,
        measured=measured,
    )
    return report, pend(ledger, plan.round, turn.memory)


def estimate_at(objective: Objective, estimator: Estimator, point: Vector, turn: Turn) -> Estimate:
    """The estimate, of an objective that has data and this point's dim (ValueError)."""
    if objective.size < 1:
        raise ValueError("the client has no data")
    if point.size != objective.dim:
        raise ValueError(f"the plan's point has dim {point.size}, not {objective.dim}")
    if hasattr(objective, "draw_key"):
        cast(Any, objective).draw_key = (turn.seed, turn.round, turn.client)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        return estimator.estimate(objective, point, turn)


def report_of(objective: Objective, packet: Packet, loss: float, kind: str, turn: Turn) -> Report:
    """What a turn came to."""
    statistic = turn.statistic
    return Report(
        round=turn.round,
        client=turn.client,
        packet=packet,
        examples=int(objective.size),
        loss=float(loss),
        computed=int(turn.examples),
        kind=kind,
        dropped=turn.dropped,
        statistic=None if statistic is None or not np.isfinite(statistic) else float(statistic),
        saturated=turn.saturated,
    )


def _packet_of(estimate: Estimate, plan: Plan, turn: Turn) -> Packet:
    # Seeds and scalars lose nothing that a feedback would have to remember; h_m must be known.
    if isinstance(estimate.content, Packet) and not plan.feedback.remembers:
        return estimate.content
    return plan.feedback.encode(estimate.vector, plan.compressor, turn)


def _restore_buffers(objective: Objective, plan: Plan) -> None:
    if plan.buffers is not None:
        cast(Any, objective).buffers = plan.buffers.copy()  # it may change them in place


def _loss_there(objective: Objective, plan: Plan) -> float:
    """The loss of the model itself, where the estimate was taken elsewhere; over all the data."""
    _restore_buffers(objective, plan)
    with np.errstate(over="ignore", invalid="ignore"):
        return objective.loss(plan.point)


def _measured(objective: Objective, plan: Plan, sent: Vector, turn: Turn) -> Measured | None:
    """What the server is told against the exact gradient; None without one that is finite."""
    if "gradient" not in capabilities(objective):
        return None
    _restore_buffers(objective, plan)  # the turn has moved them
    with np.errstate(over="ignore", invalid="ignore"):
        offered = getattr(objective, "exact_gradient", None)
        exact = offered(plan.point) if offered else loss_and_gradient(objective, plan.point)[1]
        squares = norm(sent - exact) ** 2, norm(exact) ** 2
    turn.examples += objective.size
    return Measured(*squares) if np.isfinite(squares).all() else None


class _Prefetched:
    """An objective whose first full-batch loss and gradient at one point are known already."""

    def __init__(self, objective: Objective, point: Vector, loss: float, gradient: Vector) -> None:
        self._objective, self._point = objective, point
        self._answer = loss, gradient

    def loss_and_gradient(self, point: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
        if batch is None and point is self._point:
            return self._answer
        return loss_and_gradient(self._objective, point, batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


class Cohort(Protocol):
    """Many clients' data, ready to be computed in one call."""

    def losses_and_gradients(self, point: Vector) -> tuple[Vector, Vector]:
        """Losses, shape (m,), and gradients over all the data, shape (m, dim), at one point."""


def cohort_of(objectives: Sequence[Objective]) -> Cohort | None:
    """What the objectives' own ``cohort`` makes of them; None if they cannot go together."""
    kinds = {type(objective) for objective in objectives}
    make = getattr(type(objectives[0]), "cohort", None)
    return cast(Cohort | None, make(objectives)) if make and len(kinds) == 1 else None


def prefetched(
    objectives: Sequence[Objective],
    plan: Plan,
    together: Callable[[Sequence[Objective]], Cohort | None] = cohort_of,
) -> list[Objective]:
    """Compute many clients' full gradients at one point together, where that is possible.

    Every estimator that needs gradients begins with the one at ``plan.point``; without batches it
    is over all the clients' data, and a cohort may have a faster way to it.

    Parameters
    ----------
    together : callable
        Makes the cohort; for callers that keep the last one.

    Returns
    -------
    list of Objective
        The same objectives, each knowing that answer (for this very array ``plan.point``); or
        unchanged. The answers are the objectives' own up to the cohort's rounding.
    """
    full = plan.batch_size is None and "gradient" in plan.estimator.needs and plan.buffers is None
    full = full and not plan.feedback.shifts  # which moves the point, for each client elsewhere
    cohort = together(objectives) if full else None
    if cohort is None:
        return list(objectives)
    losses, gradients = cohort.losses_and_gradients(plan.point)
    return [
        cast(Objective, _Prefetched(objective, plan.point, float(loss), gradient))
        for objective, loss, gradient in zip(objectives, losses, gradients, strict=True)
    ]
