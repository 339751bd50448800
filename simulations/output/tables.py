"""Rows of runs as a table of text, in numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .rows import Row

_NONE = "-"


def text_table(rows: Sequence[Row]) -> list[list[str]]:
    """Write the rows as text, headings first, without columns that say nothing.

    The accuracies are left out where no run has one, the ratio where there is one run, the missing
    and the saturated replies where there are none, batch and samples where neither a rule chose the
    batches nor the runs differ in them, and the sharpness where nobody measured it.
    """
    columns = [["run", *(row.name for row in rows)]]
    if any(row.accuracy is not None for row in rows):
        shown = (human_accuracy(row.accuracy, row.accuracy_spread) for row in rows)
        columns.append(["accuracy", *shown])
        columns.append(["best", *(human_accuracy(row.best_accuracy) for row in rows)])
    columns.append(["train loss", *(human_loss(row.loss, row.loss_spread) for row in rows)])
    columns += _sharpness(rows)
    columns.append(["uplink", *(human_bytes(row.uplink_bytes) for row in rows)])
    if len(rows) > 1:
        columns.append(["bytes sent", *(human_ratio(row) for row in rows)])
    if any(row.sharpness_bytes for row in rows):
        columns.append(["measuring", *(human_bytes(row.sharpness_bytes) for row in rows)])
    for count in ("missing", "saturated", "unmeasured"):
        if any(getattr(row, count) for row in rows):
            columns.append([count, *(f"{getattr(row, count):g}" for row in rows)])
    ruled = any(row.ruled for row in rows)
    if ruled or len({row.average_batch for row in rows}) > 1:
        columns.append(["average batch", *(human_batch(row.average_batch) for row in rows)])
    if ruled or len({row.samples for row in rows}) > 1:
        columns.append(["samples", *(human_count(row.samples) for row in rows)])
    columns.append(["rounds", *(str(row.rounds) for row in rows)])
    columns.append(["time", *(human_seconds(row.seconds) for row in rows)])
    return [list(line) for line in zip(*columns, strict=True)]


def _sharpness(rows: Sequence[Row]) -> list[list[str]]:
    """The columns of λ̂, and of ηλ̂ where the steps have a limit."""
    columns = []
    if any(row.sharpness is not None for row in rows):
        shown = (human_loss(row.sharpness, row.sharpness_spread or None) for row in rows)
        columns.append(["sharpness", *shown])
    if any(row.step_sharpness is not None for row in rows):
        columns.append(["ηλ", *(human_step(row.step_sharpness, row.stability) for row in rows)])
    return columns


def human_step(product: float | None, limit: float | None) -> str:
    """Write ηλ̂ beside what it may be: ``0.95 of 2``."""
    return _NONE if product is None or limit is None else f"{product:.3g} of {limit:.3g}"


def human_bytes(count: float) -> str:
    """Write a number of bytes with three digits and a decimal unit: ``1.23 MB``."""
    if count < 999.5:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        count /= 1000
        if count < 999.5 or unit == "PB":
            break
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{digits}f} {unit}"


def human_count(count: float | None) -> str:
    """Write a number of things with three digits: ``512``, ``30.2k``, ``1.23M``."""
    return _NONE if count is None else human_bytes(count).removesuffix("B").replace(" ", "")


def human_batch(size: float | None) -> str:
    """Write an average batch size: ``32``, ``17.4``."""
    return _NONE if size is None else f"{size:.1f}".removesuffix(".0")


def human_seconds(seconds: float | None) -> str:
    """Write a duration: ``0.8 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds is None or not math.isfinite(seconds):
        return _NONE
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def human_accuracy(accuracy: float | None, spread: float | None = None) -> str:
    """Write a share as ``97.31 %``, with its spread as ``97.31 ± 0.20 %``."""
    if accuracy is None:
        return _NONE
    if math.isnan(accuracy):
        return "diverged"
    beside = "" if spread is None else f" ± {100 * spread:.2f}"
    return f"{100 * accuracy:.2f}{beside} %"


def human_loss(loss: float | None, spread: float | None = None) -> str:
    """Write a loss, or a sharpness, with four digits, and its spread with two."""
    if loss is None:
        return _NONE
    if math.isnan(loss):
        return "diverged"
    return f"{loss:.4g}" if spread is None else f"{loss:.4g} ± {spread:.2g}"


def human_ratio(row: Row) -> str:
    """Write how a run's uplink compares with the reference's: ``43.1x fewer``."""
    if row.reference:
        return "reference"
    if not row.ratio:
        return _NONE
    if 0.9995 < row.ratio < 1.0005:
        return "the same"
    factor, word = (row.ratio, "fewer") if row.ratio > 1 else (1 / row.ratio, "more")
    digits = 2 if factor < 1.995 else 1 if factor < 99.95 else 0
    return f"{factor:.{digits}f}x {word}"
