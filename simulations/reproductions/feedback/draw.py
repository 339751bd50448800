"""The picture of ``reproduce feedback``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..base import Results
from .cases import FEEDBACKS, SETTINGS
from .runs import POINTS
from .tables import PLACES, WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROBLEMS = ("squares", "digits")
STYLES: dict[str, tuple[Literal["-", "--"], float]] = {"1": ("-", 1.6), "1/4": ("--", 1.0)}
TRAJECTORIES = "half-lossy"
_TOP, _GONE = 30.0, 8.0  # of the axis, and where what diverged is marked


def draw(results: Results, path: Path) -> None:
    """Gap against bits for every problem and setting; trajectories at 2 bits."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(15, 6.8), dpi=100, layout="constrained")
    grid = figure.subplots(len(PROBLEMS), len(SETTINGS) + 1, sharey=True)
    for row, problem in zip(grid, PROBLEMS, strict=True):
        for axes, setting in zip(row, SETTINGS, strict=False):
            _against_bits(axes, results, problem, setting)
            axes.set_title(f"{WORDS[problem]}\n{PLACES[setting]}", fontsize=10)
        _against_rounds(row[-1], results, f"{problem}-uniform-2-{TRAJECTORIES}")
        row[-1].set_title(f"2 bits, {PLACES[TRAJECTORIES]}", fontsize=10)
        row[0].set_ylabel("(f − f*) / (f(x₀) − f*)")
    handles = [
        Line2D([], [], color=colour, linewidth=2, label=name) for name, colour in _colours().items()
    ]
    handles += [
        Line2D([], [], color="black", linestyle=style, linewidth=width, label=words)
        for words, (style, width) in zip(
            ("tuned step (band: five seeds)", "a quarter of it"), STYLES.values(), strict=True
        )
    ]
    handles.append(
        Line2D([], [], color="black", linestyle="", marker="x", label="diverges (tuned step)")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False, fontsize=10)
    figure.savefig(path, format="png")


def _colours() -> dict[str, str]:
    from ...output.charts import LIGHT

    return dict(zip(FEEDBACKS, LIGHT, strict=False))


def _against_bits(axes: Axes, results: Results, problem: str, setting: str) -> None:
    cells = [
        r
        for r in results.values()
        if (r["problem"], r["setting"], r["compressor"]) == (problem, setting, "uniform")
    ]
    for place, (feedback, colour) in enumerate(_colours().items()):
        for share, (style, width) in STYLES.items():
            runs = {cell["bits"]: cell["runs"][feedback][share] for cell in cells}
            kept = {bits: run["gap"] for bits, run in runs.items() if not run["diverged"]}
            gone = [bits for bits in runs if bits not in kept]
            if kept:
                mean, low, high = np.array(list(kept.values())).T
                axes.plot([*kept], mean, style, color=colour, lw=width, marker="o", ms=3)
                if share == "1":
                    axes.fill_between([*kept], low, high, color=colour, alpha=0.12, lw=0)
            if share == "1":  # side by side, so that no mark hides another
                aside = [bits + 0.12 * (place - 2) for bits in gone]
                axes.plot(aside, [_GONE] * len(gone), "x", color=colour, ms=6)
    axes.set(xticks=(1, 2, 3, 4), xlim=(0.6, 4.4), xlabel="bits an entry")
    _clean(axes)


def _against_rounds(axes: Axes, results: Results, name: str) -> None:
    for place, (feedback, colour) in enumerate(_colours().items()):
        for share, (style, width) in STYLES.items():
            run = results[name]["runs"][feedback][share] if name in results else {}
            points = run.get("curve")
            if points:
                axes.plot(POINTS * np.arange(len(points)), points, style, color=colour, lw=width)
            elif run and share == "1":
                axes.plot([60 + 15 * place], [_GONE], "x", color=colour, ms=6)
    axes.set_xlabel("round")
    _clean(axes)


def _clean(axes: Axes) -> None:
    axes.set(yscale="log", ylim=(3e-11, _TOP))
    axes.grid(color="#e3e6ea")
    axes.spines[["top", "right"]].set_visible(False)
