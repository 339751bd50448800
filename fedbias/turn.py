"""One client's turn in one round: its random streams, its batches and its working memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedbias.batching import BatchSize
from fedbias.optimizers import Optimizer
from fedbias.randomness import Purpose, generator
from fedbias.vectors import Vector

Memory = dict[str, Vector]  # named vectors; the keys belong to whoever wrote them
_SEEN = "batches.seen"  # examples drawn so far by reshuffling, shape (1,)


@dataclass
class Turn:
    """What estimators and feedback work with; changed in place, thrown away if the reply is lost.

    Attributes
    ----------
    batch_size : int or None
        b, as the server asked; None means all the data.
    memory : dict
        A working copy of the client's memory. Arrays in it are replaced, never written into.
    shift : Optimizer or None
        The server's step, for a feedback that compensates what its errors did there.
    radius : float or None
        r_i, the bound that both sides know on what is compressed; None: packets carry a scale.
    measure : BatchSize or None
        The test whose statistic the next gradient of a batch shall leave in ``statistic``.
    statistic : float or None
        Of the last batch that was measured; not finite where it is not defined.
    examples : int
        Example gradients computed so far in this turn, or losses by who has no gradients; for the
        report.
    dropped : int
        Directions left out so far because the loss along them was not finite.
    saturated : bool
        Whether what was compressed was longer than the radius.
    """

    seed: int
    round: int
    client: int
    batch_size: int | None
    memory: Memory = field(default_factory=dict)
    shift: Optimizer | None = None
    radius: float | None = None
    measure: BatchSize | None = None
    statistic: float | None = None
    examples: int = 0
    saturated: bool = False
    dropped: int = 0
    _streams: dict[Purpose, Generator] = field(default_factory=dict)

    def rng(self, purpose: Purpose) -> Generator:
        """A fresh stream for this seed, round, client and purpose."""
        return generator(self.seed, self.round, self.client, purpose)

    def stream(self, purpose: Purpose) -> Generator:
        """The one stream of this turn for a purpose, which goes on from each draw to the next."""
        if purpose not in self._streams:
            self._streams[purpose] = self.rng(purpose)
        return self._streams[purpose]

    def batch(self, size: int, order: str) -> NDArray[np.int64] | None:
        """The next mini-batch of ``batch_size`` of ``size`` examples; None means all of them.

        A batch larger than the data holds examples more than once, in both orders.
        """
        if self.batch_size is None:
            return None
        if order == "reshuffle":
            return self._reshuffled(size, self.batch_size)
        return self.stream(Purpose.BATCH).integers(size, size=self.batch_size)

    def _reshuffled(self, size: int, count: int) -> NDArray[np.int64]:
        # The endless row of epochs, each a permutation of its own; a batch may straddle two.
        seen = int(self.memory.get(_SEEN, np.zeros(1, np.int64))[0])
        first, last = seen // size, (seen + count - 1) // size
        orders = [
            generator(self.seed, epoch, self.client, Purpose.SHUFFLE).permutation(size)
            for epoch in range(first, last + 1)
        ]
        self.memory[_SEEN] = np.array([seen + count], np.int64)
        start = seen - first * size
        return np.concatenate(orders)[start : start + count]
