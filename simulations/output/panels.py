"""Which charts some runs have numbers for, and the curves in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

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
from .runs import Run, number

_SHARPNESS = (
    "Sharpness: λ̂, the largest eigenvalue found of the Hessian of the clients' mean loss, at the "
    "model after so many rounds; none of 0 or less is drawn. Dashed: what the next step is stable "
    "up to on a quadratic, 2/η for gradient descent. Bars: the standard error of ⟨v, Hv⟩ over the "
    "sample of clients that was measured, given the v that was found there, so that λ̂ leans "
    "upwards; of several seeds their standard deviation."
)
_LOSSES = {"train_loss": "training loss", "test_loss": "test loss"}
_POSITIVE = {
    "batch_size": "batch size",
    "spread": "spread between models",
    "step_size": "step size",
}
_ACROSS: dict[str, tuple[Callable[[Sequence[float]], Axis], str]] = {
    "round": (round_axis, "rounds"),
    "total_samples": (samples_axis, "samples"),
    "total_uplink_bytes": (partial(bytes_axis, "uplink bytes so far"), "uplink bytes"),
}


@dataclass(frozen=True)
class Curve:
    """The points of a run, NaN where it was not finite.

    Attributes
    ----------
    name : str
        Of the run.
    index : int
        Of its colour.
    dots : bool
        Whether the points are few and far between, and drawn one by one.
    bars : list of (x, low, high)
        How uncertain the points are.
    limit : bool
        Whether this is no measurement but a limit to one: thin and dashed.
    """

    name: str
    index: int
    points: Points
    dots: bool = False
    bars: Sequence[tuple[float, float, float]] = ()
    limit: bool = False


@dataclass(frozen=True)
class Panel:
    """One chart: a title, two axes, the curves of every run, and what to know of them."""

    title: str
    across: Axis
    up: Axis
    curves: list[Curve]
    note: str = ""


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
    spread between clients that own their models. Where the sharpness was measured, which costs
    bytes that are not in the uplink's, it comes second, after the rounds; step sizes where they
    changed.
    """
    classified = any(math.isfinite(value) for run in runs for value in run.values("accuracy"))
    indices = colour_indices(runs)
    made = []
    for key, column in _columns(runs, classified):
        if key == "sharpness":
            made += _sharpness(runs, indices)
            continue
        curves = [
            Curve(run.name, index, _points(run, column, key))
            for run, index in zip(runs, indices, strict=True)
        ]
        if any(math.isfinite(y) for curve in curves for _, y in curve.points):
            made.append(_panel(key, column, curves, log=not classified))
    return made


def _columns(runs: Sequence[Run], classified: bool) -> list[tuple[str, str]]:
    """What is drawn against what."""
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
    if any(len(set(run.values("step_size"))) > 1 for run in runs):
        shown.append(("step_size", "round"))
    if any(run.values("sharpness") for run in runs):
        beside = [(measured[0], "round"), ("sharpness", "round")]
        shown = beside + [each for each in shown if each not in beside]
    return shown


def _points(run: Run, column: str, key: str) -> Points:
    points = run.curve(column, key)
    if key == "spread":  # none at a common start, which has no place on a logarithmic axis
        points = [point for point in points if point[1] > 0]
    if key == "step_size":
        points = [(k - 1, value) for k, value in points]  # record k is about the step from x_{k−1}
    return [point for point in points if point[0] > 0] if column == "total_uplink_bytes" else points


def _panel(key: str, column: str, curves: list[Curve], *, log: bool) -> Panel:
    finite = [(x, y) for curve in curves for x, y in curve.points if math.isfinite(y)]
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    make, against = _ACROSS[column]
    if key == "accuracy":
        up = linear_axis("test accuracy", ys, lambda share: f"{round(100 * share, 6):g} %", most=1)
    elif key in _POSITIVE:
        up = log_axis(_POSITIVE[key], ys)
    else:
        up = loss_axis(_LOSSES[key], [curve.points for curve in curves], log=log)
    return Panel(f"{up.label.capitalize()} against {against}", make(xs), up, curves)


def _sharpness(runs: Sequence[Run], indices: Sequence[int]) -> list[Panel]:
    """λ̂ of the runs that measured it, and what their steps were stable up to; one chart, or none.

    Record k is about x_{k−1} and the step from there.
    """
    curves = []
    for run, index in zip(runs, indices, strict=True):
        read = [record for record in run.rounds if number(record, "sharpness") is not None]
        if not read:
            continue
        found = [(record["round"] - 1, number(record, "sharpness") or 0.0) for record in read]
        errors = [number(record, "sharpness_spread") or 0.0 for record in read]
        bars = [(x, y - e, y + e) for (x, y), e in zip(found, errors, strict=True) if e > 0]
        limit = [(k - 1, most) for k, most in run.curve("round", "stability_limit")]
        curves.append(Curve(run.name, index, limit, limit=True))
        curves.append(Curve(run.name, index, found, dots=True, bars=bars))
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points if 0 < y < math.inf]
    if not ys:
        return []
    ys += [high for curve in curves for _, _, high in curve.bars]
    bounded = any(curve.limit and curve.points for curve in curves)
    title = f"Sharpness against rounds{', dashed: the stability limit' if bounded else ''}"
    return [Panel(title, round_axis(xs), log_axis("sharpness λ̂", ys), curves, _SHARPNESS)]
