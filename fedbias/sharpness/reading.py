"""The sharpness of the mean of many clients' losses: Lanczos over their mean product."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from fedbias.randomness import SERVER, Purpose, sample_clients
from fedbias.vectors import Vector

from .lanczos import Eigenpair, NotMeasured, top_eigenpair
from .settings import Lanczos

Products = Callable[[Vector], Iterable[tuple[float, Vector]]]  # v → (w_m, H_m·v), in client order


@dataclass(frozen=True)
class Reading:
    """What one measurement of the sharpness came to.

    Attributes
    ----------
    round : int
        k: measured at x_k.
    value : float
        λ̂ = ⟨v, Hv⟩ of the measured clients' weighted mean Hessian, at most its largest eigenvalue.
    residual : float
        ‖Hv − λ̂v‖: that Hessian has an eigenvalue within it of λ̂.
    products : int
        Rounds of messages that it took.
    clients : int
        How many were measured.
    spread : float or None
        The standard error of λ̂ as an estimate of ⟨v, Hv⟩ over all the clients: 0 where all were
        measured, None where it was one of several. NOT included: that v was chosen for these
        clients, which makes λ̂ lean upwards.
    """

    round: int
    value: float
    residual: float
    products: int
    clients: int
    spread: float | None


def measured_clients(setting: Lanczos, seed: int, round: int, able: Iterable[int]) -> list[int]:
    """Whose curvature is measured, in ascending order (NotMeasured if there is nobody)."""
    known = sorted(able)
    if not known:
        raise NotMeasured("no client can compute Hessian-vector products")
    count = max(1, math.floor(setting.fraction * len(known) + 0.5))
    return sample_clients(seed, round, known, count, Purpose.MEASURED)


def read(
    setting: Lanczos,
    seed: int,
    round: int,
    point: Vector,
    products: Products,
    everyone: int,
) -> Reading:
    """Measure the sharpness at a point.

    Parameters
    ----------
    point : ndarray, shape (dim,)
        Whose length and dtype the vectors have.
    products : callable
        v → for each asked client, in the same order each time, its weight and its H_m·v.
    everyone : int
        How many clients there are that could be asked.

    Raises
    ------
    NotMeasured
        If a product cannot be had.
    """
    mean = _Mean(products)
    found = top_eigenpair(
        mean,
        point.size,
        setting.steps,
        [seed, round, SERVER, int(Purpose.LANCZOS)],
        dtype=point.dtype,
        tolerance=setting.tolerance,
    )
    spread = mean.spread(found, everyone)
    return Reading(round, found.value, found.residual, found.products, mean.clients, spread)


class _Mean:
    """v → Σ w_m·H_m·v / Σ w_m, and how the clients' ⟨v, H_m·v⟩ differ in the last of them."""

    def __init__(self, products: Products) -> None:
        self._products = products
        self._last: list[tuple[float, float]] = []  # (w_m, ⟨v, H_m·v⟩)

    def __call__(self, vector: Vector) -> Vector:
        total, mass = np.zeros_like(vector), 0.0
        self._last.clear()
        with np.errstate(over="ignore", invalid="ignore"):  # looked at by Lanczos
            for weight, product in self._products(vector):
                total += product if weight == 1 else weight * product
                mass += weight
                self._last.append((weight, float(np.dot(vector, product))))
            return total / mass

    @property
    def clients(self) -> int:
        """How many answered each time."""
        return len(self._last)

    def spread(self, found: Eigenpair, everyone: int) -> float | None:
        """The standard error of λ̂: of a weighted mean over a sample without replacement."""
        count = len(self._last)
        if count == everyone:
            return 0.0
        if count < 2:
            return None
        mass = sum(weight for weight, _ in self._last)
        squares = sum((w * (slope - found.value)) ** 2 for w, slope in self._last)
        return math.sqrt((1 - count / everyone) * count / (count - 1) * squares) / mass
