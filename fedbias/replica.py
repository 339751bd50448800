"""A client's own copy of the server's model, kept in step by the few bytes that moved it.

Where all the replies are seeds and scalars, so is the server's step: instead of the model it may
send every round's packets, and each client repeats the step, bit for bit. Both directions then
cost bytes that do not depend on the model's size, but for the first message to each client.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from fedbias.algorithm import Algorithm
from fedbias.headers import ProtocolError, positive, read_header, text, whole
from fedbias.ledger import LostModel
from fedbias.notation import parse
from fedbias.optimizers import Optimizer, State
from fedbias.packets import Packet, PacketError
from fedbias.rounds import Record, Report, dense, dense_vector
from fedbias.server import weights_of
from fedbias.state import ServerState
from fedbias.steps import step_now
from fedbias.sums import finite, vector_like
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

    @property
    def wire_bytes(self) -> int:
        """Of its packets."""
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
        optimizer=step_now(algorithm, before, after.samples),
        weights=tuple(weights_of(algorithm, before, reports.values())),
        packets=tuple(report.packet for report in reports.values()),
    )


def followed(replica: Replica, steps: Iterable[Step], round: int) -> Replica:
    """The replica before ``round``: the steps that it has not taken yet are taken, in order.

    The arithmetic is :func:`fedbias.server.apply`'s, in the same order, for the same bits.

    Raises
    ------
    PacketError
        If a packet is no finite vector of the model's length and dtype, or the model leaves its
        range.
    """
    point, state = replica.point, replica.optimizer
    for step in steps:
        if step.round < replica.round:
            continue
        total, mass = np.zeros_like(point), 0.0
        for weight, packet in zip(step.weights, step.packets, strict=True):
            vector = vector_like(point, packet)
            total += vector if weight == 1 else weight * vector
            mass += weight  # one by one: newer Pythons' sum() rounds otherwise
        point, state = step.optimizer.update(point, total / mass, state)
    return Replica(round, finite(point), state)


# On the wire ------------------------------------------------------------------------------------

_STEPS, _WHOLE, _OPTIMIZER = "steps", "replica", "optimizer/"


def whole_record(replica: Replica) -> Record:
    """All of a replica, for a client that has none: the model, and the optimizer's vectors."""
    parts = {f"{_OPTIMIZER}{name}": dense(vector) for name, vector in replica.optimizer.items()}
    return {"point": dense(replica.point), _WHOLE: json.dumps({"round": replica.round})} | parts


def steps_record(since: int, now: Replica, steps: Sequence[Step]) -> Record:
    """What a replica of round ``since`` needs to be ``now``, and to know that it is."""
    described = [[s.round, repr(s.optimizer), list(s.weights)] for s in steps]
    packets = [bytes(packet) for step in steps for packet in step.packets]
    return {
        _STEPS: json.dumps(
            {"since": since, "round": now.round, "check": _check(now), "steps": described}
        ),
        "packets": packets,
    }


def caught_up(record: Mapping[str, Any], replica: Replica | None) -> Replica | None:
    """The replica of the plan's round, from what its record says; None if it says nothing.

    Raises
    ------
    LostModel
        If the record only says how to go on from a model that this client does not have, or the
        steps lead elsewhere here than on the server: it draws or computes other numbers.
    ProtocolError, PacketError
        If it is not such a record.
    """
    if _WHOLE in record:
        header = read_header({"header": record[_WHOLE]}, {"round": whole()})
        state = {
            name.removeprefix(_OPTIMIZER): dense_vector(record, name)
            for name in record
            if name.startswith(_OPTIMIZER)
        }
        return Replica(header["round"], dense_vector(record, "point"), state)
    if _STEPS not in record:
        return None
    since, round, check, steps = _steps(record)
    if replica is None or not since <= replica.round <= round:
        raise LostModel("this client does not have the model that the steps go on from")
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # looked at afterwards
            now = followed(replica, steps, round)
    except (KeyError, ValueError, ArithmeticError) as reason:
        raise ProtocolError(f"these are no steps of this model: {reason}") from None
    if _check(now) != check:
        raise LostModel("the steps do not lead to the server's model here: other numbers")
    return now


def _check(replica: Replica) -> int:
    return zlib.crc32(replica.point.tobytes())


def _steps(record: Mapping[str, Any]) -> tuple[int, int, int, list[Step]]:
    fields = {"since": whole(), "round": whole(), "check": whole(), "steps": _are_steps}
    header = read_header({"header": record[_STEPS]}, fields)
    packets = _packets(record)
    if len(packets) != sum(len(weights) for _, _, weights in header["steps"]):
        raise PacketError("a step needs one packet for each weight")
    steps, rest = [], iter(packets)
    kind: type[Any] = Optimizer
    try:
        for number, spelled, weights in header["steps"]:
            taken = tuple(islice(rest, len(weights)))
            steps.append(Step(number, parse(spelled, kind), tuple(map(float, weights)), taken))
    except ValueError as reason:
        raise ProtocolError(str(reason)) from None
    return header["since"], header["round"], header["check"], steps


def _are_steps(value: Any) -> bool:
    return type(value) is list and all(map(_is_step, value))


def _is_step(value: Any) -> bool:
    if type(value) is not list or len(value) != 3:
        return False
    number, optimizer, weights = value
    weighed = type(weights) is list and bool(weights) and None not in weights
    return whole()(number) and text(optimizer) and weighed and all(map(positive, weights))


def _packets(record: Mapping[str, Any]) -> list[Packet]:
    known = record.get("packets")
    if type(known) is not list or not all(type(data) is bytes for data in known):
        raise PacketError("the record carries no steps' packets")
    return [Packet.from_bytes(data) for data in known]
