"""The table of ``reproduce edge-of-stability``."""

from __future__ import annotations

import statistics
from functools import partial

from ...output.tables import human_bytes
from ..base import Results
from .cases import cases
from .measures import (
    TARGETS,
    Seeds,
    accuracy,
    arrived,
    crossed,
    late_loss,
    late_pressure,
    late_sharpness,
    products_until,
    seeds_of,
    sharpness_when,
    spread,
)

HEADINGS = (
    "step size",
    *(f"rounds to loss {target}" for target in TARGETS),
    *(f"products to {target}" for target in TARGETS),
    *(f"λ̂ at {target}" for target in TARGETS),
    *("first λ̂ ≥ limit", "λ̂ at the end", "λ̂ / limit at the end"),
    *("train loss at the end", "test accuracy, %", "training", "measuring λ̂"),
)


def table(results: Results) -> list[list[str]]:
    """A row per way to choose the step size: means over the seeds ± standard deviations."""
    known = cases()
    rows = [[known[name].title, *_entries(seeds)] for name, seeds in seeds_of(results).items()]
    return [list(HEADINGS), *rows]


def _entries(seeds: Seeds) -> list[str]:
    return [
        *(spread(seeds, partial(arrived, target=at), ".0f") for at in TARGETS),
        *(spread(seeds, partial(products_until, target=at), ".0f") for at in TARGETS),
        *(spread(seeds, partial(sharpness_when, target=at), ".1f") for at in TARGETS),
        spread(seeds, crossed, ".0f"),
        spread(seeds, late_sharpness, ".1f"),
        spread(seeds, late_pressure, ".2f"),
        spread(seeds, late_loss, ".3f"),
        spread(seeds, accuracy, ".2f"),
        *(
            human_bytes(statistics.fmean(run[name] for run in seeds))
            for name in ("training_bytes", "measuring_bytes")
        ),
    ]
