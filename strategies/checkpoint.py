"""All that the server needs to go on, in one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fedbias.memories import shelved
from fedbias.vectors import Vector

from .states import MEMORIES, S, State, parts_of, state_from, under

_CLIENTS = "clients/"


@dataclass(frozen=True)
class Checkpoint:
    """A run between two rounds.

    Attributes
    ----------
    state : ServerState or GossipState
        The latter where clients own their models.
    total_uplink_bytes : int
    seconds : float
        Since the start of the run, pauses left out.
    clients : mapping of str to ndarray
        The clients' own memories, where the engine holds them (a simulation in one process).
    meta : mapping
        Whatever else belongs to the clients' memories; JSON.
    stopped : str or None
        The goal that was reached, if the run is over.
    """

    state: State
    total_uplink_bytes: int = 0
    seconds: float = 0.0
    clients: Mapping[str, Vector] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    stopped: str | None = None

    def of(self, kind: type[S]) -> S:
        """The state, if it is of this kind (ValueError)."""
        if not isinstance(self.state, kind):
            raise ValueError(
                f"the checkpoint holds a {type(self.state).__name__}, and this strategy goes on "
                f"from a {kind.__name__}"
            )
        return self.state


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an interruption leaves the old file or the new one, never half a file."""
    arrays, header = parts_of(checkpoint.state)
    arrays |= {f"{_CLIENTS}{name}": array for name, array in checkpoint.clients.items()}
    header |= {
        "total_uplink_bytes": checkpoint.total_uplink_bytes,
        "seconds": checkpoint.seconds,
        "stopped": checkpoint.stopped,
        "meta": checkpoint.meta,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        partial,
        metadata={"fedbias": json.dumps(header)},
    )
    os.replace(partial, path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint (ValueError if the file is not one)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads(file.metadata()["fedbias"])
            names = sorted(file.keys())
            held = [name for name in names if name.startswith(MEMORIES)]
            arrays = {
                name: file.get_tensor(name) for name in names if not name.startswith(MEMORIES)
            }
            vectors = ((int(name.removeprefix(MEMORIES)), file.get_tensor(name)) for name in held)
            memories = shelved(vectors, len(held), arrays["point"])
        return Checkpoint(
            state_from(header, arrays, memories),
            header["total_uplink_bytes"],
            header["seconds"],
            under(_CLIENTS, arrays),
            header["meta"],
            header["stopped"],
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as reason:
        raise ValueError(f"{path} is not a fedbias checkpoint: {reason}") from None
