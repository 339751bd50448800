"""Line charts of runs, as SVG text that follows the colours of its page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

from .axes import (
    Axis,
    Points,
    bytes_axis,
    linear_axis,
    log_axis,
    loss_axis,
    round_axis,
    samples_axis,
)
from .rows import reference_index
from .runs import Run

# Okabe and Ito's colours, which colour-blind readers can tell apart, behind a neutral first one;
# the second tuple is for a dark page. More curves than colours differ by their dashes.
LIGHT = ("#4d5663", "#0072b2", "#d55e00", "#009e73", "#b8509a", "#d18f00", "#3fa4de", "#7a5c2e")
DARK = ("#c3cad4", "#4aa3df", "#ff8a3d", "#2cc79a", "#e58ac9", "#f2c14e", "#9fdcff", "#c9a672")
_DASHES = ((), (6, 3), (2, 3), (9, 3, 2, 3))

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 12, 46
_INNER = (_WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM)
_POINTS = 400
_LOSSES = {"train_loss": "training loss", "test_loss": "test loss"}
_SIZES = {"batch_size": "batch size", "spread": "spread between models"}
_ACROSS: dict[str, tuple[Callable[[Sequence[float]], Axis], str]] = {
    "round": (round_axis, "rounds"),
    "total_samples": (samples_axis, "samples"),
    "total_uplink_bytes": (partial(bytes_axis, "uplink bytes so far"), "uplink bytes"),
}


@dataclass(frozen=True)
class Curve:
    """The name of a run, the index of its colour, and its points; NaN where it was not finite."""

    name: str
    index: int
    points: Points


@dataclass(frozen=True)
class Panel:
    """One chart: a title, two axes and a curve for every run."""

    title: str
    across: Axis
    up: Axis
    curves: list[Curve]


def colour_indices(runs: Sequence[Run]) -> list[int]:
    """Give every run a colour: the neutral one, index 0, to the run the others compare with."""
    if len(runs) == 1:
        return [1]
    reference = reference_index(runs)
    return [0 if i == reference else i + (i < reference) for i in range(len(runs))]


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Choose the charts that the runs have numbers for, the most telling first.

    Accuracy and loss, each against the uplink bytes and against the rounds; without accuracies
    the losses alone, on a logarithmic axis. Runs that differ in their batch sizes are compared at
    equal samples before that; where a rule changed a size, the sizes are drawn too, and the
    spread between clients that own their models.
    """
    classified = any(math.isfinite(value) for run in runs for value in run.values("accuracy"))
    loss = "train_loss" if any(run.values("train_loss") for run in runs) else "test_loss"
    sizes = [set(run.values("batch_size")) for run in runs]
    measured = ["accuracy", loss] if classified else [loss]
    shown = [(key, column) for key in measured for column in ("total_uplink_bytes", "round")]
    if any(len(found) > 1 for found in sizes):
        shown.insert(0 if runs[1:] else len(shown), ("batch_size", "total_samples"))
    if any(found != sizes[0] for found in sizes):
        shown.insert(0, (measured[0] if classified else "test_loss", "total_samples"))
        if classified:
            shown.append(("test_loss", "total_samples"))
    if any(run.values("spread") for run in runs):
        shown.append(("spread", "round"))
    indices = colour_indices(runs)
    made = []
    for key, column in shown:
        curves = [
            Curve(run.name, index, _points(run, column, key))
            for run, index in zip(runs, indices, strict=True)
        ]
        if any(math.isfinite(y) for curve in curves for _, y in curve.points):
            made.append(_panel(key, column, curves, log=not classified))
    return made


def svg(panel: Panel) -> str:
    """Draw a panel as one SVG element; points that have no place on an axis are left out.

    The colours come from the classes ``c0``, ``c1``, … (see :func:`palette`).
    """
    lines = [
        f'<g class="curve c{curve.index}"><title>{escape(curve.name)}</title>{shape}</g>'
        for curve in panel.curves
        if (shape := _shape(curve, panel))
    ]
    return "\n".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{panel.title}">',
            *_frame(panel),
            f'<svg x="{_LEFT}" y="{_TOP}" width="{_INNER[0]}" height="{_INNER[1]}">',
            *lines,
            "</svg></svg>",
        ]
    )


def palette(colours: Sequence[str], count: int) -> str:
    """Style rules that give the classes ``c0``, ``c1``, … their colours."""
    return "".join(f".c{i}{{--c:{colours[i % len(colours)]}}}" for i in range(count))


def pattern(index: int) -> tuple[int, ...]:
    """Give the dash pattern of a curve; it is solid as long as there are colours left."""
    return _DASHES[index // len(LIGHT) % len(_DASHES)]


def dash(index: int) -> str:
    """Write the dash pattern of a curve as an SVG attribute."""
    lengths = " ".join(map(str, pattern(index)))
    return f' stroke-dasharray="{lengths}"' if lengths else ""


def _points(run: Run, column: str, key: str) -> Points:
    points = run.curve(column, key)
    if key == "spread":  # none at a common start, which has no place on a logarithmic axis
        points = [point for point in points if point[1] > 0]
    return [point for point in points if point[0] > 0] if column == "total_uplink_bytes" else points


def _panel(key: str, column: str, curves: list[Curve], *, log: bool) -> Panel:
    finite = [(x, y) for curve in curves for x, y in curve.points if math.isfinite(y)]
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    make, against = _ACROSS[column]
    if key == "accuracy":
        up = linear_axis("test accuracy", ys, lambda share: f"{round(100 * share, 6):g} %", most=1)
    elif key in _SIZES:
        up = log_axis(_SIZES[key], ys)
    else:
        up = loss_axis(_LOSSES[key], [curve.points for curve in curves], log=log)
    return Panel(f"{up.label.capitalize()} against {against}", make(xs), up, curves)


def _thinned(points: Points) -> Points:
    return points[:: -max(1, math.ceil(len(points) / _POINTS))][::-1]


def _shape(curve: Curve, panel: Panel) -> str:
    width, height = _INNER
    shown = [
        (width * across, height * (1 - up))
        for x, y in _thinned(curve.points)
        if (across := panel.across.place(x)) is not None and (up := panel.up.place(y)) is not None
    ]
    if not shown:
        return ""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
    x, y = shown[-1]
    end = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    return f'<polyline points="{line}"{dash(curve.index)}/>{end}'


def _frame(panel: Panel) -> list[str]:
    (width, height), across, up = _INNER, panel.across, panel.up
    bottom, right, parts = _TOP + height, _LEFT + width, []
    for value, text in up.ticks:
        y = bottom - height * (up.place(value) or 0)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 7}" y="{y + 4:.1f}">{escape(text)}</text>')
    for value, text in across.ticks:
        x = _LEFT + width * (across.place(value) or 0)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text class="mid" x="{x:.1f}" y="{bottom + 17}">{escape(text)}</text>')
    x, y = _LEFT + width / 2, _TOP + height / 2
    return [
        *parts,
        f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>',
        f'<text class="mid soft" x="{x}" y="{_HEIGHT - 7}">{across.label}</text>',
        f'<text class="mid soft" transform="translate(12 {y}) rotate(-90)">{up.label}</text>',
    ]
