"""The model to the clients as the few bytes that moved it: seeds and scalars of all the rounds."""

from __future__ import annotations

from collections.abc import Iterable

from fedbias.algorithm import Algorithm
from fedbias.replica import (
    Replica,
    Step,
    check_seeds,
    step_of,
    steps_record,
    whole_record,
)
from fedbias.rounds import Record
from fedbias.state import Outcome, ServerState

from .replies import Replies


class SeedBroadcast:
    """Which clients have which round's model, and the steps since.

    A client is sent the whole model at first, after it lost its own, and where that is shorter
    than the steps it has missed. Nothing of this is in a checkpoint: a resumed run sends everyone
    the model once.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        check_seeds(algorithm)
        self._algorithm = algorithm
        self._steps: list[Step] = []
        self._synced: dict[int, int] = {}  # client → round whose model it surely has

    def packets(self, state: ServerState, clients: Iterable[int]) -> dict[int, Record]:
        """For each client, what it needs to have the state's model."""
        whole = whole_record(Replica(state.round, state.point, state.optimizer))
        known: dict[int | None, Record] = {None: whole}
        return {
            client: self._record(known, self._synced.get(client), state.round) for client in clients
        }

    def _record(self, known: dict[int | None, Record], since: int | None, round: int) -> Record:
        """The record for who has this round's model; made once for all who have it."""
        if since not in known:
            missed = [step for step in self._steps if since is not None and step.round >= since]
            reach = not self._steps or (since is not None and since >= self._steps[0].round)
            steps = steps_record(since or 0, round, missed)
            short = reach and size_of(steps) < size_of(known[None])
            known[since] = steps if short else known[None]
        return known[since]

    def close(
        self, before: ServerState, after: ServerState, came: Replies, outcome: Outcome
    ) -> None:
        """Take note of a round: who has its model now, who has lost his, and the step it made."""
        reports = {report.client: report for report in came.reports}
        self._synced |= dict.fromkeys(reports, before.round)
        for client in came.lost_models:
            self._synced.pop(client, None)
        if outcome.applied:
            applied = {client: reports[client] for client in outcome.applied}
            self._steps.append(step_of(self._algorithm, before, after, applied))
        while sum(map(len, self._steps)) > after.point.nbytes:
            self._steps.pop(0)  # who has missed it is sent the model


def size_of(record: Record) -> int:
    """Bytes of a record's packets and headers."""
    parts = record.values()
    return sum(sum(map(len, part)) if isinstance(part, list) else len(part) for part in parts)
