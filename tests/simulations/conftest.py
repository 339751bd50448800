"""Runs that nobody ran: six compressors on one task, with the numbers such a task gives."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest

from simulations.output.runs import Run
from simulations.output.toml import Setting

DENSE = 636_040  # bytes of 159 010 parameters in float32
CELLS = {
    # name: compressor, feedback, bytes per reply, its pace, its end
    "none": ("identity()", "no_feedback()", DENSE, 9.0, 0.9743),
    "top-k + error feedback": ("top_k(fraction=0.01)", "error_feedback()", 14_760, 11.0, 0.9712),
    "sign + error feedback": ("sign()", "error_feedback()", 19_920, 10.0, 0.9695),
    "uniform 4 bits": ("uniform(bits=4)", "no_feedback()", 79_560, 9.2, 0.9738),
    "random-k 1 %": ("random_k(fraction=0.01)", "ef21()", 6_400, 30.0, 0.931),
    "sign": ("sign()", "no_feedback()", 19_920, math.nan, 0.61),
}


def make_record(round_: int, **values: Any) -> dict[str, Any]:
    """Make a complete record of a round; `values` replace what stands there otherwise."""
    record = {
        "round": round_,
        "train_loss": 2.0 / (1 + round_),
        "test_loss": 2.1 / (1 + round_),
        "accuracy": 1 - 0.9 / (1 + round_),
        "uplink_bytes": 100 if round_ else 0,
        "downlink_bytes": 400 if round_ else 0,
        "total_uplink_bytes": 100 * round_,
        "applied": 4 if round_ else 0,
        "refused": 0,
        "lost": 0,
        "gradient_norm": 1.0 / (1 + round_),
        "seconds": 0.5 * round_,
    }
    return record | values


def make_run(name: str, rounds: int = 60) -> Run:
    """Make the run of one cell, evaluated every second round."""
    compressor, feedback, reply, pace, end = CELLS[name]
    records, total = [], 0
    for k in range(rounds + 1):
        lost = (k * 7) % 10 == 3
        sent = (10 - lost) * reply * (k > 0)
        total += sent
        wave = 0.006 * math.sin(2.3 * k + pace)
        done = 1 - math.exp(-k / pace) if pace == pace else 1 - math.exp(-min(k, 12) / 6) / 1
        loss: float | None = 2.31 * (1 - done) + 0.09 + abs(wave)
        if pace != pace and k > 12:
            loss = 0.4 * 1.45 ** (k - 12) if k < 58 else math.inf
        accuracy = 0.1 + (end - 0.1) * done + (wave if k else 0) * (1 - done)
        if pace != pace and k > 12:
            accuracy = max(0.098, end - 0.03 * (k - 12))
        records.append(
            make_record(
                k,
                train_loss=loss,
                test_loss=None if k % 2 else loss,
                accuracy=None if k % 2 else accuracy,
                uplink_bytes=sent,
                downlink_bytes=10 * DENSE * (k > 0),
                total_uplink_bytes=total,
                lost=int(lost),
                seconds=0.41 * k,
            )
        )
    settings: dict[str, Setting] = {
        "task": "digits",
        "model": "mlp",
        "compressor": compressor,
        "feedback": feedback,
        "optimizer": "heavy_ball(step_size=0.1, beta=0.1)",
        "estimator": "minibatch()",
        "batch_size": 32,
        "clients": 10,
        "alpha": 0.5,
        "rounds": rounds,
        "lost_share": 0.2,
        "seed": 0,
        "engine": "inline",
        "cohort": True,
    }
    environment = {
        "python": "3.11.7", "numpy": "2.4.6", "flwr": "1.41.0", "torch": "2.9.0",
        "system": "Linux", "machine": "x86_64", "processors": 2,
        "command": "python -m simulations compare digits", "duration": 0.41 * rounds + 1,
    }  # fmt: skip
    return Run(name, settings, records, environment)


@pytest.fixture
def record() -> Callable[..., dict[str, Any]]:
    """Make complete records of a round."""
    return make_record


@pytest.fixture
def six_runs() -> list[Run]:
    """Give one run per cell; the last one diverges."""
    return [make_run(name) for name in CELLS]


@pytest.fixture
def theory_run() -> Run:
    """Give a run on a problem without accuracies: the loss goes down by a half each round."""
    records = [make_record(k, train_loss=0.5**k, test_loss=None, accuracy=None) for k in range(41)]
    settings = {"task": "least_squares", "compressor": "dithered(bits=4)"}
    return Run("least squares", settings, records)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Give a stream that says it is a terminal of 120 columns; the environment says no more."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    return stream


@pytest.fixture
def pipe(terminal: io.StringIO) -> io.StringIO:
    """Give a stream that is no terminal, in the same environment."""
    return io.StringIO()
