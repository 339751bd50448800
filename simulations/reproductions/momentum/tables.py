"""How ``reproduce parallel-momentum`` shows its results, beside the paper's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ...output.tables import human_accuracy, human_bytes, human_loss
from ..base import Result, Results

ROUNDS, LAST = 200, 20  # the paper's rounds, and how many of them say who is lower lately
WORDS = {
    "none": "no compression",
    "top2": "Top-2 %",
    "top5": "Top-5 %",
    "top10": "Top-10 %",
    "clip1": "clip 1",
    "clip2": "clip 2",
    "clip5": "clip 5",
}
SERVERS = {"sgd": "SGD", "momentum": "β = 0.1"}
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
        ["bias", "γ", f"{task}: SGD", SERVERS["momentum"], "lower loss", "uplink"]
        + ["paper, MNIST: SGD", SERVERS["momentum"], "lower loss", "same order"]
    ]
    for row in pairs(results):
        known = row.momentum or row.sgd or {}
        same = "yes" if row.lower == row.paper_lower else "NO"
        lines.append(
            [WORDS[row.bias], f"{row.step_size:g}", _words(row.sgd), _words(row.momentum)]
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
    other = [_named(row) for row in whole if row.lower != row.paper_lower]
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
        counts = (f"{_named(row)} {_lower_lately(row)}" for row in whole)
        sentences.append(
            f"SGD's loss swings; in so many of the last {LAST} rounds momentum's is lower: "
            f"{', '.join(counts)}."
        )
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

    from ...output.charts import LIGHT

    figure = Figure(figsize=(10, 4.6), dpi=110, layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for colour, row in zip(LIGHT * 2, pairs(results), strict=False):
        for result, style, name in (
            (row.sgd, "--", "SGD"),
            (row.momentum, "-", SERVERS["momentum"]),
        ):
            if result is None:
                continue
            words = f"{WORDS[row.bias]}, γ = {row.step_size:g}, {name}"
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


def _final(result: Result) -> float:
    loss = result["train_loss"][-1] if result["train_loss"] else None
    return math.inf if loss is None else float(loss)


def _named(row: Pair) -> str:
    return f"{WORDS[row.bias]} at γ = {row.step_size:g}"


def _lower_lately(row: Pair) -> int:
    """In how many of the last rounds momentum's loss is the lower one; diverged is not lower."""
    both = [result["train_loss"][-LAST:] for result in (row.sgd, row.momentum) if result]
    finite = ([math.inf if loss is None else loss for loss in losses] for losses in both)
    return sum(momentum < sgd for sgd, momentum in zip(*finite, strict=True))


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
