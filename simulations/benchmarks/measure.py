"""Time several ways to do one thing in turns, so that a busy moment strikes them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Finding:
    """What a benchmark came to.

    Attributes
    ----------
    lines : list of list of str
        A table, headings first.
    notes : list of str
        Sentences below it.
    results : dict
        The numbers by row, plain values.
    """

    lines: list[list[str]]
    notes: list[str]
    results: dict[str, dict[str, Any]]


def in_turns(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every way, ``repeats`` times each, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """How many times faster: the median of the turns' ratios, the smallest and the largest."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return median(each), min(each), max(each)


def shown(ratio: tuple[float, float, float]) -> str:
    """A ratio as tables have it: its median and its range."""
    middle, low, high = ratio
    return f"{middle:.2f} × ({low:.2f} … {high:.2f})"
