"""A client's ledger inside Flower's ``Context.state``, which lasts for a node and a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context

from fedbias.ledger import Ledger
from fedbias.vectors import Vector

_LEDGER, _MEMORY, _PENDING = "fedbias.ledger", "fedbias.memory", "fedbias.pending"


def load_ledger(context: Context) -> Ledger:
    """The ledger kept in the context; an empty one at first."""
    state = context.state
    if _LEDGER not in state:
        return Ledger()
    kept = cast(ConfigRecord, state[_LEDGER])
    return Ledger(
        applied=cast(int, kept["applied"]),
        memory=_vectors(cast(ArrayRecord, state[_MEMORY])),
        pending_round=cast(int, kept["pending_round"]),
        pending=_vectors(cast(ArrayRecord, state[_PENDING])),
        lost=cast(bool, kept["lost"]),
    )


def save_ledger(context: Context, ledger: Ledger) -> None:
    """Keep the ledger in the context."""
    context.state[_LEDGER] = ConfigRecord(
        {
            "applied": ledger.applied,
            "pending_round": ledger.pending_round,
            "lost": ledger.lost,
        }
    )
    context.state[_MEMORY] = _arrays(ledger.memory)
    context.state[_PENDING] = _arrays(ledger.pending)


def _vectors(record: ArrayRecord) -> dict[str, Vector]:
    return {name: array.numpy() for name, array in record.items()}


def _arrays(memory: Mapping[str, Vector]) -> ArrayRecord:
    return ArrayRecord({name: Array(vector) for name, vector in memory.items()})
