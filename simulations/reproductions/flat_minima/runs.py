"""The runs of ``reproduce flat-minima``: by the loop, and through Flower's messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from flwr.app import Array, ArrayRecord

import fedbias as fb
from clients import client_app
from clients.app import client_number
from fedbias import theory
from fedbias.state import Outcome, ServerState
from fedbias.stopping import Until
from fedbias.vectors import Vector
from strategies import Checkpoint, FedBias, RoundRecord

from ...engines import InlineGrid
from ..base import Result
from .cases import CLIENTS, FINE, ROUGH, TARGET

_RATED = 1e-8  # |ε| at which the rate is read: far from the start and from rounding
_SPARE = 5  # rounds that the federation may need beyond those of one client
FAR = 100.0  # an entry that says that a run diverges
_KEPT = 150  # points of a run that is drawn


def measure(start: Vector, step_size: float, rounds: int, *, drawn: bool = False) -> Result:
    """One run until |ε| ≤ 1e-14: one client in the loop, several in the loop, several in Flower.

    Parameters
    ----------
    rounds : int
        At most so many.
    drawn : bool
        Whether its points are kept.
    """
    step, width = fb.gradient_descent(step_size), start.size // 2
    one, several = (fb.ShallowLinear(TARGET, width, clients) for clients in (1, CLIENTS))
    alone = looped(one, step, start, rounds, fb.until(loss=FINE**2 / 2))
    count = len(alone) - 1 + _SPARE
    loop, flower = looped(several, step, start, count), federated(several, step, start, count)
    common = min(len(alone), len(flower))
    result = descent(alone, step_size) | {
        "identical": bool(np.array_equal(loop, flower)),
        "compared": len(flower),
        "federated_steps": _counted(residuals(flower)),
        "apart": _short(float(np.abs(flower[:common] - alone[:common]).max())),
        "identity": _short(recursion_error(flower, step_size)),
    }
    return result | ({"points": alone[:_KEPT].tolist()} if drawn else {})


class Left(Exception):
    """A run has diverged."""


def looped(
    problem: fb.ShallowLinear,
    optimizer: fb.Optimizer,
    start: Vector,
    rounds: int,
    stop: Until | None = None,
) -> Vector:
    """x_0 … x_K by the loop, shape (K + 1, 2d); K < rounds if it stops or diverges."""
    points = [start]

    def keep(round: int, state: ServerState, outcome: Outcome) -> None:
        _take(points, state.point)

    with suppress(Left):
        fb.run(problem.objectives, optimizer, start, rounds, stop=stop, on_round=keep, keep="last")
    return np.stack(points)


def federated(
    problem: fb.ShallowLinear, optimizer: fb.Optimizer, start: Vector, rounds: int
) -> Vector:
    """The same through Flower's messages: every client is a node, and the server a strategy."""
    objectives = problem.objectives
    points: list[Vector] = []

    def keep(record: RoundRecord, checkpoint: Checkpoint) -> None:
        _take(points, checkpoint.of(ServerState).point)

    app = client_app(lambda context: objectives[client_number(context)[0]])
    strategy = FedBias(optimizer, minimum_clients=len(objectives))
    grid, arrays = InlineGrid(app, len(objectives)), ArrayRecord({"point": Array(start)})
    with suppress(Left):
        strategy.start(grid, arrays, rounds, on_round=keep)
    return np.stack(points)


def _take(points: list[Vector], point: Vector) -> None:
    points.append(point)
    if np.abs(point).max() > FAR:
        raise Left


def descent(points: Vector, step_size: float) -> Result:
    """What the points of a run say beside the theory; they end where it has converged, if it did.

    ``steps`` are those to |ε| < 1e-12 and 1e-14, None if it does not get there; ``norm_square`` is
    λ at the last point, ``product`` what the product formula makes of the residuals, ``rate`` is
    [measured, |1 − ηλ_∞|] or None.
    """
    left, imbalance = residuals(points), theory.shallow_imbalance(points[0])
    ended = float(points[-1] @ points[-1])
    product = theory.shallow_descent_limit(imbalance, left[:-1], TARGET, step_size)
    return {
        "step_size": step_size,
        "rounds": len(points) - 1,
        "flow": theory.shallow_flow_limit(imbalance, TARGET),
        "steps": _counted(left),
        "diverged": bool(np.abs(points[-1]).max() > FAR),
        "norm_square": ended,
        "product": product,
        "sharpness": [theory.shallow_sharpness(x, TARGET) for x in (points[0], points[-1])],
        "move": step_size * max(map(abs, left)),
        "bounded": _bounded(imbalance, left, step_size),
        "rate": _rate(left, step_size, ended),
    }


def residuals(points: Vector) -> list[float]:
    """ε at every point."""
    return [theory.shallow_residual(point, TARGET) for point in points]


def recursion_error(points: Vector, step_size: float) -> float:
    """How far (ε, λ, Q) after any step are from the recursion; 1 + λ is the unit.

    The step by which a run leaves is not looked at.
    """
    worst = 0.0
    known = [
        (theory.shallow_residual(x, TARGET), float(x @ x), theory.shallow_imbalance(x))
        for x in points
    ]
    known = known[:-1] if np.abs(points[-1]).max() > FAR else known
    for old, new in zip(known, known[1:], strict=False):
        expected = theory.shallow_step(*old, TARGET, step_size)
        off = max(abs(one - other) for one, other in zip(new, expected, strict=True))
        worst = max(worst, off / (1 + old[1]))
    return worst


def endless(start: Vector, step_size: float, rounds: int) -> Result:
    """A run that does not converge: its least |ε|, and its largest entry."""
    least, largest = math.inf, 0.0

    def look(round: int, state: ServerState, outcome: Outcome) -> None:
        nonlocal least, largest
        least = min(least, abs(theory.shallow_residual(state.point, TARGET)))
        largest = max(largest, float(np.abs(state.point).max()))

    objectives = fb.ShallowLinear(TARGET, start.size // 2).objectives
    fb.run(*(objectives, fb.gradient_descent(step_size), start, rounds), on_round=look, keep="last")
    return {"step_size": step_size, "rounds": rounds, "least": least, "largest": largest}


def _counted(left: Sequence[float]) -> list[int | None]:
    """The first t with |ε_t| below 1e-12, and below 1e-14."""
    return [
        next((t for t, value in enumerate(left) if abs(value) < limit), None)
        for limit in (ROUGH, FINE)
    ]


def _bounded(imbalance: float, left: Sequence[float], step_size: float) -> bool:
    """Whether the theory promises λ_∞ ≤ λ_GF."""
    try:
        theory.shallow_flatness_bound(imbalance, left, TARGET, step_size)
    except ValueError:
        return False
    return True


def _rate(left: Sequence[float], step_size: float, limit: float) -> list[float] | None:
    place = next((t for t, value in enumerate(left[:-1]) if abs(value) < _RATED), None)
    if place is None or left[place] == 0:
        return None
    return [abs(left[place + 1] / left[place]), theory.shallow_rate(step_size, limit)]


def _short(value: float) -> float:
    return float(f"{value:.3g}")
