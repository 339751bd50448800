"""The directions of nodes without gradients: really drawn, or by their law.

The first layer's part U of a direction, h × (inputs + 1), enters the loss through UA alone, A being
the batch's inputs. With A = QR, U = GQᵀ + U⊥ where G is standard normal, h × B, and U⊥ independent
of it and of the loss. So, given the slopes s_k, Σ_k s_k U⊥_k has EXACTLY the distribution of
‖s‖·Z(I − QQᵀ) with one standard normal Z, and K·h·B + h·(inputs + 1) normals do the work of
K·h·(inputs + 1). Later layers' parts are drawn as they are. Each point's estimate has its own
distribution; NOT that of the drawn directions is how two points' estimates depend on each other.
Exact in exact arithmetic: these normals are of float32, by Box and Muller, none beyond 5.8. A slope
that is not finite ends a run here, where the library would leave the direction out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

import fedbias as fb
from fedbias.randomness import Purpose
from fedbias.turn import Turn

from .dense import Array, Dense, squared

_PIECE = 2**15  # numbers at once: they stay in the cache


class Directions(Protocol):
    """K directions for one batch of each of N nodes."""

    moves: Array  # (N, h, K + 1, B): UA for every direction, nothing at place 0
    later: Sequence[Array]  # (N, K, outputs, inputs + 1) for every layer but the first

    def add(self, node: int, slopes: Array, out: Array) -> None:
        """Add (1/K)·Σ_k s_k u_k of a node to each row of ``out``: slopes (R, K), out (R, d)."""

    def squares(self, node: int, slopes: Array) -> Array:
        """‖(1/K)·Σ_k s_k u_k‖² for each row of slopes (R, K)."""

    def total(self, slopes: Array) -> Array:
        """Σ over the nodes of (1/K)·Σ_k s_k u_k: slopes (N, R, K) → (R, d)."""


class Drawn:
    """The directions that the library's clients draw.

    Parameters
    ----------
    turns : sequence of Turn
        The nodes'.
    inputs : ndarray, shape (N, inputs + 1, B)
        Their batches.
    """

    def __init__(self, net: Dense, turns: Sequence[Turn], count: int, inputs: Array) -> None:
        self._whole = np.empty((len(turns), count, net.dim), inputs.dtype)
        for node, turn in enumerate(turns):
            seed = int(turn.stream(Purpose.DIRECTION).integers(2**63))
            for k in range(count):
                self._whole[node, k] = fb.direction((seed, k), net.dim, inputs.dtype)
        first, *later = net.layers(self._whole)
        self.later: Sequence[Array] = later
        self.moves = _moves(first @ inputs[:, None])

    def add(self, node: int, slopes: Array, out: Array) -> None:
        out += (slopes / slopes.dtype.type(slopes.shape[1])) @ self._whole[node]

    def squares(self, node: int, slopes: Array) -> Array:
        found: Array = squared(slopes @ self._whole[node]) / slopes.shape[1] ** 2
        return found

    def total(self, slopes: Array) -> Array:
        rows = slopes.transpose(1, 0, 2).reshape(slopes.shape[1], -1)
        rows = rows / rows.dtype.type(slopes.shape[2])
        total: Array = rows @ self._whole.reshape(rows.shape[1], -1)
        return total


class Law:
    """The same by their law; parameters as of :class:`Drawn`."""

    def __init__(self, net: Dense, turns: Sequence[Turn], count: int, inputs: Array) -> None:
        height, width = net.shapes[0]
        dtype, batch, nodes = inputs.dtype, inputs.shape[2], len(turns)
        self._across = np.empty((nodes, height, width), dtype)  # Z
        self._along = np.empty((nodes, count, height, batch), dtype)  # G
        self._rest = np.empty((nodes, count, net.dim - net.first), dtype)
        for node, turn in enumerate(turns):
            rng = _fast(turn)
            for each in (self._across, self._along, self._rest):
                normals(rng, each[node])
        self._basis, triangle = np.linalg.qr(inputs)
        self._shared = self._across @ self._basis  # ZQ
        self.moves = _moves(self._along @ triangle[:, None])
        self.later: Sequence[Array] = net.later(self._rest)

    def add(self, node: int, slopes: Array, out: Array) -> None:
        scaled = slopes / slopes.dtype.type(slopes.shape[1])
        first = self._across[node].size
        out[:, first:] += scaled @ self._rest[node]
        lengths, inside = self._parts(scaled, node)
        shape = (len(slopes), *self._across[node].shape)
        head = out[:, :first]
        head += (inside @ self._basis[node].T).reshape(len(slopes), first)
        for row, length in zip(head.reshape(shape), lengths, strict=True):
            row += length * self._across[node]

    def _parts(self, scaled: Array, node: int) -> tuple[Array, Array]:
        """‖s‖ (R,), and what the inputs' directions get, (R, h, B)."""
        lengths = np.sqrt((scaled * scaled).sum(axis=1))
        inside = np.tensordot(scaled, self._along[node], 1)
        inside -= lengths[:, None, None] * self._shared[node]
        return lengths, inside

    def squares(self, node: int, slopes: Array) -> Array:
        shape = len(slopes), -1
        inside = np.tensordot(slopes, self._along[node], 1).reshape(shape)
        outside = self._across[node].ravel(), self._shared[node].ravel()
        beyond = squared(slopes) * float(outside[0] @ outside[0] - outside[1] @ outside[1])
        rest = squared(slopes @ self._rest[node])
        found: Array = (squared(inside) + beyond + rest) / slopes.shape[1] ** 2
        return found

    def total(self, slopes: Array) -> Array:
        nodes, points, count = slopes.shape
        scaled = slopes / slopes.dtype.type(count)
        parts = [self._parts(scaled[node], node) for node in range(nodes)]
        lengths = np.stack([lengths for lengths, _ in parts], axis=1)
        inside = np.stack([inside for _, inside in parts], axis=2)  # (R, h, N, B)
        height, width = self._across.shape[1:]
        first = lengths @ self._across.reshape(nodes, -1)
        basis = self._basis.transpose(0, 2, 1).reshape(-1, width)
        first += (inside.reshape(points * height, -1) @ basis).reshape(points, -1)
        rows = scaled.transpose(1, 0, 2).reshape(points, -1)
        return np.hstack([first, rows @ self._rest.reshape(nodes * count, -1)])


def _moves(products: Array) -> Array:
    """UA (N, K, h, B) → (N, h, K + 1, B), with nothing at place 0."""
    nodes, count, height, batch = products.shape
    moves = np.zeros((nodes, height, count + 1, batch), products.dtype)
    moves[:, :, 1:] = products.transpose(0, 2, 1, 3)
    return moves


def normals(rng: np.random.Generator, out: Array) -> None:
    """Fill a contiguous array by Box and Muller's transform: twice as quick as numpy's own.

    In float32 nothing is beyond √(2·24·log 2) = 5.8, which has a probability of 1e-8.
    """
    flat = out.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        part = flat[start : start + _PIECE]
        half = (part.size + 1) // 2
        radius, angle = (rng.random(half, out.dtype.type) for _ in range(2))
        np.subtract(1, radius, out=radius)  # in (0, 1]
        np.log(radius, out=radius)
        radius *= -2
        np.sqrt(radius, out=radius)
        angle *= 2 * np.pi
        np.multiply(radius, np.cos(angle), out=part[:half])
        rest = part.size - half
        np.multiply(radius[:rest], np.sin(angle[:rest]), out=part[half:])


def _fast(turn: Turn) -> np.random.Generator:
    """A quicker generator than the library's, by the same key."""
    key = [turn.seed, turn.round, turn.client, int(Purpose.DIRECTION)]
    return np.random.Generator(np.random.SFC64(key))
