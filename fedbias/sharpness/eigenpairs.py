"""The top of a symmetric operator's spectrum from its products with vectors (Lanczos 1950)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike

from fedbias import checks
from fedbias.randomness import Seed
from fedbias.vectors import Vector, norm

Hvp = Callable[[Vector], Vector]  # v → Hv
_ROUNDING = 10  # times ε·‖H‖: what is left of a vector in a space that it was taken out of
_LEAST = 5  # steps before a tolerance is asked: a random start looks settled where it only began


class NotMeasured(ValueError):
    """A product is missing, is no vector of numbers in range, or fits no symmetric matrix.

    Nothing can be said of the curvature then; training need not end with it.
    """


@dataclass(frozen=True)
class Eigenpair:
    """An approximate eigenpair (θ, v) of a symmetric H.

    Attributes
    ----------
    value : float
        θ = ⟨v, Hv⟩, which is at most the largest eigenvalue.
    vector : ndarray, shape (dim,)
        v, of length 1.
    residual : float
        ‖Hv − θv‖, computed from a product with v itself: H has an eigenvalue within it of θ, up to
        the rounding of that product. NOT guaranteed: that this one is the largest.
    products : int
        All that were made: the steps, and one for each pair's own residual.
    """

    value: float
    vector: Vector
    residual: float
    products: int


def top_eigenpair(
    hvp: Hvp,
    dim: int,
    steps: int,
    seed: Seed,
    *,
    dtype: DTypeLike = np.float64,
    tolerance: float = 0.0,
) -> Eigenpair:
    """The largest eigenvalue (the most positive one) and its vector, see :func:`top_eigenpairs`."""
    return top_eigenpairs(hvp, dim, steps, seed, 1, dtype=dtype, tolerance=tolerance)[0]


def top_eigenpairs(
    hvp: Hvp,
    dim: int,
    steps: int,
    seed: Seed,
    count: int,
    *,
    dtype: DTypeLike = np.float64,
    tolerance: float = 0.0,
) -> list[Eigenpair]:
    """The ``count`` largest eigenvalues by Lanczos with full re-orthogonalization.

    Takes steps·dim numbers of memory, and at most steps + count products.

    Parameters
    ----------
    hvp : callable
        v → Hv, shape (dim,), for a symmetric H that stays the same. It must not write into v.
    dim : int
    steps : int
        At most so many products before the pairs' own residuals; with ``steps=dim`` and no
        tolerance the result is exact up to rounding, multiplicities included.
    seed : int or sequence of int
        Of the first vector.
    count : int
        At most ``min(steps, dim)``.
    dtype : float32 or float64
        Of the vectors.
    tolerance : float
        Stop as soon as all the residuals are estimated at most tolerance·|θ|, after at least 5
        steps; 0 takes every step.

    Returns
    -------
    list of Eigenpair
        Descending in value. NOT guaranteed of fewer steps: multiplicities, an eigenvalue that the
        operator has several times may come once.

    Raises
    ------
    NotMeasured
        If a product is not finite or has another length, if products are beyond the range of their
        numbers, or if they are not those of one symmetric matrix, up to ∛ε of it.
    """
    vectors, made = ritz_vectors(hvp, dim, steps, seed, count, dtype=dtype, tolerance=tolerance)
    pairs = [verified(hvp, vector, made + count) for vector in vectors]
    return sorted(pairs, key=lambda pair: -pair.value)


def ritz_vectors(
    hvp: Hvp,
    dim: int,
    steps: int,
    seed: Seed,
    count: int,
    *,
    dtype: DTypeLike,
    tolerance: float,
) -> tuple[list[Vector], int]:
    """The top unit vectors, and the products made, before any is verified; as above."""
    checks.whole("top_eigenpairs", "dim", dim, least=1)
    checks.whole("top_eigenpairs", "steps", steps, least=1)
    checks.whole("top_eigenpairs", "count", count, least=1, most=min(steps, dim))
    checks.real("top_eigenpairs", "tolerance", tolerance, least=0)
    most, kind = min(steps, dim), cast(Any, np.dtype(dtype).type)
    rng, space = np.random.default_rng(seed), _Space(most, dim, kind)
    rest, beta = rng.standard_normal(dim, kind), np.inf
    while space.size < most:
        if beta <= space.rounding:  # an invariant space: go on in another one
            rest = space.outside(space.outside(rng.standard_normal(dim, kind)))
            beta = 0.0
        vector = rest / norm(rest)
        rest = space.grow(vector, _product(hvp, vector), beta)
        beta = finite(norm(rest))
        enough = bool(tolerance) and space.size >= max(count, _LEAST)
        if enough and space.converged(count, beta, tolerance):
            break
    return space.top(count), space.size


@np.errstate(over="ignore", invalid="ignore")  # looked at
def verified(hvp: Hvp, vector: Vector, products: int) -> Eigenpair:
    """A unit vector's pair, from one more product: the last of so many."""
    product = _product(hvp, vector).astype(np.float64)
    value = float(np.dot(vector, product))
    return Eigenpair(finite(value), vector, finite(norm(product - value * vector)), products)


class _Space:
    """The Krylov space: an orthonormal basis Q in rows, and T = QHQᵀ."""

    def __init__(self, most: int, dim: int, kind: Any) -> None:
        self._basis, self._t = np.zeros((most, dim), kind), np.zeros((most, most))
        self._eps = float(np.finfo(kind).eps)
        self.size = 0

    @property
    def _scale(self) -> float:
        return float(np.abs(self._t).max())

    @property
    def rounding(self) -> float:
        """Lengths that are nothing but rounding beside H; before the first step, none."""
        if not self.size:
            return 0.0
        return _ROUNDING * self._eps * self._scale

    @np.errstate(over="ignore", invalid="ignore")  # looked at
    def grow(self, vector: Vector, product: Vector, beta: float) -> Vector:
        """Add a unit vector, whose part of the last rest had length β; Hv outside the space."""
        k = self.size
        self._basis[k], self.size = vector, k + 1
        along = self._basis[: k + 1] @ product
        self._t[k, k] = finite(float(along[k]))
        if k:
            self._t[k, k - 1] = self._t[k - 1, k] = beta
        # Qᵀ(Hv) is a column of T for the one symmetric H. Where a net's loss is nearly 0, float32
        # is about 1e-3 off, and λ̂ as much; where it is further off, no step size should follow.
        if not np.abs(along - self._t[k, : k + 1]).max() <= self._eps ** (1 / 3) * self._scale:
            raise NotMeasured(
                "the products are not those of one symmetric matrix: of a loss that is drawn anew, "
                "data that change, a second derivative that is wrong or nothing but rounding"
            )
        return self.outside(product - along @ self._basis[: k + 1])

    def outside(self, vector: Vector) -> Vector:
        """What a vector has outside the space; for the sake of rounding it is taken out twice."""
        basis = self._basis[: self.size]
        rest: Vector = vector - (basis @ vector) @ basis
        return rest

    def converged(self, count: int, beta: float, tolerance: float) -> bool:
        """Whether the top pairs' residuals, β·|their last entries|, are small enough."""
        if beta <= self.rounding:
            return True
        values, vectors = np.linalg.eigh(self._t[: self.size, : self.size])
        estimates = beta * np.abs(vectors[-1, -count:])
        return bool(np.all(estimates <= tolerance * np.abs(values[-count:])))

    def top(self, count: int) -> list[Vector]:
        """The top Ritz vectors, of length 1."""
        _, vectors = np.linalg.eigh(self._t[: self.size, : self.size])
        chosen = vectors[:, ::-1][:, :count].T.astype(self._basis.dtype)
        ritz = [row @ self._basis[: self.size] for row in chosen]
        return [vector / norm(vector) for vector in ritz]


def _product(hvp: Hvp, vector: Vector) -> Vector:
    product = hvp(vector)
    if product.shape != vector.shape:
        raise NotMeasured(f"a product has shape {product.shape}, not {vector.shape}")
    if not np.isfinite(product).all():
        raise NotMeasured("a Hessian-vector product is not finite: the run diverges there")
    return product


def finite(number: float) -> float:
    """The number (NotMeasured if it overflowed)."""
    if not math.isfinite(number):
        raise NotMeasured("the Hessian-vector products are beyond the range of their numbers")
    return number
