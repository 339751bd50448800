"""What it costs to measure how a batch's gradients spread, beside one backward pass over it.

The statistics are those that the batch-size tests ask for: "trace" the norm test, "along" the
inner-product and augmented tests, "variances" the coordinate test; each comes with ḡ. One thread,
as the engines have it.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbias.vectors import Vector, flatten

from ..models import Model, cnn, linear, mlp
from .measure import Finding, in_turns, ratio, shown

if TYPE_CHECKING:
    from clients import TorchObjective

MODELS: tuple[Model, ...] = (cnn(), mlp(), linear())
SHAPE = (1, 28, 28)
SIZES = (16, 64, 256, 1024, 4096)
STATISTICS = ("trace", "along", "variances")
_BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


def benchmark(repeats: int) -> Finding:
    """One row per network and batch size; some minutes."""
    results = {}
    for model in MODELS:
        print(f"{model}: memory", file=sys.stderr, flush=True)
        grown = {way: in_a_new_process(growth, model, way) for way in ("backward", *STATISTICS)}
        for size in SIZES:
            print(f"{model}: b = {size}", file=sys.stderr, flush=True)
            memory = {way: grown[way][size] for way in grown}
            results[f"{model}, b = {size}"] = timed(model, size, repeats) | {"memory": memory}
    lines = [["network and batch", "parameters", "backward", *STATISTICS, "memory: backward"]]
    lines[0] += STATISTICS
    for name, found in results.items():
        lines.append(
            [name, f"{found['parameters']:,}", f"{1000 * found['seconds']['backward']:.3g} ms"]
            + [shown(found["ratios"][what]) for what in STATISTICS]
            + [f"{size / 2**20:.0f} MiB" for size in found["memory"].values()]
        )
    return Finding(lines, _notes(repeats), results)
