"""A torch module seen as one flat vector of parameters."""

from __future__ import annotations

from math import prod
from typing import cast

import torch
from torch import Tensor, nn

from fedbias.vectors import Layout, Vector


class FlatModule:
    """A module whose parameters and gradients are views of two flat tensors."""

    def __init__(self, module: nn.Module, device: str) -> None:
        self.module, self.device = module.to(device), device
        named = dict(module.named_parameters())
        kinds = {weight.dtype for weight in named.values()}
        if len(kinds) != 1 or not kinds <= {torch.float32, torch.float64}:
            raise ValueError(f"parameters must all be float32 or all float64, not {kinds}")
        self.layout = Layout(tuple((name, tuple(w.shape)) for name, w in named.items()))
        self._values = torch.cat([w.detach().reshape(-1) for w in named.values()])
        self.dtype = self._values[:0].cpu().numpy().dtype
        self._grads = torch.zeros_like(self._values)
        self._grad_views = self.cut(self._grads)
        for weight, values in zip(named.values(), self.cut(self._values), strict=True):
            weight.data = values
        self._buffers = [b for b in module.buffers() if b.is_floating_point()]
        self._counters = [(b, b.clone()) for b in module.buffers() if not b.is_floating_point()]

    def holds(self, module: nn.Module) -> bool:
        """Whether the module's parameters still are views of the flat tensor (a copy's are not)."""
        views = self.cut(self._values)
        weights = list(module.parameters())
        return module is self.module and [w.data_ptr() for w in weights] == [
            view.data_ptr() for view in views
        ]

    def load(self, point: Vector) -> nn.Module:
        """Make ``point`` the module's parameters."""
        if point.shape != (self.layout.dim,):
            raise ValueError(f"the module has {self.layout.dim} parameters, not {point.shape}")
        if point.dtype != self.dtype:
            raise ValueError(f"the module has {self.dtype} parameters, not {point.dtype}")
        self._values.copy_(torch.from_numpy(point if point.flags.writeable else point.copy()))
        return self.module

    def clear(self) -> Tensor:
        """The flat gradient, zeroed, with the weights' gradients as its parts."""
        for weight, view in zip(self.module.parameters(), self._grad_views, strict=True):
            weight.grad = view  # again each time: zero_grad() would have taken it away
        return self._grads.zero_()

    def cut(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor in the shapes of the weights."""
        sizes = [prod(shape) for _, shape in self.layout.shapes]
        pieces = torch.split(flat, sizes)
        return [
            piece.view(shape) for piece, (_, shape) in zip(pieces, self.layout.shapes, strict=True)
        ]

    def along(self, vector: Vector) -> dict[str, tuple[Tensor, Tensor]]:
        """Every weight that is trained, and its part of ``vector``; by name."""
        if vector.shape != (self.layout.dim,) or vector.dtype != self.dtype:
            raise ValueError(
                f"the vector must be like the point, not {vector.dtype} {vector.shape}"
            )
        flat = torch.from_numpy(vector if vector.flags.writeable else vector.copy()).to(self.device)
        parts = zip(self.module.named_parameters(), self.cut(flat), strict=True)
        return {name: (weight, part) for (name, weight), part in parts if weight.requires_grad}

    @property
    def buffers(self) -> Vector | None:
        if not self._buffers:
            return None
        return torch.cat([b.reshape(-1) for b in self._buffers]).cpu().numpy()

    @buffers.setter
    def buffers(self, value: Vector) -> None:
        length = sum(buffer.numel() for buffer in self._buffers)
        if value.shape != (length,):
            raise ValueError(f"the module's buffers have {length} entries, not {value.shape}")
        for counter, first in self._counters:  # batches seen, say: not shared between clients
            counter.copy_(first)
        start = 0
        for buffer in self._buffers:
            stop = start + buffer.numel()
            buffer.copy_(torch.from_numpy(value[start:stop].copy()).view(buffer.shape))
            start = stop


def flat_module(module: nn.Module, device: str = "cpu") -> FlatModule:
    """The one flat view of a module, made when it is first asked for."""
    flat = module.__dict__.get("_fedbias_flat")
    if flat is None or not flat.holds(module):
        flat = module.__dict__["_fedbias_flat"] = FlatModule(module, device)
    return cast(FlatModule, flat)
