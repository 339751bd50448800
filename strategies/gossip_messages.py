"""Plans and queries out, models in, where clients own their models."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict

from fedbias.gossip import GossipPlan, ModelQuery
from fedbias.ledger import LOST_MODEL, LostModel
from fedbias.packets import PacketError
from fedbias.rounds import dense_vector
from fedbias.sums import finite
from fedbias.vectors import Vector

from .roster import Roster

_LOG = logging.getLogger("flwr")


def addressed(
    parts: Iterable[GossipPlan | ModelQuery], kind: str, nodes: Mapping[int, int], number: int
) -> tuple[list[Message], int]:
    """One message of this kind to each client's node, and the bytes of their packets."""
    messages, size = [], 0
    for part in parts:
        record = part.to_record()
        size += sum(len(value) for name, value in record.items() if name != "header")
        content = RecordDict({"fedbias": ConfigRecord(record)})
        messages.append(Message(content, nodes[part.client], kind, group_id=str(number)))
    return messages, size


@dataclass
class Models:
    """What came of a round of queries.

    Attributes
    ----------
    vectors : dict of int to ndarray
        Client → its model.
    lost : list of int
        The clients that have none any more.
    size : int
        Bytes of the packets.
    """

    vectors: dict[int, Vector] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    size: int = 0


def models_in(replies: Iterable[Message], roster: Roster, like: Vector, number: int) -> Models:
    """The models that came; whose did not, or not well, is logged with the reason."""
    came = Models()
    for reply in replies:
        client = roster.client(reply.metadata.src_node_id)
        try:
            vector, size = _model(reply, like)
        except ValueError as why:
            if isinstance(why, LostModel) and client is not None:
                came.lost.append(client)
            _LOG.warning("round %s: client %s showed no model: %s", number, client, why)
            continue
        if client is not None:
            came.vectors[client] = vector
            came.size += size
    return came


def _model(reply: Message, like: Vector) -> tuple[Vector, int]:
    if reply.has_error():
        kind = LostModel if reply.error.code == LOST_MODEL else ValueError
        raise kind(reply.error.reason or f"error {reply.error.code}")
    record = reply.content.config_records.get("fedbias")
    if record is None:
        raise ValueError("the reply has no record 'fedbias'")
    vector = dense_vector(record, "model")
    if vector.shape != like.shape or vector.dtype != like.dtype:
        raise PacketError(
            f"it has {vector.size} entries of {vector.dtype}, not {like.size} of {like.dtype}"
        )
    return finite(vector), len(record["model"])  # type: ignore[arg-type]
