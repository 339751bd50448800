"""The same run under several seeds, as one: mean curves, and the spread beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from .runs import Record, Run, number

_SPREAD = ("accuracy", "train_loss", "test_loss", "sharpness")


def mean_run(runs: Sequence[Run]) -> Run:
    """Average runs that differ in their seed alone, round by round.

    Every number becomes its mean over the seeds; a number that some seed lacks stays out.
    ``accuracy_spread``, ``train_loss_spread``, ``test_loss_spread`` and ``sharpness_spread`` are
    standard deviations (ddof = 1); the last one stands for what each seed says of its own. Where a
    goal ended some seeds earlier, the last record is the mean of all their last ones, and rounds
    that only some of them reached are left out.
    """
    if len(runs) == 1:
        return runs[0]
    rounds = [_mean(records) for records in zip(*(run.rounds for run in runs), strict=False)]
    if len({len(run.rounds) for run in runs}) > 1 and rounds:
        rounds[-1] = _mean([run.rounds[-1] for run in runs])
    seeds = [run.settings.get("seed") for run in runs]
    durations = [float(run.environment.get("duration", math.nan)) for run in runs]
    return replace(
        runs[0],
        rounds=rounds,
        settings={**runs[0].settings, "seed": f"mean of {seeds}"},
        environment={**runs[0].environment, "duration": round(fmean(durations), 3)},
        seeds=tuple(runs),
    )


def _mean(records: Sequence[Record]) -> Record:
    mean: dict[str, Any] = {}
    for key in records[0]:
        if key.endswith("_spread") and key.removesuffix("_spread") in _SPREAD:
            continue
        if any(isinstance(record.get(key), (list, dict, str)) for record in records):
            continue  # what was not finite, who was refused, why nothing was measured
        found = [number(record, key) for record in records]
        values = [value for value in found if value is not None]
        if len(values) != len(records):
            continue
        middle = fmean(values)  # of whole numbers a fraction: one lost reply in five runs is .2
        whole = type(records[0][key]) is int and middle.is_integer()
        mean[key] = int(middle) if whole else middle
        if key in _SPREAD:
            finite = all(map(math.isfinite, values))  # stdev has no answer otherwise
            mean[f"{key}_spread"] = stdev(values) if finite else math.nan
    return mean
