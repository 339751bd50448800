"""Linear models with closed forms: squares and logistic loss over rows of features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedbias.objectives import Batch, Objective, Statistics, variance_of
from fedbias.vectors import Vector, squared_norm


@dataclass(frozen=True, eq=False)
class Squares:
    """f(x) = 1/(2n)·‖Ax − b‖² + (ridge/2)·‖x‖², the rows of A being the examples.

    Attributes
    ----------
    features : ndarray, shape (n, dim)
        A.
    targets : ndarray, shape (n,)
        b.
    """

    features: Vector
    targets: Vector
    ridge: float = 0.0

    @property
    def dim(self) -> int:
        """Length of the point."""
        return int(self.features.shape[1])

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.features)

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """Mean loss over the batch."""
        residual = self._residual(point, batch)[1]
        return 0.5 * float(residual @ residual) / len(residual) + penalty(point, self.ridge)

    def gradient(self, point: Vector, batch: Batch | None = None) -> Vector:
        """Aᵀ(Ax − b)/n + ridge·x."""
        rows, residual = self._residual(point, batch)
        return rows.T @ residual / len(residual) + self.ridge * point

    def directional(self, point: Vector, vector: Vector, batch: Batch | None = None) -> float:
        """⟨Ax − b, Av⟩/n + ridge·⟨x, v⟩, without the gradient."""
        rows, residual = self._residual(point, batch)
        return float(residual @ (rows @ vector) / len(rows) + self.ridge * (point @ vector))

    def hvp(self, point: Vector, vector: Vector, batch: Batch | None = None) -> Vector:
        """AᵀAv/n + ridge·v, the same at every point."""
        rows = self.features if batch is None else self.features[batch]
        product: Vector = rows.T @ (rows @ vector) / len(rows) + self.ridge * vector
        return product

    def per_example_statistics(
        self, point: Vector, batch: Batch | None = None, what: str = "trace"
    ) -> Statistics:
        """Of g_i = (⟨a_i, x⟩ − b_i)·a_i + ridge·x, in closed form."""
        rows, residual = self._residual(point, batch)
        return _row_statistics(self.loss(point, batch), rows, residual, self.ridge * point, what)

    def _residual(self, point: Vector, batch: Batch | None) -> tuple[Vector, Vector]:
        if batch is None:
            return self.features, self.features @ point - self.targets
        rows = self.features[batch]
        return rows, rows @ point - self.targets[batch]

    @staticmethod
    def cohort(objectives: Sequence[Squares]) -> SquaresCohort | None:
        """All the clients' gradients as one stacked product, if they hold equally many examples."""
        if len({(f.features.shape, f.ridge) for f in objectives}) > 1:
            return None
        return SquaresCohort(
            np.stack([f.features for f in objectives]),
            np.stack([f.targets for f in objectives]),
            objectives[0].ridge,
        )


@dataclass(frozen=True)
class SquaresCohort:
    """The stacked least squares of m clients: features (m, n, dim), targets (m, n)."""

    features: Vector
    targets: Vector
    ridge: float

    def losses_and_gradients(self, point: Vector) -> tuple[Vector, Vector]:
        """Losses, shape (m,), and gradients, shape (m, dim), at one point."""
        residual = self.features @ point - self.targets
        count = self.features.shape[1]
        losses = 0.5 * np.einsum("mn,mn->m", residual, residual) / count
        gradients = np.einsum("mnd,mn->md", self.features, residual) / count
        return losses + penalty(point, self.ridge), gradients + self.ridge * point


@dataclass(frozen=True, eq=False)
class LogisticLoss:
    """f(x) = mean_i log(1 + exp(−y_i⟨a_i, x⟩)) + (ridge/2)·‖x‖², y_i ∈ {−1, +1}.

    Attributes
    ----------
    features : ndarray, shape (n, dim)
    labels : ndarray, shape (n,)
        −1 or +1, in the features' dtype.
    """

    features: Vector
    labels: Vector
    ridge: float = 0.0

    @property
    def dim(self) -> int:
        """Length of the point."""
        return int(self.features.shape[1])

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.features)

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """Mean loss over the batch."""
        _, _, margins = self._margins(point, batch)
        return float(np.mean(np.logaddexp(0, -margins))) + penalty(point, self.ridge)

    def gradient(self, point: Vector, batch: Batch | None = None) -> Vector:
        """−mean_i y_i·σ(−margin_i)·a_i + ridge·x."""
        rows, labels, margins = self._margins(point, batch)
        mean: Vector = rows.T @ (-labels * _sigmoid(-margins)) / len(rows)
        return mean + self.ridge * point

    def directional(self, point: Vector, vector: Vector, batch: Batch | None = None) -> float:
        """−mean_i y_i·σ(−margin_i)·⟨a_i, v⟩ + ridge·⟨x, v⟩, without the gradient."""
        rows, labels, margins = self._margins(point, batch)
        slopes = -labels * _sigmoid(-margins)
        return float(slopes @ (rows @ vector) / len(rows) + self.ridge * (point @ vector))

    def hvp(self, point: Vector, vector: Vector, batch: Batch | None = None) -> Vector:
        """mean_i σ(m_i)σ(−m_i)⟨a_i, v⟩a_i + ridge·v."""
        rows, _, margins = self._margins(point, batch)
        curvature = _sigmoid(margins) * _sigmoid(-margins)
        product: Vector = rows.T @ (curvature * (rows @ vector)) / len(rows)
        return product + self.ridge * vector

    def per_example_statistics(
        self, point: Vector, batch: Batch | None = None, what: str = "trace"
    ) -> Statistics:
        """Of g_i = −y_i·σ(−margin_i)·a_i + ridge·x, in closed form."""
        rows, labels, margins = self._margins(point, batch)
        slopes = -labels * _sigmoid(-margins)
        return _row_statistics(self.loss(point, batch), rows, slopes, self.ridge * point, what)

    def metrics(self, point: Vector) -> dict[str, float]:
        """Loss and the share of examples on the right side."""
        _, _, margins = self._margins(point, None)
        return {"loss": self.loss(point), "accuracy": float(np.mean(margins > 0))}

    def _margins(self, point: Vector, batch: Batch | None) -> tuple[Vector, Vector, Vector]:
        chosen = slice(None) if batch is None else batch
        rows, labels = self.features[chosen], self.labels[chosen]
        return rows, labels, labels * (rows @ point)


def _row_statistics(
    loss: float, rows: Vector, slopes: Vector, offset: Vector, what: str
) -> Statistics:
    """Statistics of the gradients g_i = slopes_i·rows_i + offset, none of which is formed."""
    count, mean = len(rows), rows.T @ slopes / len(rows)
    gradient, squares = mean + offset, slopes.astype(np.float64) ** 2
    lengths = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    trace = variance_of(float(squares @ lengths), squared_norm(mean), count)
    along, variances = math.nan, None
    if what == "along":
        products = slopes.astype(np.float64) * (rows @ gradient)
        along = float(np.var(products, ddof=1)) if count > 1 else 0.0
    elif what == "variances":
        moments = np.einsum("i,ij,ij->j", squares, rows, rows, dtype=np.float64)
        variances = variance_of(moments, mean.astype(np.float64) ** 2, count)
    return Statistics(loss, gradient, trace, along, variances)


def penalty(point: Vector, ridge: float) -> float:
    """(ridge/2)·‖x‖²."""
    return 0.5 * ridge * float(point @ point)


def _sigmoid(value: Vector) -> Vector:
    sigmoid: Vector = np.exp(-np.logaddexp(0, -value))
    return sigmoid


def split(features: Vector, targets: Vector, clients: int) -> list[tuple[Vector, Vector]]:
    """Contiguous shares of the rows, as equal as possible (ValueError for too few rows)."""
    if not 1 <= clients <= len(features):
        raise ValueError(f"{len(features)} examples cannot be split over {clients} clients")
    return list(
        zip(np.array_split(features, clients), np.array_split(targets, clients), strict=True)
    )


def mean_hessian(objectives: Sequence[Objective], point: Vector) -> Vector:
    """The dense Hessian of the clients' uniform mean, shape (dim, dim); for small problems."""
    columns = [
        sum(f.hvp(point, unit) for f in objectives) / len(objectives)  # type: ignore[attr-defined]
        for unit in np.eye(point.size, dtype=point.dtype)
    ]
    return np.stack(columns, axis=1)
