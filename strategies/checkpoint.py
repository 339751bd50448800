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
from fedbias.state import ServerState
from fedbias.vectors import Vector

_MEMORIES = "memories/"


@dataclass(frozen=True)
class Checkpoint:
    """A run between two rounds.

    Attributes
    ----------
    state : ServerState
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

    state: ServerState
    total_uplink_bytes: int = 0
    seconds: float = 0.0
    clients: Mapping[str, Vector] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    stopped: str | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an interruption leaves the old file or the new one, never half a file."""
    state = checkpoint.state
    arrays = {"point": state.point}
    arrays |= {f"optimizer/{name}": array for name, array in state.optimizer.items()}
    arrays |= {f"{_MEMORIES}{client}": array for client, array in state.memories.items()}
    arrays |= {f"clients/{name}": array for name, array in checkpoint.clients.items()}
    if state.buffers is not None:
        arrays["buffers"] = state.buffers
    header = {
        "round": state.round,
        "acknowledged": sorted(state.acknowledged.items()),
        "counts": sorted(state.counts.items()),
        "enrolled": sorted(state.enrolled.items()),
        "batch_size": state.batch_size,
        "samples": state.samples,
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
            held = [name for name in names if name.startswith(_MEMORIES)]
            arrays = {
                name: file.get_tensor(name) for name in names if not name.startswith(_MEMORIES)
            }
            vectors = ((int(name.removeprefix(_MEMORIES)), file.get_tensor(name)) for name in held)
            memories = shelved(vectors, len(held), arrays["point"])
        state = ServerState(
            point=arrays["point"],
            round=header["round"],
            optimizer=_under("optimizer/", arrays),
            acknowledged=dict(header["acknowledged"]),
            counts=dict(header.get("counts", ())),  # files from before there were any
            memories=memories,
            enrolled=dict(header.get("enrolled", ())),
            batch_size=header.get("batch_size"),
            samples=header.get("samples", 0),
            buffers=arrays.get("buffers"),
        )
        return Checkpoint(
            state,
            header["total_uplink_bytes"],
            header["seconds"],
            _under("clients/", arrays),
            header["meta"],
            header["stopped"],
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as reason:
        raise ValueError(f"{path} is not a fedbias checkpoint: {reason}") from None


def _under(prefix: str, arrays: Mapping[str, Vector]) -> dict[str, Vector]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
