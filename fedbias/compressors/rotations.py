"""Any compressor after a seeded rotation, which makes heavy entries light."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import DTypeLike

from fedbias import checks
from fedbias.notation import setting
from fedbias.packets import Fields, Packet, packet_bytes
from fedbias.rotation import rotate

from .base import Compressor, Guarantee, Vector


@setting("rotated")
class Rotated(Compressor):
    """Turn the vector by a random rotation, compress it with ``inner``, turn it back.

    Right where few entries are much larger than the others and one scale serves all of them
    (:class:`uniform`, :class:`dithered`, :class:`sign`, :class:`lattice`): behind the rotation,
    the largest of d entries is about √(2·ln d)·‖v‖/√d, whatever v was. Wrong for ``top_k``, which
    lives on heavy entries, and of little use to ``entropy_coded``, which adapts to them.

    The packet has 8 bytes more, the seed; encoding and decoding draw at least d signs and cost
    O(d log d). See :func:`fedbias.rotation.rotate`.

    Parameters
    ----------
    inner : Compressor
        Any but another ``rotated``.

    Notes
    -----
    NOT guaranteed: anything better than ``inner`` guarantees. The error is a vector that was
    turned back, so its norm is what ``inner`` promises, and one vector in a great many is turned
    into a bad one. A vector whose norm overflows its dtype is refused.
    """

    inner: Compressor
    random = True

    def __post_init__(self) -> None:
        checks.instance("rotated", "inner", self.inner, Compressor, "uniform(4)")
        if isinstance(self.inner, Rotated):
            raise ValueError(
                "rotated: inner must not be rotated itself: a packet has one rotation, and two "
                "spread a vector no better"
            )

    @property
    def codec(self) -> str:  # type: ignore[override]
        """The inner's: the payload is its own."""
        return self.inner.codec

    @property
    def carries_scale(self) -> bool:  # type: ignore[override]
        """As the inner."""
        return self.inner.carries_scale

    @property
    def takes_radius(self) -> bool:  # type: ignore[override]
        """As the inner: a rotation keeps the norm."""
        return self.inner.takes_radius

    def encode(
        self, vector: Vector, rng: Generator | None = None, radius: float | None = None
    ) -> Packet:
        """See :meth:`Compressor.encode`; the seed is drawn before what ``inner`` draws."""
        self._check(vector, rng, radius)
        assert rng is not None  # _check refuses a random compressor without one
        seed = int(rng.integers(2**63))
        turned = rotate(vector, seed)
        if not np.isfinite(turned).all():
            raise ValueError(f"rotated: the norm of this vector overflows {vector.dtype}")
        return replace(self.inner.encode(turned, rng, radius), rotation=seed)

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        return self.inner._encode(vector, rng, radius)  # of a vector that is turned already

    def guarantee(self, dim: int) -> Guarantee:
        """The inner's, for every seed: rotations keep lengths, and E is linear."""
        return self.inner.guarantee(dim)

    def fields(self, dim: int) -> Fields:
        """The inner's."""
        return self.inner.fields(dim)

    def wire_bytes(
        self, dim: int, dtype: DTypeLike = np.float32, radius: float | None = None
    ) -> int:
        """The inner's and 8 bytes of seed."""
        scaled, kind = self.carries_scale and radius is None, np.dtype(dtype)
        fields = self.fields(dim)
        return packet_bytes(self.codec, dim, kind, fields, scaled=scaled, rotated=True)
