"""h_m on the server: what it keeps of every client, for a feedback that sends differences."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

import numpy as np

from fedbias.vectors import Vector

IN_MEMORY = 2**31  # bytes of all the clients' vectors; more of them lie in unnamed files


def room(count: int, like: Vector, clients: int) -> Vector:
    """Uninitialised rows for ``count`` vectors, shape (count, dim).

    In an unnamed temporary file, mapped into memory, where as many vectors as there are clients
    would take more than 2 GiB; it is gone when its last row is.
    """
    if max(count, clients) * like.nbytes <= IN_MEMORY or not count:
        return np.empty((count, like.size), like.dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, like.dtype, "w+", shape=(count, like.size))


def pooled(memories: Mapping[int, Vector], weights: Mapping[int, float], like: Vector) -> Vector:
    """Σ w_m h_m / Σ w_m over all the clients that have a weight, in their order; unseen h_m = 0."""
    total = np.zeros_like(like)
    for client in sorted(set(weights) & set(memories)):
        total += weights[client] * memories[client]
    mean: Vector = total / sum(weights.values())
    return mean
