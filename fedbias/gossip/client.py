"""One client's turn: settle the last round's meeting, step, send the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedbias.client import estimate_at, report_of
from fedbias.ledger import Ledger, LostModel, pend, settle
from fedbias.objectives import Objective
from fedbias.packets import Packet
from fedbias.rounds import Report
from fedbias.sums import vector_like
from fedbias.turn import Memory, Turn
from fedbias.vectors import Vector

from .plan import GossipPlan
from .spread import averaged

MODEL, _SENT = "gossip.model", "gossip.sent"


def respond(objective: Objective, plan: GossipPlan, ledger: Ledger) -> tuple[Report, Ledger]:
    """Answer a plan: the report's packet is the client's model after its own step.

    Pure in (plan, ledger), and nothing is committed before the next plan says so, as
    :func:`fedbias.client.respond`.

    Raises
    ------
    LostModel
        If there is neither a model in the ledger nor one in the plan, or the plan is older than
        the last one. A plan with a model begins anew whenever it comes, as a strategy that is
        started again wants it.
    ValueError
        If the objective lacks a capability, has another dim, or has buffers; if what the step comes
        to is not finite.
    """
    if getattr(objective, "buffers", None) is not None:
        raise ValueError(
            "models with buffers (BatchNorm) have more than their parameters, and pairs would not "
            "average it: use GroupNorm"
        )
    if plan.model is None and plan.round < max(ledger.applied, ledger.pending_round):
        raise LostModel(f"the plan of round {plan.round} comes too late: it is over")
    kind = plan.estimator.kind_of(objective)
    ledger = settled(ledger, plan.acknowledged, plan.partner, plan.mixing)
    if plan.model is not None:
        ledger = replace(ledger, memory={MODEL: plan.model})
    model = model_of(ledger)
    turn = Turn(plan.seed, plan.round, plan.client, plan.batch_size, dict(ledger.memory))
    estimate = estimate_at(objective, plan.estimator, model, turn)
    with np.errstate(over="ignore", invalid="ignore"):  # the compressor refuses what is not finite
        moved = model - model.dtype.type(plan.step_size) * estimate.vector
    packet = plan.feedback.encode(moved, plan.compressor, turn)
    _keep(turn.memory, moved, plan.feedback.sent(packet, turn))
    return report_of(objective, packet, estimate.loss, kind, turn), pend(
        ledger, plan.round, turn.memory
    )


def settled(ledger: Ledger, acknowledged: int, partner: Packet | None, mixing: float) -> Ledger:
    """Commit the last step, and the meeting that followed it, or roll both back.

    Parameters
    ----------
    acknowledged : int
        The round of this client's last report that was applied.
    partner : Packet or None
        What its partner sent in that round.
    """
    met = acknowledged != ledger.applied and acknowledged == ledger.pending_round
    ledger = settle(ledger, acknowledged)
    if not met or partner is None:
        return ledger
    own = model_of(ledger)
    sent = ledger.memory.get(_SENT, own)
    model = averaged(own, sent, vector_like(own, partner), mixing)
    return replace(ledger, memory={**ledger.memory, MODEL: model})


def model_of(ledger: Ledger) -> Vector:
    """The client's model (LostModel if it has none)."""
    if MODEL not in ledger.memory:
        raise LostModel("this client has no model: it lost what it had, and starts again")
    return ledger.memory[MODEL]


def _keep(memory: Memory, moved: Vector, sent: Vector) -> None:
    memory[MODEL] = moved
    memory.pop(_SENT, None)
    if not np.array_equal(sent, moved):
        memory[_SENT] = sent
