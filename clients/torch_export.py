"""A torch module and its loss as one ONNX graph whose parameters are inputs: the extra ``export``.

Export once, where torch is; :class:`clients.OnnxObjective` then needs neither torch nor this extra.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call

from .onnx_objective import INPUTS, LOSS, OUTPUTS, TARGETS
from .torch_objective import Loss, as_tensors


def export_onnx(module: nn.Module, loss: Loss, example: tuple[Any, Any], path: str | Path) -> None:
    """Write the graph (inputs, targets, every parameter) → (loss, outputs), in evaluation mode.

    Parameters
    ----------
    module : torch.nn.Module
        Without buffers and frozen weights; it stays as it is. Its parameters become inputs under
        their names and in its order, so a point means the same to :class:`clients.TorchObjective`.
        Their values are NOT in the file.
    loss : callable
        (outputs, targets) → scalar MEAN of the examples' losses.
    example : (inputs, targets)
        At least two examples; their number stays free.
    path : str or Path
        The file to write.

    Raises
    ------
    ValueError
        If such a graph could not train the module, or torch cannot export it.
    ImportError
        Names the extra, where onnx or onnxscript is not installed.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ImportError(
            f"export_onnx needs {' and '.join(missing)}: install fedbias with the extra `export`"
        )
    _check(module)
    inputs, targets = as_tensors(example)
    if len(inputs) < 2:
        raise ValueError("the example must hold two rows or more: torch takes 1 for a fixed size")
    graph = _Graph(copy.deepcopy(module).cpu(), loss).eval()
    try:
        made = torch.onnx.export(
            _program(graph, inputs, targets),
            dynamo=True,
            verbose=False,
            input_names=[INPUTS, TARGETS, *graph.names],
            output_names=[LOSS, OUTPUTS],
        )
    except Exception as error:  # torch has many classes for what it cannot export
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"torch cannot export this module with any number of examples: {reason}"
        ) from error
    cast(Any, made).save(path)


class _Graph(nn.Module):
    """The module as a function of its weights, which are no weights of this one."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self._hidden = (module.eval(),)  # in a tuple: torch would export weights of its own
        self._loss = loss
        self.names = [name for name, _ in module.named_parameters()]

    @property
    def weights(self) -> list[Tensor]:
        return [weight.detach() for weight in self._hidden[0].parameters()]

    def forward(self, inputs: Tensor, targets: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(self.names, weights, strict=True))
        outputs = cast(Tensor, functional_call(self._hidden[0], named, (inputs,)))
        return self._loss(outputs, targets), outputs


def _program(graph: _Graph, inputs: Tensor, targets: Tensor) -> Any:
    batch = Dim("batch")
    fixed: Sequence[dict[int, Any]] = tuple({} for _ in graph.names)
    return torch.export.export(
        graph,
        (inputs, targets, *graph.weights),
        dynamic_shapes=({0: batch}, {0: batch}, fixed),
        strict=False,
    )


def _check(module: nn.Module) -> None:
    """Refuse what a graph with fixed buffers and free parameters would train otherwise."""
    if buffers := [name for name, _ in module.named_buffers()]:
        raise ValueError(
            f"the module has buffers ({buffers[0]}), which forward passes would never change: "
            "build it with GroupNorm instead of BatchNorm"
        )
    named = dict(module.named_parameters())
    if frozen := [name for name, weight in named.items() if not weight.requires_grad]:
        raise ValueError(f"{frozen[0]} is frozen, and forward-only clients would move it")
    if taken := named.keys() & {INPUTS, TARGETS, LOSS, OUTPUTS}:
        raise ValueError(
            f"a parameter is called {min(taken)!r}, as the graph's own input or output"
        )
