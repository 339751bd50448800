"""The picture of ``reproduce edge-of-stability``."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from ..base import Results
from .measures import (
    TARGETS,
    Measure,
    Seeds,
    accuracy,
    arrived,
    family,
    late_sharpness,
    losses,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = dict[str, tuple[Seeds, str, str]]  # title → runs, colour, dashes


def draw(results: Results, path: Path) -> None:
    """λ̂ and its limits, train loss and accuracy against rounds, and what speed trades for."""
    from matplotlib.figure import Figure

    from ...output.charts import LIGHT

    fixed, steered = (list(family(results, name).values()) for name in ("fixed", "steered"))
    figure = Figure(figsize=(16, 9), dpi=75, layout="constrained")
    grid = figure.subplots(2, 3)
    colours = iter(LIGHT[1:])
    sets: list[Lines] = [
        {case.title: (seeds, next(colours), dashes) for case, seeds in cases}
        for cases, dashes in ((fixed, "-"), (steered, "--"))
    ]
    both = sets[0] | sets[1]
    for axes, lines, title in zip(
        grid[0], sets, ("fixed step sizes", "step sizes c/λ̂"), strict=False
    ):
        _sharpness(axes, lines)
        axes.set_title(f"sharpness of {title}; dotted: 2/η", fontsize=11)
    # The limits of small c are far above.
    shown = [run["sharpness"] for seeds, *_ in both.values() for run in seeds]
    shown += [seeds[0]["limit"] for seeds, *_ in sets[0].values()]
    for axes in grid[0][:2]:
        axes.set_ylim(0, 1.1 * max(map(max, shown), default=1.0))
    _losses(grid[0][2], both)
    _accuracies(grid[1][0], both)
    _trade(grid[1][1], both, late_sharpness, "λ̂ at the end")
    _trade(grid[1][2], both, accuracy, "test accuracy at the end, %")
    for axes in grid.flat:
        axes.grid(color="#e3e6ea", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = grid[0][2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False)
    figure.savefig(path, format="png")


def _sharpness(axes: Axes, lines: Lines) -> None:
    for seeds, colour, _ in lines.values():
        for place, run in enumerate(seeds):
            axes.plot(run["at"], run["sharpness"], color=colour, lw=1.4 if place == 0 else 0.7)
        axes.step(seeds[0]["at"], seeds[0]["limit"], color=colour, ls=":", lw=1.4, where="post")
    axes.set(xlabel="round", ylabel="λ̂")


def _losses(axes: Axes, lines: Lines) -> None:
    for title, (seeds, colour, dashes) in lines.items():
        curves = [losses(run) for run in seeds]
        mean = [statistics.fmean(each) for each in zip(*curves, strict=False)]
        drawn = [value if math.isfinite(value) else math.nan for value in mean]
        axes.plot(drawn, color=colour, ls=dashes, lw=1.3, label=title)
    axes.set(yscale="log", xlabel="round", ylabel="train loss, mean of the seeds")


def _accuracies(axes: Axes, lines: Lines) -> None:
    for seeds, colour, dashes in lines.values():
        columns = list(zip(*(run["accuracy"] for run in seeds), strict=False))
        across = [column[0][0] for column in columns]
        up = [100 * statistics.fmean(share for _, share in column) for column in columns]
        axes.plot(across, up, color=colour, ls=dashes, lw=1.3)
    axes.set(xlabel="round", ylabel="test accuracy, %, mean of the seeds")


def _trade(axes: Axes, lines: Lines, up: Measure, words: str) -> None:
    """A mark per run: how many rounds it takes to the first loss, and how it ends."""
    for seeds, colour, dashes in lines.values():
        for run in seeds:
            across, value = arrived(run, TARGETS[0]), up(run)
            if across is not None and value is not None:
                axes.plot([across], [value], "o" if dashes == "-" else "^", color=colour)
    axes.set(xlabel=f"rounds to a train loss of {TARGETS[0]}", ylabel=words)
