"""What :class:`entropy_coded` and :class:`trellis_coded` send, and how it is read.

::

    step (4) · grain (1) · counts · centroids · escapes · plain bits · rANS words

- The step is the upper half of a float64, little-endian.
- The counts of the symbols 0, 1, … as varints until they sum to dim; a 0 is followed by how many
  zeros more there are.
- Centroids: how far the mean of a symbol's entries is from the middle of their cells, in 256ths of
  a step, one signed byte; for every symbol that is one cell or has 64 entries, but for the escape.
- The entries beyond all cells, in the vector's dtype.
- The plain bits of all entries that have one of them, then of all that have two, …

An empty payload is the zero vector.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedbias import extras_entropy
from fedbias.bits import pack, packed_size, unpack
from fedbias.packets import Packet, PacketError

from .base import Vector
from .cells import FAR, FAR_BITS, GRAINS, Ints, Table, symbols, table

FINE = 256  # centroids are in units of step/FINE
WORTH = 64  # entries: a cell's centroid saves about a thousandth of its error at high rates


class Head(NamedTuple):
    """The tables in front of a payload."""

    step: float
    grain: int
    counts: Ints  # of all symbols of the grain
    centroids: NDArray[np.int8]  # likewise, 0 where there is none


class Sent(NamedTuple):
    """What a payload says of every entry."""

    head: Head
    number: Ints
    symbol: Ints
    escapes: Vector  # those that were sent as they are


def coarse(step: float) -> float:
    """The step, rounded down to what 4 bytes hold."""
    return float(struct.unpack("<d", bytes(4) + struct.pack("<d", step)[4:])[0])


def cells(magnitude: Vector, step: float) -> Ints:
    """The magnitude of every entry's cell, at most FAR; zero lies in the middle of one."""
    with np.errstate(over="ignore"):
        return np.minimum(np.rint(magnitude / step), FAR).astype(np.int32)


def write(vector: Vector, step: float, grain: int) -> bytes:
    """The payload of a vector."""
    wide = vector.astype(np.float64)
    cell = cells(np.abs(wide), step)
    number = np.where(wide < 0, -cell, cell)
    with np.errstate(over="ignore"):
        return write_numbers(vector, number, wide / step - number, step, grain)


def write_numbers(vector: Vector, number: Ints, off: Vector, step: float, grain: int) -> bytes:
    """The payload of a vector whose entries have these numbers.

    Parameters
    ----------
    number : ndarray of int32, shape (dim,)
        Of either sign; of magnitude FAR where the entry is sent as it is.
    off : ndarray, shape (dim,)
        How far every entry is from what its number stands for, in steps; at most 1/2.
    """
    known, cell = table(grain), np.abs(number)
    symbol = symbols(cell, number < 0, grain)
    counts = np.bincount(symbol, minlength=len(known.lowest))
    centroids = _centroids(np.where(cell < FAR, off, 0), symbol, counts)
    present, rank = _ranks(counts)
    parts = [struct.pack("<d", step)[4:], bytes([grain]), _write_counts(counts)]
    parts.append(centroids[centred(counts, known)].tobytes())
    parts.append(vector[symbol == known.escape].astype(vector.dtype.newbyteorder("<")).tobytes())
    plain, width = cell - known.lowest[symbol], known.width[symbol]
    parts += [pack(plain[width == bits], bits) for bits in _widths(known, counts)]
    parts.append(extras_entropy.encode(rank[symbol], counts[present]))
    return b"".join(parts)


def read(packet: Packet, scale: float) -> Vector:
    """The vector of a payload; PacketError where it is none."""
    if not packet.payload:
        return np.zeros(packet.dim, packet.dtype)
    sent = read_numbers(packet)
    return values(sent, sent.number, packet.dtype)


def read_numbers(packet: Packet) -> Sent:
    """What :func:`write_numbers` wrote; PacketError where it is nothing of the kind."""
    try:
        return _read_numbers(packet)
    except ValueError as wrong:
        raise PacketError(f"{packet.codec}: {wrong}") from None


def _read_numbers(packet: Packet) -> Sent:
    head, at = _read_head(packet.payload, packet.dim)
    known, kind = table(head.grain), np.dtype(packet.dtype)
    ends = [at + kind.itemsize * int(head.counts[known.escape])]
    widths = _widths(known, head.counts)
    for bits in widths:
        ends.append(ends[-1] + packed_size(int(head.counts[known.width == bits].sum()), bits))
    if len(packet.payload) < ends[-1]:
        raise ValueError(f"{len(packet.payload)} bytes are too few for its tables")
    present, _ = _ranks(head.counts)
    ranks = extras_entropy.decode(packet.payload[ends[-1] :], head.counts[present], packet.dim)
    symbol = present[ranks]
    number, width = known.lowest[symbol], known.width[symbol]
    for bits, start, stop in zip(widths, ends, ends[1:], strict=False):
        chosen = width == bits
        number[chosen] += unpack(packet.payload[start:stop], int(chosen.sum()), bits)
    escapes = np.frombuffer(packet.payload[at : ends[0]], kind.newbyteorder("<"))
    return Sent(head, known.sign[symbol] * number, symbol, escapes)


def values(sent: Sent, middle: Vector, kind: np.dtype[Any], sign: Vector | int = 1) -> Vector:
    """The entries, where a number stands for ``sign`` times its ``middle``, in steps."""
    head, most = sent.head, np.finfo(kind).max
    with np.errstate(over="ignore"):
        places = sign * (middle + head.centroids[sent.symbol].astype(np.float64) / FINE)
        vector: Vector = np.clip(places * head.step, -most, most).astype(kind)
    vector[sent.symbol == table(head.grain).escape] = sent.escapes
    return vector


def _centroids(off: Vector, symbol: Ints, counts: Ints) -> NDArray[np.int8]:
    sums = np.bincount(symbol, weights=off, minlength=len(counts))
    means = np.rint(sums / np.maximum(counts, 1) * FINE).clip(-FINE // 2, FINE // 2 - 1)
    return means.astype(np.int8)


def centred(counts: Ints, known: Table) -> NDArray[np.bool_]:
    """Which symbols have a centroid: where it is worth its byte."""
    worth: NDArray[np.bool_] = (counts > 0) & ((known.width == 0) | (counts >= WORTH))
    worth[known.escape] = False
    return worth


def _ranks(counts: Ints) -> tuple[Ints, NDArray[np.int32]]:
    """The symbols that occur, and the place of every symbol among them."""
    return np.flatnonzero(counts), (np.cumsum(counts > 0) - 1).astype(np.int32)


def _widths(known: Table, counts: Ints) -> list[int]:
    occur = set(known.width[counts > 0].tolist())
    return [bits for bits in range(1, FAR_BITS + 1) if bits in occur]


def _write_counts(counts: Ints) -> bytes:
    out, zeros = bytearray(), 0
    for count in counts[: np.flatnonzero(counts)[-1] + 1].tolist():
        if count and zeros:
            out += b"\0" + varint(zeros - 1)
        zeros = 0 if count else zeros + 1
        out += varint(count) if count else b""
    return bytes(out)


def _read_head(data: bytes, dim: int) -> tuple[Head, int]:
    step = struct.unpack("<d", bytes(4) + data[:4])[0] if len(data) > 4 else math.nan
    if not 0 < step < math.inf or data[4] not in GRAINS:
        raise ValueError(f"a step of {step} or its grain is impossible")
    grain, at, symbol, left = data[4], 5, 0, dim
    counts = np.zeros(len(table(grain).lowest), np.int64)
    while left:
        count, at = _read_varint(data, at)
        if count == 0:
            more, at = _read_varint(data, at)
            symbol += 1 + more
        if symbol >= len(counts) or count > left:
            raise ValueError(f"its counts do not sum to {dim}")
        counts[symbol] = count
        symbol, left = symbol + (count > 0), left - count
    worth = centred(counts, table(grain))
    stop = at + int(worth.sum())
    if stop > len(data):
        raise ValueError(f"{len(data)} bytes are too few for its tables")
    centroids = np.zeros(len(counts), np.int8)
    centroids[worth] = np.frombuffer(data[at:stop], np.int8)
    return Head(step, grain, counts, centroids), stop


def varint(value: int) -> bytes:
    """A whole number ≥ 0, seven bits a byte, lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(5):  # a count is below 2^32
        if at + place >= len(data):
            break
        value |= (data[at + place] & 127) << 7 * place
        if data[at + place] < 128:
            return value, at + place + 1
    raise ValueError("a count has no end")
