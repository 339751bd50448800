"""Parallel momentum against SGD under biased gradients (arXiv 2403.00853, the MNIST table).

100 clients with 600 contiguous samples each, one full local gradient per client and round, a
fully connected net of 669,706 parameters. The paper's scaling of the pixels is not known, so only
the ORDER of SGD and momentum within a cell is compared with the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..cell import run_cell
from ..output import Progress, Run
from ..output.tables import human_accuracy, human_bytes, human_loss
from ..settings import make_settings, read_preset
from .base import Cell, Options, Reproduction, Result, Results

PRESET = Path(__file__).parents[1] / "presets" / "fashion-mnist.toml"
BETA, ROUNDS = 0.1, 200
BIASES = {
    "none": ("no compression", {}),
    "top2": ("Top-2 %", {"compressor": "top_k(fraction=0.02)"}),
    "top5": ("Top-5 %", {"compressor": "top_k(fraction=0.05)"}),
    "top10": ("Top-10 %", {"compressor": "top_k(fraction=0.1)"}),
    "clip1": ("clip 1", {"estimator": "clipped(radius=1.0)"}),
    "clip2": ("clip 2", {"estimator": "clipped(radius=2.0)"}),
    "clip5": ("clip 5", {"estimator": "clipped(radius=5.0)"}),
}
SERVERS = {
    "sgd": "gradient_descent(step_size={step})",
    "momentum": f"heavy_ball(step_size={{step}}, beta={BETA})",
}
# The authors' result files, MNIST, mean of 5 seeds, round 200: train loss and test accuracy of SGD
# and of β = .1; None where SGD was unstable.
PAPER: dict[tuple[str, float], tuple[tuple[float, float] | None, tuple[float, float]]] = {
    ("none", 0.5): ((0.148, 0.952), (0.096, 0.967)),
    ("top2", 0.5): ((0.272, 0.919), (0.161, 0.953)),
    ("top5", 0.5): ((0.145, 0.956), (0.130, 0.960)),
    ("top10", 0.5): ((0.282, 0.915), (0.110, 0.964)),
    ("clip1", 0.5): ((0.107, 0.963), (0.089, 0.969)),
    ("clip2", 0.5): ((0.086, 0.970), (0.087, 0.970)),
    ("clip5", 0.5): ((0.104, 0.966), (0.087, 0.970)),
    ("none", 0.7): ((0.206, 0.835), (0.068, 0.972)),
    ("top2", 0.7): ((0.152, 0.953), (0.121, 0.961)),
    ("top5", 0.7): (None, (0.094, 0.967)),
    ("top10", 0.7): (None, (0.078, 0.971)),
    ("clip1", 0.7): ((0.067, 0.974), (0.062, 0.974)),
    ("clip2", 0.7): ((0.076, 0.972), (0.060, 0.974)),
    ("clip5", 0.7): ((0.104, 0.964), (0.060, 0.974)),
}


@dataclass(frozen=True)
class Pair:
    """A row of the table: SGD and momentum under one bias and step size."""

    bias: str
    step_size: float
    sgd: Result | None
    momentum: Result | None

    @property
    def lower(self) -> str | None:
        """Which of the two ends at the lower training loss; None if one is missing, or neither."""
        if self.sgd is None or self.momentum is None:
            return None
        if math.isinf(_final(self.sgd)) and math.isinf(_final(self.momentum)):
            return None
        return "momentum" if _final(self.momentum) < _final(self.sgd) else "SGD"

    @property
    def comparable(self) -> bool:
        """Whether there is an order, after as many rounds as in the paper."""
        both = [result for result in (self.sgd, self.momentum) if result is not None]
        return self.lower is not None and all(len(r["train_loss"]) == ROUNDS for r in both)

    @property
    def paper_lower(self) -> str:
        """Which of the two does in the paper."""
        sgd, momentum = PAPER[self.bias, self.step_size]
        return "momentum" if sgd is None or momentum[0] < sgd[0] else "SGD"


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
    settings = make_settings(preset | BIASES[bias][1] | server | asked, "the options")

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


def _final(result: Result) -> float:
    loss = result["train_loss"][-1] if result["train_loss"] else None
    return math.inf if loss is None else float(loss)


def pairs(results: Results) -> list[Pair]:
    """The rows of the table that at least one result is there for."""
    rows = [
        Pair(bias, step, *(results.get(f"{bias}-{step}-{server}") for server in SERVERS))
        for bias, step in PAPER
    ]
    return [row for row in rows if row.sgd or row.momentum]


def table(results: Results) -> list[list[str]]:
    """Ours and the paper's, row by row; the paper's column is MNIST's."""
    task = _task(results)
    lines = [
        ["bias", "γ", f"{task}: SGD", f"β = {BETA}", "lower loss", "uplink"]
        + ["paper, MNIST: SGD", f"β = {BETA}", "lower loss", "same order"]
    ]
    for row in pairs(results):
        known = row.momentum or row.sgd or {}
        same = "yes" if row.lower == row.paper_lower else "NO"
        lines.append(
            [BIASES[row.bias][0], f"{row.step_size:g}", _words(row.sgd), _words(row.momentum)]
            + [row.lower or "-", human_bytes(known["uplink_bytes"])]
            + [*(_paper(pair) for pair in PAPER[row.bias, row.step_size]), row.paper_lower]
            + [same if row.comparable else "-"]
        )
    return lines


def notes(results: Results) -> list[str]:
    """How often momentum ends lower, where the order is not the paper's, and what round 50 says."""
    whole = [row for row in pairs(results) if row.comparable]
    biased = [row for row in whole if row.bias != "none"]
    published = [Pair(*key, None, None).paper_lower for key in PAPER if key[0] != "none"]
    won = [row for row in biased if row.lower == "momentum"]
    other = [
        f"{BIASES[row.bias][0]} at γ = {row.step_size:g}"
        for row in whole
        if row.lower != row.paper_lower
    ]
    sentences = [
        "Cells are train loss / test accuracy at the last round, "
        f"{' or '.join(_rounds(results))}, of one seed; the paper's are MNIST's at round "
        f"{ROUNDS}, mean of 5 seeds. Pixels are scaled differently: only the order is compared, "
        f"and at {ROUNDS} rounds alone."
    ]
    if biased:
        sentences.append(
            f"Momentum ends at the lower loss in {len(won)} of {len(biased)} compressed or clipped "
            f"cells (paper: {published.count('momentum')} of {len(published)})."
        )
    if whole:
        sentences.append(f"Order unlike the paper's: {', '.join(other) or 'none'}.")
    top2 = [
        results.get(f"top2-0.5-{server}", {}).get("train_loss", [])[49:50] for server in SERVERS
    ]
    if all(top2):
        sgd, momentum = (loss[0] for loss in top2)
        sentences.append(
            f"Top-2 %, γ = 0.5, loss at round 50: SGD {_loss(sgd)}, momentum {_loss(momentum)} "
            "(paper, MNIST: 0.568 and 0.337)."
        )
    return sentences


def draw(results: Results, path: Path) -> None:
    """Training loss and test accuracy against the rounds: SGD dashed, momentum solid."""
    from matplotlib.figure import Figure

    from ..output.charts import LIGHT

    figure = Figure(figsize=(10, 4.6), dpi=110, layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for colour, row in zip(LIGHT * 2, pairs(results), strict=False):
        for result, style, name in ((row.sgd, "--", "SGD"), (row.momentum, "-", f"β = {BETA}")):
            if result is None:
                continue
            words = f"{BIASES[row.bias][0]}, γ = {row.step_size:g}, {name}"
            drawn = {"linestyle": style, "color": colour, "linewidth": 1.5}
            values = [math.nan if v is None else v for v in result["train_loss"]]
            loss.plot(range(len(values)), values, label=words, **drawn)
            accuracy.plot(*zip(*result["accuracy"], strict=True), **drawn)
    loss.set(yscale="log", xlabel="round", ylabel="training loss")
    accuracy.set(xlabel="round", ylabel="test accuracy")
    for axes in (loss, accuracy):
        axes.grid(color="#e3e6ea")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Parallel momentum under biased gradients, {_task(results)}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, format="png")


def differences(committed: Result, again: Result) -> list[str]:
    """The losses of the first rounds, to a thousandth."""
    first = committed["train_loss"][: len(again["train_loss"])]
    return [
        f"train loss of round {k} is {new}, committed is {old}"
        for k, (old, new) in enumerate(zip(first, again["train_loss"], strict=True), start=1)
        if old is None or new is None or not math.isclose(old, new, rel_tol=1e-3)
    ]


def _rounds(results: Results) -> list[str]:
    return sorted({str(len(result["train_loss"])) for result in results.values()})


def _task(results: Results) -> str:
    return ", ".join(sorted({str(result["task"]) for result in results.values()}))


def _words(result: Result | None) -> str:
    if result is None:
        return "-"
    accuracies = result["accuracy"]
    shown = human_accuracy(accuracies[-1][1]) if accuracies else "-"
    return (
        f"{human_loss(_final(result))} / {shown}" if math.isfinite(_final(result)) else "diverged"
    )


def _paper(values: tuple[float, float] | None) -> str:
    return "unstable" if values is None else f"{values[0]:.3f} / {100 * values[1]:.1f} %"


def _loss(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.3f}"


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
