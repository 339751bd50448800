"""Networks of dense layers, many points at once; each layer's bias is its last column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedbias.randomness import SERVER, Purpose, generator

Array = NDArray[Any]


@dataclass(frozen=True)
class Dense:
    """Widths from input to output, ReLU between the layers: one layer is logistic regression."""

    widths: tuple[int, ...]

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """Of the layers' matrices: (outputs, inputs + 1)."""
        pairs = zip(self.widths[1:], self.widths, strict=False)
        return [(outputs, inputs + 1) for outputs, inputs in pairs]

    @cached_property
    def first(self) -> int:
        """Parameters of the first layer; they come first."""
        return math.prod(self.shapes[0])

    @cached_property
    def dim(self) -> int:
        """The number of parameters, d."""
        return sum(map(math.prod, self.shapes))

    def layers(self, points: Array) -> list[Array]:
        """Views (…, outputs, inputs + 1) into points (…, d)."""
        return [points[..., : self.first].reshape(points.shape[:-1] + self.shapes[0])] + self.later(
            points[..., self.first :]
        )

    def later(self, rest: Array) -> list[Array]:
        """Views of all layers but the first, from what stands behind it."""
        views, place = [], 0
        for shape in self.shapes[1:]:
            size = math.prod(shape)
            views.append(rest[..., place : place + size].reshape(rest.shape[:-1] + shape))
            place += size
        return views

    def start(self, seed: int) -> Array:
        """The common start: weights and biases uniform in ± 1/√inputs, as torch has them."""
        rng = generator(seed, 0, SERVER, Purpose.MODEL)
        parts = []
        for outputs, columns in self.shapes:
            bound = 1 / math.sqrt(columns - 1)
            parts.append(rng.uniform(-bound, bound, outputs * columns))
        return np.concatenate(parts)


def slopes(
    first: Array,
    moves: Array,
    later: Sequence[Array],
    directions: Sequence[Array],
    labels: Array,
    radius: float,
) -> Array:
    """(F(x+νu_k) − F(x))/ν on one batch, for R points and K directions, shape (R, K).

    Parameters
    ----------
    first : ndarray, shape (R, h, B)
        The points' first layer before its ReLU.
    moves : ndarray, shape (h, K + 1, B)
        What the directions add to it, over ν; nothing at place 0.
    later : sequence of ndarray, shape (R, outputs, inputs + 1)
        The points' other layers.
    directions : sequence of ndarray, shape (K, outputs, inputs + 1)
        The directions' other layers.
    """
    step = first.dtype.type(radius)
    out = first[:, :, None] + step * moves
    points, _, count, batch = out.shape
    for weights, along in zip(later, directions, strict=True):
        active = _activated(out)
        width = active.shape[1]
        out = (weights @ active.reshape(points, width, -1)).reshape(points, -1, count, batch)
        turned = active[:, :, 1:].transpose(2, 1, 0, 3).reshape(count - 1, width, -1)
        moved = (along @ turned).reshape(count - 1, -1, points, batch)
        out[:, :, 1:] += step * moved.transpose(2, 1, 0, 3)
    losses = cross_entropy(out, labels).sum(axis=-1) / step.dtype.type(batch)
    found: Array = (losses[:, 1:] - losses[:, :1]) / step
    return found


def gradients(first: Array, later: Sequence[Array], inputs: Array, labels: Array) -> Array:
    """∇F on one batch for R points, shape (R, d).

    ``first`` as for the slopes; inputs (inputs + 1, B).
    """
    out, active = first, [np.broadcast_to(inputs, (len(first), *inputs.shape))]
    for weights in later:
        active.append(_activated(out))
        out = weights @ active[-1]
    top = np.exp(out - out.max(axis=1, keepdims=True))
    error = top / top.sum(axis=1, keepdims=True)
    error[:, labels, np.arange(labels.size)] -= 1
    error /= labels.size
    sizes = [first.shape[1] * len(inputs), *(math.prod(layer.shape[1:]) for layer in later)]
    found, end = np.empty((len(first), sum(sizes)), first.dtype), sum(sizes)
    for place in range(len(later), -1, -1):
        shape = len(first), error.shape[1], active[place].shape[1]
        end -= sizes[place]
        views = found[:, end : end + sizes[place]].reshape(shape)
        np.matmul(error, active[place].transpose(0, 2, 1), out=views)
        if place:
            back = later[place - 1][:, :, :-1].transpose(0, 2, 1) @ error
            error = back * (active[place][:, :-1] > 0)
    return found


def cross_entropy(logits: Array, labels: Array) -> Array:
    """−log softmax at the labels, (R, classes, K, B) → (R, K, B); ``logits`` is used up.

    The K logits of a point must be about the same, as they are with a small radius.
    """
    logits -= logits[:, :, :1].max(axis=1, keepdims=True)  # lest anything overflows
    own = [logits[:, label, :, place].copy() for place, label in enumerate(labels)]
    total: Array = np.log(np.exp(logits, out=logits).sum(axis=1))
    for place, each in enumerate(own):
        total[:, :, place] -= each
    return total


def measure(net: Dense, point: Array, inputs: Array, labels: Array) -> tuple[float, float]:
    """Loss and accuracy on examples, one to a row."""
    out = inputs.T
    for place, weights in enumerate(net.layers(point)):
        out = weights @ (_activated(out[None])[0] if place else out)
    top = out.max(axis=0)
    losses = np.log(np.exp(out - top).sum(axis=0)) + top - out[labels, np.arange(labels.size)]
    return float(losses.mean(dtype=np.float64)), float((out.argmax(axis=0) == labels).mean())


def _activated(before: Array) -> Array:
    """ReLU, and a row of ones for the next layer's bias: (R, h, …) → (R, h + 1, …)."""
    points, width, *rest = before.shape
    after: Array = np.empty((points, width + 1, *rest), before.dtype)
    np.maximum(before, 0, out=after[:, :width])
    after[:, width] = 1
    return after


def squared(rows: Array) -> Array:
    """‖row‖² of each."""
    found: Array = np.einsum("ij,ij->i", rows, rows)
    return found
