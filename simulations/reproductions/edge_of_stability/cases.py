"""What ``reproduce edge-of-stability`` trains: step sizes that stay, and those that follow λ̂."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fedbias as fb

SEEDS = (0, 1, 2)
ROUNDS = 600
SEEN, STEERED = 20, 10  # rounds from one measurement of λ to the next, to look on and to steer
STEPS = (0.05, 0.1, 0.2, 0.4)  # η
SHARES = (0.5, 1.0, 1.9)  # c = ηλ̂
LARGEST = max(STEPS)  # where η = c/λ̂ begins: the loss is flat at x_0
MOMENTUM, MOMENTUM_STEP = 0.5, 0.2  # β, η
EDGE = 0.95  # of an optimizer's limit: c = 1.9 of plain steps
SPARSE = {"compressor": "top_k(fraction=0.1)", "feedback": "error_feedback()"}
MEASURING = "lanczos(every={every}, steps=30, tolerance=0.003)"
MODEL = "mlp(hidden=64, layers=2)"
TASKS = {
    name: f"simulations.reproductions.edge_of_stability.subset:{name.replace('-', '_')}"
    for name in ("fashion-mnist", "mnist")
}


@dataclass(frozen=True)
class Case:
    """One way to choose the step size.

    Attributes
    ----------
    title : str
        Its row in the table.
    family : {"fixed", "steered", "beside"}
        Step sizes that stay, c/λ̂, or what else was tried.
    settings : mapping
        What it changes in the settings of a run.
    """

    title: str
    family: str
    settings: Mapping[str, Any]


def plain(step: float) -> str:
    """Gradient descent."""
    return f"gradient_descent(step_size={step})"


def momentum(step: float) -> str:
    """Momentum."""
    return f"heavy_ball(step_size={step}, beta={MOMENTUM})"


def steered(c: float, largest: float | None = LARGEST) -> dict[str, str]:
    """η = c/λ̂, bounded or not."""
    bound = "" if largest is None else f", largest={largest}"
    return {"optimizer": plain(LARGEST), "steering": f"by_sharpness(c={c}{bound})"}


def cases() -> dict[str, Case]:
    """All the ways, by the names of their cells without the seed."""
    made = {f"fixed-{eta}": Case(f"η = {eta}", "fixed", {"optimizer": plain(eta)}) for eta in STEPS}
    for c in SHARES:
        made[f"c-{c}"] = Case(f"η = {c:g}/λ̂", "steered", steered(c))
    limit = fb.heavy_ball(1.0, MOMENTUM).stability
    edge = steered(round(EDGE * limit, 6)) | {"optimizer": momentum(LARGEST)}
    beside = {
        "unbounded": (f"η = {SHARES[-1]:g}/λ̂ from the start", steered(SHARES[-1], None)),
        "sparse": ("η = 1/λ̂, Top-10 % with error feedback", steered(1.0) | SPARSE),
        "momentum": (f"η = {MOMENTUM_STEP}, momentum", {"optimizer": momentum(MOMENTUM_STEP)}),
        "momentum-c": (f"η = {EDGE * limit:g}/λ̂, momentum", edge),
    }
    return made | {name: Case(title, "beside", how) for name, (title, how) in beside.items()}


def run_of(way: Mapping[str, Any], task: str, seed: int) -> dict[str, Any]:
    """The settings of one run, of which ``way`` are those that choose its step size."""
    return {
        "task": TASKS[task],
        "model": MODEL,
        "partition": "iid()",
        "clients": 10,
        "rounds": ROUNDS,
        "sharpness": MEASURING.format(every=STEERED if "steering" in way else SEEN),
        "evaluate_every": SEEN,
        "seed": seed,
        **way,
    }


def checks() -> dict[str, dict[str, Any]]:
    """Small runs on data that is always there, far from the edge, where rounding would grow."""
    small = {"task": "digits", "model": "mlp(hidden=32, layers=2)", "rounds": 40}
    ways = {"check-fixed": {"optimizer": plain(0.2)}, "check-steered": steered(1.0)}
    return {name: run_of(way, "fashion-mnist", 0) | small for name, way in ways.items()}
