"""Nested lattice quantizers: blocks of 2, 4, 8 or 24, exactly b bits an entry, no table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedbias import checks, lattices
from fedbias.bits import pack, packed_size, unpack
from fedbias.lattices import A2, D4, E8, Points, RootLattice
from fedbias.leech import LEECH
from fedbias.notation import setting
from fedbias.packets import Codec, Fields, Packet, PacketError, register

from .base import Compressor, Guarantee, Vector, check_vector

MAX_BITS = 16
_LATTICES = (A2, D4, E8, LEECH)  # the number on the wire is the place here
_NAMES = tuple(known.name for known in _LATTICES)
_BLOCKS = 1 << 15  # blocks handled at once: bounds the memory


@setting("lattice")
class Lattice(Compressor):
    """b bits an entry by the nested code Λ/2^bΛ of A2, D4, E8 or Leech (blocks of 2, 4, 8, 24).

    Every block goes to the nearest of exactly 2^(bk) codewords, found without a table (Conway and
    Sloane 1982, 1983). Deterministic and biased. A tail shorter than a block is cut into blocks
    of the smaller lattices and at last one entry of a uniform quantizer with 2^b cells.

    Parameters
    ----------
    kind : {"A2", "D4", "E8", "Leech"}
        The lattice. With many bits a block in a ball of its own has covering r_cov/r_pack: √2 for
        D4, E8 and Leech, 2/√3 for A2, against √4, √8, √24 and √2 of ``uniform``: E8 saves one bit
        an entry, Leech 1.79. A vector in one ball has √(d/k) times that. ``uniform`` is simpler
        where d is 1 or 2. Leech takes about 10 s for 10^6 entries, E8 half of one.
    bits : int
        b, 1 … 16; from 2 on for Leech.
    full_range : bool
        Without it the ball has radius (2^b − 1)·r_pack in lattice units, in which the closest
        lattice point is a codeword: covering (r_cov/r_pack)/(1 − 2^−b) a block. With it, and
        always for one bit, the radius is 2^b·r_pack, that of the ball inside 2^b·V: the grid is
        finer by .42, .19, .09 bit at b = 2, 3, 4, but near the sphere the closest point may be
        no codeword, and the guarantee is 1 + r_cov/r_pack a block: 2.41 (A2: 2.15). Not for
        Leech: the nearest codeword there may be any of its 196,560 shortest vectors away.

    Notes
    -----
    The scale is the largest norm of a block, or ``radius``; blocks beyond it are projected onto
    the ball radially. Beyond the largest number of the dtype a scale saturates likewise. Where
    two codewords are as near, rounding decides.
    """

    kind: str
    bits: int
    full_range: bool = False
    codec = "lattice"
    carries_scale = True
    takes_radius = True

    def __post_init__(self) -> None:
        checks.choice("lattice", "kind", self.kind, _NAMES)
        checks.whole("lattice", "bits", self.bits, least=1, most=MAX_BITS)
        checks.instance("lattice", "full_range", self.full_range, bool, "True")
        if _unsearchable(_NAMES.index(self.kind), self.bits, self.full_range):
            raise ValueError(
                f"lattice: {self.kind} has too many shortest vectors to search the codewords near "
                "the sphere, as one bit and full_range need: take 2 bits or more without full_range"
            )

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        fields = self.fields(vector.size)
        scale = _largest_norm(vector, fields) if radius is None else radius
        codes = np.empty(vector.size, np.uint32)
        for code, piece in _pieces(vector.size, fields):
            blocks = _unit_blocks(vector[piece], _width(code), scale)
            codes[piece] = _quantized(code, blocks, fields).reshape(-1)
        return (scale if radius is None else None), fields, pack(codes, self.bits)

    def guarantee(self, dim: int) -> Guarantee:
        """Σ over blocks of ρ² is the ρ² of the vector; a scale of its own is at most ‖v‖."""
        square = 0.0
        for code, count in _layout(dim, _NAMES.index(self.kind)):
            one = 1 if code is None else lattices.covering(code, self.bits, self.full_range)
            square += count * one**2
        loss = square * 4.0**-self.bits
        return Guarantee(False, 1 - loss if loss < 1 else None, loss, math.sqrt(square))

    def fields(self, dim: int) -> Fields:
        """The lattice's number, the width, and whether the full range is used."""
        return (_NAMES.index(self.kind), self.bits, int(self.full_range))


def boundary_blocks(compressor: Lattice, vector: Vector, radius: float) -> int:
    """How many blocks have a closest lattice point that is not a codeword.

    An encoder that reduced it modulo 2^b·Λ would decode these on the far side of the ball, with
    an error of about 2·radius; here they go to the nearest codeword. Without ``full_range`` and
    from 2 bits on there are none, up to ties. A uniform tail is not counted.
    """
    check_vector(vector)
    fields, count = compressor.fields(vector.size), 0
    for code, piece in _pieces(vector.size, fields):
        if code is not None:
            blocks = _unit_blocks(vector[piece], code.dim, radius)
            closest = code.closest(_lattice_units(code, blocks, fields))
            count += int((~lattices.is_codeword(code, compressor.bits, closest)).sum())
    return count


def _unsearchable(number: int, bits: int, full_range: bool) -> bool:
    """Whether a lattice that is for the safe ball only would have to be searched."""
    return _LATTICES[number].safe_only and (bits == 1 or full_range)


def _layout(dim: int, number: int) -> Iterator[tuple[RootLattice | None, int]]:
    """Blocks of the lattice, then as few as possible of the smaller ones; None: one entry."""
    for code in reversed(_LATTICES[: number + 1]):
        count, dim = divmod(dim, code.dim)
        yield code, count
    yield None, dim


def _pieces(dim: int, fields: Fields) -> Iterator[tuple[RootLattice | None, slice]]:
    """The vector, cut into slices of blocks of one lattice, not too many at once."""
    start = 0
    for code, count in _layout(dim, fields[0]):
        for first in range(0, count, _BLOCKS):
            size = _width(code) * min(_BLOCKS, count - first)
            yield code, slice(start, start := start + size)


def _width(code: RootLattice | None) -> int:
    return 1 if code is None else code.dim


def _norms(vector: Vector, width: int) -> tuple[Points, Points]:
    """Largest magnitudes of the blocks, and norms in their units: no square can overflow."""
    blocks = vector.reshape(-1, width).astype(np.float64)
    peaks = np.abs(blocks).max(axis=1)
    return peaks, np.linalg.norm(blocks / np.where(peaks > 0, peaks, 1)[:, None], axis=1)


def _largest_norm(vector: Vector, fields: Fields) -> float:
    """The largest norm of a block, rounded up to a number of the vector's dtype."""
    largest, info = 0.0, np.finfo(vector.dtype)
    for code, piece in _pieces(vector.size, fields):
        peaks, norms = _norms(vector[piece], _width(code))
        with np.errstate(over="ignore"):
            largest = max(largest, float((peaks * norms).max()))
    scale = vector.dtype.type(min(largest, float(info.max)))
    return float(scale if float(scale) >= largest else np.nextafter(scale, info.max))


def _unit_blocks(vector: Vector, width: int, scale: float) -> Points:
    """Blocks of v/scale, shape (m, width); those beyond the unit ball are projected onto it."""
    peaks, norms = _norms(vector, width)
    with np.errstate(over="ignore"):
        shares = np.minimum(peaks / (scale or 1.0) * norms, 1)
    units = vector.reshape(-1, width) / np.where(peaks > 0, peaks, 1)[:, None]
    blocks: Points = units * (shares / np.maximum(norms, 1))[:, None]
    return blocks


def _lattice_units(code: RootLattice, blocks: Points, fields: Fields) -> Points:
    return lattices.times(blocks, code.frame * lattices.reach(fields[1], bool(fields[2])))


def _quantized(code: RootLattice | None, blocks: Points, fields: Fields) -> NDArray[Any]:
    """Codes of blocks of the unit ball, shape (m, k)."""
    bits = fields[1]
    if code is None:
        return np.minimum(np.floor((blocks + 1) * (1 << bits) / 2), (1 << bits) - 1)
    nearest = lattices.nearest_codewords(code, bits, _lattice_units(code, blocks, fields))
    return lattices.index(code, bits, nearest)


def _restored(code: RootLattice | None, codes: NDArray[Any], fields: Fields) -> Points:
    """The blocks that codes (m, k) stand for, in units of the scale."""
    bits = fields[1]
    if code is None:
        return (2.0 * codes + 1) / (1 << bits) - 1
    points = lattices.times(lattices.codewords(code, bits, codes), code.frame.T)
    return points / lattices.reach(bits, bool(fields[2]))


def _decode(packet: Packet, scale: float) -> Vector:
    codes = unpack(packet.payload, packet.dim, packet.fields[1])
    vector, most = np.empty(packet.dim, packet.dtype), float(np.finfo(packet.dtype).max)
    for code, piece in _pieces(packet.dim, packet.fields):
        blocks = _restored(code, codes[piece].reshape(-1, _width(code)), packet.fields)
        with np.errstate(over="ignore"):  # a codeword may lie outside the ball
            vector[piece] = np.clip(blocks.reshape(-1) * scale, -most, most)
    return vector


def _sizes(dim: int, itemsize: int, fields: Fields) -> tuple[int, int]:
    number, bits, full = fields
    if number >= len(_LATTICES) or not 1 <= bits <= MAX_BITS or full > 1:
        raise PacketError(
            f"a lattice packet has a lattice below {len(_LATTICES)}, 1 … {MAX_BITS} bits and a "
            f"flag, not {fields}"
        )
    if _unsearchable(number, bits, bool(full)):
        raise PacketError(f"a lattice packet of {_NAMES[number]} cannot have the fields {fields}")
    return dim * bits, packed_size(dim, bits)


register(Codec("lattice", 8, "BBB", _sizes, _decode, scaled=True))
