"""What the table and the notes of ``reproduce edge-of-stability`` read off the runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from ..base import Result, Results
from .cases import Case, cases

TARGETS = (0.6, 0.3)  # train losses that runs of different speed are compared at
LATE = 0.2  # the share of the rounds that says how a run ends
Seeds = Sequence[Result]
Measure = Callable[[Result], float | None]


def seeds_of(results: Results) -> dict[str, Seeds]:
    """Case → its runs, in the order of the cases and of the seeds."""
    found = {
        name: sorted(
            (result for result in results.values() if result["case"] == name),
            key=lambda result: int(result["seed"]),
        )
        for name in cases()
    }
    return {name: seeds for name, seeds in found.items() if seeds}


def family(results: Results, name: str) -> dict[str, tuple[Case, Seeds]]:
    """The cases of one family that there are runs of."""
    known = cases()
    found = seeds_of(results)
    return {case: (known[case], s) for case, s in found.items() if known[case].family == name}


# Of one run ---------------------------------------------------------------------------------------


def losses(run: Result) -> list[float]:
    """f(x_0), f(x_1), …; infinite where a run is lost."""
    return [math.inf if loss is None else float(loss) for loss in run["train_loss"]]


def arrived(run: Result, target: float) -> int | None:
    """The first k with f(x_k) ≤ target."""
    return next((k for k, loss in enumerate(losses(run)) if loss <= target), None)


def products_until(run: Result, target: float) -> int | None:
    """How many Hessian-vector products each client had made when the loss came to the target."""
    last = arrived(run, target)
    if last is None:
        return None
    return sum(int(n) for k, n in zip(run["at"], run["products"], strict=True) if k <= last)


def sharpness_when(run: Result, target: float) -> float | None:
    """λ̂ of the first measurement after the loss has come to the target."""
    first = arrived(run, target)
    if first is None:
        return None
    after = (value for k, value in zip(run["at"], run["sharpness"], strict=True) if k >= first)
    return next(after, None)


def pressures(run: Result) -> list[tuple[int, float]]:
    """(k, λ̂ over the limit of the steps that led to x_k), from the second measurement on."""
    before = run["limit"]
    return [
        (k, value / limit)
        for k, value, limit in zip(run["at"][1:], run["sharpness"][1:], before, strict=False)
    ]


def crossed(run: Result) -> int | None:
    """The first measured k with λ̂ at or above the limit."""
    return next((k for k, ratio in pressures(run) if ratio >= 1), None)


def hovering(run: Result) -> list[float]:
    """λ̂ over the limit, from where it first was above until the loss is below the lower target."""
    first, last = crossed(run), arrived(run, min(TARGETS))
    if first is None:
        return []
    end = math.inf if last is None else last
    return [ratio for k, ratio in pressures(run) if k == first or first < k <= end]


def dips(run: Result) -> int:
    """How many measurements are more than a tenth below both their neighbours."""
    found = run["sharpness"]
    triples = zip(found, found[1:], found[2:], strict=False)
    return sum(here < 0.9 * min(before, after) for before, here, after in triples)


def rises(run: Result) -> float:
    """The share of the rounds at whose end the loss is higher than before."""
    curve = losses(run)
    steps = list(zip(curve, curve[1:], strict=False))
    return sum(later > before for before, later in steps) / len(steps) if steps else 0.0


def late_loss(run: Result) -> float:
    """The median train loss of the last rounds."""
    curve = losses(run)
    return statistics.median(curve[-max(1, round(LATE * len(curve))) :])


def late_sharpness(run: Result) -> float | None:
    """The median λ̂ of the last rounds: single ones may stand out far."""
    return _late(run, list(zip(run["at"], run["sharpness"], strict=True)))


def late_pressure(run: Result) -> float | None:
    """The median of λ̂ over its limit in the last rounds."""
    return _late(run, pressures(run))


def _late(run: Result, points: Sequence[tuple[int, float]]) -> float | None:
    first = (1 - LATE) * len(run["train_loss"])
    values = [value for k, value in points if k >= first] or [value for _, value in points[-1:]]
    return statistics.median(values) if values else None


def accuracy(run: Result) -> float | None:
    """Test accuracy in per cent, of the last round that was evaluated."""
    return 100 * float(run["accuracy"][-1][1]) if run["accuracy"] else None


# Of several seeds ---------------------------------------------------------------------------------


def values(seeds: Seeds, measure: Measure) -> list[float] | None:
    """One number per seed; None unless every seed has one."""
    found = [measure(run) for run in seeds]
    whole = [value for value in found if value is not None and math.isfinite(value)]
    return whole if len(whole) == len(found) else None


def spread(seeds: Seeds, measure: Measure, digits: str) -> str:
    """``1.50 ± 0.20``: mean and standard deviation; ``-`` unless every seed has the number."""
    found = values(seeds, measure)
    if found is None:
        return "-"
    mean = format(statistics.fmean(found), digits)
    return mean if len(found) < 2 else f"{mean} ± {statistics.stdev(found):{digits}}"


def trend(several: Mapping[str, Seeds], measure: Measure) -> str:
    """Which way a number goes along the cases, seed by seed; empty where one is missing."""
    columns = [values(seeds, measure) for seeds in several.values()]
    there = [column for column in columns if column is not None]
    if len(there) < 2 or len(there) < len(columns) or len({len(column) for column in there}) > 1:
        return ""
    rows = list(zip(*there, strict=True))
    up = [all(a < b for a, b in zip(row, row[1:], strict=False)) for row in rows]
    down = [all(a > b for a, b in zip(row, row[1:], strict=False)) for row in rows]
    if all(up) or all(down):
        return f"{'rises' if all(up) else 'falls'} with every seed"
    return (
        f"rises throughout with {sum(up)}, falls throughout with {sum(down)} of {len(rows)} seeds"
    )
