"""Who a client is: what it says of itself once, before its first plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedbias.headers import Check, flag, read_header, text, texts, whole
from fedbias.objectives import Objective, capabilities
from fedbias.randomness import fingerprint
from fedbias.rounds import Record

_HELLO: dict[str, Check] = {
    "client": whole(),
    "stable": flag,
    "dim": whole(1),
    "size": whole(),
    "capabilities": texts,
    "partitions": whole(1, optional=True),
    "fingerprint": text,
}


@dataclass(frozen=True)
class Hello:
    """A client's introduction.

    Attributes
    ----------
    client : int
        Its number: everything random and ordered is keyed by it.
    stable : bool
        Whether the number will be the same in the next run; a node id is not.
    dim, size : int
        Of its objective.
    capabilities : list of str
    partitions : int or None
        Over how many clients the data is split, as far as this one was told.
    fingerprint : str
        Of its random number generator, see :func:`fedbias.randomness.fingerprint`.
    """

    client: int
    stable: bool
    dim: int
    size: int
    capabilities: list[str]
    partitions: int | None
    fingerprint: str

    @classmethod
    def of(cls, objective: Objective, client: int, stable: bool, partitions: int | None) -> Hello:
        """Introduce an objective."""
        able = sorted(capabilities(objective))
        dim, size = int(objective.dim), int(objective.size)
        return cls(client, stable, dim, size, able, partitions, fingerprint())

    def to_record(self) -> Record:
        """The introduction as one header."""
        return {"header": json.dumps(asdict(self))}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Hello:
        """Read an introduction (ProtocolError if it is not one)."""
        return cls(**read_header(record, _HELLO))
