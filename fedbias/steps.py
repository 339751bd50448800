"""The server's step of a round: how large, by the samples so far or by the measured sharpness."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

from fedbias.algorithm import Algorithm
from fedbias.decay import decayed
from fedbias.optimizers import Optimizer
from fedbias.sharpness import HvpQuery, Lanczos, Reading, check_of, measured_clients, read
from fedbias.state import ServerState
from fedbias.vectors import Vector

Ask = Callable[[list[HvpQuery]], Iterable[Vector]]  # queries → the products, in their order


def step_now(algorithm: Algorithm, state: ServerState, samples: int) -> Optimizer:
    """The optimizer with the state's own step size, or decayed after so many samples."""
    if state.step_size is None:
        return decayed(algorithm.optimizer, algorithm.decay, samples)
    return cast(Optimizer, replace(cast(Any, algorithm.optimizer), step_size=state.step_size))


def measured(algorithm: Algorithm, state: ServerState, reading: Reading) -> ServerState:
    """The state that knows the sharpness at its point, and steps by it where that is asked for."""
    step_size, rule = state.step_size, algorithm.steering
    if rule is not None:
        step_size = rule.step_size(step_size, reading.value)
    return replace(state, sharpness=reading, step_size=step_size)


def reading_of(
    algorithm: Algorithm, setting: Lanczos, state: ServerState, able: Iterable[int], ask: Ask
) -> Reading:
    """Measure the sharpness at the state's point.

    Parameters
    ----------
    able : iterable of int
        The clients that can compute products, all of them enrolled.
    ask : callable
        Queries, one per client, without the point → products like the point.

    Raises
    ------
    NotMeasured
        If nobody can, ``ask`` says so, or a product is not finite.
    """
    known, check = list(able), check_of(state.point)
    clients = measured_clients(setting, algorithm.seed, state.round, known)
    weights = [algorithm.weight(state.enrolled[client]) for client in clients]

    def products(vector: Vector) -> Iterable[tuple[float, Vector]]:
        queries = [HvpQuery(m, state.round, algorithm.seed, vector, check) for m in clients]
        return zip(weights, ask(queries), strict=True)

    return read(setting, algorithm.seed, state.round, state.point, products, len(known))
