"""An objective from any torch module, loss and data set.

The module's parameters become views of one flat tensor, and so do their gradients: loading a point
and reading a gradient are one copy each. Clients of one process may share the module.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from fedbias import checks
from fedbias.objectives import Batch, Statistics
from fedbias.vectors import Vector

from .torch_cohort import TorchCohort
from .torch_curvature import product
from .torch_directional import directional
from .torch_flat import flat_module
from .torch_statistics import FEW, ExampleGradients, is_their_mean, unlike

Loss = Callable[[Tensor, Tensor], Tensor]


class TorchObjective:
    """Mean loss of a torch module over one client's data.

    Parameters
    ----------
    module : torch.nn.Module
        Parameters of one floating dtype. Its weights are overwritten by every point.
    loss : callable
        (outputs, targets) → scalar MEAN of the examples' losses, such as ``cross_entropy``.
        ``per_example_statistics`` refuses another one, with class weights or ignored labels, say.
    data : Dataset, or (inputs, targets)
        Tensors or arrays with one row per example; a Dataset is collated once and kept in memory.
    micro_batch : int, optional
        Examples per forward pass, which bounds the memory. BatchNorm then sees micro-batches.
        ``per_example_statistics`` takes fewer where their gradients would exceed 16 MiB: it holds
        at most so much of them, or one example's if that is larger, besides 16 bytes per parameter
        and the activations of a piece.
    device : str
        Where the module and the data live.

    Notes
    -----
    Training mode for gradients and the Hessian's products, evaluation mode for ``loss`` and
    ``metrics``. Dropout is seeded by ``draw_key``, the point and the batch: clients and rounds draw
    different masks, and a repeated plan has identical bytes. Same bits on every engine are
    promised for one torch build with one thread, not across devices or builds.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        data: Dataset[Any] | tuple[Any, Any],
        *,
        micro_batch: int | None = None,
        device: str = "cpu",
    ) -> None:
        if micro_batch is not None:
            checks.whole("TorchObjective", "micro_batch", micro_batch, least=1)
        self._flat, self._loss, self._device = flat_module(module, device), loss, device
        self._inputs, self._targets = (part.to(device) for part in as_tensors(data))
        if len(self._inputs) != len(self._targets) or len(self._inputs) == 0:
            raise ValueError(f"{len(self._inputs)} inputs and {len(self._targets)} targets")
        self._micro = micro_batch
        self.draw_key: tuple[int, ...] = ()  # set by every turn
        self._is_mean = False  # whether the loss was found to be the mean of the examples' losses

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self._flat.layout.dim

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self._inputs)

    @property
    def buffers(self) -> Vector | None:
        """The module's floating buffers as one vector; None if it has none."""
        return self._flat.buffers

    @buffers.setter
    def buffers(self, value: Vector) -> None:
        self._flat.buffers = value

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """Mean loss over the batch, in evaluation mode."""
        return self._forward(point, batch)["loss"]

    def metrics(self, point: Vector) -> dict[str, float]:
        """Loss, and for class labels the accuracy, over all the data."""
        return self._forward(point, None)

    def gradient(self, point: Vector, batch: Batch | None = None) -> Vector:
        """∇f_m, shape (dim,)."""
        return self.loss_and_gradient(point, batch)[1]

    def loss_and_gradient(self, point: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
        """f_m and ∇f_m in one pass, in training mode."""
        module, grads = self._flat.load(point), self._flat.clear()
        module.train()
        total = 0.0
        with self._seeded(point, batch):
            for inputs, targets, share in self._pieces(batch):
                value = self._loss(module(inputs), targets) * share
                value.backward()  # type: ignore[no-untyped-call]
                total += float(value.detach())
        return total, grads.cpu().numpy().copy()

    def directional(self, point: Vector, vector: Vector, batch: Batch | None = None) -> float:
        """⟨∇f_m, vector⟩ by one forward pass (jvp), in evaluation mode."""
        return directional(self._flat, self._loss, point, vector, self._pieces(batch))

    def hvp(self, point: Vector, vector: Vector, batch: Batch | None = None) -> Vector:
        """∇²f_m·vector, the slope of ``gradient``, by double backward; shape (dim,).

        ValueError where the module or the loss has no second derivatives.
        """
        with self._seeded(point, batch):
            return product(self._flat, self._loss, point, vector, self._pieces(batch))

    def per_example_statistics(
        self, point: Vector, batch: Batch | None = None, what: str = "trace"
    ) -> Statistics:
        """How the examples' gradients spread, in training mode.

        ValueError with BatchNorm, and with a loss that is not the mean of the examples' losses.
        """
        self._flat.load(point).train()
        examples = ExampleGradients(self._flat, self._loss)
        if not self._is_mean:
            self._is_mean = self._compared(point, examples)
            self._flat.module.train()
        with self._seeded(point, batch):
            found = examples.statistics(self._pieces(batch, examples.at_once), what)
        if what == "along":
            with self._seeded(point, batch):  # dropout's masks once more, for the same gradients
                along = examples.along(found.gradient, self._pieces(batch, examples.at_once))
            return replace(found, along=along)
        return found

    @staticmethod
    def cohort(objectives: Sequence[TorchObjective]) -> TorchCohort | None:
        """All the clients' gradients in one vmapped call; None if they differ in more than data."""
        first = objectives[0]
        alike = all(
            f._flat is first._flat
            and f._loss is first._loss
            and f._inputs.shape == first._inputs.shape
            and f._targets.shape == first._targets.shape
            and (f._micro is None or f._micro >= f.size)
            for f in objectives
        )
        frozen = any(not weight.requires_grad for weight in first._flat.module.parameters())
        if not alike or frozen or first.buffers is not None:
            return None
        inputs = torch.stack([f._inputs for f in objectives])
        targets = torch.stack([f._targets for f in objectives])
        return TorchCohort(first._flat.module, first._flat.layout, first._loss, inputs, targets)

    def _compared(self, point: Vector, examples: ExampleGradients) -> bool:
        """Whether a few examples' loss is the mean of theirs, without dropout; see ``unlike``."""
        most = min(FEW, self._micro or FEW, max(2, examples.at_once))
        if (count := min(most, self.size)) < 2:
            return False
        self._flat.module.eval()
        few = unlike(self._targets, count)
        with self._seeded(point, few):
            ((inputs, targets, _),) = self._pieces(few)
            together = examples.together(inputs, targets)
        with self._seeded(point, few):
            each = examples.statistics(self._pieces(few, examples.at_once), "trace")
        return is_their_mean(together, each, count)

    def _forward(self, point: Vector, batch: Batch | None) -> dict[str, float]:
        module = self._flat.load(point)
        module.eval()
        total, right, classes = 0.0, 0, False
        with torch.no_grad():
            for inputs, targets, share in self._pieces(batch):
                outputs = module(inputs)
                total += float(self._loss(outputs, targets)) * share
                classes = outputs.ndim == 2 and targets.dtype == torch.int64 and targets.ndim == 1
                right += int((outputs.argmax(1) == targets).sum()) if classes else 0
        count = self.size if batch is None else len(batch)
        return {"loss": total} | ({"accuracy": right / count} if classes else {})

    def _pieces(
        self, batch: Batch | None, most: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        count = self.size if batch is None else len(batch)
        step = min(self._micro or count, most or count)
        for start in range(0, count, step):
            rows: slice | Tensor = slice(start, start + step)
            if batch is not None:
                rows = torch.from_numpy(np.asarray(batch[rows], np.int64)).to(self._device)
            inputs = self._inputs[rows]
            yield inputs, self._targets[rows], len(inputs) / count

    @contextmanager
    def _seeded(self, point: Vector, batch: Batch | None) -> Iterator[None]:
        # What the module draws (dropout) follows from whose turn it is, the point and the batch.
        drawn = repr(self.draw_key).encode() + (b"" if batch is None else batch.tobytes())
        seed = zlib.crc32(drawn, zlib.crc32(point.tobytes()))
        if self._device != "cpu":
            with torch.random.fork_rng(devices=[self._device]):
                torch.manual_seed(seed)
                yield
            return
        before = torch.default_generator.get_state()  # fork_rng does this at ten times the price
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.default_generator.set_state(before)


def as_tensors(data: Dataset[Any] | tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    """Inputs and targets as two tensors with one row per example."""
    if not isinstance(data, tuple):
        rows = cast(Any, data)
        if len(rows) == 0:
            raise ValueError("the data set is empty")
        data = tuple(default_collate([rows[i] for i in range(len(rows))]))
    inputs, targets = (p if isinstance(p, Tensor) else torch.tensor(p) for p in data)
    return inputs, targets
