"""Flower's named arrays ↔ the server's flat vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord

from fedbias.state import ServerState
from fedbias.vectors import Layout, Vector, flatten, unflatten


def named(record: ArrayRecord) -> dict[str, Vector]:
    """The record's arrays by name."""
    return {name: array.numpy() for name, array in record.items()}


def arrays_of(vectors: Mapping[str, Vector]) -> ArrayRecord:
    """Named arrays as a record."""
    return ArrayRecord({name: Array(vector) for name, vector in vectors.items()})


@dataclass(frozen=True)
class Names:
    """How the flat vectors are cut into named arrays."""

    parameters: Layout
    buffers: Layout | None

    @classmethod
    def of(cls, arrays: ArrayRecord, buffers: ArrayRecord | None) -> Names:
        """The layouts of the initial arrays."""
        return cls(Layout.of(named(arrays)), None if not buffers else Layout.of(named(buffers)))

    def start(self, arrays: ArrayRecord, buffers: ArrayRecord | None) -> ServerState:
        """The state before the first round."""
        extra = flatten(named(buffers).values()) if buffers else None
        return ServerState(flatten(named(arrays).values()), buffers=extra)

    def arrays(self, state: ServerState) -> ArrayRecord:
        """The state's parameters and buffers by name."""
        vectors = unflatten(state.point, self.parameters)
        if self.buffers is not None and state.buffers is not None:
            vectors |= unflatten(state.buffers, self.buffers)
        return arrays_of(vectors)
