"""Sparsifiers: a few exact entries. k = max(1, round(p·d))."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedbias import checks
from fedbias.bits import pack, packed_size, unpack
from fedbias.notation import setting
from fedbias.packets import Codec, Fields, Packet, PacketError, register

from .base import Compressor, Guarantee, Vector


def kept(fraction: float, dim: int) -> int:
    """K: how many of ``dim`` entries a sparsifier keeps."""
    return max(1, round(fraction * dim))


@setting("top_k")
class TopK(Compressor):
    """The k entries of largest magnitude, exactly; ties go to the lower index.

    Biased, contractive with α = k/d (arXiv 2403.00853). Places are packed as a bitmap or as
    ⌈log₂ d⌉ bits each, whichever is smaller; values keep the caller's dtype.
    """

    fraction: float  # p = K/d, in (0, 1]
    codec = "top_k"

    def __post_init__(self) -> None:
        checks.real("top_k", "fraction", self.fraction, above=0, most=1)

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        count = kept(self.fraction, vector.size)
        places = largest(vector, count)
        return None, (count,), _pack_places(places, vector.size) + _values(vector[places])

    def guarantee(self, dim: int) -> Guarantee:
        """What is dropped is at most the share 1 − k/d of the energy, attained by equal entries."""
        alpha = kept(self.fraction, dim) / dim
        return Guarantee(alpha == 1, alpha, 1 - alpha, None)

    def fields(self, dim: int) -> Fields:
        """The count."""
        return (kept(self.fraction, dim),)


@setting("random_k")
class RandomK(Compressor):
    """k entries at random places, scaled by d/k so that E v̂ = v. The places cost one seed."""

    fraction: float  # p = K/d, in (0, 1]
    codec = "random_k"
    random = True

    def __post_init__(self) -> None:
        checks.real("random_k", "fraction", self.fraction, above=0, most=1)

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        count = kept(self.fraction, vector.size)
        seed = int(rng.integers(2**63))
        return None, (count, seed), _values(vector[_drawn(seed, vector.size, count)])

    def guarantee(self, dim: int) -> Guarantee:
        """ω = d/k − 1, exactly the variance for every v."""
        spread = dim / kept(self.fraction, dim) - 1
        return Guarantee(True, 1.0 if spread == 0 else None, spread, None)

    def fields(self, dim: int) -> Fields:
        """The count, and the seed's place."""
        return (kept(self.fraction, dim), 0)


def largest(vector: Vector, count: int) -> NDArray[np.int64]:
    """Ascending places of the ``count`` largest magnitudes; ties go to the lower index."""
    size = np.abs(vector)
    threshold = np.partition(size, vector.size - count)[vector.size - count]
    above = np.flatnonzero(size > threshold)
    ties = np.flatnonzero(size == threshold)[: count - above.size]
    return np.sort(np.concatenate((above, ties)))


def _drawn(seed: int, dim: int, count: int) -> NDArray[np.int64]:
    # From uniform doubles, not Generator.choice: they follow from the bit stream alone, so the
    # fingerprint that clients and server compare covers them.
    places = np.argpartition(np.random.default_rng(seed).random(dim), count - 1)[:count]
    return np.sort(places)


def _width(dim: int) -> int:
    return (dim - 1).bit_length()  # ⌈log₂ dim⌉


def _place_bits(dim: int, count: int) -> int:
    return min(dim, count * _width(dim))


def _pack_places(places: NDArray[np.int64], dim: int) -> bytes:
    if dim < places.size * _width(dim):
        bitmap = np.zeros(dim, np.uint8)
        bitmap[places] = 1
        return pack(bitmap, 1)
    return pack(places, _width(dim))


def _unpack_places(data: bytes, dim: int, count: int) -> NDArray[np.int64]:
    if dim < count * _width(dim):
        places = np.flatnonzero(unpack(data, dim, 1))
    else:
        places = unpack(data, count, _width(dim)).astype(np.int64)
    if places.size != count or places[-1] >= dim or (np.diff(places) <= 0).any():
        raise PacketError(f"top_k: the places are not {count} ascending indices below {dim}")
    return places


def _values(chosen: Vector) -> bytes:
    return chosen.astype(chosen.dtype.newbyteorder("<"), copy=False).tobytes()


def _scatter(packet: Packet, places: NDArray[np.int64], start: int, factor: float) -> Vector:
    values = np.frombuffer(packet.payload, np.dtype(packet.dtype).newbyteorder("<"), offset=start)
    vector = np.zeros(packet.dim, packet.dtype)
    vector[places] = values if factor == 1 else values * packet.dtype.type(factor)
    return vector


def _decode_top_k(packet: Packet, scale: float) -> Vector:
    (count,) = packet.fields
    start = packed_size(_place_bits(packet.dim, count), 1)
    return _scatter(packet, _unpack_places(packet.payload[:start], packet.dim, count), start, 1)


def _decode_random_k(packet: Packet, scale: float) -> Vector:
    count, seed = packet.fields
    return _scatter(packet, _drawn(seed, packet.dim, count), 0, packet.dim / count)


def _sizes_top_k(dim: int, itemsize: int, fields: Fields) -> tuple[int, int]:
    (count,) = fields
    if not 1 <= count <= dim:
        raise PacketError(f"top_k keeps 1 … {dim} entries, not {count}")
    bits = _place_bits(dim, count)
    return bits + 8 * itemsize * count, packed_size(bits, 1) + itemsize * count


def _sizes_random_k(dim: int, itemsize: int, fields: Fields) -> tuple[int, int]:
    if not 1 <= fields[0] <= dim:
        raise PacketError(f"random_k keeps 1 … {dim} entries, not {fields[0]}")
    return 8 * itemsize * fields[0], itemsize * fields[0]


register(Codec("top_k", 6, "I", _sizes_top_k, _decode_top_k))
register(Codec("random_k", 7, "IQ", _sizes_random_k, _decode_random_k))
