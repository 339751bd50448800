"""Named arrays ↔ one flat vector. The algorithms see vectors; models and messages have names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """Where each named array lies in the flat vector, in order.

    Attributes
    ----------
    shapes : tuple of (name, shape)
        Row-major, one behind the other.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Layout:
        """The layout of the given arrays, in the mapping's own order."""
        return cls(tuple((name, tuple(array.shape)) for name, array in arrays.items()))

    @property
    def dim(self) -> int:
        """The length of the flat vector."""
        return sum(prod(shape) for _, shape in self.shapes)


def norm(vector: Vector) -> float:
    """‖v‖, also where ‖v‖² is beyond the dtype; summed in double precision."""
    largest = float(np.abs(vector).max())
    if not 0 < largest < np.inf:
        return largest
    unit = vector / vector.dtype.type(largest)
    return largest * float(np.sqrt(np.sum(np.square(unit, dtype=np.float64))))


def squared_norm(vector: Vector) -> float:
    """‖v‖² in double precision; ∞ beyond that."""
    length = norm(vector)
    return length * length


def flatten(arrays: Iterable[NDArray[Any]]) -> Vector:
    """Concatenate arrays of one dtype, row-major, into a new flat vector.

    Raises
    ------
    ValueError
        If the dtypes differ: the core never converts silently.
    """
    parts = [np.ravel(array) for array in arrays]
    kinds = {part.dtype for part in parts}
    if len(kinds) != 1:
        listed = ", ".join(sorted(str(kind) for kind in kinds)) or "no array at all"
        raise ValueError(f"flatten needs arrays of one dtype, got {listed}")
    return np.concatenate(parts)


def unflatten(vector: Vector, layout: Layout) -> dict[str, NDArray[Any]]:
    """Named views into ``vector``, shape (layout.dim,); nothing is copied."""
    if vector.shape != (layout.dim,):
        raise ValueError(f"the layout needs shape ({layout.dim},), not {vector.shape}")
    arrays, start = {}, 0
    for name, shape in layout.shapes:
        stop = start + prod(shape)
        arrays[name] = vector[start:stop].reshape(shape)
        start = stop
    return arrays
