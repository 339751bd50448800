"""Batch sizes that are known beforehand, as functions of the samples so far."""

from __future__ import annotations

from fedbias import checks
from fedbias.headers import LARGEST
from fedbias.notation import setting

from .base import BatchSize, Evidence, check_range


@setting("constant_batch")
class ConstantBatch(BatchSize):
    """The same size in every round; a client with less data draws examples more than once."""

    size: int  # b

    clamps = False

    def __post_init__(self) -> None:
        checks.whole(self.name, "size", self.size, least=1, most=LARGEST)

    @property
    def first(self) -> int:
        return self.size

    def following(self, size: int, evidence: Evidence) -> int:
        return self.size


@setting("linear_batch")
class LinearBatch(BatchSize):
    """From ``initial`` to ``maximum`` in proportion to the samples so far, there at ``samples``."""

    initial: int
    maximum: int
    samples: int

    def __post_init__(self) -> None:
        check_range(self.name, self.initial, self.maximum, least=1)
        checks.whole(self.name, "samples", self.samples, least=1, most=LARGEST)

    @property
    def first(self) -> int:
        return self.initial

    def following(self, size: int, evidence: Evidence) -> int:
        share = min(evidence.samples, self.samples)
        return self.initial + (self.maximum - self.initial) * share // self.samples


@setting("stagewise_batch")
class StagewiseBatch(BatchSize):
    """``factor`` times larger every ``every`` samples, up to the maximum (Smith et al. 2018).

    2048, 4096, 8192 for 2.5, 2.5 and 95 % of N samples is
    ``stagewise_batch(initial=2048, factor=2, every=0.025·N, maximum=8192)``.
    """

    initial: int
    factor: int
    every: int
    maximum: int

    def __post_init__(self) -> None:
        check_range(self.name, self.initial, self.maximum, least=1)
        checks.whole(self.name, "factor", self.factor, least=2)
        checks.whole(self.name, "every", self.every, least=1)

    @property
    def first(self) -> int:
        return self.initial

    def following(self, size: int, evidence: Evidence) -> int:
        stages = min(evidence.samples // self.every, self.maximum.bit_length())  # factor ≥ 2
        grown: int = self.initial * self.factor**stages
        return min(self.maximum, grown)


constant_batch, linear_batch, stagewise_batch = ConstantBatch, LinearBatch, StagewiseBatch
