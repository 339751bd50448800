"""How the gradients of single examples spread, for a torch module, in memory of a fixed size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call, grad_and_value, jvp, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedbias.objectives import Batch, Statistics, variance_of
from fedbias.vectors import Vector, norm, squared_norm

from .torch_flat import FlatModule
from .torch_kernels import explained

BUDGET = 2**24  # bytes of example gradients at once; with half, dense layers take 1.5 × as long
FEW = 8  # examples that are compared at most
TOLERANCE = 1e-2  # a loss is refused above it; TF32 and bfloat16 round to some 1e-3
UNVECTORISED = ("vmap", "transform", "have storage")  # what torch.func says of what it cannot take
UNVECTORISED_SAID = (
    "this module or its loss cannot be differentiated example by example ({reason}): change it, or "
    "use cross_client_test, which needs no such gradients"
)
NO_SLOPE_SAID = (
    "this module or its loss cannot be differentiated along a direction ({reason}): use norm_test, "
    "which needs no such derivative"
)
Pieces = Iterable[tuple[Tensor, Tensor, float]]


class ExampleGradients:
    """The gradients g_i of single examples, at the point that a module in training mode holds.

    The examples of a piece go through one vmapped call, in the module's dtype, and what the module
    draws (dropout) is each example's own. Pieces are added up in float64.

    Parameters
    ----------
    flat : FlatModule
    loss : callable
        (outputs, targets) → mean of the examples' losses.

    Raises
    ------
    ValueError
        Where a layer has statistics of its batch, or no weight is trained.
    """

    def __init__(self, flat: FlatModule, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        for part in flat.module.modules():
            if _joins_examples(part):
                raise ValueError(
                    f"{type(part).__name__} has statistics of the whole batch, so that no example "
                    "has a gradient of its own: build the module with GroupNorm, or use "
                    "cross_client_test, which needs no such gradients"
                )
        self._flat, self._loss = flat, loss
        self._weights = {
            name: weight.detach()
            for name, weight in flat.module.named_parameters()
            if weight.requires_grad
        }
        if not self._weights:
            raise ValueError("no weight of the module is trained: there are no gradients")
        self._buffers = {name: b.clone() for name, b in flat.module.named_buffers()}

    @property
    def at_once(self) -> int:
        """How many examples' gradients fit into the budget; at least one."""
        each = sum(weight.numel() * weight.element_size() for weight in self._weights.values())
        return max(1, BUDGET // each)

    def together(self, inputs: Tensor, targets: Tensor) -> Vector:
        """The gradient of the loss of all these examples, as one batch."""
        flat = torch.zeros(self._flat.layout.dim, dtype=torch.float64, device=self._flat.device)
        weights = {name: w.detach().requires_grad_() for name, w in self._weights.items()}
        loss, parts = self._loss_of(weights, inputs, targets), self._named(flat)
        found = grad(loss, list(weights.values()), materialize_grads=True)
        for name, part in zip(weights, found, strict=True):
            parts[name].copy_(part)
        return flat.cpu().numpy()

    def statistics(self, pieces: Pieces, what: str) -> Statistics:
        """Loss, ḡ, the trace and, where ``what`` says so, the variances."""
        shape, device = (2, self._flat.layout.dim), self._flat.device
        totals = torch.zeros(shape, dtype=torch.float64, device=device)
        count, loss = 0, 0.0
        with _explained():
            for inputs, targets, _ in pieces:
                count, loss = count + len(inputs), loss + self._added(totals, inputs, targets)
        total, moments = totals.cpu().numpy()
        mean = total / count
        trace = variance_of(float(moments.sum()), squared_norm(mean), count)
        variances = variance_of(moments, mean**2, count) if what == "variances" else None
        gradient = mean.astype(self._flat.dtype)
        return Statistics(loss / count, gradient, trace, variances=variances)

    def along(self, direction: Vector, pieces: Pieces) -> float:
        """Var_i⟨g_i, direction⟩, by one forward-mode product for each piece."""
        tangents = self._named(torch.from_numpy(direction).to(self._flat.device))

        def slope(example: Tensor, target: Tensor) -> Tensor:
            def loss(weights: dict[str, Tensor]) -> Tensor:
                return self._loss_of(weights, example[None], target[None])

            return cast(Tensor, jvp(loss, (self._weights,), (tangents,))[1])

        each = vmap(slope, randomness="different")
        with _explained():
            slopes = torch.cat([each(inputs, targets) for inputs, targets, _ in pieces])
        return float(slopes.double().var()) if len(slopes) > 1 else 0.0

    def _added(self, totals: Tensor, inputs: Tensor, targets: Tensor) -> float:
        """The sum of a piece's losses; Σ g_i and Σ g_i² are added to the rows of ``totals``."""
        each = vmap(grad_and_value(self._loss_of), in_dims=(None, 0, 0), randomness="different")
        gradients, losses = each(self._weights, inputs[:, None], targets[:, None])
        sums, squares = (self._named(row) for row in totals)
        for name, part in gradients.items():
            sums[name] += part.sum(0)
            squares[name] += part.square().sum(0)  # not torch's norm: it is off by 1e-4 in float32
        return float(losses.sum(dtype=torch.float64))

    def _loss_of(self, weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = functional_call(self._flat.module, weights | self._buffers, (inputs,))
        return self._loss(cast(Tensor, outputs), targets)

    def _named(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat tensor's parts for the weights that are trained."""
        names = (name for name, _ in self._flat.layout.shapes)
        parts = zip(names, self._flat.cut(flat), strict=True)
        return {name: part for name, part in parts if name in self._weights}


def unlike(targets: Tensor, count: int) -> Batch:
    """So many examples with targets from the least to the largest, ignored ones (−100) among them.

    Class weights cancel in a batch of one label.
    """
    order = targets.reshape(len(targets), -1).sum(1).argsort(stable=True).cpu().numpy()
    chosen: Batch = order[np.linspace(0, len(order) - 1, count).round().astype(np.int64)]
    return chosen


def is_their_mean(together: Vector, each: Statistics, count: int) -> bool:
    """Whether a batch's gradient is the mean of its examples' gradients; False: nobody can say.

    They are compared relative to the gradients, as a mean may cancel.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not np.isfinite(together).all():
        return False
    apart = norm(together - each.gradient)
    spread = squared_norm(each.gradient) + each.trace * (count - 1) / count  # mean of ‖g_i‖²
    if not apart <= TOLERANCE * max(norm(together), spread**0.5):
        raise ValueError(
            "the loss of a batch is not the mean of its examples' losses (class weights, ignored "
            "labels, a sum, or layers that join examples), so that the examples' gradients are "
            "those of another objective: use constant batches or cross_client_test, which need no "
            "such gradients"
        )
    return spread > 0


def _joins_examples(part: nn.Module) -> bool:
    """Whether a layer computes with statistics of its batch, or keeps some of them."""
    if isinstance(part, _BatchNorm):
        return part.training or not part.track_running_stats
    return isinstance(part, _InstanceNorm) and part.training and part.track_running_stats


@contextmanager
def _explained() -> Iterator[None]:
    """What torch.func cannot take, such as a branch on a tensor's value, as one sentence."""
    with explained(UNVECTORISED, UNVECTORISED_SAID), explained(("forward AD",), NO_SLOPE_SAID):
        yield
