"""How gradients travel in ``reproduce differential-quantization``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator

import fedbias as fb
from fedbias import theory
from fedbias.compressors import Compressor
from fedbias.compressors.base import Guarantee
from fedbias.compressors.nested import Lattice, boundary_blocks
from fedbias.feedback import Feedback
from fedbias.packets import Fields
from fedbias.vectors import Vector, norm

# Differential quantization unless "naive"; ranges are preset, but "own" is a scale in every packet.
WAYS = ("none", "scalar", "e8", "safe", "naive", "own", "naive-own")


class Watched(Compressor):
    """A lattice compressor that counts the blocks whose closest lattice point is no codeword."""

    takes_radius = carries_scale = True

    def __init__(self, inner: Lattice) -> None:
        self.inner, self.boundary = inner, 0
        self.name, self.codec = inner.name, inner.codec  # type: ignore[misc]

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        if radius is not None:
            self.boundary += boundary_blocks(self.inner, vector, radius)
        return self.inner._encode(vector, rng, radius)

    def guarantee(self, dim: int) -> Guarantee:
        """The lattice's own."""
        return self.inner.guarantee(dim)

    def fields(self, dim: int) -> Fields:
        """The lattice's own."""
        return self.inner.fields(dim)


@dataclass(frozen=True)
class Coded:
    """How gradients travel.

    Attributes
    ----------
    a : float or None
        ρ·2^(−R) of the preset ranges; None where there are none.
    """

    compressor: Compressor
    feedback: Feedback
    a: float | None

    def theory(self, method: theory.Tuned) -> float | None:
        """The contraction that is proved for it; None if none is."""
        if isinstance(self.compressor, fb.identity):
            return method.rate
        if self.a is None:
            return None
        if isinstance(self.feedback, fb.no_feedback):
            return theory.naive_contraction(method, self.a)
        return theory.contraction(method, self.a)


def block_covering(dim: int) -> float:
    """ρ of E8's blocks where every closest lattice point is a codeword: √2 each, 1 for an entry."""
    blocks, tail = divmod(dim, 8)
    if tail > 1:
        raise ValueError(f"block_covering knows blocks of 8 and one entry more, not {dim} entries")
    return math.sqrt(2 * blocks + tail)


def coded(way: str, bits: int, lipschitz: float, convexity: float, start: Vector) -> Coded:
    """One of ``WAYS`` for R = bits, x* at distance ‖start‖."""
    if way == "none":
        return Coded(fb.identity(), fb.no_feedback(), None)
    feedback = fb.no_feedback if way.startswith("naive") else fb.differential
    if way.endswith("own"):
        return Coded(fb.uniform(bits), feedback(), None)
    covering = block_covering(start.size) if way == "e8" else None
    preset = fb.preset_radius(lipschitz, convexity, norm(start), covering)
    compressor: Compressor = fb.uniform(bits)
    if way in ("e8", "safe"):
        compressor = Watched(Lattice("E8", bits, full_range=way == "e8"))
    known = covering or compressor.guarantee(start.size).covering or 0.0
    return Coded(compressor, feedback(preset), known * 2.0**-bits)
