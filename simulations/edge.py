"""A task in a folder, for devices without torch: an ONNX graph, and the data beside it as .npz.

``model.onnx`` is the graph, ``initial.npz`` x_0 by the names of its parameters, ``client-N.npz``
the arrays ``inputs`` and ``targets`` of client N, ``test.npz`` those of the central evaluation.
A device needs the graph and its own data; the server x_0 and, to evaluate, the graph and the test.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from clients import OnnxObjective
from fedbias.vectors import Layout, Vector, flatten

from .data import DataError
from .models import Model
from .settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .tasks import TorchTask

GRAPH, INITIAL, TEST = "model.onnx", "initial.npz", "test.npz"
Rows = tuple[Vector, Vector]  # inputs and targets


def write_onnx_task(
    folder: Path,
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    shards: Sequence[Rows],
    test: Rows | None = None,
) -> None:
    """Export a torch module once and write the data beside it; needs the extra ``export``.

    Parameters
    ----------
    folder : Path
        Made where it is not there; files of an earlier task in it are overwritten.
    model, loss
        As for :func:`clients.export_onnx`; the module's weights are x_0.
    shards : sequence of (inputs, targets)
        Arrays of each client.
    """
    from clients import export_onnx

    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(model, loss, shards[0], folder / GRAPH)
    weights = {name: weight.detach().cpu().numpy() for name, weight in model.named_parameters()}
    np.savez(folder / INITIAL, **cast(Any, weights))
    files = {_client(number): rows for number, rows in enumerate(shards)}
    for place, (inputs, targets) in (files | ({} if test is None else {TEST: test})).items():
        np.savez(folder / place, inputs=inputs, targets=targets)


class OnnxTask:
    """What a run needs to know of such a folder; files are read when they are asked for.

    Parameters
    ----------
    folder : Path
    clients : int
        How many clients there are, most of whose data are elsewhere.
    micro_batch : int, optional
        Examples per pass.
    """

    def __init__(self, folder: Path, clients: int, micro_batch: int | None = None) -> None:
        self._folder, self._clients, self._micro = folder, clients, micro_batch
        self._objectives: dict[str, OnnxObjective] = {}

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return self._clients

    def initial(self) -> dict[str, Vector]:
        """x_0 as it was written."""
        return _read(self._folder / INITIAL)

    def initial_buffers(self) -> dict[str, Vector]:
        """Nothing."""
        return {}

    def objective(self, client: int) -> OnnxObjective:
        """The graph on one client's data."""
        return self._on(_client(client))

    def evaluate(self, arrays: Mapping[str, Vector]) -> dict[str, float]:
        """Loss and accuracy on the test data, where there are some.

        Raises
        ------
        DataError
            If x_0 has other names, shapes or another order than the graph.
        """
        if not (self._folder / TEST).exists():
            return {}
        tested = self._on(TEST)
        if (found := Layout.of(arrays)) != tested.layout:
            raise DataError(
                f"{self._folder / INITIAL} holds {found.shapes}, but the graph's parameters are "
                f"{tested.layout.shapes}"
            )
        return tested.metrics(flatten(arrays.values()))

    def _on(self, place: str) -> OnnxObjective:
        if place not in self._objectives:
            self._objectives[place] = OnnxObjective(
                self._folder / GRAPH, _rows(self._folder / place), micro_batch=self._micro
            )
        return self._objectives[place]


def torch_task(settings: Settings) -> TorchTask:
    """The same folder, all of it here, for clients that have torch: the settings' model at x_0."""
    import torch
    from torch.nn.functional import cross_entropy

    from .tasks import TorchTask

    folder = Path(settings.data_root)
    shards = [_rows(folder / _client(number)) for number in range(settings.clients)]
    initial = _read(folder / INITIAL)
    *_, last = initial.values()  # one row, or one entry of the bias, per class
    model = settings.made("model", Model).build(shards[0][0].shape[1:], len(last), settings.seed)
    try:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in initial.items()})
    except RuntimeError as error:
        words = f"{folder / INITIAL} holds other weights than {settings.model} has"
        raise DataError(words) from error
    test = _rows(folder / TEST) if (folder / TEST).exists() else None
    return TorchTask(model, cross_entropy, shards, test, micro_batch=settings.micro_batch or None)


def _client(number: int) -> str:
    return f"client-{number}.npz"


def _rows(path: Path) -> Rows:
    arrays = _read(path)
    if arrays.keys() != {"inputs", "targets"}:
        raise DataError(f"{path} must hold inputs and targets, not {sorted(arrays)}")
    return arrays["inputs"], arrays["targets"]


def _read(path: Path) -> dict[str, Vector]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a file of numpy.savez") from error
