"""Floating-point codes: every entry in the caller's dtype, or in 16 bits."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from fedbias.notation import setting
from fedbias.packets import Codec, Fields, Packet, PacketError, register

from .base import Compressor, Guarantee, Vector

_TOP = 15  # half codes the largest entry below 2^15, a factor 2 from overflow
_BELOW_TOP = np.float16(2**15 - 16)  # the largest half below 2^15


@setting("identity")
class Identity(Compressor):
    """No compression: the vector's own bytes."""

    codec = "identity"
    takes_radius = True  # harmless: the error is zero inside every radius

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        return None, (), vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()

    def guarantee(self, dim: int) -> Guarantee:
        """Nothing is lost."""
        return Guarantee(unbiased=True, contraction=1.0, variance=0.0, covering=0.0)


@setting("half")
class Half(Compressor):
    """IEEE half precision after an exact shift of the exponent, so nothing overflows.

    A plain cast turns 7·10^4 into infinity and 10^−8 into zero. Here the largest entry is first
    brought just below 2^15 by a power of two, which costs 16 bits a packet and rounds nothing.
    """

    codec = "half"

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        largest = float(np.abs(vector).max())
        exponent = int(np.frexp(largest)[1]) - _TOP
        codes = np.ldexp(vector, -exponent).astype("<f2")
        if exponent + _TOP == np.finfo(vector.dtype).maxexp:
            # What rounds up to 2^15 here would overflow the dtype when it is decoded.
            codes = np.clip(codes, -_BELOW_TOP, _BELOW_TOP)
        return None, (exponent,), codes.tobytes()

    def guarantee(self, dim: int) -> Guarantee:
        """Relative error 2^−11 for normal codes, absolute 2^−25 below them (largest ≥ 2^14)."""
        loss = 2.0**-22 + dim * 2.0**-78
        return Guarantee(False, 1 - loss if loss < 1 else None, loss, None)

    def fields(self, dim: int) -> Fields:
        """The exponent's place."""
        return (0,)


def _decode_identity(packet: Packet, scale: float) -> Vector:
    wire = np.dtype(packet.dtype).newbyteorder("<")
    return np.frombuffer(packet.payload, wire).astype(packet.dtype)


def _decode_half(packet: Packet, scale: float) -> Vector:
    (exponent,) = packet.fields
    codes = np.frombuffer(packet.payload, "<f2").astype(packet.dtype)
    with np.errstate(over="raise", invalid="ignore"):  # a NaN is for the receiver to refuse
        try:
            vector: Vector = np.ldexp(codes, exponent)
            return vector
        except FloatingPointError:
            raise PacketError(f"half: the exponent {exponent} overflows {packet.dtype}") from None


register(Codec("identity", 1, "", lambda d, item, _: (8 * item * d, item * d), _decode_identity))
register(Codec("half", 2, "h", lambda d, item, _: (16 * d, 2 * d), _decode_half))
