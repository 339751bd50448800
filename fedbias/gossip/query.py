"""What the server asks a client whose model it wants to see: nothing changes by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedbias.headers import Check, read_header, share, whole
from fedbias.ledger import NEVER, Ledger
from fedbias.packets import Packet
from fedbias.rounds import Record, packet_of
from fedbias.vectors import Vector

from .algorithm import GossipAlgorithm
from .client import model_of, settled
from .server import GossipState

_QUERY: dict[str, Check] = {
    "client": whole(),
    "acknowledged": whole(NEVER),
    "mixing": share,
}


@dataclass(frozen=True)
class ModelQuery:
    """What a client needs to know of its last step to say where its model is now.

    Attributes
    ----------
    acknowledged, mixing, partner
        As its next plan would have them.
    """

    client: int
    acknowledged: int
    mixing: float
    partner: Packet | None = None

    def answer(self, ledger: Ledger) -> Vector:
        """X_i, once the last step and meeting are settled (LostModel if there is none)."""
        return model_of(settled(ledger, self.acknowledged, self.partner, self.mixing))

    def to_record(self) -> Record:
        """The query as a header and a packet."""
        header = {name: getattr(self, name) for name in _QUERY}
        record: Record = {"header": json.dumps(header)}
        return record if self.partner is None else record | {"partner": bytes(self.partner)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ModelQuery:
        """Read a query (ProtocolError or PacketError if it is not one)."""
        partner = packet_of(record, "partner") if "partner" in record else None
        return cls(**read_header(record, _QUERY), partner=partner)


def query_for(algorithm: GossipAlgorithm, state: GossipState, client: int) -> ModelQuery:
    """The query to a client whose step was applied once."""
    return ModelQuery(
        client,
        state.acknowledged.get(client, NEVER),
        algorithm.mixing,
        state.relays.get(client),
    )
