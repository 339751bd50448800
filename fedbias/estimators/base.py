"""What an estimator is, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedbias.objectives import Objective, require
from fedbias.packets import Packet, decode
from fedbias.turn import Turn
from fedbias.vectors import Vector


@dataclass(frozen=True)
class Estimate:
    """What an estimator returns.

    Attributes
    ----------
    content : ndarray, shape (dim,), or Packet
        The estimate g_m; a packet where it is born as one, as seeds and scalars are.
    loss : float
        The loss at the plan's point, on the examples that were looked at there.
    """

    content: Vector | Packet
    loss: float

    @property
    def vector(self) -> Vector:
        """g_m, shape (dim,)."""
        return decode(self.content) if isinstance(self.content, Packet) else self.content


class Estimator(ABC):
    """A way to estimate a client's gradient at a point."""

    name: ClassVar[str]

    @abstractmethod
    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        """The estimate at ``point``, shape (dim,); randomness and memory come from the turn."""

    @property
    def needs(self) -> frozenset[str]:
        """The capabilities it asks of the objective."""
        return frozenset({"gradient"})

    @property
    def draws_batches(self) -> bool:
        """Whether a batch size has any meaning for it."""
        return False

    @property
    def measuring_needs(self) -> frozenset[str] | None:
        """The capabilities that measuring a batch's examples asks for; None if it cannot."""
        return None

    @property
    def most_directions(self) -> int:
        """How many directions a packet of its may name; 0 where it sends vectors."""
        return 0

    @property
    def aims_at_gradient(self) -> bool:
        """Whether it estimates ∇f_m, however biased: where it does not, ηλ says nothing."""
        return True

    @property
    def kinds(self) -> Mapping[str, Estimator]:
        """What clients may compute: itself, or one estimator per capability."""
        return {"": self}

    def kind_of(self, objective: Objective) -> str:
        """Which of its kinds an objective computes (MissingCapability if none)."""
        require(objective, self.needs, repr(self))
        return ""

    def samples(self, batch_size: int | None, size: int) -> int:
        """How many examples an estimate is made of, for a client with ``size`` of them."""
        return size if batch_size is None else batch_size
