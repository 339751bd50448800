"""What the server asks of a client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedbias.batching import BatchSize
from fedbias.compressors import Compressor
from fedbias.estimators import Estimator
from fedbias.feedback import Feedback
from fedbias.headers import (
    Check,
    ProtocolError,
    flag,
    positive,
    read_header,
    text,
    text_or_none,
    whole,
)
from fedbias.ledger import NEVER
from fedbias.notation import parse
from fedbias.optimizers import Optimizer
from fedbias.vectors import Vector

from .wire import Record, dense, dense_vector

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
    def from_record(cls, record: Mapping[str, Any], point: Vector | None = None) -> Plan:
        """Read a plan (ProtocolError or PacketError if it is not one).

        Parameters
        ----------
        point : ndarray, optional
            x_k, where the client has it already: the record then carries none.
        """
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
        point = dense_vector(record, "point") if point is None else point
        return cls(**{**header, **spelled}, point=point, buffers=buffers)
