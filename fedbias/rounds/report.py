"""What a client answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

from fedbias.headers import Check, amount, flag, read_header, real, squares, text, whole
from fedbias.packets import Packet

from .wire import Record, packet_of

_REPORT: dict[str, Check] = {
    "round": whole(),
    "client": whole(),
    "examples": whole(),
    "loss": real,
    "statistic": amount,
    "computed": whole(),
    "kind": text,
    "dropped": whole(),
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
        Example gradients computed in this turn; losses, by a client without gradients.
    kind : str
        The capability whose estimator it took; empty where there is one for all.
    dropped : int
        Directions left out because the loss along them was not finite.
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
    kind: str = ""
    dropped: int = 0
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
            "statistic": self.statistic,
            "computed": self.computed,
            "kind": self.kind,
            "dropped": self.dropped,
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
        buffers = packet_of(record, "buffers") if "buffers" in record else None
        return cls(**header, packet=packet_of(record, "packet"), buffers=buffers)
