"""How the server's step size falls: by the samples so far, so that batch sizes do not change it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, cast

from fedbias import checks
from fedbias.headers import LARGEST
from fedbias.notation import setting
from fedbias.optimizers import Optimizer


class Decay(ABC):
    """A factor for the server's step size."""

    name: ClassVar[str]

    @abstractmethod
    def factor(self, samples: int) -> float:
        """In (0, 1], once ``samples`` examples were looked at, this round's included."""


@setting("no_decay")
class NoDecay(Decay):
    """The step size stays as it is."""

    def factor(self, samples: int) -> float:
        return 1.0


@setting("cosine_decay")
class CosineDecay(Decay):
    """From 1 to ``final`` along half a cosine (Loshchilov and Hutter 2017), there at ``samples``.

    Before, it rises in proportion over the first ``warmup`` samples.
    """

    samples: int
    final: float = 0.1
    warmup: int = 0

    def __post_init__(self) -> None:
        checks.whole(self.name, "samples", self.samples, least=1, most=LARGEST)
        checks.real(self.name, "final", self.final, above=0, most=1)
        checks.whole(self.name, "warmup", self.warmup, least=0, most=self.samples - 1)

    def factor(self, samples: int) -> float:
        if samples < self.warmup:
            return max(samples, 1) / self.warmup  # an estimator may count no examples
        share = min(1.0, (samples - self.warmup) / (self.samples - self.warmup))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2


def decayed(optimizer: Optimizer, decay: Decay, samples: int) -> Optimizer:
    """The optimizer with its step size after so many samples."""
    factor = decay.factor(samples)
    if factor == 1:
        return optimizer
    return cast(Optimizer, replace(cast(Any, optimizer), step_size=factor * optimizer.step_size))


no_decay, cosine_decay = NoDecay, CosineDecay
