"""Exactly once: a client's memory changes only when its report was applied.

The client keeps the outcome of its last turn pending. The next plan says which of its reports the
server applied last; that commits the pending outcome or rolls it back::

    acknowledged = what is committed   → the pending report was lost: drop it
    acknowledged = what is pending     → it was applied: commit it
    anything else                      → this is not the memory the server knows: start afresh
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedbias.vectors import Vector

NEVER = -1
LOST_MODEL = 1001  # the code of a reply that says so; Flower's own are small


class LostModel(ValueError):
    """A client was asked to go on from what it does not have any more; the message says what."""


@dataclass(frozen=True)
class Ledger:
    """A client's memory between rounds.

    Attributes
    ----------
    applied : int
        The round whose report was applied last; −1 before the first.
    memory : mapping of str to ndarray
        As of that round.
    pending_round : int
        The round of the report whose fate is not known yet; −1 for none.
    pending : mapping of str to ndarray
        The memory if it was applied.
    lost : bool
        Whether memory was lost since the server last applied a report of this client.
    """

    applied: int = NEVER
    memory: Mapping[str, Vector] = field(default_factory=dict)
    pending_round: int = NEVER
    pending: Mapping[str, Vector] = field(default_factory=dict)
    lost: bool = False


def settle(ledger: Ledger, acknowledged: int) -> Ledger:
    """Commit or roll back the pending outcome, as the server's acknowledgement says."""
    if acknowledged == ledger.applied:
        return replace(ledger, pending_round=NEVER, pending={})
    if acknowledged == ledger.pending_round:
        return Ledger(applied=acknowledged, memory=ledger.pending)
    return Ledger(applied=acknowledged, lost=acknowledged != NEVER)


def pend(ledger: Ledger, round: int, memory: Mapping[str, Vector]) -> Ledger:
    """Keep the outcome of a turn until its fate is known."""
    return replace(ledger, pending_round=round, pending=memory)
