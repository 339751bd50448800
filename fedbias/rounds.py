"""Plan and Report: what server and client say to each other in one round.

Each is a frozen value here, and a flat record of scalars, text and bytes on the wire: a JSON
header in which settings are spelled in the notation (:mod:`fedbias.notation`, unknown names are
refused), and one packet per vector. A record goes into any transport that carries such a dict;
in Flower it is one ConfigRecord.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

from fedbias.batching import BatchSize
from fedbias.compressors import Compressor, identity
from fedbias.estimators import Estimator
from fedbias.feedback import Feedback
from fedbias.headers import (
    Check,
    ProtocolError,
    amount,
    flag,
    positive,
    read_header,
    real,
    squares,
    text,
    text_or_none,
    whole,
)
from fedbias.ledger import NEVER
from fedbias.notation import parse
from fedbias.optimizers import Optimizer
from fedbias.packets import Packet, PacketError, decode
from fedbias.vectors import Vector

Record = dict[str, Any]  # str → str or bytes


_PLAN: dict[str, Check] = {
    "round": whole(),
    "seed": whole(),
    "client": whole(),
    "acknowledged": whole(NEVER),
    "estimator": text,
    "batch_size": whole(1, optional=True),
    "measure": text_or_none,
    "compressor": text,
    "feedback": text,
    "shift": text_or_none,
    "radius": positive,
    "measure_bias": flag,
}
_REPORT: dict[str, Check] = {
    "round": whole(),
    "client": whole(),
    "examples": whole(),
    "loss": real,
    "samples": whole(),
    "statistic": amount,
    "computed": whole(),
    "lost_memory": flag,
    "saturated": flag,
    "measured": squares,
}


@dataclass(frozen=True)
class Measured:
    """How far a client's packet is from its exact gradient.

    Attributes
    ----------
    bias_square : float
        ‖decoded packet − ∇f_m(x_k)‖², over all the client's data.
    gradient_square : float
        ‖∇f_m(x_k)‖².
    """

    bias_square: float
    gradient_square: float


@dataclass(frozen=True)
class Plan:
    """What the server asks of one client in one round.

    Attributes
    ----------
    round : int
        k, from 0; the seed of everything random together with ``seed`` and ``client``.
    client : int
        The client's own number.
    acknowledged : int
        The round of this client's last report that was applied, −1 before the first.
    point : ndarray, shape (dim,)
        x_k.
    batch_size : int or None
        b_m; None means all the data.
    measure : BatchSize or None
        The batch-size test whose statistic the client shall report.
    buffers : ndarray or None
        The mean of what training changes besides the point.
    shift : Optimizer or None
        The server's step (kind, η, γ), for a feedback that compensates errors.
    radius : float or None
        r_i of a preset schedule: bounds what is compressed, and replaces the packet's scale.
    measure_bias : bool
        Whether the report shall say how far it is from the exact gradient.
    """

    round: int
    seed: int
    client: int
    acknowledged: int
    estimator: Estimator
    batch_size: int | None
    compressor: Compressor
    feedback: Feedback
    point: Vector
    buffers: Vector | None = None
    shift: Optimizer | None = None
    radius: float | None = None
    measure: BatchSize | None = None
    measure_bias: bool = False

    def header(self) -> str:
        """All of the plan but its vectors, as JSON."""
        header = {
            "round": self.round,
            "seed": self.seed,
            "client": self.client,
            "acknowledged": self.acknowledged,
            "estimator": repr(self.estimator),
            "batch_size": self.batch_size,
            "measure": None if self.measure is None else repr(self.measure),
            "compressor": repr(self.compressor),
            "feedback": repr(self.feedback),
            "shift": None if self.shift is None else repr(self.shift),
            "radius": self.radius,
            "measure_bias": self.measure_bias,
        }
        return json.dumps(header)

    def to_record(self) -> Record:
        """The plan as a header and packets."""
        record = {"header": self.header(), "point": dense(self.point)}
        return record if self.buffers is None else record | {"buffers": dense(self.buffers)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Plan:
        """Read a plan (ProtocolError or PacketError if it is not one)."""
        header = read_header(record, _PLAN)
        kinds: dict[str, type[Any]] = {
            "estimator": Estimator,
            "compressor": Compressor,
            "feedback": Feedback,
            "shift": Optimizer,
            "measure": BatchSize,
        }
        try:
            spelled = {
                name: parse(header[name], kind)
                for name, kind in kinds.items()
                if header[name] is not None
            }
        except ValueError as reason:
            raise ProtocolError(str(reason)) from None
        buffers = dense_vector(record, "buffers") if "buffers" in record else None
        point = dense_vector(record, "point")
        return cls(**{**header, **spelled}, point=point, buffers=buffers)


@dataclass(frozen=True)
class Report:
    """What a client answers.

    Attributes
    ----------
    round, client : int
        Those of the plan.
    packet : Packet
        The compressed estimate.
    examples : int
        n_m, the size of the client's data: its weight where weights go by examples.
    loss : float
        At the plan's point, on the examples that were looked at there; on all of them where the
        feedback takes its estimate elsewhere.
    computed : int
        Example gradients computed in this turn.
    samples : int
        Those of them that the estimate was made of: b_m, or H·b_m for H local steps.
    statistic : float or None
        What the plan's batch-size test asked for; None without one, or if it is not finite.
    lost_memory : bool
        Whether the client lost what it remembered since its last applied report.
    buffers : Packet or None
        What training changed besides the point, uncompressed.
    measured : Measured or None
        Where the plan asked for it and the client has gradients.
    saturated : bool
        Whether what was compressed was longer than the plan's radius.
    """

    round: int
    client: int
    packet: Packet
    examples: int
    loss: float
    computed: int
    samples: int
    statistic: float | None = None
    lost_memory: bool = False
    buffers: Packet | None = None
    measured: Measured | None = None
    saturated: bool = False

    @property
    def uplink_bytes(self) -> int:
        """Bytes of the packets, headers included."""
        return len(bytes(self.packet)) + (len(bytes(self.buffers)) if self.buffers else 0)

    def to_record(self) -> Record:
        """The report as a header and packets."""
        header = {
            "round": self.round,
            "client": self.client,
            "examples": self.examples,
            "loss": self.loss,
            "samples": self.samples,
            "statistic": self.statistic,
            "computed": self.computed,
            "lost_memory": self.lost_memory,
            "saturated": self.saturated,
            "measured": None if self.measured is None else list(astuple(self.measured)),
        }
        record = {"header": json.dumps(header), "packet": bytes(self.packet)}
        return record if self.buffers is None else record | {"buffers": bytes(self.buffers)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Report:
        """Read a report (ProtocolError or PacketError if it is not one)."""
        header = read_header(record, _REPORT)
        header["loss"] = float(header["loss"])
        if header["statistic"] is not None:
            header["statistic"] = float(header["statistic"])
        if header["measured"] is not None:
            header["measured"] = Measured(*map(float, header["measured"]))
        buffers = _packet(record, "buffers") if "buffers" in record else None
        return cls(**header, packet=_packet(record, "packet"), buffers=buffers)


def dense(vector: Vector) -> bytes:
    """A vector as an uncompressed packet's bytes."""
    return bytes(identity().encode(vector))


def dense_vector(record: Mapping[str, Any], name: str) -> Vector:
    """The vector of a record's uncompressed packet; so few bytes cannot ask for much memory."""
    packet = _packet(record, name)
    if packet.codec != identity.codec:
        raise PacketError(f"{name} must come uncompressed, not as {packet.codec}")
    return decode(packet)


def _packet(record: Mapping[str, Any], name: str) -> Packet:
    data = record.get(name)
    if not isinstance(data, bytes):
        raise PacketError(f"the record carries no packet {name!r}")
    return Packet.from_bytes(data)
