"""What ``reproduce edge-of-stability`` came to, in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from ...output.tables import human_bytes
from ..base import Results
from .cases import LARGEST, SHARES, STEERED
from .measures import (
    LATE,
    TARGETS,
    Measure,
    Seeds,
    accuracy,
    arrived,
    crossed,
    family,
    hovering,
    late_loss,
    late_pressure,
    late_sharpness,
    rises,
    seeds_of,
    sharpness_when,
    spread,
    trend,
    values,
)
from .subset import EXAMPLES

_SPEED = f"rounds to a train loss of {TARGETS[0]}"


def notes(results: Results) -> list[str]:
    """How it was done, the edge, c against speed, sharpness and accuracy, and what it costs."""
    fixed, steered = (
        {case.title: seeds for case, seeds in family(results, name).values()}
        for name in ("fixed", "steered")
    )
    return [
        *_method(results),
        *(_edge(title, seeds) for title, seeds in fixed.items()),
        *_compared("a fixed step size grows", fixed),
        *_compared("c grows", steered),
        *_against(fixed, steered),
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
        f"λ̂ was measured. The end is the last {LATE:.0%} of the rounds.",
        f"A measurement took {statistics.fmean(counts):.1f} products on average, "
        f"{max(counts)} at most; the largest residual was {worst:.2g}·λ̂.",
    ]


def _edge(title: str, seeds: Seeds) -> str:
    """Whether λ̂ rises to 2/η, and what it does there."""
    start = statistics.fmean(run["sharpness"][0] / run["limit"][0] for run in seeds)
    reached = [run for run in seeds if crossed(run) is not None]
    went = f"λ̂ starts at {start:.2f} of 2/η"
    if not reached:
        last = spread(seeds, late_pressure, ".2f")
        return f"{title}: {went} and has not reached it: {last} of it at the end."
    ratios = [ratio for run in reached for ratio in hovering(run)]
    when = spread(reached, crossed, ".0f")
    return (
        f"{title}: {went}, first seen above it in round {when} ({len(reached)} of {len(seeds)} "
        f"seeds); from there until the loss is {TARGETS[1]} (or the end) it is "
        f"{statistics.fmean(ratios):.2f} of 2/η on average ({min(ratios):.2f} to "
        f"{max(ratios):.2f}), at the end of the run {spread(seeds, late_pressure, '.2f')}. The "
        f"train loss rises in {statistics.fmean(map(rises, seeds)):.0%} of the rounds."
    )


_MEASURES: dict[str, Measure] = {
    _SPEED: lambda run: arrived(run, TARGETS[0]),
    "λ̂ there": lambda run: sharpness_when(run, TARGETS[0]),
    "λ̂ at the end": late_sharpness,
    "train loss at the end": late_loss,
    "test accuracy": accuracy,
}
_WRITTEN = {_SPEED: "{:.0f}", "test accuracy": "{:.2f} %", "train loss at the end": "{:.3f}"}


def _compared(grows: str, several: dict[str, Seeds]) -> list[str]:
    """Along the step sizes: speed, sharpness and accuracy."""
    if len(several) < 2:
        return []
    parts = []
    for name, measure in _MEASURES.items():
        means = [_mean(seeds, measure) for seeds in several.values()]
        write = _WRITTEN.get(name, "{:.1f}").format
        told = " → ".join("-" if mean is None else write(mean) for mean in means)
        way = trend(several, measure)
        parts.append(f"{name} {told}{way and f' ({way})'}")
    return [f"As {grows} ({', '.join(several)}): {'; '.join(parts)}."]


def _against(fixed: dict[str, Seeds], steered: dict[str, Seeds]) -> list[str]:
    """The best of either kind."""
    sentences = []
    for name, of_best in (("train loss at the end", "lowest"), ("test accuracy", "highest")):
        measure = _MEASURES[name]
        best = [
            _best(several, measure, max if of_best == "highest" else min)
            for several in (fixed, steered)
        ]
        if None in best:
            return []
        words = [
            f"{_WRITTEN[name].format(_mean(several[title], measure))} with {title} (λ̂ at the end "
            f"{spread(several[title], late_sharpness, '.1f')})"
            for several, title in zip((fixed, steered), best, strict=True)
            if title
        ]
        sentences.append(
            f"The {of_best} mean {name} among fixed step sizes is {words[0]}, among steered ones "
            f"{words[1]}."
        )
    return sentences


def _best(several: dict[str, Seeds], measure: Measure, choose: Callable[..., str]) -> str | None:
    means = {title: _mean(seeds, measure) for title, seeds in several.items()}
    known = {title: mean for title, mean in means.items() if mean is not None}
    return choose(known, key=known.__getitem__) if known else None


def _mean(seeds: Seeds, measure: Measure) -> float | None:
    found = values(seeds, measure)
    return None if found is None else statistics.fmean(found)


def _beside(results: Results) -> list[str]:
    """A step size without an upper bound, compression, momentum."""
    found = seeds_of(results)
    pairs = {
        "unbounded": (
            f"c-{SHARES[-1]}",
            f"Without an upper bound on η (otherwise {LARGEST}) the first steps are taken where "
            "the loss is flat and leave that place before the next measurement",
        ),
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
    ]


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
