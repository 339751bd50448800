"""The picture of ``reproduce flat-minima``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedbias import theory
from fedbias.vectors import Vector

from ..base import Result, Results
from .cases import FINE, GRIDS, STARTS, TARGET
from .tables import converged, grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(results: Results, path: Path) -> None:
    """Steps and λ_∞ against the step size; runs over the level sets, and along their steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(19, 9.5), dpi=75)
    above, below = figure.subplots(2, 4)
    figure.subplots_adjust(0.04, 0.06, 0.985, 0.95, wspace=0.36, hspace=0.25)
    for axes, name in zip(above, GRIDS, strict=False):
        _trade(axes, name, grid(results, name))
    near = [run for run in grid(results, "near") if "points" in run]
    _plane(below[0], near, (0.3, 2.3), (-0.45, 1.75))
    below[0].set_title("trajectories from (1.8, .2); levels of L", fontsize=11)
    opposed = grid(results, "opposed")
    _plane(below[1], opposed, (-3.4, 3.4), (-3.4, 3.4))
    below[1].set_title("η|ε₀| = 1.9 > √2: sharper than the flow's end", fontsize=11)
    _along(above[3], near, lambda x: abs(theory.shallow_residual(x, TARGET)) or np.nan)
    above[3].set(yscale="log", ylim=(FINE / 3, 3), ylabel="|ε|", xlim=(0, 80))
    above[3].set_title("distance from the minima, from (1.8, .2)", fontsize=11)
    _along(below[2], near, lambda x: theory.shallow_sharpness(x, TARGET), limits=True)
    below[2].set(ylim=(0, 8.5), ylabel="largest eigenvalue of ∇²L", xlim=(0, 30))
    below[2].set_title("sharpness from (1.8, .2); dotted: 2/η", fontsize=11)
    _along(below[3], near, theory.shallow_imbalance)
    below[3].set(ylim=(0, 3.4), ylabel="Q", xlim=(0, 30))
    below[3].set_title("imbalance from (1.8, .2), which the flow keeps", fontsize=11)
    figure.savefig(path, format="png")


def _trade(axes: Axes, name: str, runs: Sequence[Result]) -> None:
    """Steps on the left, λ_∞ on the right."""
    from ...output.charts import LIGHT

    _, steps_colour, limit_colour, *_ = LIGHT
    there = [run for run in runs if converged(run)]
    across = [run["multiple"] for run in there]
    steps = [np.nan if run["steps"][1] is None else run["steps"][1] for run in there]
    axes.plot(across, steps, "o-", color=steps_colour, ms=3, lw=1.2)
    axes.set(yscale="log", xlabel="η·λ_GF", xlim=(0, 4))
    axes.set_ylabel("steps to |ε| < 1e-14", color=steps_colour, labelpad=0)
    ringed = "; rings: expected" if STARTS[name].expected else ""
    axes.set_title(f"start {STARTS[name].words}{ringed}", fontsize=11)
    other = axes.twinx()
    other.plot(across, [run["norm_square"] for run in there], "s-", color=limit_colour, ms=3, lw=1)
    other.set_ylabel("λ_∞ (dotted: λ_GF, 2|Φ|)", color=limit_colour)
    other.spines["top"].set_visible(False)
    for multiple, expected in STARTS[name].expected.items():
        if expected.limit:
            for side, value, colour in (
                (axes, float(expected.steps[FINE] or 0), steps_colour),
                (other, float(expected.limit), limit_colour),
            ):
                side.plot([multiple], [value], "o", mfc="none", mec=colour, ms=9)
    if runs:
        other.axhline(runs[0]["flow"], color=limit_colour, ls=":", lw=1)
        other.axhline(2 * abs(TARGET), color=limit_colour, ls=":", lw=1)
        other.set_ylim(bottom=0)
    for edge in (1, 2):
        axes.axvline(edge, color="#9aa3ad", lw=0.8)
    _clean(axes)


def _plane(
    axes: Axes, runs: Sequence[Result], across: tuple[float, float], up: tuple[float, float]
) -> None:
    """Trajectories in the plane of a and b, d = 1, with the flow's and the minima."""
    a, b = np.meshgrid(np.linspace(*across, 200), np.linspace(*up, 200))
    loss = (a * b - TARGET) ** 2 / 2
    axes.contour(a, b, loss, levels=np.geomspace(1e-3, 20, 12), colors="#c3cad4", linewidths=0.6)
    axes.contour(a, b, a * b - TARGET, levels=[0], colors="black", linewidths=1.4)
    for run, colour in zip(runs, _colours(), strict=False):
        points = np.array(run["points"])
        label = f"η·λ_GF = {run['multiple']:.3g}, λ_∞ = {run['norm_square']:.3f}"
        axes.plot(*points.T, ".-", color=colour, lw=1, ms=5, label=label)
        axes.plot(*points[-1], "o", color=colour, ms=7, mec="black")
    if runs:
        flow = flow_path(np.array(runs[0]["points"][0]))
        label = f"gradient flow, λ_GF = {runs[0]['flow']:.3f}"
        axes.plot(*flow.T, "--", color="black", lw=1.2, label=label)
        axes.legend(fontsize=8, loc="upper right", framealpha=0.9)
    axes.set(xlim=across, ylim=up, xlabel="a", ylabel="b")
    _clean(axes)


def flow_path(start: Vector) -> Vector:
    """Points of the gradient flow from (a, b) to its limit, shape (n, 2): a² − b² stays."""
    total, apart = float(start.sum()), float(start[0] - start[1])
    # There a+b = s·e^r and a−b = q·e^−r with 4ab = (a+b)² − (a−b)² = 4Φ.
    lowest, highest = (0.0, 5.0) if start.prod() < TARGET else (-5.0, 0.0)
    for _ in range(60):
        middle = (lowest + highest) / 2
        product = ((total * np.exp(middle)) ** 2 - (apart * np.exp(-middle)) ** 2) / 4
        lowest, highest = (middle, highest) if product < TARGET else (lowest, middle)
    turned = np.linspace(0, lowest, 200)
    sums, gaps = total * np.exp(turned), apart * np.exp(-turned)
    return np.stack([(sums + gaps) / 2, (sums - gaps) / 2], axis=1)


def _along(
    axes: Axes, runs: Sequence[Result], value: Callable[[Vector], float], *, limits: bool = False
) -> None:
    """A number at every point of some runs, and where wanted the limit 2/η of each."""
    for run, colour in zip(runs, _colours(), strict=False):
        curve = [value(np.array(point)) for point in run["points"]]
        axes.plot(curve, ".-", color=colour, lw=1, ms=4, label=f"{run['multiple']:g}")
        if limits:
            axes.axhline(2 / run["step_size"], color=colour, lw=1, ls=":")
    axes.set_xlabel("step")
    if runs:
        axes.legend(title="η·λ_GF", fontsize=8, loc="best")
    _clean(axes)


def _colours() -> Sequence[str]:
    from ...output.charts import LIGHT

    return LIGHT[1:]


def _clean(axes: Axes) -> None:
    axes.grid(color="#e3e6ea", lw=0.6)
    axes.spines["top"].set_visible(False)
