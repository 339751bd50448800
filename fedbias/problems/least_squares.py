"""Least squares with a known condition number and a known minimiser."""

from __future__ import annotations

import numpy as np

from fedbias import checks
from fedbias.randomness import SERVER, Purpose, generator
from fedbias.vectors import Vector

from .linear import Squares, mean_hessian, split


class LeastSquares:
    """f = mean over clients of f_m(x) = 1/(2n_m)·‖A_m x − b_m‖².

    The rows are cut into contiguous, nearly equal shares, so clients differ in Hessian and
    minimiser. Constants belong to the uniform mean f, not to single clients.

    Attributes
    ----------
    objectives : list of Squares
        One per client.
    lipschitz, strong_convexity : float
        L and μ: the extreme eigenvalues of ∇²f.
    minimizer : ndarray, shape (dim,)
        x*.
    minimum : float
        f(x*).
    """

    def __init__(self, features: Vector, targets: Vector, clients: int = 1) -> None:
        shares = split(features, targets, clients)
        self.objectives = [Squares(rows, values) for rows, values in shares]
        zero = np.zeros(features.shape[1], features.dtype)
        hessian = mean_hessian(self.objectives, zero)
        spectrum = np.linalg.eigvalsh(hessian)
        self.lipschitz, self.strong_convexity = float(spectrum[-1]), max(0.0, float(spectrum[0]))
        self.minimizer: Vector = np.linalg.lstsq(hessian, -self.gradient(zero), rcond=None)[0]
        self.minimum = self.loss(self.minimizer)

    @classmethod
    def random(cls, dim: int, condition: float, seed: int, clients: int = 1) -> LeastSquares:
        """A random problem whose mean Hessian has eigenvalues from 1/κ to 1, evenly in log scale.

        Parameters
        ----------
        dim : int
            d; every client holds 2·d examples.
        condition : float
            κ = L/μ ≥ 1; L = 1.
        seed : int
        clients : int
            Noise in the targets makes their minimisers differ, and the minimum positive.
        """
        checks.whole("LeastSquares", "dim", dim, least=1)
        checks.real("LeastSquares", "condition", condition, least=1)
        checks.whole("LeastSquares", "clients", clients, least=1)
        rng = generator(seed, 0, SERVER, Purpose.DATA)
        count = 2 * dim * clients
        orthonormal = np.linalg.qr(rng.standard_normal((count, dim)))[0] * np.sqrt(count)
        axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        spectrum = np.geomspace(1 / condition, 1, dim) if dim > 1 else np.ones(1)
        features = orthonormal @ (np.sqrt(spectrum)[:, None] * axes.T)
        truth = rng.standard_normal(dim)
        return cls(features, features @ truth + 0.1 * rng.standard_normal(count), clients)

    def loss(self, point: Vector) -> float:
        """f(point), the clients' uniform mean."""
        return float(np.mean([f.loss(point) for f in self.objectives]))

    def gradient(self, point: Vector) -> Vector:
        """∇f(point)."""
        mean: Vector = np.mean([f.gradient(point) for f in self.objectives], axis=0)
        return mean
