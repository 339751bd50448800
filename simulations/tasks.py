"""What is trained: a Task holds a model, a loss, every client's data and the test data.

Your own task is a function of the settings in a module of yours, ``task = "mymodule:make_task"``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

import fedbias as fb
from fedbias.randomness import SERVER, Purpose, generator
from fedbias.vectors import Vector, flatten

from .data import Dataset, Partition, digits, image_data
from .edge import OnnxTask
from .models import Model
from .settings import Settings, SettingsError
from .threads import one_thread

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clients import TorchObjective

Arrays = dict[str, Vector]
_TEST = -1  # stands where a client's number would


@runtime_checkable
class Task(Protocol):
    """What a run needs to know of its problem."""

    @property
    def clients(self) -> int:
        """How many clients there is data for."""

    def initial(self) -> Arrays:
        """x_0 by name, in the order of the flat vector."""

    def initial_buffers(self) -> Arrays:
        """What training changes besides, by name; often nothing."""

    def objective(self, client: int) -> fb.Objective:
        """What one client minimises."""

    def evaluate(self, arrays: Mapping[str, Vector]) -> dict[str, float]:
        """Central evaluation: ``loss`` and, where it has a meaning, ``accuracy``."""


class TorchTask:
    """A torch module, a mean loss, one (inputs, targets) per client, and test data.

    Parameters
    ----------
    model : torch.nn.Module
        Its weights are x_0.
    loss : callable
        (outputs, targets) → mean over the batch.
    shards : sequence of (inputs, targets)
        Arrays or tensors, one row per example; or one Dataset per client.
    test : (inputs, targets), optional
    micro_batch : int, optional
        Examples per forward pass.
    device : str
        Where torch computes.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        shards: Sequence[Any],
        test: Any = None,
        *,
        micro_batch: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._model, self._loss, self._shards, self._test = model, loss, shards, test
        self._micro_batch, self._device = micro_batch, device
        self._objectives: dict[int, TorchObjective] = {}
        # Read before any objective loads another point into the module.
        self._weights = {k: _copy(v) for k, v in model.named_parameters()}
        self._extra = {k: _copy(v) for k, v in model.named_buffers() if v.is_floating_point()}

    @property
    def clients(self) -> int:
        """How many shards there are."""
        return len(self._shards)

    def initial(self) -> Arrays:
        """The module's weights as they were."""
        return dict(self._weights)

    def initial_buffers(self) -> Arrays:
        """The module's floating buffers as they were."""
        return dict(self._extra)

    def objective(self, client: int) -> TorchObjective:
        """The module on one client's shard."""
        _check_client(client, self.clients)
        if client not in self._objectives:
            self._objectives[client] = self._on(self._shards[client])
        return self._objectives[client]

    def evaluate(self, arrays: Mapping[str, Vector]) -> dict[str, float]:
        """Loss and accuracy on the test data."""
        if self._test is None:
            return {}
        if _TEST not in self._objectives:
            self._objectives[_TEST] = self._on(self._test)
        tested = self._objectives[_TEST]
        if buffers := [arrays[name] for name in self._extra]:
            tested.buffers = flatten(buffers)
        return tested.metrics(flatten([arrays[name] for name in self._weights]))

    def _on(self, data: Any) -> TorchObjective:
        from clients import TorchObjective

        return TorchObjective(
            self._model, self._loss, data, micro_batch=self._micro_batch, device=self._device
        )


@dataclass(frozen=True)
class ProblemTask:
    """A problem with known constants; its evaluation is the gap f(x) − f*."""

    problem: fb.LeastSquares | fb.Logistic

    @property
    def clients(self) -> int:
        """One per objective."""
        return len(self.problem.objectives)

    def initial(self) -> Arrays:
        """The origin."""
        return {"point": np.zeros(self.problem.minimizer.size)}

    def initial_buffers(self) -> Arrays:
        """Nothing."""
        return {}

    def objective(self, client: int) -> fb.Objective:
        """One client's share of the rows."""
        _check_client(client, self.clients)
        return self.problem.objectives[client]

    def evaluate(self, arrays: Mapping[str, Vector]) -> dict[str, float]:
        """The suboptimality f(x) − f*."""
        return {"loss": self.problem.loss(arrays["point"]) - self.problem.minimum}


def image_task(data: Dataset, settings: Settings) -> TorchTask:
    """Classify images: the data split over clients, the settings' model, cross-entropy."""
    import torch
    from torch.nn.functional import cross_entropy

    try:
        torch.empty(0, device=settings.device)
    except (RuntimeError, AssertionError) as error:  # both mean that torch has no such device here
        reason = str(error).splitlines()[0]
        raise SettingsError(f"device = {settings.device!r} cannot be used: {reason}") from None
    rng = generator(settings.seed, 0, SERVER, Purpose.DATA)
    partition = settings.made("partition", Partition)
    # These data sets do not know their writers, so the natural key of an example is its class.
    parts = partition.split(data.train_y, settings.clients, rng, keys=data.train_y)
    return TorchTask(
        model=settings.made("model", Model).build(data.shape, data.classes, settings.seed),
        loss=cross_entropy,
        shards=[(data.train_x[part], data.train_y[part]) for part in parts],
        test=(data.test_x, data.test_y),
        micro_batch=settings.micro_batch or None,
        device=settings.device,
    )


def _least_squares(s: Settings) -> Task:
    return ProblemTask(fb.LeastSquares.random(s.dim, s.condition, s.seed, clients=s.clients))


def _logistic(s: Settings) -> Task:
    return ProblemTask(fb.Logistic.random(s.dim, 50 * s.clients, s.seed, clients=s.clients))


def _onnx(s: Settings) -> Task:
    if not s.data_root:
        raise SettingsError("task = 'onnx' needs data_root, the folder of its graph and data")
    return OnnxTask(Path(s.data_root).expanduser().absolute(), s.clients, s.micro_batch or None)


TASKS = {
    "digits": lambda s: image_task(digits(), s),
    "fashion-mnist": lambda s: image_task(image_data("fashion-mnist", s.data_root or None), s),
    "mnist": lambda s: image_task(image_data("mnist", s.data_root or None), s),
    "least-squares": _least_squares,
    "logistic": _logistic,
    "onnx": _onnx,
}


@functools.lru_cache(maxsize=2)
def make_task(settings: Settings) -> Task:
    """The task that the settings name, made once per process, which computes on one thread then.

    Only with ``cohort`` it may use as many as there are.

    Raises
    ------
    SettingsError, DataError
        One sentence: there is no such task, or its data cannot be had.
    """
    make = TASKS.get(settings.task) or _imported(settings.task)
    try:
        inspect.signature(make).bind(settings)
    except (TypeError, ValueError):
        raise SettingsError(
            f"task = {settings.task!r} is not a function of the settings: def make_task(settings)"
        ) from None
    if not settings.cohort:  # which is equal up to rounding anyway, and may use the machine
        one_thread()  # the data itself may come out of a product
    try:
        task = make(settings)
    except (ValueError, ImportError, OSError, MemoryError):
        raise  # a sentence already
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise SettingsError(
            f"task = {settings.task!r} failed in {where.filename}, line {where.lineno}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not settings.cohort:
        one_thread()  # torch may be here by now
    if not isinstance(task, Task):
        raise SettingsError(f"task = {settings.task!r} made {task!r}, which is not a Task")
    if task.clients != settings.clients:
        raise SettingsError(
            f"task = {settings.task!r} has data for {task.clients} clients, "
            f"but clients = {settings.clients}"
        )
    return task


def _imported(path: str) -> Any:
    module, _, function = path.partition(":")
    if not (module and function):
        known = ", ".join(TASKS)
        raise SettingsError(f"task = {path!r}: there is none; known: {known}, or module:function")
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the user's module raises
        usual = isinstance(error, (ImportError, AttributeError))
        why = str(error) if usual else f"{type(error).__name__}: {error}"
        raise SettingsError(f"task = {path!r} cannot be imported: {why}") from None


def _check_client(client: int, clients: int) -> None:
    if not 0 <= client < clients:
        raise ValueError(f"there is data for clients 0 … {clients - 1}, not for {client}")


def _copy(tensor: Any) -> Vector:
    array: Vector = tensor.detach().cpu().numpy().copy()
    return array
