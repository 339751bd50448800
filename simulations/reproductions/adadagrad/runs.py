"""What ``reproduce adadagrad`` measures of a run: its end on all the data, and its curves."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from fedbias.vectors import Vector

from ...cell import run_cell
from ...data import Dataset, digits, image_data
from ...models import Model
from ...output import Run
from ...settings import Settings
from ..base import Result
from .ways import average

EARLY = 20  # rounds that ``--check`` compares
POINTS = 40  # of a curve
_ROWS = 500  # examples per forward pass


def measured(settings: Settings, folder: Path, resume: bool) -> Result:
    """One run to its end, as plain values."""
    run = run_cell(settings, folder, resume=resume)
    return summary(run) | scores(settings, load_file(folder / "model.safetensors"))


def summary(run: Run) -> Result:
    """What the rounds of a run say.

    ``sizes`` and ``losses`` are [samples before the round, b] and [samples, mean of the clients'
    losses on their batches], at most ``POINTS`` of them; ``early`` is the same of the first rounds.
    """
    sizes, losses = run.values("batch_size"), run.values("train_loss")
    samples = run.values("total_samples")[1:]
    before = [0.0, *samples[:-1]]
    return {
        "batch_size": run.settings["batch_size"],
        "rounds": len(sizes),
        "samples": int(samples[-1]),
        "average": short(average(int(samples[-1]), len(sizes))),
        "seconds": run.values("seconds")[-1],
        "uplink_bytes": int(run.values("total_uplink_bytes")[-1]),
        "downlink_bytes": int(sum(run.values("downlink_bytes"))),
        "sizes": [[int(x), int(b)] for x, b in steps(before, sizes)],
        "losses": [[int(x), short(loss)] for x, loss in binned(samples, losses)],
        "early": [[int(b), short(loss, 6)] for b, loss in zip(sizes, losses, strict=True)][:EARLY],
    }


def scores(settings: Settings, arrays: Mapping[str, Vector]) -> Result:
    """Loss and accuracy of a model on all the training data, and on the test data."""
    import torch
    from torch.nn.functional import cross_entropy

    data = _data(settings.task, settings.data_root)
    module = settings.made("model", Model).build(data.shape, data.classes, settings.seed)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    # Convolutions of this layout are more than twice as fast on a CPU.
    module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found: Result = {}
    for part, x, y in (
        ("train", data.train_x, data.train_y),
        ("test", data.test_x, data.test_y),
    ):
        loss, right = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(y), _ROWS):
                outputs = module(torch.from_numpy(x[start : start + _ROWS]))
                targets = torch.from_numpy(y[start : start + _ROWS])
                loss += float(cross_entropy(outputs, targets, reduction="sum"))
                right += int((outputs.argmax(1) == targets).sum())
        found |= {f"{part}_loss": short(loss / len(y), 6), f"{part}_accuracy": right / len(y)}
    return found


def steps(across: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Where a step function changes; the last change of each of ``POINTS`` equal parts."""
    changes = [
        (x, value)
        for k, (x, value) in enumerate(zip(across, values, strict=True))
        if k == 0 or value != values[k - 1]
    ]
    width = max(across[-1], 1) / (POINTS - 1)  # the start has a part of its own
    last = {-(-x // width): (x, value) for x, value in changes}
    return list(last.values())


def binned(across: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """The means over ``POINTS`` equal parts, without those that hold nothing."""
    ends, numbers = np.asarray(across), np.asarray(values)
    places = np.minimum(POINTS - 1, (ends * POINTS / ends[-1]).astype(int))
    return [
        (float(ends[places == k].mean()), float(numbers[places == k].mean()))
        for k in np.unique(places)
    ]


def short(number: Any, digits: int = 4) -> float:
    """A few digits."""
    return float(f"{number:.{digits}g}")


@functools.cache
def _data(task: str, root: str) -> Dataset:
    return digits() if task == "digits" else image_data(task, root or None)
