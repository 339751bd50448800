"""What a rule for the batch size is, and what it looks at when a round is over."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from fedbias import checks
from fedbias.headers import LARGEST
from fedbias.objectives import Statistics


@dataclass(frozen=True)
class Reply:
    """What one applied report says of its batch.

    Attributes
    ----------
    weight : float
        w_m; they sum to 1.
    samples : int
        b_m, the examples that it was asked for.
    statistic : float or None
        What the test asked for; None where it is not finite.
    """

    weight: float
    samples: int
    statistic: float | None


@dataclass(frozen=True)
class Evidence:
    """What the server knows when a round is over.

    Attributes
    ----------
    replies : sequence of Reply
    gradient_square : float
        ‖ĝ‖² of the decoded mean, the one that the step follows.
    spread : float
        Σ w_m‖g_m − ḡ‖² of the decoded vectors and THEIR mean ḡ, for a test that compares clients.
    samples : int
        Examples that all applied estimates since the start were made of.
    share : float
        The replies' share of the weight in ĝ: 1, unless ĝ also holds memories of silent clients.
    """

    replies: Sequence[Reply]
    gradient_square: float
    samples: int
    spread: float = 0.0
    share: float = 1.0


class BatchSize(ABC):
    """A rule for b, each client's batch size."""

    name: ClassVar[str]
    measures: ClassVar[str | None] = None  # what a client measures: a field of Statistics
    local: ClassVar[bool] = False  # whether a client alone knows the size that it needs
    compares_clients: ClassVar[bool] = False  # whether the server looks at the clients' spread
    clamps: ClassVar[bool] = True  # whether a client is asked for at most its own data

    maximum: int  # where it clamps

    @property
    @abstractmethod
    def first(self) -> int:
        """The size of the first round."""

    @abstractmethod
    def following(self, size: int, evidence: Evidence) -> int:
        """The size of the next round, from this round's size and what came of it."""

    def statistic(self, found: Statistics) -> float:
        """What a client reports of its batch; not finite where it is not defined."""
        raise ValueError(f"{self.name} measures nothing on the clients")


class BatchTest(BatchSize):
    """A size that grows when a test fails: to ``wanted``, never above ``maximum``.

    Where a test is undefined the size stays as it is: a statistic that is not finite, or a mean of
    exactly zero, which dead units or a coarse compressor produce as well as a stationary point.
    """

    initial: int

    def __post_init__(self) -> None:
        for bound in fields(self):  # type: ignore[arg-type]  # of the dataclass that it becomes
            if bound.name not in ("initial", "maximum"):  # η, ϑ, ν
                checks.real(self.name, bound.name, getattr(self, bound.name), above=0)
        # One example has no variance, so a size of 1 could never be seen to be too small.
        check_range(self.name, self.initial, self.maximum, least=2)

    @property
    def first(self) -> int:
        return self.initial

    @abstractmethod
    def wanted(self, size: int, evidence: Evidence) -> float:
        """The size at which the test would hold, not yet rounded; NaN where it is undefined."""

    def following(self, size: int, evidence: Evidence) -> int:
        return grown(size, self.wanted(size, evidence), self.maximum)


def grown(size: int, wanted: float, maximum: int) -> int:
    """⌈wanted⌉ within ``size`` and ``maximum``; ``size`` where the test is undefined."""
    if math.isnan(wanted):
        return size
    return maximum if wanted >= maximum else max(size, math.ceil(wanted))


def ratio(noise: float, signal: float) -> float:
    """noise/signal, at most the largest float; NaN for a signal of 0, or noise that is infinite."""
    if not (signal > 0 and math.isfinite(noise)):
        return math.nan
    return min(noise / signal, sys.float_info.max)


def check_range(owner: str, initial: int, maximum: int, least: int) -> None:
    """Refuse a start below ``least``, or a maximum below the start (ValueError)."""
    checks.whole(owner, "initial", initial, least=least)
    checks.whole(owner, "maximum", maximum, least=initial, most=LARGEST)
