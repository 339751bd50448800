"""How a round ends: central evaluation, its record, the goal, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Result

from fedbias.stopping import Until

from .checkpoint import Checkpoint
from .records import RoundRecord
from .states import State
from .tally import Tally

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
OnRound = Callable[[RoundRecord, Checkpoint], None]


class Journal:
    """What a run has come to so far, beside its state.

    Parameters
    ----------
    first : Checkpoint
        Where the run begins or goes on.
    result : Result
        Its ``arrays`` are evaluated.
    """

    def __init__(
        self,
        first: Checkpoint,
        result: Result,
        evaluate_fn: EvaluateFn | None,
        on_round: OnRound | None,
        stop: Until | None,
    ) -> None:
        self._result, self._evaluate, self._on_round = result, evaluate_fn, on_round
        self._stop, self._total = stop, first.total_uplink_bytes
        self._earlier, self._began = first.seconds, time.monotonic()

    def close(
        self,
        number: int,
        tally: Tally,
        state: State,
        metrics: dict[str, Any],
        *,
        evaluated: bool = True,
    ) -> str | None:
        """End a round; the goal that was reached, if one was.

        Parameters
        ----------
        metrics : dict
            Further fields of the record.
        evaluated : bool
            Whether the round evaluates: others look neither at the arrays nor at the goals.
        """
        central = (
            self._evaluate(number, self._result.arrays) if evaluated and self._evaluate else None
        )
        if central is not None:
            self._result.evaluate_metrics_serverapp[number] = central
            metrics |= {"test_loss": central.get("loss"), "accuracy": central.get("accuracy")}
        self._total += tally.outcome.wire_bits // 8
        seconds = self._earlier + time.monotonic() - self._began
        metrics |= {"total_samples": state.samples}
        record = RoundRecord.of(number, seconds, self._total, tally, **metrics)
        stopped = self._stop.reached(record.goals()) if evaluated and self._stop else None
        if self._on_round:
            self._on_round(record, Checkpoint(state, self._total, seconds, stopped=stopped))
        return stopped
