"""Objectives for clients without torch: plain functions, or linear models in closed form."""

from __future__ import annotations

from collections.abc import Callable

from fedbias import checks
from fedbias.objectives import Batch
from fedbias.problems import LogisticLoss, Squares
from fedbias.vectors import Vector


class NumpyObjective:
    """An objective from numpy functions.

    Parameters
    ----------
    loss : callable
        (point, batch) → float, the mean over the batch; batch is an array of example indices, or
        None for all of them.
    gradient : callable, optional
        (point, batch) → ndarray of shape (dim,) in the point's dtype. Without it the client is
        forward-only and refuses estimators that need gradients.
    hvp : callable, optional
        (point, vector, batch) → ndarray of shape (dim,).
    directional : callable, optional
        (point, vector, batch) → ⟨gradient, vector⟩, a float.
    dim, size : int
        Length of the point and number of examples.

    Notes
    -----
    Functions of a batch's mean do not tell how its gradients spread, so an objective made of them
    refuses batch-size tests that measure it (``cross_client_test`` does not). The models of
    ``linear`` and ``logistic`` know it in closed form.
    """

    def __init__(
        self,
        loss: Callable[[Vector, Batch | None], float],
        gradient: Callable[[Vector, Batch | None], Vector] | None = None,
        hvp: Callable[[Vector, Vector, Batch | None], Vector] | None = None,
        directional: Callable[[Vector, Vector, Batch | None], float] | None = None,
        *,
        dim: int,
        size: int,
    ) -> None:
        checks.whole("NumpyObjective", "dim", dim, least=1)
        checks.whole("NumpyObjective", "size", size, least=1)
        self.dim, self.size, self._loss = dim, size, loss
        # A capability is a method that is there: what was not given stays away.
        if gradient is not None:
            self.gradient = lambda point, batch=None: gradient(point, batch)
        if hvp is not None:
            self.hvp = lambda point, vector, batch=None: hvp(point, vector, batch)
        if directional is not None:
            self.directional = lambda point, vector, batch=None: float(
                directional(point, vector, batch)
            )

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """Mean loss over the batch."""
        return float(self._loss(point, batch))

    @staticmethod
    def linear(features: Vector, targets: Vector, ridge: float = 0.0) -> Squares:
        """Least squares on the rows of ``features``, shape (n, dim)."""
        return Squares(features, targets, ridge)

    @staticmethod
    def logistic(features: Vector, labels: Vector, ridge: float = 0.0) -> LogisticLoss:
        """Binary logistic regression; ``labels``, shape (n,), are −1 or +1."""
        return LogisticLoss(features, labels, ridge)
