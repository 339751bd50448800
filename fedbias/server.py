"""The server's side of a round: plan, validate, decode in client order, mean, step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedbias import checks
from fedbias.compressors import Compressor, identity
from fedbias.estimators import Estimator, exact
from fedbias.feedback import Feedback, no_feedback
from fedbias.ledger import NEVER
from fedbias.optimizers import Optimizer, State
from fedbias.rounds import Measured, Plan, Report
from fedbias.sums import Sums, opened
from fedbias.vectors import Vector, norm


@dataclass(frozen=True)
class Algorithm:
    """All the settings that decide a trajectory, beside the objectives and the start.

    Attributes
    ----------
    batch_size : int or None
        b for estimators that draw batches; None means all the data.
    weights : {"uniform", "examples"}
        How the mean over clients is weighted.
    minimum_replies : int
        Fewer valid reports than this leave the model untouched.
    measure_bias : int
        In every so many rounds the clients report how far their packets are from their exact
        gradients, which costs them one more full gradient; 0 for never.
    """

    optimizer: Optimizer
    estimator: Estimator = exact()
    compressor: Compressor = identity()
    feedback: Feedback = no_feedback()
    batch_size: int | None = None
    weights: str = "uniform"
    minimum_replies: int = 1
    seed: int = 0
    measure_bias: int = 0

    def __post_init__(self) -> None:
        kinds: dict[str, tuple[type, str]] = {
            "optimizer": (Optimizer, "gradient_descent(step_size=0.1)"),
            "estimator": (Estimator, "exact()"),
            "compressor": (Compressor, "identity()"),
            "feedback": (Feedback, "no_feedback()"),
        }
        for name, (kind, example) in kinds.items():
            checks.instance("algorithm", name, getattr(self, name), kind, example)
        if self.batch_size is not None:
            checks.whole("algorithm", "batch_size", self.batch_size, least=1)
            if not self.estimator.draws_batches:
                raise ValueError(
                    f"algorithm: batch_size={self.batch_size} has no meaning for {self.estimator}, "
                    "which uses all the data; use minibatch()"
                )
        checks.choice("algorithm", "weights", self.weights, ("uniform", "examples"))
        checks.whole("algorithm", "minimum_replies", self.minimum_replies, least=1)
        checks.whole("algorithm", "measure_bias", self.measure_bias, least=0)
        checks.whole("algorithm", "seed", self.seed, least=0, most=2**63 - 1)


@dataclass(frozen=True)
class ServerState:
    """All that changes on the server.

    Attributes
    ----------
    round : int
        k, the next round to plan.
    point : ndarray, shape (dim,)
        x_k.
    optimizer : mapping of str to ndarray
    acknowledged : mapping of int to int
        For each client the round of its last applied report.
    buffers : ndarray or None
        The clients' mean of what training changes besides the point.
    """

    point: Vector
    round: int = 0
    optimizer: State = field(default_factory=dict)
    acknowledged: Mapping[int, int] = field(default_factory=dict)
    buffers: Vector | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one round's reports.

    Attributes
    ----------
    applied : tuple of int
        The clients whose reports moved the model, in order; empty if too few were valid.
    received : int
        Valid reports, whether or not there were enough of them.
    refused : mapping of int to str
        Client → why its report was refused.
    forgotten : tuple of int
        The applied clients that had lost their memory.
    loss : float
        The weighted mean of the clients' losses at x_k; NaN without any.
    gradient_norm : float
        ‖ĝ‖ of the decoded mean; NaN without any.
    payload_bits, wire_bits : int
        Of all the valid packets received.
    computed : int
        Example gradients that the applied clients computed.
    measured : Measured or None
        The weighted means over the applied clients that measured. If they are all the clients
        there are, they are at least ‖b_k‖² and ‖∇f(x_k)‖² of the averaged estimate (Jensen), and
        equal to them for clients that are alike. Otherwise b_k holds the error of the sample too,
        which no client sees.
    """

    applied: tuple[int, ...] = ()
    received: int = 0
    refused: Mapping[int, str] = field(default_factory=dict)
    forgotten: tuple[int, ...] = ()
    loss: float = float("nan")
    gradient_norm: float = float("nan")
    payload_bits: int = 0
    wire_bits: int = 0
    computed: int = 0
    measured: Measured | None = None


def plan_for(algorithm: Algorithm, state: ServerState, client: int) -> Plan:
    """What this client is asked in the state's round."""
    return Plan(
        round=state.round,
        seed=algorithm.seed,
        client=client,
        acknowledged=state.acknowledged.get(client, NEVER),
        estimator=algorithm.estimator,
        batch_size=algorithm.batch_size,
        compressor=algorithm.compressor,
        feedback=algorithm.feedback,
        point=state.point,
        buffers=state.buffers,
        measure_bias=algorithm.measure_bias > 0 and state.round % algorithm.measure_bias == 0,
    )


def apply(
    algorithm: Algorithm, state: ServerState, reports: Iterable[Report]
) -> tuple[ServerState, Outcome]:
    """Turn the reports of a round into the next state.

    Reports are decoded one at a time in ascending client order into one accumulator, so the result
    does not depend on the order of arrival and O(dim) memory is enough. A report with the wrong
    round, length, a number that is not finite, or a client's second one is refused; the round goes
    on without it. If fewer than ``minimum_replies`` remain, only the round counter moves.

    Returns
    -------
    state : ServerState
    outcome : Outcome
    """
    sums = Sums.zero(state.point, state.buffers)
    for report in sorted(reports, key=lambda report: report.client):
        try:
            if report.client in sums.applied:
                raise ValueError(f"client {report.client} reported twice in round {state.round}")
            vector, buffers = opened(report, state.round, state.point, state.buffers)
        except ValueError as reason:
            sums.refused[report.client] = str(reason)
            continue
        weight = 1.0 if algorithm.weights == "uniform" else float(report.examples)
        sums.add(report, vector, buffers, weight)
    applied, refused = sums.applied, sums.refused
    received = Outcome(
        received=len(applied),
        refused=refused,
        payload_bits=sum(report.packet.payload_bits for report in applied.values()),
        wire_bits=sum(8 * report.uplink_bytes for report in applied.values()),
    )
    untouched = replace(state, round=state.round + 1)
    if len(applied) < algorithm.minimum_replies:
        return untouched, received
    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
        mean = sums.vector / sums.mass
        buffers = None if sums.buffers is None else sums.buffers / sums.mass
        point, optimizer = algorithm.optimizer.update(state.point, mean, state.optimizer)
    moved = replace(
        untouched,
        point=point,
        optimizer=optimizer,
        acknowledged={**state.acknowledged, **dict.fromkeys(applied, state.round)},
        buffers=buffers,
    )
    parts = [mean, point, *optimizer.values(), *([] if buffers is None else [buffers])]
    if not all(np.isfinite(part).all() for part in parts):
        why = f"the round's step leaves the range of {point.dtype}: the run diverges"
        return untouched, replace(received, refused=refused | dict.fromkeys(applied, why))
    return moved, replace(
        received,
        applied=tuple(applied),
        forgotten=tuple(client for client, report in applied.items() if report.lost_memory),
        loss=sums.loss / sums.mass,
        gradient_norm=norm(mean),
        computed=sum(report.computed for report in applied.values()),
        measured=sums.measured(),
    )
