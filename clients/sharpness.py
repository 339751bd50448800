"""A client's products of its own Hessian, at a point that it was sent once and keeps meanwhile."""

from __future__ import annotations

from typing import cast

from flwr.app import Array, ArrayRecord, Context

from fedbias.ledger import LostModel
from fedbias.objectives import Objective
from fedbias.sharpness import HvpQuery, checksum, own_product
from fedbias.vectors import Vector

_POINT = "fedbias.sharpness"


def answer(objective: Objective, query: HvpQuery, context: Context) -> Vector:
    """The product that is asked for (LostModel if this client does not have the point).

    The point stays in the context until the last query of a reading; that of a reading which failed
    on the way, until the next one.
    """
    found = own_product(objective, query, _point(query, context))
    if query.last:
        context.state.pop(_POINT, None)
    elif query.point is not None:
        context.state[_POINT] = ArrayRecord({"point": Array(query.point)})
    return found


def _point(query: HvpQuery, context: Context) -> Vector:
    if query.point is not None:
        return query.point
    if _POINT in context.state:
        point = cast(ArrayRecord, context.state[_POINT])["point"].numpy()
        if checksum(point) == query.check:
            return point
    raise LostModel("this client does not have the point that the products are asked at")
