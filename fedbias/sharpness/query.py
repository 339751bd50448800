"""What the server asks a client for a product of its own Hessian with a vector."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from fedbias.compressors.base import check_vector
from fedbias.headers import Check, flag, read_header, whole
from fedbias.objectives import Objective, require
from fedbias.packets import PacketError
from fedbias.rounds import Record, dense, dense_vector
from fedbias.vectors import Vector

_QUERY: dict[str, Check] = {
    "client": whole(),
    "round": whole(),
    "seed": whole(),
    "check": whole(),
    "last": flag,
}


@dataclass(frozen=True)
class HvpQuery:
    """One product at a point that the client was sent once.

    Attributes
    ----------
    client, round, seed : int
        As in a plan; a client that draws (dropout) draws the same for all the products of a round.
    vector : ndarray, shape (dim,)
        v.
    check : int
        Of the point, see :func:`checksum`.
    point : ndarray, shape (dim,), or None
        x_k; None where the client has it from an earlier query.
    last : bool
        Whether no other query needs the point: the client may let go of it.
    """

    client: int
    round: int
    seed: int
    vector: Vector
    check: int
    point: Vector | None = None
    last: bool = False

    def header(self) -> str:
        """All of the query but its vectors, as JSON."""
        return json.dumps({name: getattr(self, name) for name in _QUERY})

    def to_record(self) -> Record:
        """The query as a header and one or two packets."""
        record: Record = {"header": self.header(), "vector": dense(self.vector)}
        return record if self.point is None else record | {"point": dense(self.point)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> HvpQuery:
        """Read a query (ProtocolError or PacketError if it is not one)."""
        header, vector = read_header(record, _QUERY), dense_vector(record, "vector")
        point = dense_vector(record, "point") if "point" in record else None
        if point is not None and checksum(point) != header["check"]:
            raise PacketError("the query's point is not the one that its header means")
        return cls(**header, vector=vector, point=point)


def checksum(point: Vector) -> int:
    """A checksum of a point's bytes."""
    return zlib.crc32(point.tobytes())


def own_product(objective: Objective, query: HvpQuery, point: Vector) -> Vector:
    """H_m·v at the query's point, on all of a client's data.

    Raises
    ------
    ValueError
        If the objective has no Hessian-vector products, point and vector do not fit it, or the
        product does not fit them or is not finite.
    """
    require(objective, {"hvp"}, "the sharpness")
    vector = query.vector
    if point.size != objective.dim or vector.shape != point.shape:
        raise ValueError(
            f"point and vector have dim {point.size} and {vector.size}, not {objective.dim}"
        )
    if vector.dtype != point.dtype:
        raise ValueError(f"the vector is {vector.dtype}, and the point {point.dtype}")
    if hasattr(objective, "draw_key"):
        cast(Any, objective).draw_key = (query.seed, query.round, query.client)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        found = cast(Vector, cast(Any, objective).hvp(point, vector))
    if found.shape != point.shape or found.dtype != point.dtype:
        raise ValueError(
            f"hvp gives {found.dtype} of shape {found.shape}, not {point.dtype} of {point.shape}"
        )
    check_vector(found)
    return found
