"""What things cost, as ratios within one run: ``python -m simulations bench NAME``."""

from collections.abc import Callable

from . import cohort, directions, edge, quantizers, sharpness, statistics
from .measure import Finding

BENCHMARKS: dict[str, Callable[[int], Finding]] = {
    "cohort": cohort.benchmark,
    "directions": directions.benchmark,
    "edge": edge.benchmark,
    "quantizers": quantizers.benchmark,
    "sharpness": sharpness.benchmark,
    "statistics": statistics.benchmark,
}

__all__ = ["BENCHMARKS", "Finding"]
