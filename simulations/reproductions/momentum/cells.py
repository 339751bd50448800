"""Parallel momentum against SGD under biased gradients (arXiv 2403.00853, the MNIST table).

100 clients with 600 contiguous samples each, one full local gradient per client and round, a
fully connected net of 669,706 parameters. The paper's scaling of the pixels is not known, so only
the ORDER of SGD and momentum within a cell is compared with the paper's.
"""

from __future__ import annotations

import math
from pathlib import Path

from ...cell import run_cell
from ...output import Progress, Run
from ...settings import make_settings, read_preset
from ..base import Cell, Options, Reproduction, Result
from .tables import PAPER, draw, notes, table

PRESET = Path(__file__).parents[2] / "presets" / "fashion-mnist.toml"
BETA = 0.1
BIASES = {
    "none": {},
    "top2": {"compressor": "top_k(fraction=0.02)"},
    "top5": {"compressor": "top_k(fraction=0.05)"},
    "top10": {"compressor": "top_k(fraction=0.1)"},
    "clip1": {"estimator": "clipped(radius=1.0)"},
    "clip2": {"estimator": "clipped(radius=2.0)"},
    "clip5": {"estimator": "clipped(radius=5.0)"},
}
SERVERS = {
    "sgd": "gradient_descent(step_size={step})",
    "momentum": f"heavy_ball(step_size={{step}}, beta={BETA})",
}


def cells(options: Options) -> dict[str, Cell]:
    """The 28 cells of the paper's table: ``top2-0.5-momentum``, …."""
    made = {}
    for bias, step_size in PAPER:
        for server, optimizer in SERVERS.items():
            made[f"{bias}-{step_size}-{server}"] = _cell(bias, step_size, optimizer, options)
    return made


def _cell(bias: str, step_size: float, optimizer: str, options: Options) -> Cell:
    preset = read_preset(PRESET) | {"compressor": "identity()"}
    given = {"task": options.task, "data_root": options.data_root, "rounds": options.rounds}
    asked = {key: value for key, value in given.items() if value is not None}
    server = {"optimizer": optimizer.format(step=step_size)}
    settings = make_settings(preset | BIASES[bias] | server | asked, "the options")

    def compute(folder: Path, progress: Progress, resume: bool) -> Result:
        return _result(run_cell(settings, folder, progress=progress, resume=resume))

    # Where the data lies does not change the result.
    return Cell(settings.model_dump(exclude={"data_root"}), compute)


def _result(run: Run) -> Result:
    losses = run.values("train_loss")
    return {
        "train_loss": [float(f"{loss:.6g}") if math.isfinite(loss) else None for loss in losses],
        "accuracy": [[int(k), accuracy] for k, accuracy in run.curve("round", "accuracy")],
        "uplink_bytes": int(run.values("total_uplink_bytes")[-1]),
        "applied": int(sum(run.values("applied"))),
        "task": run.settings["task"],
        "seconds": run.environment["duration"],
    }


def differences(committed: Result, again: Result) -> list[str]:
    """The losses of the first rounds, to a thousandth."""
    first = committed["train_loss"][: len(again["train_loss"])]
    return [
        f"train loss of round {k} is {new}, committed is {old}"
        for k, (old, new) in enumerate(zip(first, again["train_loss"], strict=True), start=1)
        if old is None or new is None or not math.isclose(old, new, rel_tol=1e-3)
    ]


REPRODUCTION = Reproduction(
    summary="SGD against momentum under Top-K and clipping (2403.00853)",
    cells=cells,
    usual=("none-0.5-*", "top2-0.5-*", "top10-0.5-*", "clip1-0.5-*"),
    table=table,
    notes=notes,
    draw=draw,
    checked=("top2-0.5-momentum",),
    differences=differences,
    check_options=Options(rounds=3),
)
