"""Many federations in lockstep: all populations, steps and weights of one seed.

Batches and directions depend on the seed, the round and the node alone, so one draw serves them
all; a matching depends on how many nodes there are, too. Decentralized, every node has a column for
each step of its own population's, and one for each of the hybrid's. In star form there is one point
per federation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import fedbias as fb
from fedbias.turn import Turn

from .cases import (
    BATCH,
    FINAL,
    MOMENTUM,
    MULTIPLES,
    POPULATIONS,
    RADIUS,
    Examples,
    Experiment,
)
from .dense import Array, Dense, gradients, slopes, squared
from .draws import Directions
from .star import STARS, Star

_STEPS = len(MULTIPLES)
_CHUNK = 120_000  # numbers at once, so that they stay in the cache
FAMILIES = (*POPULATIONS, *STARS)
_TAKES_PART = ((0, 2, 3, 5, 6, 7), (1, 2, 4, 5, 6, 7))  # nodes of either kind in which families
Draw = Callable[[Dense, Sequence[Turn], int, Array], Directions]


class Lockstep:
    """All federations of one experiment and seed.

    Parameters
    ----------
    draw : callable
        :class:`~.draws.Law` or :class:`~.draws.Drawn`.
    threads : int
        That work at the nodes' turns.
    block : int
        Nodes without gradients that are served together.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: Examples,
        seed: int,
        draw: Draw,
        *,
        threads: int = 1,
        block: int = 15,
        dtype: Any = np.float32,
    ) -> None:
        self.experiment, self.data, self.seed = experiment, data, seed
        self._draw, self._threads, self._block = draw, threads, block
        self.net = Dense((data.inputs.shape[1] - 1, *experiment.hidden, data.classes))
        start = self.net.start(seed).astype(dtype)
        self.points = np.empty((experiment.nodes, 2 * _STEPS, self.net.dim), dtype)
        self.points[:] = start
        self._velocities = np.zeros_like(self.points)
        self.star = Star(experiment, start)
        self.round = 0
        self._rate = fb.cosine_decay(experiment.rounds, final=FINAL)
        self._followed = [_STEPS] * len(FAMILIES)

    def drop(self, diverged: Array) -> None:
        """Follow no more, of each family, the largest steps that diverged: (8, 5) of bool."""
        for place, gone in enumerate(diverged):
            self._followed[place] = int(max(np.flatnonzero(~gone), default=-1)) + 1

    def _columns(self, kind: int) -> list[slice]:
        """Where a node's own points are that are followed: its population's, the hybrid's."""
        counts = self._followed[kind], self._followed[2]
        return [slice(k * _STEPS, k * _STEPS + count) for k, count in enumerate(counts)]

    def _rows(self, kind: int) -> Array:
        """The star points that are followed and that nodes of this kind take part in."""
        families = [place for place in _TAKES_PART[kind] if place > 2]
        starts = [(place - 3) * _STEPS for place in families]
        return np.concatenate(
            [k + np.arange(self._followed[p]) for k, p in zip(starts, families, strict=True)]
        )

    # A round --------------------------------------------------------------------------------------

    def step(self) -> None:
        """One round of all the federations."""
        with np.errstate(all="ignore"):  # what diverges is seen when it is evaluated
            self._estimate()
            self.star.move(self.round, self._rate.factor(self.round + 1))
            self._match()
        self.round += 1

    def _estimate(self) -> None:
        """All the nodes' turns."""
        turns = [Turn(self.seed, self.round, m, BATCH) for m in range(self.experiment.nodes)]
        inputs, labels = self._batches(turns)
        before = self._star_first(inputs)
        first, zeroth = self.experiment.first, range(self.experiment.first, len(turns))
        self.star.clear()
        for node in range(first):
            self._with_gradients(node, before[:, :, node], inputs[node], labels[node])

        def serve(start: int) -> tuple[Array, Array]:
            chosen = slice(start, min(start + self._block, zeroth.stop))
            with np.errstate(all="ignore"):
                return self._without(chosen, turns, before, inputs, labels)

        rows = self._rows(1)
        with ThreadPoolExecutor(self._threads) as pool:
            for total, squares in pool.map(serve, zeroth[:: self._block]):
                self.star.kinds[1].total[rows] += total
                self.star.kinds[1].squares[: squares.size] += squares

    def _batches(self, turns: Sequence[Turn]) -> tuple[Array, Array]:
        """The nodes' examples: (n, inputs + 1, b), and their labels."""
        chosen = np.empty((len(turns), BATCH), np.int64)
        for m, (turn, part) in enumerate(zip(turns, self.data.parts, strict=True)):
            chosen[m] = part[turn.batch(len(part), "replacement")]
        inputs = self.data.inputs[chosen].transpose(0, 2, 1)
        return np.ascontiguousarray(inputs, self.points.dtype), self.data.labels[chosen]

    def _star_first(self, inputs: Array) -> Array:
        """The star points' first layer on all the batches, shape (25, h, n, b)."""
        nodes, width, batch = inputs.shape
        flat = inputs.transpose(1, 0, 2).reshape(width, -1)
        weights = self.net.layers(self.star.points)[0]
        return (weights @ flat).reshape(len(weights), -1, nodes, batch)

    def _with_gradients(self, node: int, before: Array, inputs: Array, labels: Array) -> None:
        """One node's turn."""
        rows = self._rows(0)
        for columns in self._columns(0):
            weights, *later = self.net.layers(self.points[node, columns])
            found = gradients(weights @ inputs, later, inputs, labels)
            velocity = self._velocities[node, columns]
            velocity *= self.points.dtype.type(MOMENTUM)
            velocity += found
            self.points[node, columns] -= self._scales(0)[columns, None] * velocity
        later = self.net.layers(self.star.points[rows])[1:]
        found = gradients(before[rows], later, inputs, labels)
        self.star.kinds[0].total[rows] += found
        measured = self._followed[-1]
        self.star.kinds[0].squares[:measured] += squared(found[len(rows) - measured :])

    def _without(
        self, chosen: slice, turns: Sequence[Turn], before: Array, inputs: Array, labels: Array
    ) -> tuple[Array, Array]:
        """Some nodes' turns: the sums of their estimates at the star points, and of their ‖g‖²."""
        directions = self._draw(self.net, turns[chosen], self.experiment.directions, inputs[chosen])
        columns, rows, measured = self._columns(1), self._rows(1), self._followed[-1]
        star = self.net.layers(self.star.points[rows])[1:]
        found, squares = [], np.zeros(measured)
        for place, node in enumerate(range(chosen.start, chosen.stop)):
            own = [self.net.layers(self.points[node, part]) for part in columns]
            first = [layers[0] @ inputs[node] for layers in own]
            slope = slopes(
                np.concatenate([*first, before[rows, :, node]]),
                directions.moves[place],
                [
                    np.concatenate([*(layers[k + 1] for layers in own), layer])
                    for k, layer in enumerate(star)
                ],
                [layer[place] for layer in directions.later],
                labels[node],
                RADIUS,
            )
            self._follow(node, place, directions, slope[: len(slope) - len(rows)])
            squares += directions.squares(place, slope[len(slope) - measured :])
            found.append(slope[len(slope) - len(rows) :])
        return directions.total(np.stack(found)), squares

    def _follow(self, node: int, place: int, directions: Directions, found: Array) -> None:
        """Move a node's points along its estimates, some at a time."""
        scales, size, row = self._scales(1), max(1, _CHUNK // self.net.dim), 0
        for columns in self._columns(1):
            for start in range(columns.start, columns.stop, size):
                part = slice(start, min(start + size, columns.stop))
                velocity = self._velocities[node, part]
                velocity *= self.points.dtype.type(MOMENTUM)
                directions.add(place, found[row : row + len(velocity)], velocity)
                self.points[node, part] -= scales[part, None] * velocity
                row += len(velocity)

    def _scales(self, kind: int) -> Array:
        """(1 − m)·η·ρ for a node's columns."""
        step = (1 - MOMENTUM) * self.experiment.steps[kind] * self._rate.factor(self.round)
        return (step * np.tile(MULTIPLES, 2)).astype(self.points.dtype)

    # Decentralized form ---------------------------------------------------------------------------

    def _populations(self) -> list[tuple[int, int, slice]]:
        """First node, number of nodes, columns."""
        first, zeroth = self.experiment.first, self.experiment.zeroth
        own, both = slice(0, _STEPS), slice(_STEPS, 2 * _STEPS)
        return [(0, first, own), (first, zeroth, own), (0, first + zeroth, both)]

    def _match(self) -> None:
        """Average the pairs of every population."""
        for family, (start, count, columns) in enumerate(self._populations()):
            columns = slice(columns.start, columns.start + self._followed[family])
            pairs = fb.random_matching().pairs(self.seed, self.round, range(start, start + count))
            for pair in pairs:
                one, other = (self.points[node, columns] for node in pair)
                one += other
                one *= self.points.dtype.type(0.5)
                other[:] = one

    def mean_models(self) -> tuple[Array, Array]:
        """μ of every decentralized federation (15, d), and its mean ‖X^i − μ‖² over the nodes."""
        means, spreads = [], []
        for start, count, columns in self._populations():
            points = self.points[start : start + count, columns]
            means.append(points.mean(axis=0))
            spreads.append(sum(squared(each - means[-1]) for each in points) / count)
        return np.concatenate(means), np.concatenate(spreads)
