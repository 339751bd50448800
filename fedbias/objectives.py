"""What a client can compute. Estimators ask for capabilities; a client has them or says so."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedbias.vectors import Vector

Batch = NDArray[Any]  # indices of examples
Amount = TypeVar("Amount", float, Vector)


@dataclass(frozen=True)
class Statistics:
    """How the gradients g_i of a batch's b examples spread about their mean ḡ.

    Variances have ddof = 1, and are 0 for a single example.

    Attributes
    ----------
    loss : float
        Mean over the batch.
    gradient : ndarray, shape (dim,)
        ḡ.
    trace : float
        tr Σ = Σ_j Var_i(g_ij).
    along : float
        Var_i⟨g_i, ḡ⟩; NaN unless asked for.
    variances : ndarray of float64, shape (dim,), or None
        Var_i(g_ij); None unless asked for.
    """

    loss: float
    gradient: Vector
    trace: float
    along: float = math.nan
    variances: Vector | None = None


def variance_of(squares: Amount, mean_square: Amount, count: int) -> Amount:
    """Sample variance from Σ_i s_i² and the squared mean of ``count`` values; never negative."""
    if count < 2:
        return squares * 0
    spread: Amount = np.maximum(squares - count * mean_square, 0) / (count - 1)
    return spread


@runtime_checkable
class Objective(Protocol):
    """One client's loss f_m : R^dim → R over ``size`` examples.

    Only ``loss`` is required. What else it can compute, it offers as further methods, and a
    method's name is the name of the capability:

    ``gradient(point, batch=None)``
        ∇f_m, shape (dim,), in the dtype of ``point``.
    ``directional(point, vector, batch=None)``
        ⟨vector, ∇f_m⟩, a float, by a forward pass alone; in evaluation mode.
    ``hvp(point, vector, batch=None)``
        ∇²f_m(point)·vector, shape (dim,).
    ``loss_and_gradient(point, batch=None)``
        Both in one pass, where that is cheaper; otherwise leave it out.
    ``per_example_statistics(point, batch=None, what="trace")``
        :class:`Statistics` of a batch in memory that does not grow with batch × dim; ``what`` else
        shall be measured: "trace" (nothing else), "along" or "variances".
    ``exact_gradient(point)``
        ∇f_m where ``gradient`` is itself an estimate of it; ``measure_bias`` compares with this.
    ``metrics(point)``
        A dict of floats for evaluation on the client, such as its accuracy.
    ``buffers``
        A settable vector of what training changes besides the point (BatchNorm's statistics).
    ``draw_key``
        A settable tuple of whole numbers, for an objective that draws random numbers itself
        (dropout): they must follow from it, the point and the batch alone.
    ``cohort(objectives)``
        Static: an object that computes many clients' gradients in one call, see
        :class:`fedbias.client.Cohort`, or None if these cannot be computed together.

    ``batch`` is an array of example indices, possibly repeated; None means all the data.
    """

    @property
    def dim(self) -> int:
        """Length of the point."""

    @property
    def size(self) -> int:
        """Number of examples."""

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """Mean loss over the batch."""


CAPABILITIES = ("gradient", "directional", "hvp", "per_example_statistics")


class MissingCapability(ValueError):
    """A client was asked for what it cannot compute."""


def capabilities(objective: Objective) -> frozenset[str]:
    """What this objective can compute beside its loss."""
    return frozenset(name for name in CAPABILITIES if callable(getattr(objective, name, None)))


class ForwardOnly:
    """An objective without its gradients: what a device that cannot back-propagate has.

    ``buffers`` pass through as they are. For experiments: a real device offers ``loss`` alone.
    """

    def __init__(self, objective: Objective, directional: bool = False) -> None:
        self._objective = objective
        if directional:
            require(objective, {"directional"}, "ForwardOnly")
            self.directional = cast(Any, objective).directional

    @property
    def dim(self) -> int:
        return int(self._objective.dim)

    @property
    def size(self) -> int:
        return int(self._objective.size)

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        return self._objective.loss(point, batch)

    def metrics(self, point: Vector) -> dict[str, float]:
        return client_metrics(self._objective, point)

    @property
    def buffers(self) -> Vector | None:
        return cast("Vector | None", getattr(self._objective, "buffers", None))

    @buffers.setter
    def buffers(self, value: Vector) -> None:
        cast(Any, self._objective).buffers = value


def require(objective: Objective, needs: Iterable[str], who: str) -> None:
    """Refuse work the objective cannot do (MissingCapability names what is missing)."""
    missing = sorted(set(needs) - capabilities(objective))
    if missing:
        raise MissingCapability(
            f"{who} needs {' and '.join(missing)}, which {type(objective).__name__} does not offer"
        )


def loss_and_gradient(
    objective: Objective, point: Vector, batch: Batch | None = None
) -> tuple[float, Vector]:
    """f_m and ∇f_m on a batch, in one pass where the objective offers that."""
    offered = cast(Any, objective)
    if hasattr(objective, "loss_and_gradient"):
        return cast(tuple[float, Vector], offered.loss_and_gradient(point, batch))
    return objective.loss(point, batch), offered.gradient(point, batch)


def client_metrics(objective: Objective, point: Vector) -> dict[str, float]:
    """What a client reports in evaluation: its loss, and its own metrics if it has some."""
    own = getattr(objective, "metrics", None)
    return {"loss": objective.loss(point)} if own is None else dict(own(point))
