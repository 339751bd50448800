"""What a reading of the sharpness costs a client: Hessian-vector products beside gradients.

A Lanczos run makes as many products, and re-orthogonalizes its vectors besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

import fedbias as fb
from fedbias.vectors import Vector, flatten

from ..models import Model, cnn, mlp
from .measure import Finding, in_turns, ratio, shown

if TYPE_CHECKING:
    from torch import nn

    from clients import TorchObjective

SHAPE = (1, 28, 28)
PRODUCTS = 20
AIM = 5.0  # products for that many gradients, on the first network


@dataclass(frozen=True)
class Case:
    """A network over one client's examples.

    Attributes
    ----------
    model : Model
        Fully connected, or cnn().
    examples : int
    normalised : bool
        Whether BatchNorm stands behind each convolution.
    """

    model: Model
    examples: int
    normalised: bool = False

    def __str__(self) -> str:
        return f"{self.model!r}{' with BatchNorm' if self.normalised else ''}"


CASES = (Case(mlp(hidden=512), 1000), Case(cnn(), 64), Case(cnn(), 64, normalised=True))


def benchmark(repeats: int) -> Finding:
    """One row per network; about a quarter of a minute per repeat."""
    results = {str(case): timed(case, repeats) for case in CASES}
    lines = [["network", "parameters", "examples", "gradient", "product", "products", "Lanczos"]]
    for name, found in results.items():
        figures = [f"{1000 * found['seconds'][way]:.3g} ms" for way in ("gradients", "products")]
        ratios = [shown(found["ratios"][way]) for way in ("products", "lanczos")]
        row = [name, f"{found['parameters']:,}", str(found["examples"]), *figures, *ratios]
        lines.append(row)
    cost = results[str(CASES[0])]["ratios"]["products"][0]
    notes = [
        f"All of a client's examples (28×28 images) at once, float32, one thread. Turns of "
        f"{PRODUCTS} gradients, {PRODUCTS} products, and a Lanczos run of {PRODUCTS} products; "
        f"seconds of one are medians of {repeats} turns. Products and Lanczos: times the "
        "gradients, medians of the turns' ratios and their range.",
        f"Aim: at most {AIM:g} × for {CASES[0]}; {'reached' if cost <= AIM else 'missed'}, "
        f"{cost:.2f} ×.",
    ]
    return Finding(lines, notes, results)


def timed(case: Case, repeats: int) -> dict[str, Any]:
    """Seconds of one gradient or product, each way, and the ratios to gradients."""
    import torch

    (objective, point), before = _ready(case), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = in_turns(_ways(objective, point), repeats)
    finally:
        torch.set_num_threads(before)
    return {
        "parameters": objective.dim,
        "examples": case.examples,
        "seconds": {way: median(times) / PRODUCTS for way, times in seconds.items()},
        "ratios": {
            way: ratio(seconds[way], seconds["gradients"]) for way in ("products", "lanczos")
        },
    }


def _ways(objective: TorchObjective, point: Vector) -> dict[str, Callable[[], object]]:
    vector = np.random.default_rng(0).standard_normal(objective.dim, np.float32)

    def gradients() -> None:
        for _ in range(PRODUCTS):
            objective.loss_and_gradient(point)

    def products() -> None:
        for _ in range(PRODUCTS):
            objective.hvp(point, vector)

    def lanczos() -> None:
        steps = PRODUCTS - 1  # and one for the residual
        fb.top_eigenpair(
            lambda v: objective.hvp(point, v), objective.dim, steps, 0, dtype=np.float32
        )

    return {"gradients": gradients, "products": products, "lanczos": lanczos}


def _ready(case: Case) -> tuple[TorchObjective, Vector]:
    """The network with random images, and its initial weights."""
    import torch
    from torch.nn.functional import cross_entropy

    from clients import TorchObjective

    random, module = torch.Generator().manual_seed(0), case.model.build(SHAPE, 10, seed=0)
    inputs = torch.rand(case.examples, *SHAPE, generator=random)
    targets = torch.randint(10, (case.examples,), generator=random)
    module = _normalised(module) if case.normalised else module
    point = flatten([weight.detach().numpy() for weight in module.parameters()])
    return TorchObjective(module, cross_entropy, (inputs, targets)), point


def _normalised(module: nn.Module) -> nn.Module:
    """The same layers with BatchNorm behind each convolution."""
    from torch import nn

    layers: list[nn.Module] = []
    for layer in module.children():
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            layers.append(nn.BatchNorm2d(layer.out_channels))
    return nn.Sequential(*layers)
