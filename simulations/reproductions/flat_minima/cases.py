"""What ``reproduce flat-minima`` starts from, at which steps, and what was expected of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedbias.randomness import SERVER, Purpose, generator
from fedbias.vectors import Vector

TARGET = 1.0  # Φ
CLIENTS = 4
ROUGH, FINE = 1e-12, 1e-14  # |ε| at which steps are counted
ROUNDS, LONG_ROUNDS = 1000, 200_000  # at most so many
MULTIPLES = (  # η·λ_GF
    *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 1.3),
    *(1.4, 1.5, 1.6, 1.7, 1.8, 1.85, 1.9, 1.95, 1.98, 2.0, 2.02, 2.05, 2.1, 2.2, 2.3, 2.4, 2.6),
    *(2.8, 3.0, 3.2, 3.4, 3.5, 3.6, 3.7, 3.8),
)
DRAWN = {"near": (0.2, 1.0, 1.9, 2.4, 2.8)}  # whose runs are kept point by point
SHOWN = (0.2, 0.5, 1.0, 1.6, 1.9, 2.0, 2.4, 2.8, 3.2, 3.6, 3.8)  # in the table, with the expected
CHECKED = (0.2, 1.0, 1.6, 2.4)
ENDLESS = 3.8
SHARPER = 0.23  # η, where the gradient flow ends flatter


@dataclass(frozen=True)
class Expected:
    """What the recursion of the paper gave before there was a federation.

    Attributes
    ----------
    steps : mapping of float to (int or None)
        By |ε|: the first step below it; None for never.
    limit : str
        λ_∞ in the digits that were written down; empty where there is none.
    """

    steps: Mapping[float, int | None]
    limit: str


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes
    ----------
    words : str
        For the table.
    point : tuple of float
        a, then b.
    expected : mapping of float to Expected
        By η·λ_GF.
    """

    words: str
    point: tuple[float, ...]
    expected: Mapping[float, Expected] = field(default_factory=dict)

    @property
    def vector(self) -> Vector:
        """The point as an array."""
        return np.array(self.point)


def _random(width: int) -> tuple[float, ...]:
    """Normal entries of standard deviation .4."""
    rng = generator(0, 0, SERVER, Purpose.DATA)
    return tuple(0.4 * rng.standard_normal(2 * width))


STARTS: Mapping[str, Start] = {
    "near": Start(
        "(1.8, .2)",
        (1.8, 0.2),
        {
            multiple: Expected({FINE: steps}, limit)
            for multiple, steps, limit in (
                (0.2, 144, "3.7641"),
                (1.0, 9, "3.6949"),
                (1.6, 46, "3.5273"),
                (1.9, 70, "3.2364"),
                (2.0, 71, "3.0735"),
                (2.4, 47, "2.3402"),
                (2.8, 43, "2.0010"),
                (3.6, 319, "2.0000"),
                (3.8, None, ""),
            )
        },
    ),
    "far": Start(
        "(4, .05)",
        (4.0, 0.05),
        {
            multiple: Expected({ROUGH: rough, FINE: fine}, limit)
            for multiple, rough, fine, limit in (
                (0.2, 123, 144, "16.118"),
                (1.0, 5, 6, "16.083"),
                (1.8, 103, 120, "15.797"),
                (1.98, 181, 211, "15.114"),
                (2.2, 88, 101, "12.484"),
                (3.0, 61, 70, "2.191"),
            )
        },
    ),
    "wide": Start("random (d = 10)", _random(10)),
    "opposed": Start("(2.9, −2.5)", (2.9, -2.5)),
}
GRIDS = ("near", "far", "wide")  # over all the multiples
