"""What a run came to in one row, and the rows of many runs as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .runs import Run

_NONE = "-"


@dataclass(frozen=True)
class Row:
    """One run in numbers.

    Attributes
    ----------
    name : str
        The name of the run.
    accuracy, best_accuracy, loss : float or None
        The last and the highest test accuracy and the last training loss; None where the run has
        no such number, NaN where it diverged.
    uplink_bytes : int
        What all clients sent during the run, measured.
    ratio : float or None
        The reference's uplink bytes divided by these.
    reference : bool
        Whether the other runs are compared with this one.
    rounds : int
        The last round.
    seconds : float or None
        How long the run took.
    missing : float
        How many replies were lost or refused; over seeds, the mean.
    accuracy_spread, loss_spread : float or None
        Standard deviations over seeds, where the run is the mean of several.
    """

    name: str
    accuracy: float | None
    best_accuracy: float | None
    loss: float | None
    uplink_bytes: int
    ratio: float | None
    reference: bool
    rounds: int
    seconds: float | None
    missing: float
    accuracy_spread: float | None = None
    loss_spread: float | None = None


def comparison_table(runs: Sequence[Run]) -> list[Row]:
    """One row per run; the reference is the first uncompressed run, else the first run."""
    reference = reference_index(runs)
    sent = [_sent(run) for run in runs]
    return [
        _row(run, sent[place], sent[reference], place == reference)
        for place, run in enumerate(runs)
    ]


def reference_index(runs: Sequence[Run]) -> int:
    """Where the run stands that the others are compared with."""
    plain = [str(run.settings.get("compressor", "")).strip() for run in runs]
    return next((i for i, name in enumerate(plain) if name in ("identity", "identity()")), 0)


def text_table(rows: Sequence[Row]) -> list[list[str]]:
    """Write the rows as text, headings first, without columns that say nothing.

    The accuracies are left out where no run has one, the ratio where there is one run, and the
    missing replies where none is missing.
    """
    columns = [["run", *(row.name for row in rows)]]
    if any(row.accuracy is not None for row in rows):
        shown = (human_accuracy(row.accuracy, row.accuracy_spread) for row in rows)
        columns.append(["accuracy", *shown])
        columns.append(["best", *(human_accuracy(row.best_accuracy) for row in rows)])
    columns.append(["train loss", *(human_loss(row.loss, row.loss_spread) for row in rows)])
    columns.append(["uplink", *(human_bytes(row.uplink_bytes) for row in rows)])
    if len(rows) > 1:
        columns.append(["bytes sent", *(human_ratio(row) for row in rows)])
    if any(row.missing for row in rows):
        columns.append(["missing", *(f"{row.missing:g}" for row in rows)])
    columns.append(["rounds", *(str(row.rounds) for row in rows)])
    columns.append(["time", *(human_seconds(row.seconds) for row in rows)])
    return [list(line) for line in zip(*columns, strict=True)]


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
    """Write a loss with four digits, and its spread with two."""
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


def _row(run: Run, sent: int, reference_sent: int, reference: bool) -> Row:
    accuracies, losses = run.values("accuracy"), run.values("train_loss")
    finite = [accuracy for accuracy in accuracies if not math.isnan(accuracy)]
    seconds = run.environment.get("duration") or next(iter(run.values("seconds")[::-1]), None)
    return Row(
        name=run.name,
        accuracy=accuracies[-1] if accuracies else None,
        best_accuracy=max(finite) if finite else accuracies[-1] if accuracies else None,
        loss=losses[-1] if losses else None,
        uplink_bytes=sent,
        ratio=reference_sent / sent if sent and reference_sent else None,
        reference=reference,
        rounds=int(run.rounds[-1]["round"]) if run.rounds else 0,
        seconds=seconds,
        missing=sum(run.values("lost")) + sum(run.values("refused")),
        accuracy_spread=_last(run, "accuracy_spread"),
        loss_spread=_last(run, "train_loss_spread"),
    )


def _last(run: Run, key: str) -> float | None:
    values = run.values(key)
    return values[-1] if values else None


def _sent(run: Run) -> int:
    return int(run.rounds[-1].get("total_uplink_bytes", 0)) if run.rounds else 0
