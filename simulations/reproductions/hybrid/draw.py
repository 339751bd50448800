"""The picture of ``reproduce hybrid``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Results
from .cases import EXPERIMENTS, MULTIPLES
from .choices import FORMS, Seeds, mean, seeds_of, steps_of
from .tables import TITLES, network_losses, network_own, network_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLED = {"paper's": "paper's steps", "own": "own steps"}


def draw(results: Results, path: Path) -> None:
    """Train loss against the step, a panel for each experiment, form and choice; the CNN below."""
    from matplotlib.figure import Figure

    panels = [(form, way) for form in FORMS for way in _TITLED]
    figure = Figure(figsize=(15, 11), dpi=75, layout="constrained")
    grid = figure.subplots(len(EXPERIMENTS) + 1, len(panels))
    for row, experiment in zip(grid, EXPERIMENTS, strict=False):
        seeds = seeds_of(results, experiment)
        for axes, (form, way) in zip(row, panels, strict=True):
            axes.set_title(f"{TITLES[experiment]}, {form}, {_TITLED[way]}", fontsize=10)
            if seeds:
                _curves(axes, seeds, form, way)
    _grid_of_steps(grid[-1][:2], results)
    _network(grid[-1][2:], results)
    figure.savefig(path, format="png")


def _curves(axes: Axes, seeds: Seeds, form: str, way: str) -> None:
    """The mean loss of each population, two standard errors about it."""
    from ...output.charts import LIGHT

    widths = (3.0, 2.4, 1.8, 1.3, 0.8)  # curves that coincide are seen all the same
    for (who, family), colour, width in zip(FORMS[form].items(), LIGHT[1:], widths, strict=False):
        place = steps_of(seeds, family)[way]
        if place is None:
            continue
        curves = [result["families"][family]["losses"][place] for result in seeds]
        told = [mean(column) for column in zip(*curves, strict=True)]
        known = [(at, each) for at, each in zip(seeds[0]["at"], told, strict=True) if each]
        across = [at for at, _ in known]
        middle = np.array([each.value for _, each in known])
        errors = 2 * np.nan_to_num([each.error for _, each in known])
        label = f"{who} × {MULTIPLES[place]:g}" + ("" if len(known) == len(told) else ", diverges")
        axes.plot(across, middle, color=colour, lw=width, label=label)
        axes.fill_between(across, middle - errors, middle + errors, color=colour, alpha=0.2, lw=0)
    axes.set(yscale="log", xlabel="step", ylabel="train loss")
    axes.legend(frameon=False, fontsize=8)
    _clean(axes)


def _grid_of_steps(panels: Any, results: Results) -> None:
    """The loss at T against the multiple, decentralized."""
    from ...output.charts import LIGHT

    for axes, experiment in zip(panels, EXPERIMENTS, strict=True):
        seeds = seeds_of(results, experiment)
        for (who, family), colour in zip(FORMS["decentralized"].items(), LIGHT[1:], strict=False):
            ends = [
                mean([result["families"][family]["losses"][place][-1] for result in seeds])
                for place in range(len(MULTIPLES) if seeds else 0)
            ]
            points = [(m, end.value) for m, end in zip(MULTIPLES, ends, strict=False) if end]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=colour, lw=1.2, label=who)
        axes.set(xscale="log", yscale="log", xlabel="multiple of the paper's step")
        axes.set(ylabel="train loss at T")
        axes.set_title(f"{TITLES[experiment]}, decentralized, the grid of steps", fontsize=10)
        if seeds:
            axes.legend(frameon=False, fontsize=8)
        _clean(axes)


def _network(panels: Any, results: Results) -> None:
    """The CNN's loss at T against the nodes with gradients: base step, own step."""
    from ...output.charts import LIGHT

    seeds = network_seeds(results)
    for axes, said in zip(panels, ("base step", "own steps"), strict=True):
        axes.set_title(f"{TITLES['cnn']}, decentralized, {said}", fontsize=10)
        for name in seeds[0]["runs"] if seeds else ():
            base = seeds[0]["multiples"].index(1.0)
            place = base if said == "base step" else network_own(seeds, name)
            told = None if place is None else mean(network_losses(seeds, name, place)[-1])
            if told is not None:
                error = 2 * np.nan_to_num(told.error)
                axes.errorbar([int(name)], [told.value], [error], fmt="o", color=LIGHT[1])
        axes.set(xlabel="nodes with gradients", ylabel="loss at T")
        _clean(axes)


def _clean(axes: Axes) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(
        NullFormatter() if axes.get_yscale() == "linear" else ScalarFormatter()
    )
    axes.yaxis.set_tick_params(which="minor", labelsize=7)
    axes.grid(color="#e3e6ea", which="both")
    axes.spines[["top", "right"]].set_visible(False)
