"""The server's state as named arrays and a JSON header, in both forms of a federation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np

from fedbias.gossip import GossipState
from fedbias.packets import Packet
from fedbias.sharpness import Reading
from fedbias.state import ServerState
from fedbias.vectors import Vector

State = ServerState | GossipState
S = TypeVar("S", ServerState, GossipState)
Arrays = Mapping[str, Vector]
MEMORIES = "memories/"
_OPTIMIZER, _RELAYS, _STARTS = "optimizer/", "relays/", "starts/"


def parts_of(state: State) -> tuple[dict[str, Vector], dict[str, Any]]:
    """All of a state: ``point`` is where a client begins that knows nothing, in both forms."""
    arrays, header = _star(state) if isinstance(state, ServerState) else _gossip(state)
    arrays |= {f"{MEMORIES}{client}": array for client, array in state.memories.items()}
    header |= {
        "round": state.round,
        "acknowledged": sorted(state.acknowledged.items()),
        "enrolled": sorted(state.enrolled.items()),
        "samples": state.samples,
    }
    return arrays, header


def state_from(header: Mapping[str, Any], arrays: Arrays, memories: Mapping[int, Vector]) -> State:
    """The state that these are the parts of (KeyError, TypeError or ValueError if they are not).

    Parameters
    ----------
    memories : mapping of int to ndarray
        The vectors under :data:`MEMORIES`.
    """
    common: dict[str, Any] = {
        "round": header["round"],
        "acknowledged": dict(header["acknowledged"]),
        "memories": memories,
        "enrolled": dict(header.get("enrolled", ())),  # files from before there were any
        "samples": header.get("samples", 0),
    }
    if "starts" in header:
        relays = under(_RELAYS, arrays).items()
        starts = {client: arrays[f"{_STARTS}{place}"] for client, place in header["starts"]}
        return GossipState(
            entry=arrays["point"],
            relays={int(client): Packet.from_bytes(part.tobytes()) for client, part in relays},
            starts=starts,
            **common,
        )
    spread = header.get("variances", ())
    return ServerState(
        point=arrays["point"],
        optimizer=under(_OPTIMIZER, arrays),
        counts=dict(header.get("counts", ())),
        batch_size=header.get("batch_size"),
        variances={kind: (rounds, variance) for kind, rounds, variance in spread},
        buffers=arrays.get("buffers"),
        sharpness=Reading(**reading) if (reading := header.get("sharpness")) else None,
        step_size=header.get("step_size"),
        **common,
    )


def under(prefix: str, arrays: Arrays) -> dict[str, Vector]:
    """The arrays whose names begin so, without that."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _star(state: ServerState) -> tuple[dict[str, Vector], dict[str, Any]]:
    arrays = {"point": state.point}
    arrays |= {f"{_OPTIMIZER}{name}": array for name, array in state.optimizer.items()}
    if state.buffers is not None:
        arrays["buffers"] = state.buffers
    return arrays, {
        "counts": sorted(state.counts.items()),
        "batch_size": state.batch_size,
        "variances": sorted((kind, *known) for kind, known in state.variances.items()),
        "sharpness": asdict(state.sharpness) if state.sharpness else None,
        "step_size": state.step_size,
    }


def _gossip(state: GossipState) -> tuple[dict[str, Vector], dict[str, Any]]:
    distinct = {id(start): start for start in state.starts.values()}  # a few for many clients
    place = {key: number for number, key in enumerate(distinct)}
    arrays = {"point": state.entry}
    arrays |= {f"{_STARTS}{place[key]}": start for key, start in distinct.items()}
    arrays |= {
        f"{_RELAYS}{client}": np.frombuffer(bytes(relay), np.uint8)
        for client, relay in state.relays.items()
    }
    starts = sorted((client, place[id(start)]) for client, start in state.starts.items())
    return arrays, {"starts": starts}
