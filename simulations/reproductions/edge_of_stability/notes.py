"""What ``reproduce edge-of-stability`` came to, in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ...output.tables import human_bytes
from ..base import Results
from .cases import LARGEST, SHARES, STEERED, cases
from .measures import (
    LATE,
    TARGETS,
    Measure,
    Seeds,
    accuracy,
    crossed,
    dips,
    family,
    hovering,
    late_loss,
    late_pressure,
    late_sharpness,
    pressures,
    rises,
    seeds_of,
    spread,
    values,
)
from .subset import EXAMPLES
from .verdicts import beaten, best, compared


def notes(results: Results) -> list[str]:
    """How it was done, the edge, c against speed, sharpness and accuracy, and what it costs.

    What short runs have no numbers for is left out.
    """
    fixed, steered, beside = (
        {case.title: seeds for case, seeds in family(results, name).values()}
        for name in ("fixed", "steered", "beside")
    )
    title = cases()["momentum"].title
    momentum = {title: beside[title]} if title in beside else {}
    return [
        *_method(results),
        *_missed(results),
        *(note for title, seeds in (fixed | momentum).items() for note in _edge(title, seeds)),
        *compared("a fixed step size grows", fixed),
        *compared("c grows", steered),
        *best(fixed, steered),
        *beaten(fixed, steered),
        *_beside(results),
        *_cost(steered),
    ]


def _method(results: Results) -> list[str]:
    runs = [run for seeds in seeds_of(results).values() for run in seeds]
    if not runs:
        return []
    worst = max(
        r / v for run in runs for r, v in zip(run["residual"], run["sharpness"], strict=True)
    )
    counts = [count for run in runs for count in run["products"]]
    tasks = ", ".join(sorted({str(run["task"]) for run in runs}))
    rounds = " or ".join(sorted({str(len(run["train_loss"])) for run in runs}))
    return [
        f"{tasks}: {EXAMPLES} examples over 10 clients, full gradients, cross-entropy, {rounds} "
        f"rounds; {len({run['seed'] for run in runs})} seeds (weights, examples, partition), means "
        "± standard deviations. `-`: not with every seed. λ̂ is the top eigenvalue of the mean "
        "loss's Hessian; the limit is 2/η, of momentum 2(2−β)/(βη), with the η that led to where "
        f"λ̂ was measured. The end is the median of the last {LATE:.0%} of the rounds.",
        f"A measurement took {statistics.fmean(counts):.1f} products on average, "
        f"{max(counts)} at most; the largest residual was {worst:.2g}·λ̂.",
    ]


def _missed(results: Results) -> list[str]:
    """Measurements that found another eigenvalue, where the curves are smooth enough to tell."""
    found = seeds_of(results)
    smooth = [run for c in SHARES if c <= 1 for run in found.get(f"c-{c}", [])]
    if not any(len(run["at"]) > 2 for run in smooth):
        return []
    count = sum(len(run["at"]) for run in smooth)
    return [
        f"Measurements with c ≤ 1, where λ̂ moves smoothly: {count}; more than a tenth below both "
        "neighbours, as if another eigenvalue had been taken for the largest: "
        f"{sum(map(dips, smooth))}. A small residual says that there is an eigenvalue, not which."
    ]


def _edge(title: str, seeds: Seeds) -> list[str]:
    """Whether λ̂ rises to the limit, and what it does there."""
    if values(seeds, late_pressure) is None:
        return []
    start = statistics.fmean(run["sharpness"][0] / run["limit"][0] for run in seeds)
    reached = [run for run in seeds if crossed(run) is not None]
    went = f"λ̂ starts at {start:.2f} of the limit"
    if not reached:
        last = spread(seeds, late_pressure, ".2f")
        return [f"{title}: {went} and has not reached it: {last} of it at the end."]
    ratios = [ratio for run in reached for ratio in hovering(run)]
    when = spread(reached, crossed, ".0f")
    return [
        f"{title}: {went}, first seen above it in round {when} ({len(reached)} of {len(seeds)} "
        f"seeds); from there until the loss is {TARGETS[1]} (or the end) it is "
        f"{statistics.fmean(ratios):.2f} of it on average ({min(ratios):.2f} to "
        f"{max(ratios):.2f}), at the end of the run {spread(seeds, late_pressure, '.2f')}. The "
        f"train loss rises in {statistics.fmean(map(rises, seeds)):.0%} of the rounds."
    ]


def _beside(results: Results) -> list[str]:
    """A step size without an upper bound, compression, momentum."""
    found = seeds_of(results)
    pairs = {
        "unbounded": (f"c-{SHARES[-1]}", _unbounded(found.get("unbounded", []))),
        "sparse": ("c-1.0", "With compressed gradients"),
        "momentum-c": ("c-1.9", "With momentum at the same share of its limit as c = 1.9"),
    }
    return [
        f"{words}: λ̂ at the end {_both(late_sharpness, '.1f', *two)}, over its limit "
        f"{_both(late_pressure, '.2f', *two)}, train loss {_both(late_loss, '.3f', *two)}, "
        f"test accuracy {_both(accuracy, '.2f', *two)} %."
        for name, (other, words) in pairs.items()
        if name in found and other in found
        for two in [(found[name], found[other])]
        if all(values(seeds, late_pressure) for seeds in two)
    ]


def _unbounded(seeds: Seeds) -> str:
    """How long the first steps are, and where they lead."""
    if not values(seeds, late_pressure):
        return ""
    first = spread(seeds, lambda run: float(run["step"][0]), ".2f")
    second = spread(seeds, lambda run: pressures(run)[0][1], ".1f")
    return (
        f"Without an upper bound on η, otherwise {LARGEST}, the first ones are {first} and λ̂ comes "
        f"to {second} of its limit by the second measurement"
    )


def _both(measure: Measure, digits: str, one: Seeds, other: Seeds) -> str:
    return f"{spread(one, measure, digits)} instead of {spread(other, measure, digits)}"


def _cost(steered: dict[str, Seeds]) -> list[str]:
    """Bytes of measuring beside those of training."""
    runs: Sequence[dict[str, int]] = [run for seeds in steered.values() for run in seeds]
    if not runs:
        return []
    training = statistics.fmean(run["training_bytes"] for run in runs)
    measuring = statistics.fmean(run["measuring_bytes"] for run in runs)
    return [
        f"Measuring every {STEERED} rounds took {human_bytes(measuring)} per run beside "
        f"{human_bytes(training)} for training, × {measuring / training:.2f}."
    ]
