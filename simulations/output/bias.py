"""What the clients measured of their own bias, beside their gradients and the floor it leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .axes import Points, log_axis, round_axis
from .charts import svg
from .panels import Curve, Panel
from .runs import Run

_CURVES = ("‖∇f_m‖²", "‖b_m‖²", "floor: twice the mean of ‖b_m‖² so far", "‖ĝ‖²")
_NOTE = (
    "Means over the clients of ‖∇f_m‖² and of ‖b_m‖² = ‖sent − ∇f_m‖², which are at least ‖∇f‖² "
    "and ‖b‖² of the average, and equal to them where clients are alike; ‖ĝ‖² is that of the mean "
    "that moved the model. For step sizes in the theory's range (arXiv 2403.00853) the mean of "
    "‖∇f‖² over the rounds ends at or below the floor. In rounds without some of the clients the "
    "average has the error of the sample besides, and there is no floor."
)


def bias_charts(runs: Sequence[Run]) -> str:
    """One chart for every run that measured its bias, as HTML; nothing without any."""
    shown = [panel for run in runs if (panel := bias_panel(run))]
    if not shown:
        return ""
    keys = "".join(
        f'<li><svg class="key c{index}" aria-hidden="true"><line x1="0" y1="5" x2="22" y2="5"/>'
        f"</svg>{escape(name)}</li>"
        for index, name in enumerate(_CURVES, start=1)
    )
    figures = "".join(
        f"<figure><figcaption>{escape(panel.title)}</figcaption>{svg(panel)}</figure>"
        for panel in shown
    )
    return (
        f'<ul class="legend">{keys}</ul><div class="charts">{figures}</div>'
        f'<p class="note soft">{_NOTE}</p>'
    )


def bias_panel(run: Run) -> Panel | None:
    """The curves of one run against the round, logarithmic; None if nothing was measured."""
    bias = _at_points(run, "bias_square")
    mean = [(k, norm**2) for k, norm in _at_points(run, "gradient_norm")]
    measured = [record for record in run.rounds if record.get("bias_square") is not None]
    whole = all(record.get("applied") == run.settings.get("clients") for record in measured)
    below = floor(bias) if whole else []
    quantities = (_at_points(run, "gradient_square"), bias, below, mean)
    named = enumerate(zip(_CURVES, quantities, strict=True), start=1)
    curves = [Curve(name, index, points) for index, (name, points) in named]
    positive = [y for curve in curves for _, y in curve.points if math.isfinite(y) and y > 0]
    if not bias or not positive:
        return None
    rounds = round_axis([x for x, _ in bias])
    return Panel(f"Bias: {run.name}", rounds, log_axis("squared norm", positive), curves)


def floor(bias: Points) -> Points:
    """Twice the running mean of ‖b‖²: what is left of the mean of ‖∇f‖² after many rounds."""
    total, points = 0.0, []
    for count, (k, square) in enumerate(bias, start=1):
        total += square
        points.append((k, 2 * total / count))
    return points


def _at_points(run: Run, key: str) -> Points:
    return [(k - 1, value) for k, value in run.curve("round", key)]  # record k is about x_{k−1}
