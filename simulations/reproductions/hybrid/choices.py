"""What the seeds of ``reproduce hybrid`` come to together: steps, means, who is below whom."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..base import Result, Results
from .cases import BOTH, FEW, MANY, MULTIPLES, PAPER, POPULATIONS, WEIGHTS

WHEN = ("T/4", "T/2", "T")
MARKS = (5, 10, 20)  # their places on a curve
FORMS: Mapping[str, Mapping[str, str]] = {  # who → the family in the results
    "decentralized": {name: name for name in POPULATIONS},
    "star": {FEW: f"star {FEW}", MANY: f"star {MANY}"}
    | {f"{BOTH}, {name}": f"star {name}" for name in WEIGHTS},
}
Seeds = Sequence[Result]


@dataclass(frozen=True)
class Mean:
    """A mean over the seeds and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        """``0.704 ± 0.003``."""
        return self.told(".3f", ".3f")

    def told(self, value: str, error: str, scale: float = 1.0) -> str:
        """Both in these formats; one seed has no standard error."""
        whole = format(scale * self.value, value)
        return whole if math.isnan(self.error) else f"{whole} ± {scale * self.error:{error}}"


def seeds_of(results: Results, experiment: str, by: str = "law") -> Seeds:
    """The cells of one experiment, without the small ones that are checked."""
    return [
        result
        for name, result in results.items()
        if result["experiment"] == experiment
        and result.get("by", "law") == by
        and not name.startswith("check-")
    ]


def losses_of(seeds: Seeds, family: str, place: int) -> list[list[float | None]]:
    """For T/4, T/2 and T the seeds' train losses at one multiple of the paper's step."""
    curves = [result["families"][family]["losses"][place] for result in seeds]
    return [[curve[mark] for curve in curves] for mark in MARKS]


def chosen(count: int, ends: Callable[[int], Sequence[float | None]]) -> int | None:
    """Which of so many multiples has the lowest mean loss at T; None if a run of each diverged.

    ``ends`` gives a multiple's losses at T. A multiple of which one run diverged is out.
    """
    means = {place: mean(ends(place)) for place in range(count)}
    known = {place: told.value for place, told in means.items() if told is not None}
    return min(known, key=lambda place: known[place]) if known else None


def own_step(seeds: Seeds, family: str) -> int | None:
    """The place of a family's own step among the multiples."""
    return chosen(len(MULTIPLES), lambda place: losses_of(seeds, family, place)[-1])


def steps_of(seeds: Seeds, family: str) -> dict[str, int | None]:
    """The two ways to choose the step: ``{"paper's": 2, "own": 3}``."""
    return {"paper's": PAPER, "own": own_step(seeds, family)}


def mean(values: Sequence[float | None]) -> Mean | None:
    """Over the seeds; None if one of them diverged."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    spread = statistics.stdev(known) if len(known) > 1 else math.nan
    return Mean(statistics.fmean(known), spread / math.sqrt(len(known)))


def difference(ones: Sequence[float | None], others: Sequence[float | None]) -> Mean | None:
    """Seed by seed, as both have the same start, data and batches."""
    pairs = zip(ones, others, strict=True)
    return mean([None if a is None or b is None else a - b for a, b in pairs])


def verdict(ones: Sequence[float | None], others: Sequence[float | None]) -> str:
    """Whether ``ones`` are below, by two standard errors of the difference seed by seed."""
    gap = difference(ones, others)
    if gap is None:
        which = [mean(values) is None for values in (ones, others)]
        return "both diverge" if all(which) else "it diverges" if which[0] else "the other diverges"
    if abs(gap.value) <= 2 * gap.error or math.isnan(gap.error):
        return f"not apart ({_signed(gap)})"
    return f"{'below' if gap.value < 0 else 'above'} ({_signed(gap)})"


def _signed(gap: Mean) -> str:
    return gap.told("+.3f", ".3f")
