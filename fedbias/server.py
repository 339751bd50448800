"""The server's side of a round: plan, validate, decode in client order, mean, step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace

import numpy as np

from fedbias import checks
from fedbias.compressors import Compressor, identity
from fedbias.estimators import Estimator, exact
from fedbias.feedback import Feedback, no_feedback
from fedbias.headers import LARGEST
from fedbias.ledger import NEVER
from fedbias.optimizers import Optimizer, State
from fedbias.packets import Packet, PacketError, decode
from fedbias.rounds import Measured, Plan, Report
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
    sums = _Sums(np.zeros_like(state.point), _zeros(state.buffers))
    for report in sorted(reports, key=lambda report: report.client):
        try:
            vector, buffers = _opened(report, state, sums.applied)
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


@dataclass
class _Sums:
    """The weighted sums over a round's valid reports."""

    vector: Vector
    buffers: Vector | None
    mass: float = 0.0
    loss: float = 0.0
    applied: dict[int, Report] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    squares: Vector = field(default_factory=lambda: np.zeros(2))
    measured_mass: float = 0.0

    def add(self, report: Report, vector: Vector, buffers: Vector | None, weight: float) -> None:
        with np.errstate(over="ignore"):  # the mean is looked at
            self.vector += vector if weight == 1 else weight * vector
            if self.buffers is not None and buffers is not None:
                self.buffers += weight * buffers
        self.mass, self.loss = self.mass + weight, self.loss + weight * report.loss
        self.applied[report.client] = report
        if report.measured is not None:
            self.squares += weight * np.array(astuple(report.measured))
            self.measured_mass += weight

    def measured(self) -> Measured | None:
        """The weighted means of what the clients measured."""
        if not self.measured_mass:
            return None
        bias, gradient = self.squares / self.measured_mass
        return Measured(float(bias), float(gradient))


def _zeros(like: Vector | None) -> Vector | None:
    return None if like is None else np.zeros_like(like)


def _opened(
    report: Report, state: ServerState, applied: Mapping[int, Report]
) -> tuple[Vector, Vector | None]:
    """The report's vectors, once everything that can be wrong with it was checked."""
    if report.client in applied:
        raise ValueError(f"client {report.client} reported twice in round {state.round}")
    if report.round != state.round:
        raise ValueError(f"the report is of round {report.round}, not {state.round}")
    if not 1 <= report.examples <= LARGEST or not np.isfinite(report.loss):
        raise ValueError(f"{report.examples} examples with a loss of {report.loss}")
    vector = _like(state.point, report.packet)
    if state.buffers is None:
        return vector, None
    if report.buffers is None:
        raise PacketError("the report lacks the buffers that the plan carried")
    return vector, _like(state.buffers, report.buffers)


def _like(known: Vector, packet: Packet) -> Vector:
    vector = decode(packet, dim=known.size)
    if vector.dtype != known.dtype:
        raise PacketError(f"the packet has dtype {vector.dtype}, not {known.dtype}")
    finite = np.isfinite(vector)
    if not finite.all():
        raise PacketError(f"{int((~finite).sum())} entries are NaN or infinite")
    return vector
