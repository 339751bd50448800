"""How adaptive batches compare with the other ways in ``reproduce adadagrad``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from ..base import Result
from .tables import Experiment, Runs, gap, mean, spread

ADAPTIVE = "adaptive"
OPPONENTS = {
    "small": "constant small batches",
    "large": "constant large batches",
    "average": "constant batches of its own average",
    "stage-wise": "stage-wise batches",
}
# What is better when it is lower, run by run.
MEASURES: dict[str, Callable[[Result], float]] = {
    "train loss": lambda run: float(run["train_loss"]),
    "test loss": lambda run: float(run["test_loss"]),
    "test error": lambda run: 1 - float(run["test_accuracy"]),
    "gap of the accuracies": gap,
}


def verdict(found: Sequence[Experiment]) -> list[str]:
    """What adaptive batches save, and whether it is their growth that helps."""
    if not found:
        return []
    small, alike = _pairs(found, "small"), _pairs(found, "average")
    signs = [order(one, other, MEASURES["train loss"]) for one, other in alike]
    lower, higher = signs.count(-1), signs.count(1)
    leads = (lower > higher) - (lower < higher)
    word = ("as often as", "more often than", "less often than")[leads]
    return [
        f"In short, at equal samples: adaptive batches take × {_factor(small, 'rounds')} the "
        "rounds, and the same share of the uplink, of constant small ones. Constant batches of "
        "their own average take as many rounds as they do; against these the adaptive train loss "
        f"is lower with every seed in {lower} and higher with every seed in {higher} of "
        f"{len(alike)} experiments: the growth itself helps {word} it hurts."
    ]


def against(found: Sequence[Experiment], way: str) -> str:
    """One sentence: adaptive against another way over all the experiments."""
    both = _pairs(found, way)
    if not both:
        return ""
    amounts = ", ".join(
        f"{word} × {_factor(both, name)}"
        for word, name in (("rounds", "rounds"), ("uplink", "uplink_bytes"), ("time", "seconds"))
    )
    counts = ", ".join(f"{name} {_counted(both, name)}" for name in MEASURES)
    return (
        f"Adaptive against {OPPONENTS[way]}, median of {len(both)} experiments (range): {amounts}. "
        "In how many it is lower with every seed / higher with every seed / neither: "
        f"{counts}."
    )


def _pairs(found: Sequence[Experiment], way: str) -> list[tuple[Runs, Runs]]:
    """The adaptive runs and another way's, experiment by experiment."""
    return [(each.runs[ADAPTIVE], each.runs[way]) for each in found if way in each.runs]


def _factor(both: Sequence[tuple[Runs, Runs]], name: str) -> str:
    factors = [mean(one, name) / mean(other, name) for one, other in both]
    return f"{statistics.median(factors):.2g} ({min(factors):.2g} to {max(factors):.2g})"


def _counted(both: Sequence[tuple[Runs, Runs]], name: str) -> str:
    """How often adaptive is lower with all the seeds, higher with all of them, or neither."""
    signs = [order(one, other, MEASURES[name]) for one, other in both]
    return f"{signs.count(-1)} / {signs.count(1)} / {signs.count(0)}"


def order(one: Runs, other: Runs, measure: Callable[[Result], float]) -> int:
    """−1 if ``one`` is lower with every seed, 1 if it is higher with every seed, otherwise 0."""
    pairs = [(measure(a), measure(b)) for a, b in zip(one, other, strict=True)]
    if all(a < b for a, b in pairs):
        return -1
    return int(all(a > b for a, b in pairs))


def lowest(found: Sequence[Experiment]) -> list[str]:
    """Which way has the least mean of each measure, experiment by experiment."""
    sentences = []
    for name, measure in MEASURES.items():
        winners = {
            each.title: min(each.runs, key=lambda way: _mean(each.runs[way], measure))
            for each in found
        }
        if winners:
            count = list(winners.values()).count(ADAPTIVE)
            listed = "; ".join(f"{title}: {way}" for title, way in winners.items())
            sentences.append(
                f"Lowest {name} on average: adaptive in {count} of {len(winners)} ({listed})."
            )
    return sentences


def _mean(runs: Runs, measure: Callable[[Result], float]) -> float:
    return statistics.fmean(map(measure, runs))


def growth(found: Sequence[Experiment]) -> list[str]:
    """When the adaptive runs have come to the largest size."""
    words = []
    for each in found:
        runs = each.runs[ADAPTIVE]
        shares = [
            next((x for x, b in run["sizes"] if b == each.maximum), run["samples"]) / run["samples"]
            for run in runs
        ]
        sizes = spread([run["average"] for run in runs], "{:.0f}".format)
        words.append(f"{each.title}: {100 * statistics.fmean(shares):.0f} % (average b {sizes})")
    if not words:
        return []
    return [
        "The share of its samples that an adaptive run sees before b is at the large size, 100 % "
        f"if never: {'; '.join(words)}."
    ]
