"""A client's copy of the model inside Flower's ``Context.state``, where the server sends steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context

from fedbias.replica import Replica, caught_up
from fedbias.rounds import Plan

_ROUND, _MODEL, _POINT, _OPTIMIZER = "fedbias.round", "fedbias.model", "point", "optimizer/"


def plan_of(record: Mapping[str, Any], context: Context) -> Plan:
    """The plan that a record holds; its point is the context's own copy, if the record says so.

    Raises
    ------
    LostModel
        If the record tells how to go on from a model that the context does not hold.
    """
    replica = caught_up(record, _load(context))
    if replica is None:
        return Plan.from_record(record)
    _save(context, replica)
    return Plan.from_record(record, replica.point)


def _load(context: Context) -> Replica | None:
    if _MODEL not in context.state:
        return None
    kept = cast(ArrayRecord, context.state[_MODEL])
    state = {
        name.removeprefix(_OPTIMIZER): array.numpy()
        for name, array in kept.items()
        if name != _POINT
    }
    number = cast(ConfigRecord, context.state[_ROUND])["round"]
    return Replica(cast(int, number), kept[_POINT].numpy(), state)


def _save(context: Context, replica: Replica) -> None:
    state = {_OPTIMIZER + name: vector for name, vector in replica.optimizer.items()}
    vectors = {_POINT: replica.point} | state
    context.state[_ROUND] = ConfigRecord({"round": replica.round})
    context.state[_MODEL] = ArrayRecord({name: Array(vector) for name, vector in vectors.items()})
