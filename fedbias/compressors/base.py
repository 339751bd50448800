"""What a compressor is: a frozen setting that encodes vectors and says what it guarantees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import DTypeLike, NDArray

from fedbias.packets import MAX_DIM, Fields, Packet, packet_bytes, payload_bits

Vector = NDArray[Any]


@dataclass(frozen=True)
class Guarantee:
    """What holds for EVERY vector v of a given dimension, with e = decode(encode(v)) − v.

    Attributes
    ----------
    unbiased : bool
        E e = 0 over the compressor's own randomness.
    contraction : float or None
        α in ‖e‖² ≤ (1 − α)‖v‖², always; None where no α > 0 can be promised.
    variance : float or None
        ω in E‖e‖² ≤ ω‖v‖²; for a deterministic compressor 1 − α.
    covering : float or None
        ρ in ‖e‖ ≤ ρ·2^(−R)·r for every ‖v‖ ≤ r, R the payload's bits per entry; None where a
        preset radius has no meaning.

    Notes
    -----
    Exact arithmetic: rounding adds a few units in the last place of the dtype.
    """

    unbiased: bool
    contraction: float | None
    variance: float | None
    covering: float | None


class Compressor(ABC):
    """A lossy map from vectors to packets.

    ``encode`` never changes its argument. With ``radius`` both sides know a bound on ‖v‖ and no
    scale is sent; entries beyond it saturate.
    """

    name: ClassVar[str]
    codec: ClassVar[str]
    carries_scale: ClassVar[bool] = False  # a scale of its own, unless a radius is given
    takes_radius: ClassVar[bool] = False
    random: ClassVar[bool] = False  # needs an rng

    @abstractmethod
    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        """Scale, fields and payload of a checked vector."""

    @abstractmethod
    def guarantee(self, dim: int) -> Guarantee:
        """What holds for every vector of ``dim`` entries."""

    def fields(self, dim: int) -> Fields:
        """The codec's fields as far as they decide the size."""
        return ()

    def encode(
        self, vector: Vector, rng: Generator | None = None, radius: float | None = None
    ) -> Packet:
        """Compress a vector.

        Parameters
        ----------
        vector : ndarray, shape (dim,), float32 or float64
            Finite.
        rng : numpy.random.Generator, optional
            Needed by the random compressors alone.
        radius : float, optional
            A bound on ‖vector‖ known to both sides, instead of a scale inside the packet.

        Raises
        ------
        ValueError
            For a vector that is not flat, empty, of another dtype or not finite; for a missing
            rng; for a radius that this compressor has no use for.
        """
        self._check(vector, rng, radius)
        scale, fields, payload = self._encode(vector, rng or _UNUSED, radius)
        return Packet(self.codec, vector.dtype, vector.size, scale, fields, payload)

    def _check(self, vector: Vector, rng: Generator | None, radius: float | None) -> None:
        check_vector(vector)
        if self.random and rng is None:
            raise ValueError(f"{self.name} draws random numbers: pass rng")
        if radius is not None and not (self.takes_radius and _representable(radius, vector.dtype)):
            reason = (
                f"finite and > 0 as {vector.dtype}"
                if self.takes_radius
                else "None: it adapts by itself"
            )
            raise ValueError(f"{self.name}: radius must be {reason}, not {radius!r}")

    def wire_bytes(
        self, dim: int, dtype: DTypeLike = np.float32, radius: float | None = None
    ) -> int:
        """``len(bytes(packet))`` for any vector of this dim and dtype, known beforehand."""
        scaled = self.carries_scale and radius is None
        return packet_bytes(self.codec, dim, np.dtype(dtype), self.fields(dim), scaled=scaled)

    def rate(self, dim: int, dtype: DTypeLike = np.float32) -> float:
        """R: the payload's bits per entry, known beforehand."""
        return payload_bits(self.codec, dim, np.dtype(dtype), self.fields(dim)) / dim


def check_vector(vector: Vector) -> None:
    """Refuse what no compressor can encode (ValueError)."""
    if vector.ndim != 1 or not 0 < vector.size <= MAX_DIM:
        raise ValueError(f"a vector has one axis and 1 … 2^32 − 1 entries, not {vector.shape}")
    if vector.dtype not in (np.float32, np.float64):
        raise ValueError(f"a vector is float32 or float64, not {vector.dtype}")
    finite = np.isfinite(vector)
    if not finite.all():
        raise ValueError(f"{int((~finite).sum())} of {vector.size} entries are NaN or infinite")


def _representable(radius: object, dtype: np.dtype[Any]) -> bool:
    info, number = np.finfo(dtype), isinstance(radius, (int, float, np.floating))
    return number and not isinstance(radius, bool) and bool(info.tiny <= radius <= info.max)


_UNUSED = np.random.default_rng(0)
