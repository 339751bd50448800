"""Seeded directions: (1/n)·Σ_k s_k u_k as one seed and n scalars, 4 bytes each.

u_k is :func:`fedbias.randomness.direction` of (seed, k). Directions are drawn block by block and
never stored, so a combination of any number of them needs the one vector that it makes; both sides
make it here, bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fedbias.packets import Codec, Fields, Packet, PacketError, register
from fedbias.randomness import Seed, blocks
from fedbias.vectors import Vector

_CODEC = "directions"


def combination(seed: int, scalars: Vector, dim: int, dtype: DTypeLike) -> Packet:
    """The packet that stands for (1/n)·Σ_k s_k u_k ∈ R^dim.

    Parameters
    ----------
    seed : int
        0 … 2^64 − 1.
    scalars : ndarray of float32
        s_k; NaN for a direction that was dropped: it is left out, and n counts the others.
    """
    payload = scalars.astype("<f4").tobytes()
    return Packet(_CODEC, np.dtype(dtype), dim, None, (seed, scalars.size), payload)


def is_combination(packet: Packet) -> bool:
    """Whether a packet is a seed and scalars."""
    return packet.codec == _CODEC


def check_directions(packet: Packet, most: int) -> None:
    """Refuse a packet that names more directions than were asked for (PacketError).

    Rebuilding costs dim numbers for each, whatever few bytes name it.
    """
    if is_combination(packet) and packet.fields[1] > most:
        raise PacketError(f"the packet names {packet.fields[1]} directions, not at most {most}")


def fill(out: Vector, seed: Seed) -> None:
    """Overwrite ``out`` with the seed's direction u."""
    for part, block in blocks(seed, out):
        part[:] = block


def shift(point: Vector, radius: float, seed: Seed, out: Vector) -> None:
    """Overwrite ``out`` with x + νu."""
    out[:] = point
    add(out, radius, seed)


def add(out: Vector, scale: float, seed: Seed) -> None:
    """Add scale·u to ``out``, in its dtype."""
    for part, block in blocks(seed, out):
        block *= out.dtype.type(scale)
        part += block


def combined(seed: int, scalars: Vector, dim: int, dtype: DTypeLike) -> Vector:
    """(1/n)·Σ_k s_k u_k over the scalars that are not NaN, shape (dim,)."""
    total, kept = np.zeros(dim, dtype), np.flatnonzero(~np.isnan(scalars))
    with np.errstate(over="ignore", invalid="ignore"):  # as decode, it promises no finite entries
        for k in kept:
            add(total, float(scalars[k]), (seed, int(k)))
    total /= kept.size
    return total


def _decode(packet: Packet, scale: float) -> Vector:
    scalars = np.frombuffer(packet.payload, "<f4").astype(np.float32)
    if np.isnan(scalars).all() or np.isinf(scalars).any():
        raise PacketError("no direction has a finite slope, or one an infinite slope")
    return combined(packet.fields[0], scalars, packet.dim, packet.dtype)


def _sizes(dim: int, itemsize: int, fields: Fields) -> tuple[int, int]:
    _, count = fields
    if count < 1:
        raise PacketError("directions: a packet of no direction at all")
    return 32 * count, 4 * count


register(Codec(_CODEC, 11, "QI", _sizes, _decode))
