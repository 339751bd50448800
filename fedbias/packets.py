"""The wire: a compressed vector as self-describing bytes.

::

    magic "fb" · version · codec · dtype · flags · dim | scale? · seed? · codec's fields | payload
    └───────────────── 10 bytes, little-endian ──────┘   0/4/8    0/8                     crc32: 4

Flag 1: the packet has a scale. Flag 2: its vector was rotated (:mod:`fedbias.rotation`) by this
seed before it was coded, whatever the codec; decoding turns it back.

Everything is checked before anything of the vector's size is allocated: the header, the length
that header implies, the checksum, and the dimension that the receiver expects. The checksum finds
accidents, not forgers: authentication belongs to the transport (Flower's TLS and node keys).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedbias.rotation import unrotate

Vector = NDArray[Any]
Fields = tuple[int, ...]

_HEAD = struct.Struct("<2sBBBBI")
_CRC = struct.Struct("<I")
_SEED = struct.Struct("<Q")
_SCALED, _ROTATED = 1, 2  # the flags
_MAGIC, _VERSION = b"fb", 1
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 2: np.dtype("<f8")}
MAX_DIM = 2**32 - 1


class PacketError(ValueError):
    """These bytes are not a packet that can be decoded here; the message says why."""


@dataclass(frozen=True)
class Codec:
    """How one kind of payload is sized and decoded.

    Attributes
    ----------
    number : int
        Its byte on the wire, never reused.
    fields : str
        ``struct`` format of the codec's own header fields.
    sizes : callable
        (dim, itemsize, fields) → (code bits, payload bytes); raises PacketError for impossible
        fields.
    decode : callable
        (packet, scale) → vector of packet.dim entries.
    scaled : bool
        Whether decoding multiplies by a scale: the packet's own, or a radius both sides know.
    """

    name: str
    number: int
    fields: str
    sizes: Callable[[int, int, Fields], tuple[int, int]]
    decode: Callable[[Packet, float], Vector]
    scaled: bool = False


_BY_NAME: dict[str, Codec] = {}
_BY_NUMBER: dict[int, Codec] = {}


def register(codec: Codec) -> None:
    """Make a codec known to :func:`decode`; its name and number must be new."""
    if codec.name in _BY_NAME or codec.number in _BY_NUMBER:
        raise ValueError(f"codec {codec.name!r} (number {codec.number}) is registered twice")
    _BY_NAME[codec.name] = _BY_NUMBER[codec.number] = codec


@dataclass(frozen=True)
class Packet:
    """One compressed vector.

    Attributes
    ----------
    codec : str
        The registered codec that made the payload.
    dtype : numpy.dtype
        float32 or float64: what :func:`decode` returns.
    dim : int
        Entries of the vector, 1 … 2^32 − 1.
    scale : float or None
        The codec's scale, where it carries its own; None where a preset radius makes it free.
    fields : tuple of int
        The codec's own header fields.
    payload : bytes
        The codes.
    rotation : int or None
        The seed of the rotation that :func:`decode` undoes; None where there was none.
    """

    codec: str
    dtype: np.dtype[Any]
    dim: int
    scale: float | None
    fields: Fields
    payload: bytes
    rotation: int | None = None

    @property
    def payload_bits(self) -> int:
        """Code bits, before padding to bytes and without any header."""
        return payload_bits(self.codec, self.dim, self.dtype, self.fields)

    @property
    def wire_bits(self) -> int:
        """8·len(bytes(packet)): what tables report."""
        return 8 * len(bytes(self))

    def __bytes__(self) -> bytes:
        codec, dtype = _BY_NAME[self.codec], np.dtype(self.dtype).newbyteorder("<")
        kind = next(number for number, known in _DTYPES.items() if known == dtype)
        flags = _SCALED * (self.scale is not None) + _ROTATED * (self.rotation is not None)
        head = _HEAD.pack(_MAGIC, _VERSION, codec.number, kind, flags, self.dim)
        scale = b"" if self.scale is None else np.array(self.scale, dtype).tobytes()
        seed = b"" if self.rotation is None else _SEED.pack(self.rotation)
        fields = struct.pack("<" + codec.fields, *self.fields)
        body = b"".join((head, scale, seed, fields, self.payload))
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Packet:
        """Read a packet; PacketError for a truncated, altered, oversized or foreign one."""
        if len(data) < _HEAD.size + _CRC.size:
            raise PacketError(f"a packet has at least {_HEAD.size + _CRC.size} bytes: {len(data)}")
        magic, version, number, kind, flags, dim = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise PacketError(f"not a packet of version {_VERSION}: it starts with {data[:3]!r}")
        if number not in _BY_NUMBER or kind not in _DTYPES or flags > 3 or dim == 0:
            raise PacketError(
                f"impossible header: codec {number}, dtype {kind}, flags {flags}, dim {dim}"
            )
        codec, dtype = _BY_NUMBER[number], _DTYPES[kind]
        scaled, rotated = bool(flags & _SCALED), bool(flags & _ROTATED)
        expected = _start(codec, dtype, scaled, rotated)
        if len(data) < expected + _CRC.size:
            raise PacketError(f"truncated in its header: {len(data)} bytes")
        scale = float(np.frombuffer(data, dtype, 1, _HEAD.size)[0]) if scaled else None
        at = _HEAD.size + scaled * dtype.itemsize
        seed = int(_SEED.unpack_from(data, at)[0]) if rotated else None
        fields = struct.unpack_from("<" + codec.fields, data, at + rotated * _SEED.size)
        length = _sizes(codec, dim, dtype, fields)[1]
        if len(data) != expected + length + _CRC.size:
            raise PacketError(
                f"{codec.name} of dim {dim} takes {expected + length + _CRC.size} bytes, "
                f"not {len(data)}"
            )
        if _CRC.unpack_from(data, len(data) - _CRC.size)[0] != zlib.crc32(data[: -_CRC.size]):
            raise PacketError("the checksum does not match: the packet was altered on its way")
        if scaled and (not codec.scaled or not math.isfinite(scale or 0) or (scale or 0) < 0):
            raise PacketError(f"{codec.name} cannot have the scale {scale}")
        payload = data[expected : -_CRC.size]
        return cls(codec.name, dtype.newbyteorder("="), dim, scale, fields, payload, seed)


def decode(packet: Packet, radius: float | None = None, *, dim: int | None = None) -> Vector:
    """The vector that a packet stands for.

    Parameters
    ----------
    packet : Packet
        From :meth:`Packet.from_bytes` or straight from a compressor.
    radius : float, optional
        The radius both sides know, for a packet that was encoded with one.
    dim : int, optional
        The dimension the receiver expects. Without it a packet of few bytes, sparse or
        entropy-coded, decides how much memory is allocated (up to 2^32 − 1 entries, several times
        over), so pass it for packets from elsewhere.

    Returns
    -------
    ndarray, shape (packet.dim,), of packet.dtype
        Owned by the caller.

    Raises
    ------
    PacketError
        If dim differs, a needed radius is missing, one is given beside the packet's own scale, or
        the payload is impossible (an index beyond dim). Finite entries are NOT guaranteed.
    """
    codec = _BY_NAME[packet.codec]
    if dim is not None and packet.dim != dim:
        raise PacketError(f"expected a vector of dim {dim}, the packet has {packet.dim}")
    if codec.scaled and packet.scale is None and radius is None:
        raise PacketError(f"this {codec.name} packet was encoded for a preset radius: pass it")
    if packet.scale is not None and radius is not None:
        raise PacketError(f"this {codec.name} packet carries its own scale: pass no radius")
    if radius is not None and not 0 < radius < math.inf:
        raise PacketError(f"a radius is a positive number, not {radius}")
    scale = packet.scale if packet.scale is not None else radius
    vector = codec.decode(packet, 1.0 if scale is None else scale)
    return vector if packet.rotation is None else unrotate(vector, packet.rotation)


def packet_bytes(
    codec: str,
    dim: int,
    dtype: np.dtype[Any],
    fields: Fields,
    *,
    scaled: bool,
    rotated: bool = False,
) -> int:
    """The length that such a packet will have, known before it is made."""
    known = _BY_NAME[codec]
    head = _start(known, dtype, scaled, rotated) + _CRC.size
    return head + _sizes(known, dim, dtype, fields)[1]


def payload_bits(codec: str, dim: int, dtype: np.dtype[Any], fields: Fields) -> int:
    """The code bits that such a packet will have, known before it is made."""
    return _sizes(_BY_NAME[codec], dim, dtype, fields)[0]


def _start(codec: Codec, dtype: np.dtype[Any], scaled: bool, rotated: bool) -> int:
    """Where the payload starts."""
    optional = scaled * dtype.itemsize + rotated * _SEED.size
    return _HEAD.size + optional + struct.calcsize("<" + codec.fields)


def _sizes(codec: Codec, dim: int, dtype: np.dtype[Any], fields: Fields) -> tuple[int, int]:
    return codec.sizes(dim, np.dtype(dtype).itemsize, fields)
