"""The picture of ``reproduce differential-quantization``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import Results
from .tables import NAMES, Row, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CONDITIONS = (1.5, 10.0, 100.0)
_TOP = 1.6  # contractions above it leave the chart
# way → place in the palette, marker
_STYLE = {
    "scalar": (1, "o"),
    "e8": (2, "s"),
    "naive": (3, "^"),
    "own": (6, "v"),
    "naive-own": (3, "^"),
}
_LABELS = {
    "scalar": "DQ, scalar",
    "e8": "DQ, E8",
    "naive": "naive, scalar (NAG, HB: own scale in every packet)",
    "own": "DQ, scalar, own scale in every packet (below)",
}


def draw(results: Results, path: Path) -> None:
    """Contraction against R, a panel per method and κ; below, bits until the server stops."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 15.5), dpi=85, layout="constrained")
    panels = figure.subplots(5, 3)
    every = rows(results)
    for line, method in enumerate(NAMES):
        usual = [row for row in every if row.usual or row.way == "own"]
        own = [row for row in usual if row.cell["method"] == method]
        squares = [r for r in own if r.cell["problem"] == "squares" and r.cell["n"] == 16]
        for column, kappa in enumerate(_CONDITIONS):
            shown = [row for row in squares if row.cell["kappa"] == kappa and row.usual]
            _contractions(panels[line, column], shown, f"{NAMES[method]}, κ = {kappa:g}")
        middle = [row for row in squares if row.cell["kappa"] == 10]
        _bits(panels[3, line], middle, f"{NAMES[method]}, least squares, κ = 10")
        digits = [row for row in own if row.cell["problem"] == "digits"]
        _bits(panels[4, line], digits, f"{NAMES[method]}, digits (logistic)")
    for column in range(3):
        panels[2, column].set_xlabel("bits per dimension, R")
        panels[4, column].set_xlabel("bits per dimension and round, R")
    for line in range(3):
        panels[line, 0].set_ylabel("contraction per round")
    for line in (3, 4):
        panels[line, 0].set_ylabel("bits per dimension in all")
    figure.suptitle(
        "Differential quantization: contraction (markers measured, thin lines theory), n = 16, and "
        "bits until f − f* is 1e-6 of the start's",
        fontsize=12,
    )
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, format="png")


def _contractions(axes: Axes, shown: Sequence[Row], title: str) -> None:
    low = 1.0
    for row in shown:
        runs = [run for run in row.cell["runs"] if run["contraction"]]
        if not runs:
            continue
        low = min([low, row.cell["sigma"], *(run["contraction"][0] for run in runs)])
        if row.way == "none":
            axes.axhline(runs[0]["contraction"][0], color=_colour(0), linewidth=1.2)
            continue
        place, marker = _STYLE[row.way]
        rates = [run["R"] for run in runs]
        measured = [run["contraction"][0] for run in runs]
        line = "--" if row.way == "naive-own" else "none"  # no theory to guide the eye
        look = _look(place, marker, hollow=row.way == "scalar")
        axes.plot(rates, measured, linestyle=line, **look)
        if None not in (known := [run["theory"] for run in runs]):
            axes.plot(rates, known, color=_colour(place), linewidth=0.9)
    if bounded := next((row for row in shown if row.way == "scalar"), None):
        rates = [run["R"] for run in bounded.cell["runs"]]
        axes.plot(rates, bounded.converse, ":", color=_colour(4), linewidth=2)
    axes.set(yscale="log", ylim=(0.93 * low, _TOP), title=title)
    axes.axhline(1, color="#b9bfc8", linewidth=0.8, zorder=0)
    ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.2, 1.5) if t >= 0.93 * low]
    if len(ticks) > 8:  # the wide panels
        ticks = [t for t in ticks if t not in (0.7, 0.8, 0.9, 1.2)]
    _ticks(axes, ticks)
    _plain(axes)


def _bits(axes: Axes, shown: Sequence[Row], title: str) -> None:
    for row in shown:
        runs = [run for run in row.cell["runs"] if run["bits"] is not None]
        if row.way == "none" or not runs:
            continue
        place, marker = _STYLE[row.way]
        rates, bits = [run["R"] for run in runs], [run["bits"] for run in runs]
        line = "--" if row.way.endswith("own") else "-"
        axes.plot(rates, bits, line, **_look(place, marker, hollow=row.way == "scalar"))
    lines = [row for row in shown if row.way == "none" and row.cell["runs"][0]["rounds"]]
    for row in lines:  # the unquantized method's rounds, at R bits each
        rounds = row.cell["runs"][0]["rounds"]
        axes.plot((1, 8), (rounds, 8 * rounds), color=_colour(0), linewidth=1.2)
    axes.set(yscale="log", title=title, xlim=(0.7, 8.3))
    low, high = axes.get_ylim()
    ticks = [lead * 10**power for power in range(5) for lead in (1, 2, 5)]
    _ticks(axes, [tick for tick in ticks if low <= tick <= high])
    axes.set_ylim(low, high)
    _plain(axes)


def _ticks(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)


def _plain(axes: Axes) -> None:
    axes.set_xticks(range(1, 9))
    axes.grid(color="#e3e6ea")
    axes.spines[["top", "right"]].set_visible(False)


def _look(place: int, marker: str, *, hollow: bool) -> dict[str, Any]:
    """A larger, empty marker for what another one may lie upon."""
    return {
        "color": _colour(place),
        "marker": marker,
        "markersize": 8 if hollow else 5,
        "markerfacecolor": "none" if hollow else _colour(place),
        "linewidth": 1.2,
    }


def _colour(place: int) -> str:
    from ...output.charts import LIGHT

    return LIGHT[place]


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    handles = []
    for way, label in _LABELS.items():
        place, marker = _STYLE[way]
        handles.append(Line2D([], [], **_look(place, marker, hollow=way == "scalar"), label=label))
    handles.append(
        Line2D([], [], color=_colour(0), label="unquantized (below: its rounds, at R bits each)")
    )
    handles.append(
        Line2D(
            [],
            [],
            color=_colour(4),
            linestyle=":",
            linewidth=2,
            label="converse 2^(−R), GD ≥ σ",
        )
    )
    return handles
