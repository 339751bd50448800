"""Every draw comes from ``default_rng([seed, round, client, purpose])``.

Hence the same seed gives the same clients and the same bytes on every engine, whatever was lost
or repeated on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

SERVER = 2**32 - 1  # stands where a client's number would
_BLOCK = 2**13  # entries drawn at once: they stay in the cache

Seed = int | Sequence[int]


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
    DIRECTION = 9  # along which a client without gradients looks
    MATCHING = 10  # who averages with whom
    LANCZOS = 11  # where the search for the sharpest direction begins
    MEASURED = 12  # whose curvature is measured


def generator(seed: int, round: int, client: int, purpose: Purpose) -> np.random.Generator:
    """The stream for one purpose of one client in one round."""
    return np.random.default_rng([seed, round, client, int(purpose)])


def direction(seed: Seed, dim: int, dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """The standard normal direction u ∈ R^dim that a seed stands for (float32 or float64)."""
    whole = np.empty(dim, np.dtype(dtype))
    for part, block in blocks(seed, whole):
        part[:] = block
    return whole


def blocks(seed: Seed, along: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """A direction piece by piece, so that it need not be held: (part of ``along``, piece of u).

    Each part is a view, to be written into; a piece is overwritten by the next one. ``along`` gives
    the direction's length and dtype.
    """
    rng, buffer = np.random.default_rng(seed), np.empty(min(_BLOCK, along.size), along.dtype)
    draw = along.dtype.type  # float32 and float64 have streams of their own
    for start in range(0, along.size, _BLOCK):
        part = along[start : start + _BLOCK]
        block = buffer[: part.size]
        rng.standard_normal(dtype=draw, out=block)
        yield part, block


def fingerprint() -> str:
    """A hash of ``direction(0, 1024)`` in both dtypes: who disagrees cannot share seeds.

    NOT guaranteed: that machines agree beyond these numbers. A generator's rare values, one in
    thousands, go through the machine's own logarithm.
    """
    drawn = direction(0, 1024).astype("<f8"), direction(0, 1024, np.float32).astype("<f4")
    return hashlib.sha256(b"".join(part.tobytes() for part in drawn)).hexdigest()[:16]


def sample_clients(
    seed: int,
    round: int,
    clients: Iterable[int],
    count: int,
    purpose: Purpose = Purpose.SAMPLE,
) -> list[int]:
    """``count`` of the clients, uniformly without replacement, in ascending order.

    Depends on the clients' own numbers alone, not on the order in which they connected.
    """
    known = sorted(clients)
    rng = generator(seed, round, SERVER, purpose)
    return sorted(known[place] for place in rng.choice(len(known), count, replace=False))


def lost(seed: int, round: int, clients: Iterable[int], probability: float) -> list[int]:
    """The clients whose reply a simulated network loses in this round, each independently."""
    return [
        client
        for client in clients
        if generator(seed, round, client, Purpose.LOSS).random() < probability
    ]
