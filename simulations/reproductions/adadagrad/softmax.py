"""Logistic regression of the ten digits, with its examples' statistics in closed form."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedbias.notation import parse
from fedbias.objectives import Batch, Statistics, variance_of
from fedbias.randomness import SERVER, Purpose, generator
from fedbias.vectors import Vector, squared_norm

from ...data import Dataset, Partition, digits

CLASSES = 10


@dataclass(eq=False)
class Softmax:
    """Mean cross-entropy of softmax(Wa), x being W row by row.

    Attributes
    ----------
    features : ndarray, shape (n, inputs)
        The rows a_i.
    labels : ndarray of int, shape (n,)
    given : ndarray, shape (dim,)
        The last gradient that it gave.
    """

    features: Vector
    labels: NDArray[np.int64]
    given: Vector = field(default_factory=lambda: np.zeros(0))

    @property
    def dim(self) -> int:
        """Length of the point."""
        return CLASSES * int(self.features.shape[1])

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """Mean loss over the batch."""
        return self._residuals(point, batch)[2]

    def gradient(self, point: Vector, batch: Batch | None = None) -> Vector:
        """mean_i (softmax(Wa_i) − e_{y_i})·a_iᵀ, row by row."""
        rows, residuals, _ = self._residuals(point, batch)
        self.given = (residuals.T @ rows / len(rows)).ravel()
        return self.given

    def per_example_statistics(
        self, point: Vector, batch: Batch | None = None, what: str = "trace"
    ) -> Statistics:
        """Of g_i = r_i·a_iᵀ, none of which is formed: ‖g_i‖ = ‖r_i‖·‖a_i‖."""
        rows, residuals, loss = self._residuals(point, batch)
        count, gradient = len(rows), self.gradient(point, batch)
        lengths = np.sum(residuals**2, axis=1) * np.sum(rows**2, axis=1)
        trace = variance_of(float(lengths.sum()), squared_norm(gradient), count)
        along, variances = math.nan, None
        if what == "along":
            slopes = np.sum(residuals * (rows @ gradient.reshape(CLASSES, -1).T), axis=1)
            along = float(np.var(slopes, ddof=1))
        elif what == "variances":
            moments = ((residuals**2).T @ rows**2).ravel()
            variances = variance_of(moments, gradient**2, count)
        return Statistics(loss, gradient, trace, along, variances)

    def accuracy(self, point: Vector) -> float:
        """The share of examples whose label has the largest score."""
        scores = self.features @ point.reshape(CLASSES, -1).T
        return float(np.mean(scores.argmax(axis=1) == self.labels))

    def _residuals(self, point: Vector, batch: Batch | None) -> tuple[Vector, Vector, float]:
        """a_i, r_i = softmax(Wa_i) − e_{y_i}, and the mean loss."""
        chosen = np.arange(self.size) if batch is None else batch
        rows, own = self.features[chosen], (np.arange(len(chosen)), self.labels[chosen])
        scores = rows @ point.reshape(CLASSES, -1).T
        logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        residuals = np.exp(logs)
        residuals[own] -= 1
        return rows, residuals, -float(np.mean(logs[own]))


def problems(partition: str, clients: int, seed: int) -> list[Softmax]:
    """The clients' objectives, dealt as for any task."""
    data, rng = _digits(), generator(seed, 0, SERVER, Purpose.DATA)
    deal: Partition = parse(partition, Partition)
    parts = deal.split(data.train_y, clients, rng, keys=data.train_y)
    return [Softmax(_rows(data.train_x[part]), data.train_y[part]) for part in parts]


def ends(point: Vector) -> dict[str, float]:
    """Loss and accuracy on all the training data, and on the test data."""
    data, found = _digits(), dict[str, float]()
    for part, x, y in (
        ("train", data.train_x, data.train_y),
        ("test", data.test_x, data.test_y),
    ):
        whole = Softmax(_rows(x), y)
        found |= {
            f"{part}_loss": float(f"{whole.loss(point):.6g}"),
            f"{part}_accuracy": whole.accuracy(point),
        }
    return found


def _rows(images: NDArray[np.float32]) -> Vector:
    """Pixels in [0, 1] and a 1 for the bias, shape (n, inputs)."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    return np.hstack([flat, np.ones((len(flat), 1))])


@functools.cache
def _digits() -> Dataset:
    return digits()
