"""Every draw comes from ``default_rng([seed, round, client, purpose])``.

Hence the same seed gives the same clients and the same bytes on every engine, whatever was lost
or repeated on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

SERVER = 2**32 - 1  # stands where a client's number would


class Purpose(IntEnum):
    """What a stream of random numbers is for; part of its seed, so the values never change."""

    SAMPLE = 1  # which clients are asked
    BATCH = 2  # which examples a client looks at
    SHUFFLE = 3  # the order of one epoch
    COMPRESS = 4  # dithering, random coordinates
    DATA = 5  # splits and synthetic problems
    MODEL = 6  # initial weights
    LOSS = 7  # which replies a simulated network loses
    ROLLOUT = 8  # what happens along a trajectory


def generator(seed: int, round: int, client: int, purpose: Purpose) -> np.random.Generator:
    """The stream for one purpose of one client in one round."""
    return np.random.default_rng([seed, round, client, int(purpose)])


def direction(seed: int, dim: int, dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """The standard normal direction u ∈ R^dim that a seed stands for (float32 or float64)."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype) == np.float32:
        return rng.standard_normal(dim, np.float32)
    return rng.standard_normal(dim, np.float64)


def fingerprint() -> str:
    """A hash of ``direction(0, 1024)``: two machines that disagree cannot share seeds."""
    return hashlib.sha256(direction(0, 1024).astype("<f8").tobytes()).hexdigest()[:16]


def sample_clients(seed: int, round: int, clients: Iterable[int], count: int) -> list[int]:
    """``count`` of the clients, uniformly without replacement, in ascending order.

    Depends on the clients' own numbers alone, not on the order in which they connected.
    """
    known = sorted(clients)
    rng = generator(seed, round, SERVER, Purpose.SAMPLE)
    return sorted(known[place] for place in rng.choice(len(known), count, replace=False))


def lost(seed: int, round: int, clients: Iterable[int], probability: float) -> list[int]:
    """The clients whose reply a simulated network loses in this round, each independently."""
    return [
        client
        for client in clients
        if generator(seed, round, client, Purpose.LOSS).random() < probability
    ]
