"""Vectors in a record: one packet each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedbias.compressors import identity
from fedbias.packets import Packet, PacketError, decode
from fedbias.vectors import Vector

Record = dict[str, Any]  # str → str, bytes or a list of bytes


def dense(vector: Vector) -> bytes:
    """A vector as an uncompressed packet's bytes."""
    return bytes(identity().encode(vector))


def dense_vector(record: Mapping[str, Any], name: str) -> Vector:
    """The vector of a record's uncompressed packet; so few bytes cannot ask for much memory."""
    packet = packet_of(record, name)
    if packet.codec != identity.codec:
        raise PacketError(f"{name} must come uncompressed, not as {packet.codec}")
    return decode(packet)


def packet_of(record: Mapping[str, Any], name: str) -> Packet:
    """The packet of this name (PacketError if there is none)."""
    data = record.get(name)
    if not isinstance(data, bytes):
        raise PacketError(f"the record carries no packet {name!r}")
    return Packet.from_bytes(data)
