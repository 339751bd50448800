"""Scalar quantizers: sign, uniform midrise, dithered. b bits an entry, one scale a packet.

All three work on v/s, which lies in [−1, 1]: s is ‖v‖_∞ (the mean magnitude for sign), or the
radius that both sides know.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from fedbias import checks
from fedbias.bits import pack, packed_size, unpack
from fedbias.notation import setting
from fedbias.packets import Codec, Fields, Packet, PacketError, register

from .base import Compressor, Guarantee, Vector

MAX_BITS = 16


@setting("sign")
class Sign(Compressor):
    """One bit an entry, scaled by the mean magnitude: v̂ = (‖v‖₁/d)·sign(v), sign(0) = +1.

    The scale that makes ‖v̂ − v‖ least; ‖v̂ − v‖² = ‖v‖² − ‖v‖₁²/d (Bernstein et al. 2018 for the
    sign, Karimireddy et al. 2019 for this scale). Biased: use error feedback.
    """

    codec = "sign"
    carries_scale = True

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        mean = np.abs(vector).mean(dtype=np.float64)  # a float32 sum may overflow
        return float(vector.dtype.type(mean)), (), pack(vector >= 0, 1)

    def guarantee(self, dim: int) -> Guarantee:
        """α = 1/d, attained by a vector with one entry; ‖v‖₁²/(d‖v‖²) for a given v."""
        return Guarantee(False, 1 / dim, 1 - 1 / dim, None)


@setting("uniform")
class Uniform(Compressor):
    """b-bit uniform midrise quantizer on [−s, s]: 2^b cells, each coded by its midpoint.

    Deterministic and biased. With one bit it knows ±s/2 alone; a zero entry is never coded as
    zero. With ``radius`` the cube encloses the ball of that radius, no scale is sent, and the
    covering efficiency is √d (arXiv 2002.02508).
    """

    bits: int  # b, 1 … 16
    codec = "uniform"
    carries_scale = True
    takes_radius = True

    def __post_init__(self) -> None:
        checks.whole("uniform", "bits", self.bits, least=1, most=MAX_BITS)

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        scale = float(np.abs(vector).max()) if radius is None else radius
        cells = 2**self.bits
        place = (_unit(vector, scale) + 1) * (cells / 2)
        codes = np.clip(np.floor(place), 0, cells - 1).astype(np.uint32)
        return (scale if radius is None else None), (self.bits,), pack(codes, self.bits)

    def guarantee(self, dim: int) -> Guarantee:
        """No entry is off by more than s·2^−b, and s = ‖v‖_∞ ≤ ‖v‖: 1 − α = d·4^−b."""
        loss = dim * 4.0**-self.bits
        return Guarantee(False, 1 - loss if loss < 1 else None, loss, float(np.sqrt(dim)))

    def fields(self, dim: int) -> Fields:
        """The width."""
        return (self.bits,)


@setting("dithered")
class Dithered(Compressor):
    """b-bit unbiased quantizer: stochastic rounding to 2^b levels from −s to s.

    E v̂ = v over the rounding (Alistarh et al. 2017, QSGD, with a uniform grid and the largest
    magnitude as scale). Entries beyond a given ``radius`` saturate and are then biased.
    """

    bits: int  # b, 1 … 16
    codec = "dithered"
    carries_scale = True
    takes_radius = True
    random = True

    def __post_init__(self) -> None:
        checks.whole("dithered", "bits", self.bits, least=1, most=MAX_BITS)

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        scale = float(np.abs(vector).max()) if radius is None else radius
        steps = 2**self.bits - 1
        place = (_unit(vector, scale) + 1) * (steps / 2)
        noise = rng.random(vector.size, dtype=np.float64)
        codes = np.clip(np.floor(place + noise), 0, steps).astype(np.uint32)
        return (scale if radius is None else None), (self.bits,), pack(codes, self.bits)

    def guarantee(self, dim: int) -> Guarantee:
        """A variance is at most a quarter of a squared step 2s/(2^b − 1); an error, one step."""
        steps = 2**self.bits - 1
        covering = float(np.sqrt(dim)) * 2 * 2**self.bits / steps
        return Guarantee(True, None, dim / steps**2, covering)

    def fields(self, dim: int) -> Fields:
        """The width."""
        return (self.bits,)


def _unit(vector: Vector, scale: float) -> Vector:
    return vector / vector.dtype.type(scale) if scale > 0 else np.zeros_like(vector)


def _scaled(unit: Vector, scale: float) -> Vector:
    vector: Vector = unit * unit.dtype.type(scale)
    return vector


def _decode_sign(packet: Packet, scale: float) -> Vector:
    signs = unpack(packet.payload, packet.dim, 1).astype(packet.dtype) * 2 - 1
    return _scaled(signs, scale)


def _decode_uniform(packet: Packet, scale: float) -> Vector:
    (width,) = packet.fields
    codes = unpack(packet.payload, packet.dim, width).astype(packet.dtype)
    return _scaled((2 * codes + 1) / 2**width - 1, scale)


def _decode_dithered(packet: Packet, scale: float) -> Vector:
    (width,) = packet.fields
    codes = unpack(packet.payload, packet.dim, width).astype(packet.dtype)
    return _scaled(codes * (2 / (2**width - 1)) - 1, scale)


def _sizes(dim: int, itemsize: int, fields: Fields) -> tuple[int, int]:
    (width,) = fields
    if not 1 <= width <= MAX_BITS:
        raise PacketError(f"a quantizer has 1 … {MAX_BITS} bits, not {width}")
    return dim * width, packed_size(dim, width)


register(Codec("sign", 3, "", lambda d, item, _: (d, packed_size(d, 1)), _decode_sign, True))
register(Codec("uniform", 4, "B", _sizes, _decode_uniform, scaled=True))
register(Codec("dithered", 5, "B", _sizes, _decode_dithered, scaled=True))
