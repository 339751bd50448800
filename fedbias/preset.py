"""Ranges that both sides know beforehand, so that a packet needs no scale."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from fedbias import checks
from fedbias.notation import setting
from fedbias.optimizers import Optimizer
from fedbias.theory import Tuned, tuned
from fedbias.vectors import Vector

# (method, L, D, a) → r_0, r_1, …: one of fedbias.theory's
Schedule = Callable[[Tuned, float, float, float], Iterator[float]]
_SHORTEST = 64  # radii computed at once


@setting("preset_radius")
class PresetRadius:
    """The range schedule of arXiv 2002.02508: r_i from L, μ and D alone, no bits for it.

    i counts the client's own reports that were applied. Holds for one client, or identical ones of
    which all take part, with exact gradients and the method's classical parameters
    (:func:`fedbias.theory.tuned`), polyak's for quadratic f. A vector that is longer all the same
    saturates, and the report says so: a constant is wrong, rounding has the last word, or a client
    lost its memory: it starts the schedule again, and nothing is guaranteed from there on.
    """

    lipschitz: float  # L
    strong_convexity: float  # μ
    distance: float  # D ≥ ‖x_0 − x*‖
    covering: float | None = None  # ρ, where it is better than what the compressor guarantees

    def __post_init__(self) -> None:
        checks.real("preset_radius", "strong_convexity", self.strong_convexity, above=0)
        checks.real("preset_radius", "lipschitz", self.lipschitz, least=self.strong_convexity)
        checks.real("preset_radius", "distance", self.distance, above=0)
        if self.covering is not None:
            checks.real("preset_radius", "covering", self.covering, least=0)

    def method(self, optimizer: Optimizer) -> Tuned:
        """The classical method that the optimizer is (ValueError if it has other parameters)."""
        known = tuned(optimizer.name, self.lipschitz, self.strong_convexity)
        for name, value in vars(known.optimizer).items():
            if not math.isclose(getattr(optimizer, name), value, rel_tol=1e-12):
                raise ValueError(
                    f"{self!r} is the schedule of {known.optimizer}, not of {optimizer}: use its "
                    "parameters (fb.theory.tuned), or radius=None"
                )
        return known

    def radius(
        self, schedule: Schedule, optimizer: Optimizer, a: float, applied: int, point: Vector
    ) -> float:
        """r_i of a client of which ``applied`` reports were applied, as far as the dtype goes."""
        length = max(_SHORTEST, 1 << applied.bit_length())
        limits, r = np.finfo(point.dtype), _radii(schedule, self, optimizer, a, length)[applied]
        if math.isnan(r):  # 0·∞: a schedule that grows has left the range of floats
            r = math.inf
        return min(max(r, float(limits.tiny)), float(limits.max))


@functools.lru_cache(maxsize=64)
def _radii(
    schedule: Schedule, preset: PresetRadius, optimizer: Optimizer, a: float, length: int
) -> tuple[float, ...]:
    """The first radii of a schedule; as lengths double, all of a run's cost is twice its last."""
    known = preset.method(optimizer)
    return tuple(islice(schedule(known, preset.lipschitz, preset.distance, a), length))


preset_radius = PresetRadius
