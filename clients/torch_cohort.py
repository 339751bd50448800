"""Many clients' gradients of one torch module at one point, in one vmapped call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fedbias.vectors import Layout, Vector, unflatten

_CHUNK = 2**23  # gradient entries computed at once: larger pieces leave the caches


@dataclass(frozen=True)
class TorchCohort:
    """The data of m clients with n examples each, behind one module.

    Attributes
    ----------
    inputs, targets : Tensor, shape (m, n, …)
    """

    module: nn.Module
    layout: Layout
    loss: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor

    def losses_and_gradients(self, point: Vector) -> tuple[Vector, Vector]:
        """Losses, shape (m,), and gradients, shape (m, dim), at one point."""
        self.module.train()
        device = self.inputs.device
        weights = {
            name: torch.tensor(value, device=device)
            for name, value in unflatten(point, self.layout).items()
        }

        def one(weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            outputs = functional_call(self.module, weights, (inputs,))
            return self.loss(cast(Tensor, outputs), targets)

        each = vmap(grad_and_value(one), in_dims=(None, 0, 0))
        count, step = len(self.inputs), max(1, _CHUNK // self.layout.dim)
        losses, flat = np.empty(count), np.empty((count, self.layout.dim), point.dtype)
        for start in range(0, count, step):
            piece = slice(start, start + step)
            gradients, values = each(weights, self.inputs[piece], self.targets[piece])
            losses[piece] = values.detach().cpu().numpy()
            column = 0
            for name, _ in self.layout.shapes:
                part = gradients[name].detach().reshape(len(values), -1).cpu().numpy()
                flat[piece, column : column + part.shape[1]] = part
                column += part.shape[1]
        return losses, flat
