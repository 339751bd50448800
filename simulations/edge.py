"""A task in a folder, for devices without torch: an ONNX graph, and the data beside it as .npz.

``model.onnx`` is the graph, ``initial.npz`` x_0 by the names of its parameters, ``client-N.npz``
the arrays ``inputs`` and ``targets`` of client N, ``test.npz`` those of the central evaluation.
A device needs the graph and its own data; the server x_0 and, to evaluate, the graph and the test.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clients import OnnxObjective
from fedbias.vectors import Layout, Vector, flatten

from .data import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

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
    np.savez(folder / INITIAL, **weights)
    for place, rows in [(_client(i), rows) for i, rows in enumerate(shards)] + (
        [] if test is None else [(TEST, test)]
    ):
        np.savez(folder / place, inputs=rows[0], targets=rows[1])


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
            path = self._folder / place
            rows = _read(path)
            if rows.keys() != {"inputs", "targets"}:
                raise DataError(f"{path} must hold inputs and targets, not {sorted(rows)}")
            self._objectives[place] = OnnxObjective(
                self._folder / GRAPH, (rows["inputs"], rows["targets"]), micro_batch=self._micro
            )
        return self._objectives[place]


def _client(number: int) -> str:
    return f"client-{number}.npz"


def _read(path: Path) -> dict[str, Vector]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a file of numpy.savez") from error
