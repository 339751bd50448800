"""What ``reproduce hybrid`` compares: experiments, populations, steps, two copies of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fedbias.randomness import SERVER, Purpose, generator

from ...data import Dataset, digits, iid, image_data

SEEDS = (0, 1, 2, 3, 4)
MULTIPLES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the paper's steps
PAPER = MULTIPLES.index(1.0)
BATCH, RADIUS, MOMENTUM = 2, 1e-4, 0.9  # b, ν, m
FINAL = 1e-3  # of the step, at the end of the cosine
EVALUATED = 10_000  # the first so many examples: the train loss
FEW, MANY, BOTH = "few FO", "many ZO", "hybrid"
POPULATIONS = (FEW, MANY, BOTH)
WEIGHTS = ("uniform", "examples", "inverse variance")
CHECKED = "digits"


@dataclass(frozen=True)
class Experiment:
    """One of the paper's experiments.

    Attributes
    ----------
    hidden : tuple of int
        The widths of the hidden layers.
    first, zeroth : int
        n_1 and n_0, the nodes with gradients and those without.
    directions : int
        rv.
    steps : tuple of float
        η of the nodes with gradients, and of those without.
    rounds : int
        T.
    """

    hidden: tuple[int, ...]
    first: int
    zeroth: int
    directions: int
    steps: tuple[float, float]
    rounds: int

    @property
    def nodes(self) -> int:
        """All of them, n."""
        return self.first + self.zeroth


EXPERIMENTS: Mapping[str, Experiment] = {
    "logistic": Experiment((), 24, 256, 128, (0.01, 0.01), 500),
    "mlp": Experiment((128, 128), 3, 90, 8, (0.5, 0.1), 500),
}


@dataclass(frozen=True, eq=False)
class Examples:
    """The data as the networks of dense layers see them: a 1 behind the pixels.

    Attributes
    ----------
    parts : sequence of ndarray of int64
        Each node's share of ``inputs``: one copy for those with gradients, one for the others.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    test_inputs: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    classes: int
    parts: Sequence[NDArray[np.int64]]


@cache
def data_of(task: str, root: str | None) -> Dataset:
    """The images; they are used again and again."""
    return digits() if task == CHECKED else image_data(task, root)


def examples(task: str, root: str | None, first: int, zeroth: int, seed: int) -> Examples:
    """Two copies of the training data, one split over each kind of nodes."""
    data = data_of(task, root)
    rng = generator(seed, 0, SERVER, Purpose.DATA)
    parts = [part for n in (first, zeroth) if n for part in iid().split(data.train_y, n, rng)]
    return Examples(
        *(with_one(data.train_x), data.train_y, with_one(data.test_x), data.test_y),
        *(data.classes, parts),
    )


def with_one(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """One row per image, a 1 at its end."""
    flat = images.reshape(len(images), -1)
    return np.hstack([flat, np.ones((len(flat), 1), np.float32)])
