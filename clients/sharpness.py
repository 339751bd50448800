"""A client's products of its own Hessian, at a point that it was sent once and keeps meanwhile."""

from __future__ import annotations

from typing import cast

from flwr.app import Array, ArrayRecord, Context

from fedbias.ledger import LostModel
from fedbias.objectives import Objective
from fedbias.sharpness import HvpQuery, check_of, product
from fedbias.vectors import Vector

_POINT = "fedbias.sharpness"


def answer(objective: Objective, query: HvpQuery, context: Context) -> Vector:
    """The product that is asked for (LostModel if this client does not have the point)."""
    if query.point is not None:
        context.state[_POINT] = ArrayRecord({"point": Array(query.point)})
    return product(objective, query, _kept(query, context))


def forget_point(context: Context) -> None:
    """Let go of the point: training goes on elsewhere."""
    if _POINT in context.state:
        del context.state[_POINT]


def _kept(query: HvpQuery, context: Context) -> Vector:
    if query.point is not None:
        return query.point
    if _POINT in context.state:
        point = cast(ArrayRecord, context.state[_POINT])["point"].numpy()
        if check_of(point) == query.check:
            return point
    raise LostModel("this client does not have the point that the products are asked at")
