"""When and how the sharpness is measured, and what the step size makes of it."""

from __future__ import annotations

import math
from typing import ClassVar

from fedbias import checks
from fedbias.notation import setting


@setting("lanczos")
class Lanczos:
    """The largest eigenvalue of the GLOBAL loss's Hessian, from products that the clients compute.

    In every round of ``every``, the first included, at x_k before the step; see
    :func:`fedbias.sharpness.top_eigenpair`. Each product costs a message to every measured client
    and an answer of a model's size, and about three gradients there.

    Attributes
    ----------
    steps : int
        At most so many products, and one more for the residual.
    tolerance : float
        Fewer, as soon as the residual is that share of the eigenvalue; 0 takes them all. NOT
        guaranteed: that it is the largest. Where several stand apart, a start that happens to miss
        the top one finds the next, so c near its limit wants a small tolerance, or 0.
    fraction : float
        Share of the clients whose loss is measured; drawn anew each time. Of fewer than all, the
        estimate has a spread, and leans upwards: E λ_max(mean of a sample) ≥ λ_max(mean).
    """

    name: ClassVar[str]
    every: int = 10
    steps: int = 30
    tolerance: float = 0.01
    fraction: float = 1.0

    def __post_init__(self) -> None:
        checks.whole(self.name, "every", self.every, least=1)
        checks.whole(self.name, "steps", self.steps, least=1)
        checks.real(self.name, "tolerance", self.tolerance, least=0, below=1)
        checks.real(self.name, "fraction", self.fraction, above=0, most=1)

    def due(self, round: int) -> bool:
        """Whether the round measures."""
        return round % self.every == 0


@setting("by_sharpness")
class BySharpness:
    """η = c/λ̂ after each measurement, between ``smallest`` and ``largest``.

    On a quadratic of curvature λ̂ plain gradient descent converges for c < 2. The step size falls at
    once, so that ηλ̂ ≤ c when it was measured, and rises only by more than ``hysteresis``.

    Attributes
    ----------
    c : float
        ηλ̂; below the optimizer's own limit, which is 2 for plain steps and 2(2−β)/β for
        ``heavy_ball``.
    """

    name: ClassVar[str]
    c: float
    hysteresis: float = 0.1
    smallest: float = 1e-6
    largest: float = math.inf

    def __post_init__(self) -> None:
        checks.real(self.name, "c", self.c, above=0)
        checks.real(self.name, "hysteresis", self.hysteresis, least=0)
        checks.real(self.name, "smallest", self.smallest, above=0)
        checks.real(self.name, "largest", self.largest, least=self.smallest, infinite=True)

    def step_size(self, now: float | None, sharpness: float) -> float | None:
        """The step size from here on; ``now``, the one so far, where λ̂ bounds none: if it is ≤ 0,
        or so small that c/λ̂ overflows.

        None for ``now`` is before the first measurement that did.
        """
        if not sharpness > 0:
            return now
        wanted = min(max(self.c / sharpness, self.smallest), self.largest)
        if math.isinf(wanted):
            return now
        if now is not None and now <= wanted <= (1 + self.hysteresis) * now:
            return now
        return wanted


lanczos, by_sharpness = Lanczos, BySharpness
