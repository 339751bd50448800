"""Estimates of several kinds in one mean: how much they spread, and what each then weighs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from fedbias.vectors import Vector, squared_norm

Variances = Mapping[str, tuple[int, float]]  # kind → rounds that measured it, their running mean
_MEMORY = 10  # rounds that the running mean looks back on
_LIGHTEST = 1e-12  # not 0: a round may hold nothing else


@dataclass
class Spread:
    """How the estimates of one kind differ within a round; changed in place, O(dim) memory."""

    total: Vector
    squares: float = 0.0
    count: int = 0

    @classmethod
    def like(cls, vector: Vector) -> Spread:
        """Of nothing yet."""
        return cls(np.zeros_like(vector))

    def add(self, vector: Vector) -> None:
        """Take one estimate in."""
        with np.errstate(over="ignore"):  # the variance is looked at
            self.total += vector
        self.squares += squared_norm(vector)
        self.count += 1

    @property
    def variance(self) -> float | None:
        """Σ‖g_i − ḡ‖²/(count − 1); None for a single estimate, or beyond every float."""
        if self.count < 2:
            return None
        deviations = self.squares - self.count * squared_norm(self.total / self.count)
        return max(0.0, deviations) / (self.count - 1) if np.isfinite(deviations) else None


def remembered(known: Variances, seen: Mapping[str, Spread]) -> Variances:
    """The running means after a round: of all rounds at first, then with weight 1/10 for each."""
    found = dict(known)
    for kind, spread in seen.items():
        if (variance := spread.variance) is not None:
            rounds, mean = found.get(kind, (0, 0.0))
            rounds += 1
            found[kind] = rounds, mean + (variance - mean) / min(rounds, _MEMORY)
    return found


def precisions(known: Variances, kinds: Collection[str]) -> dict[str, float]:
    """Each kind's weight, 1/variance with the largest at 1.

    A kind that is not known yet weighs like the least precise that is; equal weights without any.
    Weights come from EARLIER rounds, so they are independent of the noise that they weigh. A kind
    without any variance leaves next to no weight for one that has some.
    """
    measured = {kind: known[kind][1] for kind in kinds if kind in known}
    least, most = min(measured.values(), default=1.0), max(measured.values(), default=1.0)
    variances = {kind: measured.get(kind, most) for kind in kinds}
    return {
        kind: 1.0 if value == least else max(_LIGHTEST, least / value)
        for kind, value in variances.items()
    }
