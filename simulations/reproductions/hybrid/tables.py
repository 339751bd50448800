"""The table of ``reproduce hybrid``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..base import Result, Results
from .cases import EXPERIMENTS, MULTIPLES
from .choices import FORMS, WHEN, Mean, Seeds, chosen, losses_of, mean, seeds_of, steps_of
from .runs import DIVERGED

TITLES = {"logistic": "(a) logistic", "mlp": "(b) MLP", "cnn": "(c) CNN"}
CLASSES = 10
_MEASURED = ("train loss", "test accuracy, %", "Γ")


def table(results: Results) -> list[list[str]]:
    """A row per experiment, form, population and way to choose the step; mean ± standard error."""
    lines = [["experiment", "form", "who", "step", *(f"{m}, {w}" for m in _MEASURED for w in WHEN)]]
    for experiment in EXPERIMENTS:
        if seeds := seeds_of(results, experiment):
            for form, members in FORMS.items():
                for who, family in members.items():
                    lines += _lines([TITLES[experiment], form, who], seeds, family)
    return lines + _network(results)


def _lines(head: list[str], seeds: Seeds, family: str) -> list[list[str]]:
    return [
        [*head, way if place is None else f"{way}, × {MULTIPLES[place]:g}"]
        + _entries(
            losses_of(seeds, family, place or 0) if place is not None else None,
            _third(seeds, family, "accuracies", place),
            _third(seeds, family, "spreads", place),
        )
        for way, place in steps_of(seeds, family).items()
    ]


def _third(seeds: Seeds, family: str, what: str, place: int | None) -> list[list[Any]] | None:
    """The seeds' numbers at T/4, T/2 and T."""
    if place is None or what not in seeds[0]["families"][family]:
        return None
    columns = [result["families"][family][what][place] for result in seeds]
    return [list(each) for each in zip(*columns, strict=True)]


def _entries(losses: Any, accuracies: Any, spreads: Any) -> list[str]:
    """Nine entries: three of each."""
    found = []
    for three, write in ((losses, str), (accuracies, percent), (spreads, human)):
        for values in three or [None] * len(WHEN):
            told = None if values is None else mean(values)
            found.append("-" if values is None else "diverges" if told is None else write(told))
    return found


def percent(share: Mean) -> str:
    """``81.20 ± 0.31``."""
    return share.told(".2f", ".2f", 100)


def human(amount: Mean) -> str:
    """``0.012 ± 0.001``, in two digits of the mean."""
    return amount.told(".2g", ".1g")


def network_seeds(results: Results) -> Seeds:
    """The cells of the CNN."""
    return seeds_of(results, "cnn")


def network_losses(seeds: Seeds, first: str, place: int) -> list[list[float | None]]:
    """For T/4, T/2 and T the seeds' losses with so many nodes with gradients; None: diverged."""
    most = DIVERGED * math.log(CLASSES)  # about the start's, of as many equal guesses
    return [
        [None if loss is None or loss > most else loss for loss in column]
        for column in _of(seeds, first, place, "losses")
    ]


def network_own(seeds: Seeds, first: str) -> int | None:
    """The place of the step with the lowest mean loss at T."""
    count = len(seeds[0]["multiples"])
    return chosen(count, lambda place: network_losses(seeds, first, place)[-1])


def _of(seeds: Seeds, first: str, place: int, what: str) -> list[list[Any]]:
    runs: Sequence[Result] = [result["runs"][first][place] for result in seeds]
    return [[None if run[what] is None else run[what][k] for run in runs] for k in range(len(WHEN))]


def _network(results: Results) -> list[list[str]]:
    seeds = network_seeds(results)
    lines = []
    for first in seeds[0]["runs"] if seeds else ():
        head = [TITLES["cnn"], "decentralized", f"{first} of {seeds[0]['nodes']} FO"]
        multiples = seeds[0]["multiples"]
        for way, place in (("base", multiples.index(1.0)), ("own", network_own(seeds, first))):
            step = way if place is None else f"{way}, × {multiples[place]:g}"
            numbers = (
                [None] * 3
                if place is None
                else [
                    network_losses(seeds, first, place),
                    *(_of(seeds, first, place, what) for what in ("accuracies", "spreads")),
                ]
            )
            lines.append([*head, step, *_entries(*numbers)])
    return lines
