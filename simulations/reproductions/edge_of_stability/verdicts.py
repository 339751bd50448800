"""What faster steps come to in ``reproduce edge-of-stability``: fixed ones, and those by λ̂."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from .measures import (
    TARGETS,
    Measure,
    Seeds,
    accuracy,
    arrived,
    late_loss,
    late_sharpness,
    sharpness_when,
    spread,
    trend,
    values,
)

Several = Mapping[str, Seeds]  # by the titles of the cases
_SPEED = f"rounds to a train loss of {TARGETS[0]}"
_MEASURES: dict[str, Measure] = {
    _SPEED: lambda run: arrived(run, TARGETS[0]),
    "λ̂ there": lambda run: sharpness_when(run, TARGETS[0]),
    "λ̂ at the end": late_sharpness,
    "train loss at the end": late_loss,
    "test accuracy": accuracy,
}
_WRITTEN = {_SPEED: "{:.0f}", "test accuracy": "{:.2f} %", "train loss at the end": "{:.3f}"}


def compared(grows: str, several: Several) -> list[str]:
    """Along the step sizes: speed, sharpness and accuracy."""
    if len(several) < 2:
        return []
    parts = []
    for name, measure in _MEASURES.items():
        means = [_mean(seeds, measure) for seeds in several.values()]
        if not any(mean is not None for mean in means):
            continue
        write = _WRITTEN.get(name, "{:.1f}").format
        told = " → ".join("-" if mean is None else write(mean) for mean in means)
        way = trend(several, measure)
        parts.append(f"{name} {told}{way and f' ({way})'}")
    return [f"As {grows} ({', '.join(several)}): {'; '.join(parts)}."]


def best(fixed: Several, steered: Several) -> list[str]:
    """The best of either kind."""
    sentences = []
    for name, of_best in (("train loss at the end", "lowest"), ("test accuracy", "highest")):
        measure = _MEASURES[name]
        winners = [
            _best(several, measure, max if of_best == "highest" else min)
            for several in (fixed, steered)
        ]
        if None in winners:
            return []
        words = [
            f"{_WRITTEN[name].format(_mean(several[title], measure))} with {title} (λ̂ at the end "
            f"{spread(several[title], late_sharpness, '.1f')})"
            for several, title in zip((fixed, steered), winners, strict=True)
            if title
        ]
        sentences.append(
            f"The {of_best} mean {name} among fixed step sizes is {words[0]}, among steered ones "
            f"{words[1]}."
        )
    return sentences


def _best(several: Several, measure: Measure, choose: Callable[..., str]) -> str | None:
    means = {title: _mean(seeds, measure) for title, seeds in several.items()}
    known = {title: mean for title, mean in means.items() if mean is not None}
    return choose(known, key=known.__getitem__) if known else None


def _mean(seeds: Seeds, measure: Measure) -> float | None:
    found = values(seeds, measure)
    return None if found is None else statistics.fmean(found)


def beaten(fixed: Several, steered: Several) -> list[str]:
    """Who is faster and flatter at once than one of the other kind, if either kind comes there."""
    arrives = _MEASURES[_SPEED]
    if not all(any(values(s, arrives) for s in kind.values()) for kind in (fixed, steered)):
        return []
    return [
        f"Sooner at a train loss of {TARGETS[0]} and with the lower λ̂ there, both with every seed: "
        f"{_pairs(fixed, steered)}; {_pairs(steered, fixed)}."
    ]


def _pairs(ones: Several, others: Several) -> str:
    found = [
        f"{one} than {', '.join(worse)}"
        for one, seeds in ones.items()
        if (worse := [other for other, runs in others.items() if _beats(seeds, runs)])
    ]
    return "; ".join(found) or f"none of {', '.join(ones)} than one of {', '.join(others)}"


def _beats(one: Seeds, other: Seeds) -> bool:
    """Whether it comes to the loss in fewer rounds and is flatter there, seed by seed."""
    columns = [
        (values(one, measure), values(other, measure)) for measure in list(_MEASURES.values())[:2]
    ]
    return all(
        a is not None
        and b is not None
        and len(a) == len(b)
        and all(x < y for x, y in zip(a, b, strict=True))
        for a, b in columns
    )
