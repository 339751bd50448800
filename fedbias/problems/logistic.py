"""Ridge-regularised logistic regression with computed constants and minimiser."""

from __future__ import annotations

import numpy as np

from fedbias import checks
from fedbias.randomness import SERVER, Purpose, generator
from fedbias.vectors import Vector

from .linear import LogisticLoss, mean_hessian, split

_NEWTON_STEPS = 100


class Logistic:
    """f = mean over clients of ridge-regularised logistic losses, labels −1 and +1.

    Attributes
    ----------
    objectives : list of LogisticLoss
        One per client: contiguous, nearly equal shares of the rows.
    lipschitz : float
        L = ridge + λ_max(mean_m A_mᵀA_m/n_m)/4, an upper bound that x = 0 attains.
    strong_convexity : float
        μ = ridge; the curvature at the minimiser is larger.
    minimizer : ndarray, shape (dim,)
        x*, by Newton's method with backtracking.
    minimum : float
        f(x*).
    """

    def __init__(self, features: Vector, labels: Vector, ridge: float, clients: int = 1) -> None:
        checks.real("Logistic", "ridge", ridge, above=0)
        if features.dtype != np.float64:
            raise ValueError(f"Logistic: features must be float64, not {features.dtype}")
        if not np.isin(labels, (-1, 1)).all():
            raise ValueError("Logistic: labels must be -1 or +1")
        shares = split(features, labels, clients)
        self.objectives = [LogisticLoss(rows, signs, ridge) for rows, signs in shares]
        zero = np.zeros(features.shape[1], features.dtype)
        # At 0 every σ(m)σ(−m) is 1/4, its largest value, so this Hessian bounds all the others.
        self.lipschitz = float(np.linalg.eigvalsh(mean_hessian(self.objectives, zero))[-1])
        self.strong_convexity = ridge
        self.minimizer: Vector = self._newton(zero)
        self.minimum = self.loss(self.minimizer)

    @classmethod
    def random(
        cls, dim: int, examples: int, seed: int, ridge: float = 0.01, clients: int = 1
    ) -> Logistic:
        """Gaussian features; labels from a random direction, one in ten of them flipped."""
        checks.whole("Logistic", "dim", dim, least=1)
        checks.whole("Logistic", "examples", examples, least=clients)
        rng = generator(seed, 0, SERVER, Purpose.DATA)
        features = rng.standard_normal((examples, dim))
        labels = np.where(features @ rng.standard_normal(dim) >= 0, 1.0, -1.0)
        flipped = rng.random(examples) < 0.1
        return cls(features, np.where(flipped, -labels, labels), ridge, clients)

    def loss(self, point: Vector) -> float:
        """f(point), the clients' uniform mean."""
        return float(np.mean([f.loss(point) for f in self.objectives]))

    def gradient(self, point: Vector) -> Vector:
        """∇f(point)."""
        mean: Vector = np.mean([f.gradient(point) for f in self.objectives], axis=0)
        return mean

    def _newton(self, point: Vector) -> Vector:
        for _ in range(_NEWTON_STEPS):
            gradient = self.gradient(point)
            step = np.linalg.solve(mean_hessian(self.objectives, point), gradient)
            decrement = float(gradient @ step)  # about 2(f − f*) near the minimum
            if decrement < 1e-26:
                return point
            scale = 1.0
            # Near the minimum the loss is flat to the last bit, and full steps are safe.
            while decrement > 1e-12 and self.loss(point - scale * step) > self.loss(point):
                scale /= 2
            point = point - scale * step
        raise ArithmeticError(f"Newton's method did not converge in {_NEWTON_STEPS} steps")
