"""How ``reproduce biases`` shows its results: table, sentences, picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Result, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = {
    "reshuffled": "shuffled batches",
    "replacement": "batches with replacement",
    "maml": "5-shot MAML",
    "reinforce": "4-step REINFORCE",
}
NAMES = {"sgd": "SGD", "momentum": "β = 0.1"}
# Standard errors from which a difference is called one: by chance 1 in 100 pairs of five equal
# seeds are as far apart (Student's t with 4 degrees of freedom).
CLEAR = 4.6
_PANELS = (("reshuffled", "replacement"), ("maml",), ("reinforce",))


@dataclass(frozen=True)
class Pair:
    """SGD and momentum under one bias and step size."""

    case: str
    step: str
    sgd: Result
    momentum: Result

    @property
    def title(self) -> str:
        """Which bias, which γ."""
        return f"{WORDS[self.case]}, γ = {self.sgd['step_size']:.3g}"

    @property
    def change(self) -> tuple[float, float]:
        """Momentum's floor relative to SGD's, minus 1, and in standard errors of their difference.

        The seeds are paired: both servers see the same draws.
        """
        sgd, momentum = np.array(self.sgd["floor"]), np.array(self.momentum["floor"])
        mean, error = mean_and_error(momentum - sgd)
        errors = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
        return float(mean / sgd.mean()), errors


def pairs(results: Results) -> list[Pair]:
    """The pairs that both results are there for, in the table's order."""
    found = []
    for case in WORDS:
        for step in ("covered", "larger"):
            names = [f"{case}-{step}-{server}" for server in NAMES]
            if all(name in results for name in names):
                found.append(Pair(case, step, *(results[name] for name in names)))
    return found


def mean_and_error(values: Sequence[float] | Any) -> tuple[float, float]:
    """The mean and its standard error."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.std(ddof=1) / math.sqrt(array.size))


def table(results: Results) -> list[list[str]]:
    """A row per cell: floor, what theory allows, speed, and what the errors consist of."""
    lines = [
        ["bias", "γ", "server", "floor", "theory allows", "floor of the bias alone"]
        + ["theory allows", "rounds to 1/4", "‖b‖²", "of it bias²", "recursion broken"]
    ]
    for name, result in results.items():
        case, _, server = name.split("-")
        alone, bound = result["alone"] or (None, None)
        lines.append(
            [WORDS[case], f"{result['step_size']:.3g}", NAMES[server], _spread(result["floor"])]
            + [_allowed(result, _mean(result["floor_bound"]))]
            + [_number(alone), _allowed(result, bound), _rounds(result)]
            + [_number(_mean(result["error_square"])), _bias(result)]
            + [f"{result['violations']} of {result['steps']}"]
        )
    return lines


def notes(results: Results) -> list[str]:
    """What the columns are, whether the theory held, and who wins where by how much."""
    inside, beyond = (
        [result for result in results.values() if result["covered"] is covered]
        for covered in (True, False)
    )
    return [
        "Mean ± standard error over five seeds. What is measured is f − f*, and ‖∇f‖² for "
        "REINFORCE. Floor: its mean over the last fifth of the rounds; rounds to 1/4: the first of "
        "20 rounds in a row with at most a quarter of the start. SGD is β = 1 with the same γ and "
        "the same draws.",
        "The smaller γ is the largest that the theory covers for β = 0.1, the larger one 1/(2λ), λ "
        "being the largest curvature at the start. ‖b‖² is the squared error of the averaged "
        "estimate, bias and noise; the bias alone is a run along the estimate's expectation. "
        "Theory allows 2C/μ, for REINFORCE 2C, and what the potential still lost over the rounds "
        "of the floor, C being their mean ‖b‖².",
        f"Where the theory covers γ, its recursion was broken in {_broken(inside)} rounds; beyond, "
        f"in {_broken(beyond)}.",
        "At the smaller γ theory allows this many times momentum's floor: "
        f"{_ratios(results, alone=False)}; and this many times that of the bias alone: "
        f"{_ratios(results, alone=True)}. It takes all noise for bias.",
        *(_compared(pair) for pair in pairs(results)),
    ]


def _broken(results: Sequence[Result]) -> str:
    return f"{sum(r['violations'] for r in results)} of {sum(r['steps'] for r in results)}"


def _ratios(results: Results, alone: bool) -> str:
    """How many times the momentum's floor theory allows, bias by bias."""
    words = []
    for pair in pairs(results):
        floor, bound = _mean(pair.momentum["floor"]), _mean(pair.momentum["floor_bound"])
        if alone:
            floor, bound = pair.momentum["alone"] or (0.0, 0.0)
        if pair.momentum["covered"] and floor > 0:
            words.append(f"{float(f'{bound / floor:.2g}'):,g} for {WORDS[pair.case]}")
    return ", ".join(words) or "-"


def _compared(pair: Pair) -> str:
    change, errors = pair.change
    if abs(errors) < CLEAR:
        floor = f"no clear difference in the floor, {100 * change:+.1f} %"
    else:
        floor = (
            f"momentum's floor is {100 * abs(change):.1f} % {'lower' if change < 0 else 'higher'}"
        )
    return (
        f"{pair.title}: {floor} ({abs(errors):.1f} standard errors of the paired difference); "
        f"rounds to 1/4: {_rounds(pair.momentum)}, with SGD {_rounds(pair.sgd)}."
    )


def draw(results: Results, path: Path) -> None:
    """The measure against the rounds: SGD dashed, momentum solid, theory's floor dotted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.8), dpi=110, layout="constrained")
    for axes, cases in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        _panel(axes, [pair for pair in pairs(results) if pair.case in cases])
        axes.set_title(" and ".join(WORDS[case] for case in cases), fontsize=10)
    figure.suptitle(
        "SGD (dashed) against momentum with β = 0.1 (solid): five seeds, ± standard error",
        fontsize=11,
    )
    figure.savefig(path, format="png")


def _panel(axes: Axes, shown: Sequence[Pair]) -> None:
    from ...output.charts import LIGHT

    for colour, pair in zip(LIGHT[1:], shown, strict=False):
        for result, style in ((pair.sgd, "--"), (pair.momentum, "-")):
            rounds, means, errors = (np.array(part) for part in zip(*result["curve"], strict=True))
            words = pair.title if style == "-" else None
            axes.plot(rounds + 1, means, style, color=colour, linewidth=1.4, label=words)
            low = np.maximum(means - errors, means / 10)  # a logarithmic axis has no 0
            axes.fill_between(rounds + 1, low, means + errors, color=colour, alpha=0.15, lw=0)
        if pair.momentum["covered"]:
            level = _mean(pair.momentum["floor_bound"])
            axes.axhline(level, color=colour, linestyle=":", linewidth=1.4, label="theory allows")
        if pair.momentum["covered"] and pair.momentum["alone"]:
            floor, _ = pair.momentum["alone"]
            axes.axhline(floor, color=colour, linestyle="-.", linewidth=0.9, label="bias alone")
    axes.set(xscale="log", yscale="log", xlabel="round")
    if shown:
        axes.set_ylabel(shown[0].sgd["measure"])
        axes.legend(frameon=False, fontsize=8)
    axes.grid(color="#e3e6ea")
    axes.spines[["top", "right"]].set_visible(False)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _spread(values: Sequence[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.3g} ± {error:.2g}"


def _allowed(result: Result, bound: float | None) -> str:
    return _number(bound if result["covered"] else None)


def _rounds(result: Result) -> str:
    reached = [k for k in result["reached"] if k is not None]
    if len(reached) < len(result["reached"]):
        return f"in {len(reached)} of {len(result['reached'])} runs"
    mean, error = mean_and_error(reached)
    return f"{mean:.4g} ± {error:.2g}"


def _bias(result: Result) -> str:
    mean, bound = _number(_mean(result["bias_square"])), result["bias_square_bound"]
    return mean if bound is None else f"{mean} (at most {bound:.2g})"
