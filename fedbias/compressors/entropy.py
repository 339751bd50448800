"""A scalar quantizer at any rate, whose cells are coded at their entropy."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedbias import checks
from fedbias.notation import setting
from fedbias.packets import Codec, Fields, register

from . import entropy_payload
from .base import Compressor, Guarantee, Vector
from .cells import FAR_BITS, GRAINS, Ints, coarser, symbols, table

LEAST = 32  # bytes that a payload may always have


@setting("entropy_coded")
class EntropyCoded(Compressor):
    """R bits an entry on average: equal cells, one of them around zero, in rANS code.

    The step is as fine as R allows, tables included; a cell is decoded as the mean of its entries.
    R may be any number, below 1 too. On Gaussian entries the error is 1.42 times the least that R
    bits allow, 4^(−R)·‖v‖², at high rates, and less at low ones (Gish and Pierce 1968). It adapts
    to every vector: nothing about it is known beforehand, and a few heavy entries cost little.

    Needs constriction on both sides: the extra ``fedbias[entropy]``.

    Parameters
    ----------
    bits : float
        R, above 0 up to 16: the payload has at most max(R·d/8, 32) bytes. So R is kept from
        d = 256/R on. The tables take some dozen to a few hundred bytes of it: at 2 bits the error
        is 1.43 times the least at d = 10^5, 1.47 times at 10^4, 1.9 times at 10^3.

    Notes
    -----
    How long a packet is depends on the vector: ``wire_bytes`` and ``rate`` raise ValueError.

    The error is orthogonal to the decoded vector up to the centroids' resolution, 1/512 of a step;
    at high rates cells far out share a centroid, or have none where few entries would use it. In
    any case no cell's error is larger than its entries, so ‖e‖ ≤ ‖v‖ always. That is all that is
    guaranteed. A vector of few different values is coded badly at rates below its entropy: ±1 with
    random signs has no code below 1 bit and is decoded as zero, every time, so that error feedback
    would wait for ever. Let :class:`rotated` turn such vectors.
    """

    bits: float  # R, in (0, 16]
    codec = "entropy_coded"

    def __post_init__(self) -> None:
        checks.real(self.name, "bits", self.bits, above=0, most=16)

    def _encode(
        self, vector: Vector, rng: Generator, radius: float | None
    ) -> tuple[float | None, Fields, bytes]:
        budget = max(int(self.bits * vector.size / 8), LEAST)
        payload = self._payload(vector, budget)
        return None, (len(payload),), payload

    def _payload(self, vector: Vector, budget: int) -> bytes:
        return _payload(vector, budget)

    def guarantee(self, dim: int) -> Guarantee:
        """Zero is a code, and a centroid is no worse: ω = 1. No α and no ρ hold for every v."""
        return Guarantee(False, None, 1.0, None)

    def fields(self, dim: int) -> Fields:
        """Nobody knows the length beforehand (ValueError)."""
        raise ValueError(
            f"{self.name}: the length depends on the vector; encode it and look at wire_bits"
        )


def _payload(vector: Vector, budget: int) -> bytes:
    """The finest payload of at most ``budget`` bytes; empty where none but zero fits."""
    magnitude, negative = np.abs(vector.astype(np.float64)), vector < 0
    target = budget
    while target > 0 and magnitude.any():
        found = finest(magnitude, negative, 8 * target, 8 * vector.itemsize)
        if found is None:
            break
        payload = entropy_payload.write(vector, *found)
        if len(payload) <= budget:
            return payload
        target -= len(payload) - budget  # the estimate was short by so much
    return b""


def finest(
    magnitude: Vector, negative: NDArray[np.bool_], budget: float, raw: int
) -> tuple[float, int] | None:
    """The finest step whose payload is estimated at no more than ``budget`` bits, and its grain.

    Bisection on log₂ of the step, between all entries sent as they are and none at all. The grain
    follows by one a step.
    """
    low = max(math.log2(magnitude[magnitude > 0].min()) - FAR_BITS - 1, -1021.0)
    high = min(math.log2(magnitude.max()) + 1, 1023.0)
    found, grain = None, GRAINS[-1] // 2
    while high - low > 2**-12:
        middle = (low + high) / 2
        step = entropy_payload.coarse(2.0**middle)
        symbol = symbols(entropy_payload.cells(magnitude, step), negative, GRAINS[-1])
        counts = np.bincount(symbol, minlength=len(coarser(0)))
        near = GRAINS[max(grain - 1, 0) : grain + 2]
        needed, grain = min((_bits(counts, each, raw), each) for each in near)
        if needed > budget:
            low = middle
            continue
        high = middle
        found = (step, grain) if counts[0] < magnitude.size else found
        if needed >= budget * 0.9998:
            break
    return found


def _bits(finest: Ints, grain: int, raw: int) -> float:
    """What a payload takes, from the counts of the finest symbols, up to a few bytes."""
    known, place = table(grain), np.flatnonzero(finest)
    counts = np.bincount(coarser(grain)[place], weights=finest[place], minlength=len(known.lowest))
    place = np.flatnonzero(counts)
    present, escapes = counts[place], counts[known.escape]
    code = present @ (np.log2(present.sum() / present) + known.width[place])
    gaps = np.count_nonzero(np.diff(place) > 1)
    varints = (np.floor(np.log2(present)) // 7 + 1).sum()
    centroids = np.count_nonzero(entropy_payload.centred(counts, known))
    return float(code + raw * escapes + 8 * (5 + varints + 2 * gaps + centroids + 4))


def sizes(dim: int, itemsize: int, fields: Fields) -> tuple[int, int]:
    """Code bits and bytes of a payload whose length is the codec's one field."""
    return 8 * fields[0], fields[0]


register(Codec("entropy_coded", 9, "I", sizes, entropy_payload.read))
