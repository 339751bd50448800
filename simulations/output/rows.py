"""What a run came to, in one row of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from .runs import Run


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
    missing, saturated : float
        How many replies were lost or refused, and how many of the others held a vector longer than
        its preset radius; over seeds, the mean.
    samples : float or None
        Examples that all the applied estimates were made of.
    average_batch : float or None
        The mean over the rounds of b, each client's batch size; None for all the data.
    ruled : bool
        Whether a rule chose b.
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
    saturated: float = 0
    samples: float | None = None
    average_batch: float | None = None
    ruled: bool = False
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


def _row(run: Run, sent: int, reference_sent: int, reference: bool) -> Row:
    accuracies, losses = run.values("accuracy"), run.values("train_loss")
    seeds = run.seeds or (run,)
    sizes = [fmean(found) for seed in seeds if (found := seed.values("batch_size"))]
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
        rounds=round(run.rounds[-1]["round"]) if run.rounds else 0,
        seconds=seconds,
        missing=fmean(_count(seed, "lost") + _count(seed, "refused") for seed in seeds),
        saturated=fmean(_count(seed, "saturated") for seed in seeds),
        samples=_last(run, "total_samples"),
        average_batch=fmean(sizes) if sizes else None,
        ruled=isinstance(run.settings.get("batch_size"), str),
        accuracy_spread=_last(run, "accuracy_spread"),
        loss_spread=_last(run, "train_loss_spread"),
    )


def _last(run: Run, key: str) -> float | None:
    values = run.values(key)
    return values[-1] if values else None


def _count(run: Run, key: str) -> float:
    return sum(run.values(key))


def _sent(run: Run) -> int:
    return int(run.rounds[-1].get("total_uplink_bytes", 0)) if run.rounds else 0
