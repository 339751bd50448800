"""The charts of some runs as one PNG picture, for a README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .axes import Points
from .charts import LIGHT, few, pattern
from .panels import Curve, Panel, panels
from .runs import Run, absolute


def write_picture(runs: Sequence[Run], path: str | Path) -> Path:
    """Draw the first two charts side by side in a PNG file of 1000 by 420 points.

    Parameters
    ----------
    runs : sequence of Run
        One or more, in the order of the legend.
    path : str or Path
        Where to write; returned as an absolute path.
    """
    from matplotlib.figure import Figure

    target = absolute(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shown = panels(runs)[:2]
    figure = Figure(figsize=(10, 4.2), dpi=100, layout="constrained")
    for place, panel in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), place + 1)
        _plot(axes, panel)
        if place == 0 and len(runs) > 1:
            figure.legend(loc="outside lower center", ncols=min(4, len(runs)), frameon=False)
    figure.savefig(target, format="png")
    return target


def _plot(axes: Any, panel: Panel) -> None:
    for curve in panel.curves:
        _draw(axes, curve, [p for p in curve.points if panel.up.place(p[1]) is not None])
    axes.set_xscale("log" if panel.across.log else "linear")
    axes.set_yscale("log" if panel.up.log else "linear")
    axes.set(xlim=(panel.across.low, panel.across.high), ylim=(panel.up.low, panel.up.high))
    for axis, side in ((axes.xaxis, panel.across), (axes.yaxis, panel.up)):
        axis.set_ticks([value for value, _ in side.ticks], [text for _, text in side.ticks])
        axis.set_ticks([], minor=True)
        axis.set_label_text(side.label)
    axes.grid(color="#e3e6ea")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(panel.title, fontsize=11, loc="left")


def _draw(axes: Any, curve: Curve, shown: Points) -> None:
    colour = LIGHT[curve.index % len(LIGHT)]
    xs, ys = [x for x, _ in shown], [y for _, y in shown]
    if curve.limit:
        axes.plot(xs, ys, color=colour, linewidth=1, linestyle="--")
        return
    (line,) = axes.plot(xs, ys, linewidth=1.8, marker="o" if few(curve) else "", markersize=4)
    line.set(color=colour, label=curve.name.replace("$", r"\$"))
    dashes = pattern(curve.index)
    line.set_linestyle((0, dashes) if dashes else "-")
    for x, low, high in curve.bars:
        axes.plot([x, x], [low, high], color=colour, linewidth=1)
