"""What it costs to measure how a batch's gradients spread, beside one backward pass over it.

The statistics are those that batch-size tests ask for: "trace" the norm test, "along" the inner
product and augmented tests, "variances" the coordinate test. Each comes with the gradient.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
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
EXAMPLES = 1024  # in one turn: as many batches as have so many, at least one
STATISTICS = ("trace", "along", "variances")
AIMS = {"trace": 2.5, "along": 3.8}  # times a backward pass, for the cnn()
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def benchmark(repeats: int) -> Finding:
    """One row per network and batch size; some minutes, most of them for the largest batch."""
    results: dict[str, dict[str, Any]] = {}
    for model in MODELS:
        _say(f"{model}: memory")
        memory = {way: in_a_process(growth, model, way, SIZES) for way in ("backward", *STATISTICS)}
        for place, size in enumerate(SIZES):
            _say(f"{model}: {size} examples")
            grown = {way: after[place] for way, after in memory.items()}
            results[f"{model}, b = {size}"] = timed(model, size, repeats) | {"memory": grown}
    lines = [["network and batch", "parameters", "backward", *STATISTICS, "memory: backward"]]
    lines[0] += [f"memory: {what}" for what in STATISTICS]
    for name, found in results.items():
        lines.append(
            [name, f"{found['parameters']:,}", f"{1000 * found['seconds']['backward']:.3g} ms"]
            + [shown(found["ratios"][what]) for what in STATISTICS]
            + [f"{grown / 2**20:.0f} MiB" for grown in found["memory"].values()]
        )
    return Finding(lines, _notes(results, repeats), results)


def timed(model: Model, size: int, repeats: int) -> dict[str, Any]:
    """Seconds of every way to go over one batch, on one thread, and their ratios to backward."""
    import torch

    (objective, point), count = _ready(model, size), max(1, EXAMPLES // size)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = in_turns(
            {
                way: partial(_go, objective, point, way, size, count)
                for way in ("backward", *STATISTICS)
            },
            repeats,
        )
    finally:
        torch.set_num_threads(before)
    return {
        "parameters": objective.dim,
        "seconds": {way: median(times) / count for way, times in seconds.items()},
        "ratios": {what: ratio(seconds[what], seconds["backward"]) for what in STATISTICS},
    }


def growth(model: Model, way: str, sizes: tuple[int, ...]) -> list[int]:
    """Bytes by which this process's peak has grown after each batch, one after the other.

    What the first pass needs whatever its batch is, is not counted: two examples go before.
    """
    import resource  # Unix alone

    import torch

    torch.set_num_threads(1)
    (objective, point), peaks = _ready(model, max(sizes)), []
    for size in (2, *sizes):
        _go(objective, point, way, size)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT)
    return [peak - peaks[0] for peak in peaks[1:]]


def in_a_process(work: Callable[..., Any], *arguments: object) -> Any:
    """Call it in a process of its own, which begins with a peak of its own."""
    # One that this process forks or starts would inherit the peak of this one.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def _ready(model: Model, examples: int) -> tuple[TorchObjective, Vector]:
    """A network with random images, and its initial weights."""
    import torch
    from torch.nn.functional import cross_entropy

    from clients import TorchObjective

    random, module = torch.Generator().manual_seed(0), model.build(SHAPE, 10, seed=0)
    inputs = torch.rand(examples, *SHAPE, generator=random)
    targets = torch.randint(10, (examples,), generator=random)
    point = flatten([weight.detach().numpy() for weight in module.parameters()])
    return TorchObjective(module, cross_entropy, (inputs, targets)), point


def _go(objective: TorchObjective, point: Vector, way: str, size: int, count: int = 1) -> None:
    """Go over a batch so many times."""
    batch = np.arange(size)
    for _ in range(count):
        if way == "backward":
            objective.loss_and_gradient(point, batch)
        else:
            objective.per_example_statistics(point, batch, way)


def _notes(results: dict[str, dict[str, Any]], repeats: int) -> list[str]:
    from clients.torch_statistics import BUDGET

    notes = [
        "28×28 images, float32, one thread. Backward: loss and gradient of the whole batch at once "
        f"(median of {repeats} turns, each of {EXAMPLES} examples or one batch). The statistics, "
        "gradient included: times that, medians of the turns' ratios and their range.",
        "Memory: how far a process's peak grows beyond that of a pass over two examples, with the "
        "batches one after the other. The statistics take pieces with at most "
        f"{BUDGET // 2**20} MiB of example gradients.",
    ]
    cnns = [name for name in results if name.startswith(repr(cnn()))]
    for what, aim in AIMS.items() if cnns else ():
        cost, where = max((results[name]["ratios"][what][0], name) for name in cnns)
        said = "reached" if cost <= aim else "missed"
        notes.append(f"Aim: at most {aim} × for {what}; {said}, at most {cost:.2f} × ({where}).")
    return notes


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
