"""What the server asks of a client that owns its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedbias.compressors import Compressor
from fedbias.estimators import Estimator
from fedbias.feedback import Feedback
from fedbias.headers import Check, ProtocolError, amount, read_header, share, text, whole
from fedbias.ledger import NEVER
from fedbias.notation import parse
from fedbias.packets import Packet
from fedbias.rounds import Record, dense, dense_vector, packet_of
from fedbias.vectors import Vector

_PLAN: dict[str, Check] = {
    "round": whole(),
    "seed": whole(),
    "client": whole(),
    "acknowledged": whole(NEVER),
    "estimator": text,
    "batch_size": whole(1, optional=True),
    "step_size": lambda value: value is not None and amount(value),
    "mixing": share,
    "compressor": text,
    "feedback": text,
}
_KINDS: dict[str, type[Any]] = {
    "estimator": Estimator,
    "compressor": Compressor,
    "feedback": Feedback,
}


@dataclass(frozen=True)
class GossipPlan:
    """What the server asks of one client in one round.

    Attributes
    ----------
    acknowledged : int
        The round of this client's last report that was applied, −1 before the first.
    step_size : float
        η of this round.
    mixing : float
        See :class:`GossipAlgorithm`.
    partner : Packet or None
        What the partner of the acknowledged round sent; None if it met nobody.
    model : ndarray, shape (dim,), or None
        Where to begin, for a client that has no model yet.
    """

    round: int
    seed: int
    client: int
    acknowledged: int
    estimator: Estimator
    batch_size: int | None
    step_size: float
    mixing: float
    compressor: Compressor
    feedback: Feedback
    partner: Packet | None = None
    model: Vector | None = None

    def header(self) -> str:
        """All of the plan but its vectors, as JSON."""
        values = {name: getattr(self, name) for name in _PLAN}
        return json.dumps(values | {name: repr(values[name]) for name in _KINDS})

    def to_record(self) -> Record:
        """The plan as a header and packets."""
        record: Record = {"header": self.header()}
        if self.partner is not None:
            record["partner"] = bytes(self.partner)
        return record if self.model is None else record | {"model": dense(self.model)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> GossipPlan:
        """Read a plan (ProtocolError or PacketError if it is not one)."""
        header = read_header(record, _PLAN)
        try:
            spelled = {name: parse(header[name], kind) for name, kind in _KINDS.items()}
        except ValueError as reason:
            raise ProtocolError(str(reason)) from None
        partner = packet_of(record, "partner") if "partner" in record else None
        model = dense_vector(record, "model") if "model" in record else None
        return cls(**{**header, **spelled}, partner=partner, model=model)
