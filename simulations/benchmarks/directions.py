"""Rebuilding a zeroth-order reply: as many normal numbers as it names, and how fast they come.

numpy's own generator draws as many into one vector, over and over; that is the least it can cost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

import fedbias as fb
from fedbias.directions import combination

from .measure import Finding, in_turns, ratio, shown

DIM, DIRECTIONS = 10**6, 64
DTYPES: tuple[Any, ...] = (np.float32, np.float64)


def benchmark(repeats: int) -> Finding:
    """One row per dtype; about ten seconds per repeat."""
    ways: dict[str, Callable[[], object]] = {}
    packets = {}
    for dtype in DTYPES:
        scalars = np.random.default_rng(0).standard_normal(DIRECTIONS).astype(np.float32)
        packet = packets[dtype] = combination(1, scalars, DIM, dtype)
        ways[f"numpy {dtype.__name__}"] = partial(drawn, dtype)
        ways[f"rebuild {dtype.__name__}"] = partial(fb.decode, packet, dim=DIM)
    seconds = in_turns(ways, repeats)
    lines = [["dtype", "reply, bytes", "numpy, M normals/s", "rebuild, M normals/s", "share"]]
    results = {}
    for dtype in DTYPES:
        name = dtype.__name__
        plain, rebuilt = seconds[f"numpy {name}"], seconds[f"rebuild {name}"]
        speeds = [DIRECTIONS * DIM / median(each) / 1e6 for each in (plain, rebuilt)]
        share = ratio(plain, rebuilt)
        results[name] = {
            "bytes": len(bytes(packets[dtype])),
            "numpy_million_per_second": speeds[0],
            "rebuild_million_per_second": speeds[1],
            "share": share,
        }
        figures = [f"{speed:.1f}" for speed in speeds]
        lines.append([name, str(len(bytes(packets[dtype]))), *figures, shown(share)])
    notes = [
        f"{DIRECTIONS} directions of d = {DIM:,} on one thread; medians of {repeats} turns. Share: "
        "numpy's time for as many normals over the rebuild's, its median and range; 1 is numpy's "
        "own speed.",
    ]
    return Finding(lines, notes, results)


def drawn(dtype: Any) -> None:
    """As many normals as the directions hold, into one vector."""
    rng, out = np.random.default_rng(1), np.empty(DIM, dtype)
    for _ in range(DIRECTIONS):
        rng.standard_normal(dtype=dtype, out=out)
