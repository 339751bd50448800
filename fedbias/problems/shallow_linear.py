"""A linear net of two layers: non-convex, with a whole hyperbola of minima, flat and sharp ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedbias import checks
from fedbias.objectives import Batch
from fedbias.vectors import Vector


@dataclass(frozen=True)
class ShallowLinearLoss:
    """f_m(a, b) = ½(aᵀb − Φ_m)² − ½(Φ_m − Φ)² of a point that is a, then b; one example.

    Its minimum is not 0 unless Φ_m = Φ, but the mean of several with mean target Φ is ½(aᵀb − Φ)².

    Attributes
    ----------
    target : float
        Φ.
    width : int
        d, the length of a and of b.
    offset : float
        Φ_m − Φ.
    """

    target: float
    width: int
    offset: float = 0.0

    @property
    def dim(self) -> int:
        """Length of the point, 2d."""
        return 2 * self.width

    @property
    def size(self) -> int:
        """Number of examples; hence no batch makes a difference."""
        return 1

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """½ε² − ε(Φ_m − Φ) with ε = aᵀb − Φ: what is subtracted above never loses digits here."""
        residual = self._product(point) - self.target
        return float(residual * (residual - 2 * self.offset) / 2)

    def gradient(self, point: Vector, batch: Batch | None = None) -> Vector:
        """(aᵀb − Φ_m)·(b, a)."""
        slope: Vector = self._residual(point) * swapped(point)
        return slope

    def directional(self, point: Vector, vector: Vector, batch: Batch | None = None) -> float:
        """(aᵀb − Φ_m)·⟨(b, a), v⟩."""
        return float(self._residual(point) * (swapped(point) @ vector))

    def hvp(self, point: Vector, vector: Vector, batch: Batch | None = None) -> Vector:
        """⟨(b, a), v⟩·(b, a) + (aᵀb − Φ_m)·(v_b, v_a)."""
        across = swapped(point)
        product: Vector = (across @ vector) * across + self._residual(point) * swapped(vector)
        return product

    def _product(self, point: Vector) -> Vector:
        product: Vector = point[: self.width] @ point[self.width :]
        return product

    def _residual(self, point: Vector) -> Vector:
        return self._product(point) - (self.target + self.offset)


class ShallowLinear:
    """L(a, b) = ½(aᵀb − Φ)², the mean over clients that differ in their targets.

    Φ_m = Φ + (2m + 1 − M)/M for m = 0 … M−1: no client's gradient is that of L, which is their
    mean, and none vanishes where L has its minimum. L is neither smooth on all of R^2d nor convex,
    and its minimum is attained wherever aᵀb = Φ, so there are no such numbers to give.

    Attributes
    ----------
    objectives : list of ShallowLinearLoss
        One per client.
    target : float
        Φ.
    lipschitz, strong_convexity, minimizer : None
    minimum : float
        0.

    Parameters
    ----------
    target : float
        Φ.
    dim : int
        d, the length of a and of b; a point is a, then b, shape (2·dim,).
    clients : int
        M.
    """

    lipschitz: None = None
    strong_convexity: None = None
    minimizer: None = None
    minimum = 0.0

    def __init__(self, target: float, dim: int, clients: int = 1) -> None:
        checks.real("ShallowLinear", "target", target)
        checks.whole("ShallowLinear", "dim", dim, least=1)
        checks.whole("ShallowLinear", "clients", clients, least=1)
        self.target = float(target)
        offsets = [(2 * client + 1 - clients) / clients for client in range(clients)]
        self.objectives = [ShallowLinearLoss(self.target, dim, offset) for offset in offsets]
        self._whole = ShallowLinearLoss(self.target, dim)

    def loss(self, point: Vector) -> float:
        """L(point)."""
        return self._whole.loss(point)

    def gradient(self, point: Vector) -> Vector:
        """∇L(point)."""
        return self._whole.gradient(point)


def swapped(point: Vector) -> Vector:
    """(b, a) of the point (a, b): the gradient of aᵀb."""
    half = point.size // 2
    return np.concatenate([point[half:], point[:half]])
