"""What is counted while a round goes on, and what the log says of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from fedbias.state import Outcome

from .replies import Replies
from .sharpness import Survey

_LOG = logging.getLogger("flwr")


@dataclass
class Tally:
    """What was counted while one round went on; ``outcome`` when it is over."""

    asked: int = 0
    downlink_bytes: int = 0
    header_bytes: int = 0
    heard: int = 0
    outcome: Outcome = field(default_factory=Outcome)
    survey: Survey | None = None

    def close(self, came: Replies, outcome: Outcome, number: int) -> None:
        """Count what came back, and log what the user should know of single clients."""
        refused = came.refused | dict(outcome.refused)
        for client, why in sorted(refused.items()):
            _LOG.warning("round %s: refused the reply of client %s: %s", number, client, why)
        for client in outcome.forgotten:
            _LOG.warning("round %s: client %s had lost its memory", number, client)
        for client in outcome.saturated:
            _LOG.warning(
                "round %s: client %s exceeds the preset radius: L, μ or the distance is wrong, or "
                "rounding is all that is left; feedback without a radius needs none of them",
                *(number, client),
            )
        self.header_bytes, self.heard = came.header_bytes, len(came.heard)
        self.outcome = replace(outcome, refused=refused)

    def forget(self, clients: Iterable[int]) -> None:
        """Count clients that begin again; they have said why."""
        forgotten = (*self.outcome.forgotten, *clients)
        self.outcome = replace(self.outcome, forgotten=forgotten)

    def check_first(self, number: int) -> None:
        """Refuse to go on if all of round 1's replies were refused (ValueError)."""
        refused = self.outcome.refused
        if number == 1 and refused and not self.outcome.applied and self.heard == self.asked:
            client, why = min(refused.items())  # nor could they in the next round
            raise ValueError(f"no client could do its part; client {client}: {why}")
