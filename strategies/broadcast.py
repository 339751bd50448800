"""The model to the clients as the few bytes that moved it: seeds and scalars of all the rounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fedbias.algorithm import Algorithm
from fedbias.ledger import NEVER
from fedbias.replica import (
    Replica,
    Step,
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

    Parameters
    ----------
    algorithm : Algorithm
        Whose clients send seeds alone, see :func:`fedbias.replica.check_seeds`.
    state : ServerState
        Where the run begins; without buffers, which seeds do not tell (ValueError).
    """

    def __init__(self, algorithm: Algorithm, state: ServerState) -> None:
        if state.buffers is not None:
            raise ValueError(
                "broadcast='seeds' tells of the parameters alone, and this model has buffers "
                "besides: use broadcast='model'"
            )
        self._algorithm = algorithm
        self._steps: deque[Step] = deque()
        self._first = state.round  # all the steps from this round on are there
        self._bytes = 0  # of their packets
        self._synced: dict[int, int] = {}  # client → round whose model it surely has

    def packets(self, state: ServerState, clients: Iterable[int]) -> dict[int, Record]:
        """For each client, what it needs to have the state's model; made once for all alike."""
        now = Replica(state.round, state.point, state.optimizer)
        since = {client: self._synced.get(client, NEVER) for client in clients}
        records = {round: self._record(round, now) for round in set(since.values())}
        return {client: records[round] for client, round in since.items()}

    def _record(self, since: int, now: Replica) -> Record:
        """What leads from one round's model to the present one, whichever way is shorter."""
        if since < self._first:
            return whole_record(now)
        missed = [step for step in self._steps if step.round >= since]
        steps = steps_record(since, now, missed)
        return steps if size_of(steps) < now.point.nbytes else whole_record(now)

    def close(
        self, before: ServerState, after: ServerState, came: Replies, outcome: Outcome
    ) -> None:
        """Take note of a round: who has its model now, who has lost theirs, the step it made."""
        reports = {report.client: report for report in came.reports}
        self._synced |= dict.fromkeys(reports, before.round)
        for client in came.lost_models:
            self._synced.pop(client, None)
        if outcome.applied:
            applied = {client: reports[client] for client in outcome.applied}
            step = step_of(self._algorithm, before, after, applied)
            self._steps.append(step)
            self._bytes += step.wire_bytes
        while self._bytes > after.point.nbytes:  # who has missed them is sent the model
            oldest = self._steps.popleft()
            self._first = oldest.round + 1
            self._bytes -= oldest.wire_bytes


def size_of(record: Record) -> int:
    """Bytes of a record's packets and headers."""
    parts = record.values()
    return sum(sum(map(len, part)) if isinstance(part, list) else len(part) for part in parts)
