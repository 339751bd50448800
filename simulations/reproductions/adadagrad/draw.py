"""The picture of ``reproduce adadagrad``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..base import Results
from .probes import CODES, PLAIN
from .probes import TESTS as RULES
from .tables import (
    COMPRESSION,
    MODELS,
    OPTIMIZERS,
    PLACES,
    TESTS,
    Experiment,
    comparisons,
    probes,
    ratios,
)
from .verdicts import ADAPTIVE
from .ways import BUDGETS, WAYS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = {"adagrad": "o", "adagrad_norm": "^"}
_SAMPLES, _ROUNDS = "thousand samples", (20, 50, 100, 200, 500, 1000)
_STYLES: dict[str, Literal["-", "--"]] = {"adagrad": "-", "adagrad_norm": "--"}


def draw(results: Results, path: Path) -> None:
    """Sizes, losses and accuracies of the comparisons; sizes and ‖ĝ‖² of the probes."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(15, 14), dpi=75, layout="constrained")
    grid = figure.subplots(4, len(BUDGETS))
    found = comparisons(results)
    for column, (place, (task, model)) in zip(grid.T, enumerate(BUDGETS), strict=True):
        shown = [each for each in found if _belongs(each, place)]
        column[0].set_title(f"{task}, {MODELS[model]}", fontsize=11)
        _sizes(column[0], shown)
        _losses(column[1], [each for each in shown if _optimizer(each) == "adagrad"])
        _accuracies(column[2], shown)
    _tests(grid[3][:2], probes(results, TESTS))
    _ratios(grid[3][2:], probes(results, COMPRESSION))
    handles = [
        Line2D([], [], color=colour, linewidth=2, label=way) for way, colour in _colours().items()
    ]
    handles += [
        Line2D([], [], color="black", linestyle=_STYLES[name], marker=_MARKS[name], label=words)
        for name, words in OPTIMIZERS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=7, frameon=False)
    figure.savefig(path, format="png")


def _belongs(each: Experiment, place: int) -> bool:
    """Whether a comparison is of this entry of ``BUDGETS``; other data stand for Fashion-MNIST."""
    task, model = list(BUDGETS)[place]
    return f"-{model}-" in each.kind and each.kind.startswith("digits") == (task == "digits")


def _optimizer(each: Experiment) -> str:
    return each.kind.rpartition("-")[2]


def _colours() -> dict[str, str]:
    from ...output.charts import LIGHT

    return dict(zip(WAYS, (LIGHT[1], LIGHT[4], LIGHT[3], LIGHT[2], LIGHT[0]), strict=True))


def _sizes(axes: Axes, found: Sequence[Experiment]) -> None:
    for each in found:
        style = _STYLES[_optimizer(each)]
        for way, runs in each.runs.items():
            # All but the adaptive run's sizes, and its average, are those of any seed.
            for run in runs if way in (ADAPTIVE, "average") else runs[:1]:
                samples, sizes = zip(*run["sizes"], strict=True)
                across, up = thousands([*samples, run["samples"]]), [*sizes, sizes[-1]]
                axes.step(across, up, where="post", ls=style, color=_colours()[way], lw=1.3)
    axes.set(xlabel=_SAMPLES, ylabel="b")
    axes.set_yscale("log", base=2)
    _clean(axes)


def _losses(axes: Axes, found: Sequence[Experiment]) -> None:
    for each in found:
        for way, runs in each.runs.items():
            for run in runs:
                samples, losses = zip(*run["losses"], strict=True)
                axes.plot(thousands(samples), losses, color=_colours()[way], lw=0.9)
    axes.set(yscale="log", xlabel=_SAMPLES, ylabel="loss of the batches, AdaGrad")
    _clean(axes)


def _accuracies(axes: Axes, found: Sequence[Experiment]) -> None:
    for each in found:
        mark = _MARKS[_optimizer(each)]
        for way, runs in each.runs.items():
            across, up = zip(*((r["rounds"], 100 * r["test_accuracy"]) for r in runs), strict=True)
            axes.plot(across, up, mark, color=_colours()[way], ms=6, alpha=0.8)
    axes.set(xscale="log", xlabel="rounds for the same samples", ylabel="final test accuracy, %")
    axes.set_xticks(_ROUNDS, [str(count) for count in _ROUNDS])
    axes.set_xlim(_ROUNDS[0], 1.2 * _ROUNDS[-1])
    _clean(axes)


def _tests(panels: Sequence[Axes], found: Sequence[Experiment]) -> None:
    from ...output.charts import LIGHT

    for axes, place in zip(panels, ("iid", "sorted"), strict=True):
        for each in found:
            if each.kind != f"{TESTS}-{place}":
                continue
            for way, colour in zip(RULES, LIGHT, strict=False):
                samples, sizes = zip(*each.runs[way][0]["sizes"], strict=True)
                end = each.runs[way][0]["samples"]
                across, up = thousands([*samples, end]), [*sizes, sizes[-1]]
                axes.step(across, up, where="post", color=colour, label=way)
            if place == "iid":  # where there is room
                axes.legend(frameon=False, fontsize=7, loc="lower right")
        axes.set(xlabel=_SAMPLES, ylabel="b")
        axes.set_title(f"tests, digits, {PLACES[place]}", fontsize=11)
        axes.set_yscale("log", base=2)
        _clean(axes)


def _ratios(panels: Sequence[Axes], found: Sequence[Experiment]) -> None:
    from ...output.charts import LIGHT

    names = [name for name in CODES if name != PLAIN]
    for axes, place in zip(panels, ("iid", "sorted"), strict=True):
        for each in found:
            if each.kind != f"{COMPRESSION}-{place}":
                continue
            for row, name in enumerate(names):
                least, median, most = ratios(each.runs[name])
                axes.plot([least, most], [row, row], color=LIGHT[1], lw=2, alpha=0.5)
                axes.plot([median], [row], "o", color=LIGHT[1])
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.axvline(1, color="black", lw=0.8)
        axes.set(xscale="log", xlabel="‖ĝ‖² after / before: median, range")
        axes.set_title(f"compression, digits, {PLACES[place]}", fontsize=11)
        _clean(axes)


def thousands(samples: Sequence[float]) -> list[float]:
    """As they stand on the axes."""
    return [count / 1000 for count in samples]


def _clean(axes: Axes) -> None:
    from matplotlib.ticker import NullFormatter

    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e3e6ea")
    axes.spines[["top", "right"]].set_visible(False)
