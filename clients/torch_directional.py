"""Directional derivatives of a torch module's loss by forward-mode differentiation (jvp)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.backends import mha, mkldnn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedbias.vectors import Vector

from .torch_flat import FlatModule

Pieces = Iterable[tuple[Tensor, Tensor, float]]


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
    module = flat.load(point).eval()
    if vector.shape != point.shape or vector.dtype != point.dtype:
        raise ValueError(f"the vector must be like the point, not {vector.dtype} {vector.shape}")
    along = torch.from_numpy(vector if vector.flags.writeable else vector.copy()).to(flat.device)
    parts = zip(module.named_parameters(), flat.cut(along), strict=True)
    trained = {name: (w.detach(), part) for (name, w), part in parts if w.requires_grad}
    weights = {name: weight for name, (weight, _) in trained.items()}
    tangents = {name: part for name, (_, part) in trained.items()}
    if not trained:
        return 0.0
    total = 0.0
    with _differentiable(module):
        for inputs, targets, share in pieces:

            def value(named: dict[str, Tensor], x: Tensor = inputs, y: Tensor = targets) -> Tensor:
                return loss(cast(Tensor, functional_call(module, named, (x,))), y)

            total += share * float(jvp(value, (weights,), (tangents,))[1])
    return total


@contextmanager
def _differentiable(module: nn.Module) -> Iterator[None]:
    """Without the fused kernels of attention and recurrent layers, which have no such derivative.

    What has none all the same is told in one sentence.
    """
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    fast, onednn = mha.get_fastpath_enabled(), bool(mkldnn.enabled)
    mha.set_fastpath_enabled(False)
    mkldnn.enabled = onednn and not recurrent  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else ""
        if "forward AD" not in reason:
            raise  # out of memory, say
        raise ValueError(
            f"this module or its loss cannot be differentiated along a direction ({reason}): use "
            "two_point, which needs no derivative"
        ) from error
    finally:
        mha.set_fastpath_enabled(fast)
        mkldnn.enabled = onednn  # type: ignore[assignment]
