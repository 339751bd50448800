"""h_m on the server: what it keeps of every client, for a feedback that sends differences."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping

import numpy as np

from fedbias.vectors import Vector

IN_MEMORY = 2**31  # bytes of all the clients' vectors; more of them lie in unnamed files


def file_rows(count: int, like: Vector, clients: int) -> Vector | None:
    """Rows for ``count`` vectors in a file, shape (count, dim); None where memory is enough.

    Memory is enough for up to 2 GiB, as many vectors as there are clients. The file is temporary,
    has no name, is mapped into memory, and is gone when its last row is: one that holds a single
    row of a client that is seldom asked takes the space of all its rows on disk.
    """
    if max(count, clients) * like.nbytes <= IN_MEMORY or not count:
        return None
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, like.dtype, "w+", shape=(count, like.size))


def shelved(vectors: Iterable[tuple[int, Vector]], count: int, like: Vector) -> dict[int, Vector]:
    """Keep ``count`` clients' vectors, taken one by one, where they belong."""
    rows = file_rows(count, like, count)
    if rows is None:
        return dict(vectors)
    kept = {}
    for place, (client, vector) in enumerate(vectors):
        rows[place] = vector
        kept[client] = rows[place]
    return kept


def pooled(memories: Mapping[int, Vector], weights: Mapping[int, float], like: Vector) -> Vector:
    """Σ w_m h_m / Σ w_m over all the clients that have a weight, in their order; unseen h_m = 0."""
    total = np.zeros_like(like)
    for client in sorted(set(weights) & set(memories)):
        total += weights[client] * memories[client]
    mean: Vector = total / sum(weights.values())
    return mean
