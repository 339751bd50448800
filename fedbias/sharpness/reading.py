"""The sharpness of the mean of many clients' losses: Lanczos over their mean product."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from fedbias.randomness import SERVER, Purpose, sample_clients
from fedbias.vectors import Vector

from .eigenpairs import NotMeasured, finite, ritz_vectors, verified
from .query import HvpQuery, checksum
from .settings import Lanczos

Ask = Callable[[list[HvpQuery]], Iterable[Vector]]  # queries → the products, in their order


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
        measured; None where it was one of several, or where some could not have been, and what
        was measured is no random sample. NOT included: that v was chosen for these clients, which
        makes λ̂ lean upwards.
    """

    round: int
    value: float
    residual: float
    products: int
    clients: int
    spread: float | None


def take_reading(
    setting: Lanczos,
    seed: int,
    round: int,
    point: Vector,
    weights: Mapping[int, float],
    everyone: int,
    ask: Ask,
) -> Reading:
    """Measure the sharpness of the clients' mean loss at a point.

    Parameters
    ----------
    seed, round : int
        The run's seed, and the round before whose step this is.
    point : ndarray, shape (dim,)
        Whose length and dtype the products have.
    weights : mapping of int to float
        Client → its weight in the mean, of those that can compute products.
    everyone : int
        How many clients there are, also without products, or away.
    ask : callable
        One query, without the point, for each measured client, in ascending order → their products.

    Raises
    ------
    NotMeasured
        If nobody can, ``ask`` says so, or the products are as :func:`top_eigenpairs` refuses them.
    """
    clients, check = _measured_clients(setting, seed, round, weights), checksum(point)

    def products(vector: Vector, last: bool) -> Iterator[tuple[float, Vector]]:
        queries = [HvpQuery(m, round, seed, vector, check, last=last) for m in clients]
        for client, product in zip(clients, ask(queries), strict=True):
            yield weights[client], product

    mean, start = _Mean(products), [seed, round, SERVER, int(Purpose.LANCZOS)]
    (vector,), made = ritz_vectors(
        mean,
        *(point.size, setting.steps, start, 1),
        dtype=point.dtype,
        tolerance=setting.tolerance,
    )
    found = verified(partial(mean, last=True), vector, made + 1)
    spread = mean.spread(found.value, everyone) if len(weights) == everyone else None
    return Reading(round, found.value, found.residual, found.products, len(clients), spread)


def _measured_clients(setting: Lanczos, seed: int, round: int, able: Collection[int]) -> list[int]:
    """Whose curvature is measured, in ascending order (NotMeasured if there is nobody)."""
    if not able:
        raise NotMeasured("no client is there that offers Hessian-vector products (hvp)")
    return sample_clients(seed, round, able, setting.count(len(able)), Purpose.MEASURED)


class _Mean:
    """v → Σ w_m·H_m·v / Σ w_m, and how the clients' ⟨v, H_m·v⟩ differ in the last of them."""

    def __init__(self, products: Callable[[Vector, bool], Iterable[tuple[float, Vector]]]) -> None:
        self._products = products
        self._last: list[tuple[float, float]] = []  # (w_m, ⟨v, H_m·v⟩)

    def __call__(self, vector: Vector, last: bool = False) -> Vector:
        total, mass = np.zeros_like(vector), 0.0
        self._last.clear()
        with np.errstate(over="ignore", invalid="ignore"):  # looked at by Lanczos
            for weight, product in self._products(vector, last):
                total += product if weight == 1 else weight * product
                mass += weight
                self._last.append((weight, float(np.dot(vector, product))))
            return total / mass

    def spread(self, value: float, everyone: int) -> float | None:
        """The standard error of λ̂: of a weighted mean over a sample without replacement."""
        count = len(self._last)
        if count == everyone:
            return 0.0
        if count < 2:
            return None
        mass = sum(weight for weight, _ in self._last)
        length = math.hypot(*(w * (slope - value) for w, slope in self._last))
        return finite(math.sqrt((1 - count / everyone) * count / (count - 1)) * length / mass)
