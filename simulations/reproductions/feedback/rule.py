"""Which feedback ``reproduce feedback`` recommends: a rule that was fixed before the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..base import Result, Results
from .cases import FEEDBACKS, SETTINGS, SHARES
from .runs import mean_gap

BITS = (2, 3, 4)  # that the rule looks at
DIFFERENT = ("squares", "digits")  # the problems whose clients differ
COMPRESSOR = "uniform"


@dataclass(frozen=True)
class Choice:
    """A feedback at a share of the tuned step, and what speaks for it.

    Attributes
    ----------
    gap : float
        The geometric mean over the cells.
    rounds : float
        To a millionth of the start, the mean over the cells; ∞ if a run did not get there.
    """

    feedback: str
    share: str
    gap: float
    rounds: float

    @property
    def rank(self) -> tuple[float, float]:
        """Lower is better: the gap to two digits, then the speed."""
        return round(math.log10(self.gap), 2), self.rounds


def chosen(
    results: Results,
    problems: Sequence[str] = DIFFERENT,
    settings: Sequence[str] = tuple(SETTINGS),
    shares: Sequence[str] = tuple(SHARES),
) -> Choice | None:
    """The best of those that never diverge; None if there is none.

    Of all feedbacks at one share of the tuned step, for all the cells of these problems and
    settings with 2 to 4 bits: those of which no run diverged, and of these the one with the
    lowest geometric mean of the gaps; among equals the fastest.
    """
    ranked = ranking(results, problems, settings, shares)
    return min(ranked, key=lambda choice: choice.rank) if ranked else None


def ranking(
    results: Results, problems: Sequence[str], settings: Sequence[str], shares: Sequence[str]
) -> list[Choice]:
    """All that the rule may choose from."""
    cells = judged(results, problems, settings)
    found = []
    for feedback in FEEDBACKS:
        for share in shares:
            runs = [cell["runs"][feedback][share] for cell in cells]
            if runs and not any(run["diverged"] for run in runs):
                gap = mean_gap([run["gap"][0] for run in runs])
                late = [math.inf if run["reached"] is None else run["reached"] for run in runs]
                found.append(Choice(feedback, share, gap, sum(late) / len(late)))
    return found


def judged(results: Results, problems: Sequence[str], settings: Sequence[str]) -> list[Result]:
    """The cells that the rule looks at."""
    return [
        result
        for result in results.values()
        if result["compressor"] == COMPRESSOR
        and result["bits"] in BITS
        and result["problem"] in problems
        and result["setting"] in settings
    ]


def divergent(results: Results, feedback: str, share: str) -> list[str]:
    """The names of all the cells in which a run of it diverged."""
    return [
        name
        for name, result in results.items()
        if share in (ways := result["runs"][feedback]) and ways[share]["diverged"]
    ]
