"""A client's own copy of the server's model, kept in step by the few bytes that moved it.

Where all the replies are seeds and scalars, so is the server's step: instead of the model it may
send every round's packets, and each client repeats the step, bit for bit. Both directions then
cost bytes that do not depend on the model's size, but for the first message to each client.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedbias.algorithm import Algorithm
from fedbias.decay import decayed
from fedbias.directions import is_combination
from fedbias.headers import ProtocolError, listed, read_header, whole
from fedbias.ledger import LostModel
from fedbias.notation import parse
from fedbias.optimizers import Optimizer, State
from fedbias.packets import Packet, PacketError, decode
from fedbias.rounds import Record, Report, dense, dense_vector
from fedbias.server import weights_of
from fedbias.state import ServerState
from fedbias.vectors import Vector


@dataclass(frozen=True)
class Step:
    """What moved the model in one round.

    Attributes
    ----------
    round : int
        k: from x_k to x_{k+1}.
    optimizer : Optimizer
        With the round's own step size.
    weights : tuple of float
        w_m of each packet.
    packets : tuple of Packet
        In the clients' order.
    """

    round: int
    optimizer: Optimizer
    weights: tuple[float, ...]
    packets: tuple[Packet, ...]

    def __len__(self) -> int:
        return sum(len(bytes(packet)) for packet in self.packets)


@dataclass(frozen=True)
class Replica:
    """The model and the optimizer's state before a round, as the server has them."""

    round: int
    point: Vector
    optimizer: State = field(default_factory=dict)


def check_seeds(algorithm: Algorithm) -> None:
    """Refuse what cannot be told in seeds (ValueError)."""
    vectors = [str(e) for e in algorithm.estimator.kinds.values() if not e.most_directions]
    if vectors or algorithm.feedback.remembers:
        what = vectors[0] if vectors else str(algorithm.feedback)
        raise ValueError(
            f"broadcast='seeds' repeats the clients' seeds and scalars, and with {what} they send "
            "vectors: use two_point or forward_gradient alone, or broadcast='model'"
        )


def step_of(
    algorithm: Algorithm, before: ServerState, after: ServerState, reports: Mapping[int, Report]
) -> Step:
    """The step that the applied reports, by client in their order, made from ``before``."""
    return Step(
        round=before.round,
        optimizer=decayed(algorithm.optimizer, algorithm.decay, after.samples),
        weights=tuple(weights_of(algorithm, before, reports.values())),
        packets=tuple(report.packet for report in reports.values()),
    )


def followed(replica: Replica, steps: Iterable[Step], round: int) -> Replica:
    """The replica before ``round``: the steps that it has not taken yet are taken, in order.

    The arithmetic is :func:`fedbias.server.apply`'s, in the same order, for the same bits.
    """
    point, state = replica.point, replica.optimizer
    for step in steps:
        if step.round < replica.round:
            continue
        total = np.zeros_like(point)
        for weight, packet in zip(step.weights, step.packets, strict=True):
            vector = decode(packet, dim=point.size)
            total += vector if weight == 1 else weight * vector
        point, state = step.optimizer.update(point, total / sum(step.weights), state)
    return Replica(round, point, state)


# On the wire ------------------------------------------------------------------------------------

_STEPS, _WHOLE = "steps", "replica"


def whole_record(replica: Replica) -> Record:
    """All of a replica, for a client that has none: the model, and the optimizer's vectors."""
    parts = {f"optimizer/{name}": dense(vector) for name, vector in replica.optimizer.items()}
    return {"point": dense(replica.point), _WHOLE: json.dumps({"round": replica.round})} | parts


def steps_record(since: int, round: int, steps: Sequence[Step]) -> Record:
    """What a replica of round ``since`` needs to be one of ``round``."""
    described = [[s.round, repr(s.optimizer), list(s.weights)] for s in steps]
    packets = [bytes(packet) for step in steps for packet in step.packets]
    return {
        _STEPS: json.dumps({"since": since, "round": round, "steps": described}),
        "packets": packets,
    }


def caught_up(record: Mapping[str, Any], replica: Replica | None) -> Replica | None:
    """The replica of the plan's round, from what its record says; None if it says nothing.

    Raises
    ------
    LostModel
        If the record only says how to go on from a model that this client does not have.
    ProtocolError, PacketError
        If it is not such a record.
    """
    if _WHOLE in record:
        header = read_header({"header": record[_WHOLE]}, {"round": whole()})
        prefix = "optimizer/"
        state = {
            name.removeprefix(prefix): dense_vector(record, name)
            for name in record
            if name.startswith(prefix)
        }
        return Replica(header["round"], dense_vector(record, "point"), state)
    if _STEPS not in record:
        return None
    since, round, steps = _steps(record)
    if replica is None or replica.round < since:
        raise LostModel("this client does not have the model that the steps go on from")
    return followed(replica, steps, round)


def _steps(record: Mapping[str, Any]) -> tuple[int, int, list[Step]]:
    fields = {"since": whole(), "round": whole(), "steps": listed}
    header = read_header({"header": record[_STEPS]}, fields)
    try:
        packets = [Packet.from_bytes(data) for data in record["packets"]]
        steps, at = [], 0
        for round, optimizer, weights in header["steps"]:
            taken = tuple(packets[at : at + len(weights)])
            kind: type[Any] = Optimizer
            steps.append(
                Step(int(round), parse(optimizer, kind), tuple(map(float, weights)), taken)
            )
            at += len(weights)
    except (KeyError, TypeError, ValueError) as reason:
        raise ProtocolError(f"these are no steps of a model: {reason}") from None
    if at != len(packets) or not all(is_combination(packet) for packet in packets):
        raise PacketError("a step's packets are seeds and scalars, one for each weight")
    return header["since"], header["round"], steps
