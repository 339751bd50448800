"""A seeded rotation that spreads a vector's energy over all its entries.

A randomized Hadamard transform of exactly ``dim`` entries: random signs, the even places before
the odd ones (so that neighbouring layers reach both halves), a Hadamard transform of the first m
entries, m the largest power of two that fits, and, where entries are left, new signs and another
transform of the last m. Without the new signs the second transform would undo the first one where
``dim`` is little more than m. Both transforms overlap in at least one entry, so no padding is sent.

The signs are bits of the seed's stream, and the transform adds and subtracts in one order: the
same seed gives the same rotation, bit for bit, wherever the streams agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[Any]


def rotate(vector: Vector, seed: int) -> Vector:
    """Turn a vector: a new one of the same length, dtype and, up to rounding, norm.

    Parameters
    ----------
    vector : ndarray, shape (dim,), float32 or float64
    seed : int
        Not negative; what :func:`unrotate` needs.

    Returns
    -------
    ndarray, shape (dim,)
        Every entry of ``vector`` reaches at least half of the places, with weights of one size
        after one transform. Finite only where the norm is representable in the dtype.

    Notes
    -----
    O(d log d). Orthonormal for every seed. For a fixed vector the entries are sub-Gaussian over
    the seeds; a vector made for one seed can be as uneven as before. Ailon and Chazelle 2006;
    for quantizers: Suresh et al. 2017.
    """
    size = 1 << (vector.size.bit_length() - 1)
    first, second = _signs(vector.size, seed, vector.dtype)
    turned = np.concatenate((vector[::2], vector[1::2])) * first
    _hadamard(turned[:size])
    if size < turned.size:
        turned *= second
        _hadamard(turned[-size:])
    return turned


def unrotate(vector: Vector, seed: int) -> Vector:
    """Undo :func:`rotate`, up to rounding; both keep their argument as it is."""
    size = 1 << (vector.size.bit_length() - 1)
    first, second = _signs(vector.size, seed, vector.dtype)
    turned = vector.copy()
    if size < turned.size:
        _hadamard(turned[-size:])
        turned *= second
    _hadamard(turned[:size])
    turned *= first
    vector = np.empty_like(turned)
    half = (turned.size + 1) // 2
    vector[::2], vector[1::2] = turned[:half], turned[half:]
    return vector


def _signs(dim: int, seed: int, dtype: np.dtype[Any]) -> tuple[Vector, Vector]:
    """Two vectors of ±1. Raw bits of the stream, so that the fingerprint covers them."""
    bits = np.frombuffer(np.random.default_rng(seed).bytes((2 * dim + 7) // 8), np.uint8)
    signs = 1 - 2 * np.unpackbits(bits, count=2 * dim).astype(dtype)
    return signs[:dim], signs[dim:]


def _hadamard(vector: Vector) -> None:
    """Hadamard's transform over √m in place, for a contiguous vector of m = 2^k entries."""
    rows = 1 << (vector.size.bit_length() - 1) // 2
    with np.errstate(over="ignore", invalid="ignore"):  # a norm beyond the dtype: said by callers
        # Divided first: then no partial sum is larger than the norm.
        grid = (vector * vector.dtype.type(vector.size**-0.5)).reshape(rows, -1)
        _butterflies(grid)
        grid = np.ascontiguousarray(grid.T)  # H_ab = H_a ⊗ H_b: both passes along long rows
        _butterflies(grid)
    vector[:] = grid.T.ravel()


def _butterflies(grid: Vector) -> None:
    """Unnormalised transform of every column, in place."""
    rows, half = len(grid), 1
    while half < rows:
        pairs = grid.reshape(-1, 2, half, grid.shape[1])
        difference = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = difference
        half *= 2
