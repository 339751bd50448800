"""Products of the Hessian of a torch module's loss with vectors, by double backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import backward, grad

from fedbias.vectors import Vector

from .torch_flat import FlatModule
from .torch_kernels import explained, unfused

Pieces = Iterable[tuple[Tensor, Tensor, float]]
LACKING = ("derivative for", "once_differentiable", "double backward", "use_reentrant")  # its words
SAID = (
    "this module or its loss has no second derivatives ({reason}): its sharpness cannot be measured"
)


def product(
    flat: FlatModule,
    loss: Callable[[Tensor, Tensor], Tensor],
    point: Vector,
    vector: Vector,
    pieces: Pieces,
) -> Vector:
    """∇²f(point)·vector in training mode, shape (dim,): two backward passes over every piece.

    It is the derivative along ``vector`` of the gradient that training takes over these pieces,
    BatchNorm's statistics of each piece included. With the same draws (dropout's masks) at every
    call, products at one point are those of one symmetric matrix. Rows of frozen weights are zero.

    Parameters
    ----------
    flat : FlatModule
        Its module is left in training mode at the point, with the buffers that it had.
    loss : callable
        (outputs, targets) → mean of the examples' losses.
    point, vector : ndarray, shape (dim,)
    pieces : iterable of (inputs, targets, share)
        Shares of the batch sum to 1.

    Raises
    ------
    ValueError
        If the vector does not fit, or the module or the loss has no second derivatives.

    Notes
    -----
    Where the loss is piecewise (ReLU), it is the Hessian of the piece at the point. A function with
    a backward pass of its own that hides from torch how it depends on the weights is found out if
    all of a weight's gradient goes through it, not if some does.

    Attention and recurrent layers take the kernels that have second derivatives; those may draw
    other masks on a GPU than the ones of training.
    """
    module, along, total = flat.load(point).train(), flat.along(vector), flat.clear()
    weights, tangents = ([each[part] for each in along.values()] for part in (0, 1))
    with unfused(module), _buffers_kept(module), explained(LACKING, SAID):
        for inputs, targets, share in pieces if along else ():
            _accumulate(loss(module(inputs), targets) * share, weights, tangents)
    return total.cpu().numpy().copy()


def _accumulate(value: Tensor, weights: Sequence[Tensor], tangents: Sequence[Tensor]) -> None:
    """Add the product of ``value``'s Hessian to the weights' ``grad``."""
    if not value.requires_grad:
        raise ValueError(SAID.format(reason="the loss does not follow the weights differentiably"))
    # All gradients are linear in this factor. One that is without it has lost its graph on the way;
    # torch alone would say nothing, and take what follows from it for constant.
    factor = torch.ones_like(value, requires_grad=True)
    found = grad(value * factor, weights, create_graph=True, allow_unused=True)
    pairs = [pair for pair in zip(found, tangents, strict=True) if pair[0] is not None]
    if any(not first.requires_grad and first.any() for first, _ in pairs):
        raise ValueError(SAID.format(reason="a backward pass of its own is not differentiable"))
    curved = [(first, along) for first, along in pairs if first.requires_grad]
    # Not grad(): it would pass over the nodes by which torch tells what has no derivative.
    backward([first for first, _ in curved], [along for _, along in curved])


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Running statistics, which passes in training mode move, come back."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
