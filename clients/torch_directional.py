"""Directional derivatives of a torch module's loss by forward-mode differentiation (jvp)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from torch import Tensor
from torch.func import functional_call, jvp

from fedbias.vectors import Vector

from .torch_flat import FlatModule
from .torch_kernels import explained, unfused

Pieces = Iterable[tuple[Tensor, Tensor, float]]
SAID = (
    "this module or its loss cannot be differentiated along a direction ({reason}): use two_point, "
    "which needs no derivative"
)


def directional(
    flat: FlatModule,
    loss: Callable[[Tensor, Tensor], Tensor],
    point: Vector,
    vector: Vector,
    pieces: Pieces,
) -> float:
    """⟨∇f(point), vector⟩ in evaluation mode, by one forward pass over every piece.

    Nothing is kept for a backward pass: besides the point there are a layer's activations and their
    tangents. The weights' tangents are views of ``vector``; frozen weights have none.

    Parameters
    ----------
    flat : FlatModule
        Its module is left in evaluation mode at the point.
    loss : callable
        (outputs, targets) → mean of the examples' losses.
    point, vector : ndarray, shape (dim,)
    pieces : iterable of (inputs, targets, share)
        Shares of the batch sum to 1.

    Raises
    ------
    ValueError
        If the vector does not fit, or a layer has no forward-mode derivative.
    """
    module, along = flat.load(point).eval(), flat.along(vector)
    weights = {name: weight.detach() for name, (weight, _) in along.items()}
    tangents = {name: part for name, (_, part) in along.items()}
    if not along:
        return 0.0
    total = 0.0
    with unfused(module), explained(("forward AD",), SAID):
        for inputs, targets, share in pieces:

            def value(named: dict[str, Tensor], x: Tensor = inputs, y: Tensor = targets) -> Tensor:
                return loss(cast(Tensor, functional_call(module, named, (x,))), y)

            total += share * float(jvp(value, (weights,), (tangents,))[1])
    return total
