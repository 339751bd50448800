"""The server's step of a round: how large, by the samples so far or by the measured sharpness."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from fedbias.algorithm import Algorithm
from fedbias.decay import decayed
from fedbias.optimizers import Optimizer
from fedbias.sharpness import Reading
from fedbias.state import ServerState


def step_now(algorithm: Algorithm, state: ServerState, samples: int) -> Optimizer:
    """The optimizer with the state's own step size, or decayed after so many samples."""
    if state.step_size is None or algorithm.steering is None:
        return decayed(algorithm.optimizer, algorithm.decay, samples)
    return cast(Optimizer, replace(cast(Any, algorithm.optimizer), step_size=state.step_size))


def steered(algorithm: Algorithm, state: ServerState, reading: Reading) -> ServerState:
    """The state that knows the sharpness at its point, and steps by it where that is asked for."""
    step_size, rule = state.step_size, algorithm.steering
    if rule is not None:
        step_size = rule.step_size(step_size, reading.value)
    return replace(state, sharpness=reading, step_size=step_size)
