"""What a run came to, in one row of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from .runs import Record, Run, number


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
    sharpness, sharpness_spread : float or None
        The last λ̂, and its standard deviation over seeds; of one run the standard error over its
        sample of clients.
    step_sharpness, stability : float or None
        ηλ̂ of that round, and below which such steps converge on a quadratic; over seeds, the mean.
    sharpness_bytes : float
        Sent and received to measure it, which is not in ``uplink_bytes``; over seeds, the mean.
    unmeasured : float
        In how many rounds it should have been measured and was not; over seeds, the mean.
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
    sharpness: float | None = None
    sharpness_spread: float | None = None
    step_sharpness: float | None = None
    stability: float | None = None
    sharpness_bytes: float = 0
    unmeasured: float = 0


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
    reading = _reading(run)
    steps = [_step_sharpness(_reading(seed)) for seed in seeds]
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
        sharpness=number(reading, "sharpness"),
        sharpness_spread=number(reading, "sharpness_spread"),
        step_sharpness=_mean([product for product, _ in steps]),
        stability=_mean([limit for _, limit in steps]),
        sharpness_bytes=fmean(_count(seed, "sharpness_bytes") for seed in seeds),
        unmeasured=fmean(
            sum(bool(record.get("unmeasured")) for record in seed.rounds) for seed in seeds
        ),
    )


def _reading(run: Run) -> Record:
    """The last round that measured the sharpness; empty if none did."""
    return next((r for r in run.rounds[::-1] if number(r, "sharpness") is not None), {})


def _step_sharpness(reading: Record) -> tuple[float | None, float | None]:
    """ηλ̂, and the limit of such products; None where there is no such number."""
    found = (number(reading, key) for key in ("step_size", "sharpness", "stability_limit"))
    step_size, sharpness, most = found
    if step_size is None or sharpness is None or most is None:
        return None, None
    return step_size * sharpness, step_size * most


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is missing."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _last(run: Run, key: str) -> float | None:
    values = run.values(key)
    return values[-1] if values else None


def _count(run: Run, key: str) -> float:
    return sum(run.values(key))


def _sent(run: Run) -> int:
    return int(run.rounds[-1].get("total_uplink_bytes", 0)) if run.rounds else 0
