"""When and how the sharpness is measured, and what the step size makes of it."""

from __future__ import annotations

import math
from numbers import Integral
from typing import ClassVar

from fedbias import checks
from fedbias.notation import setting


@setting("lanczos")
class Lanczos:
    """The largest eigenvalue of the GLOBAL loss's Hessian, from products that the clients compute.

    In every round of ``every``, the first included, at x_k before the step; see
    :func:`fedbias.top_eigenpairs`. Each product is a vector of the model's size to every measured
    client and one back, one after the other, and takes a client the time of 2 to 4 gradients. Who
    trains in a round makes no difference: ``fraction`` here is of all the clients. The server holds
    steps·dim numbers and the clients' answers to one product; its bits are the same on every
    machine only with as many threads of numpy's.

    Attributes
    ----------
    steps : int
        At most so many products, and one more for the residual.
    tolerance : float
        Fewer, as soon as the residual is that share of the eigenvalue, after at least 5; 0 takes
        them all. NOT guaranteed: that it is the largest. Where several stand apart, a start that
        happens to miss the top one finds the next: with ten of them in 20,000 dimensions, in 2 of
        100 readings at .01 and less than 1 at .001.
    fraction : float
        Share of the clients whose loss is measured; drawn anew each time. Of fewer than all, the
        estimate has a spread, and leans upwards: E λ_max(mean of a sample) ≥ λ_max(mean). Of a few
        clients that differ, by far: two of ten with unlike data read 1.2 to 2.5 times as much.
    """

    name: ClassVar[str]
    every: int = 10
    steps: int = 30
    tolerance: float = 0.001
    fraction: float = 1.0

    def __post_init__(self) -> None:
        checks.whole(self.name, "every", self.every, least=1)
        checks.whole(self.name, "steps", self.steps, least=1)
        checks.real(self.name, "tolerance", self.tolerance, least=0, below=1)
        checks.real(self.name, "fraction", self.fraction, above=0, most=1)

    def due(self, round: int) -> bool:
        """Whether the round measures."""
        return round % self.every == 0

    def count(self, clients: int) -> int:
        """How many of so many clients are measured."""
        return max(1, round(self.fraction * clients))


@setting("by_sharpness")
class BySharpness:
    """η = c/λ̂ after each measurement, between ``smallest`` and ``largest``.

    On a quadratic of curvature λ̂ plain gradient descent converges for c < 2. The step size falls at
    once, so that ηλ̂ ≤ c when it was measured, but for ``smallest``, and rises only by more than
    ``hysteresis``. Readings of samples of clients vary, and η keeps to the largest of them then.
    Where a run begins the loss may be flat: without ``largest`` the first steps may be so long that
    the run never finds back (``reproduce edge-of-stability``).

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
        """The step size from here on: ``now``, the one so far, where λ̂ bounds none.

        That is, if λ̂ ≤ 0, or so small that c/λ̂ overflows.

        Parameters
        ----------
        now : float or None
            None as long as no λ̂ has bounded it.
        """
        if not sharpness > 0:
            return now
        wanted = min(max(self.c / sharpness, self.smallest), self.largest)
        if math.isinf(wanted):
            return now
        if now is not None and now <= wanted <= (1 + self.hysteresis) * now:
            return now
        return wanted


def as_lanczos(value: Lanczos | int | None) -> Lanczos | None:
    """A whole number n means every n rounds, None never (ValueError for others)."""
    if value is None or isinstance(value, Lanczos):
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return Lanczos(every=int(value))
    raise ValueError(
        "algorithm: sharpness must be a whole number of rounds, None, or an object like "
        f"lanczos(every=10), not {value!r}"
    )


lanczos, by_sharpness = Lanczos, BySharpness
