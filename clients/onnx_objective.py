"""An objective from an ONNX graph: ONNX Runtime, the extra ``edge``, computes it without torch.

The graph's parameters are inputs of it, so that a point is passed as views and nothing of the
graph ever changes: any exported model can be trained by forward passes alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedbias import checks
from fedbias.objectives import Batch
from fedbias.vectors import Layout, Vector, unflatten

INPUTS, TARGETS, LOSS, OUTPUTS = "inputs", "targets", "loss", "outputs"  # names in the graph
IGNORED = -100  # the label that cross-entropy leaves out
_FATAL = 4  # severity of the runtime's own log; what fails is raised anyway
_KINDS = {
    **{f"tensor({name})": np.dtype(name) for name in ("int32", "int64", "uint8", "bool")},
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}


class OnnxObjective:
    """Mean loss of an ONNX graph over one client's data; it offers no gradient.

    Parameters
    ----------
    path : str or Path
        A graph as :func:`clients.export_onnx` writes it. Its inputs: ``inputs`` and ``targets``,
        one row per example, any number of them; and every parameter, all float32 or all float64.
        Its outputs: ``loss``, the MEAN of the examples' losses, and ``outputs``.
    data : (inputs, targets)
        Arrays in the graph's dtypes, one row per example.
    micro_batch : int, optional
        Examples per pass, which bounds the memory of the activations.
    threads : int
        How many one pass may use.

    Raises
    ------
    ValueError
        If the file holds no such graph, or the data do not fit it.
    ImportError
        Names the extra, where onnxruntime is not installed.

    Attributes
    ----------
    layout : Layout
        The parameters in a point: one behind the other, in the order of the graph's inputs.

    Notes
    -----
    Same bits are promised for one build of onnxruntime with one thread, not across builds or
    machines; and torch's loss only up to rounding.
    """

    def __init__(
        self,
        path: str | Path,
        data: tuple[Vector, Vector],
        *,
        micro_batch: int | None = None,
        threads: int = 1,
    ) -> None:
        if micro_batch is not None:
            checks.whole("OnnxObjective", "micro_batch", micro_batch, least=1)
        checks.whole("OnnxObjective", "threads", threads, least=1)
        self._path, self._micro = Path(path).absolute(), micro_batch
        if not self._path.is_file():
            raise ValueError(f"there is no graph {self._path}")
        with self._explained("cannot be loaded"):
            self._session = _session(self._path, threads)
        inputs = _by_name(self._session.get_inputs(), (INPUTS, TARGETS), "input", self._path)
        outputs = _by_name(self._session.get_outputs(), (LOSS, OUTPUTS), "output", self._path)
        self._inputs, self._targets = (
            _checked(np.asarray(rows), inputs.pop(name), self._path)
            for rows, name in zip(data, (INPUTS, TARGETS), strict=True)
        )
        if len(self._inputs) != len(self._targets) or len(self._inputs) == 0:
            raise ValueError(f"{len(self._inputs)} inputs and {len(self._targets)} targets")
        if outputs[LOSS].shape != []:
            raise ValueError(f"{self._path}: loss must be a scalar, not {outputs[LOSS].shape}")
        self.layout, self._dtype = _parameters(inputs, self._path)
        self._classifies = _classifies(outputs[OUTPUTS].shape, self._targets)

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.layout.dim

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self._inputs)

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """Mean loss over the batch."""
        passes = self._passes(point, batch, [LOSS])
        return sum(share * float(loss) for (loss,), _, share in passes)

    def metrics(self, point: Vector) -> dict[str, float]:
        """Loss, and for class labels the accuracy, over all the data."""
        total, right = 0.0, 0
        for (loss, outputs), targets, share in self._passes(point, None, [LOSS, OUTPUTS]):
            total += share * float(loss)
            right += int((outputs.argmax(1) == targets).sum()) if self._classifies else 0
        return {LOSS: total} | ({"accuracy": right / self.size} if self._classifies else {})

    def _passes(
        self, point: Vector, batch: Batch | None, wanted: list[str]
    ) -> Iterator[tuple[list[Vector], Vector, float]]:
        """What the graph makes of every micro-batch, its targets and its share of the batch."""
        if point.dtype != self._dtype:
            raise ValueError(f"the graph has {self._dtype} parameters, not {point.dtype}")
        if point.shape != (self.dim,):
            raise ValueError(f"the graph has {self.dim} parameters, not {point.shape}")
        feeds = unflatten(point, self.layout)
        count = self.size if batch is None else len(batch)
        step = self._micro or count
        for start in range(0, count, step):
            rows = slice(start, start + step) if batch is None else batch[start : start + step]
            feeds[INPUTS], feeds[TARGETS] = self._inputs[rows], self._targets[rows]
            with self._explained("fails"):
                made = self._session.run(wanted, feeds)
            yield made, feeds[TARGETS], len(feeds[TARGETS]) / count

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """The runtime's errors, which have no class of their own, as one sentence."""
        try:
            yield
        except ImportError:
            raise
        except Exception as error:
            reason = str(error).rstrip().rpartition(" : ")[2]
            raise ValueError(f"{self._path} {what}: {reason}") from error


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"OnnxObjective needs onnxruntime: install fedbias with the extra `edge` ({error})"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, _FATAL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _by_name(found: list[Any], needed: tuple[str, str], what: str, path: Path) -> dict[str, Any]:
    named = {each.name: each for each in found}
    if missing := [name for name in needed if name not in named]:
        raise ValueError(
            f"{path}: the graph has no {what} {missing[0]!r}; clients.export_onnx writes one that "
            f"has {needed[0]} and {needed[1]}"
        )
    return named


def _checked(rows: Vector, wanted: Any, path: Path) -> Vector:
    """The rows, as they are, if the graph takes any number of such ones."""
    if not wanted.shape or isinstance(wanted.shape[0], int):
        raise ValueError(f"{path}: {wanted.name} must take any number of rows, not {wanted.shape}")
    kind = _KINDS.get(wanted.type)
    if rows.dtype != kind:
        raise ValueError(f"{wanted.name} must be {kind or wanted.type}, not {rows.dtype}")
    fits = len(rows.shape) == len(wanted.shape) and all(
        length == asked
        for length, asked in zip(rows.shape, wanted.shape, strict=True)
        if isinstance(asked, int)
    )
    if not fits:
        raise ValueError(f"{wanted.name} must have the shape {wanted.shape}, not {rows.shape}")
    return rows


def _parameters(inputs: Mapping[str, Any], path: Path) -> tuple[Layout, np.dtype[Any]]:
    """Where the parameters lie in a point, and their dtype."""
    kinds = {_KINDS.get(each.type, each.type) for each in inputs.values()}
    if len(kinds) != 1 or not kinds <= {np.dtype(np.float32), np.dtype(np.float64)}:
        found = ", ".join(sorted(map(str, kinds))) or "nothing"
        raise ValueError(
            f"{path}: the inputs beside inputs and targets are the parameters and must all be "
            f"float32 or all float64, not {found}"
        )
    for name, each in inputs.items():
        if not all(isinstance(length, int) for length in each.shape):
            raise ValueError(
                f"{path}: parameter {name!r} must have a fixed shape, not {each.shape}"
            )
    return Layout(tuple((name, tuple(each.shape)) for name, each in inputs.items())), kinds.pop()


def _classifies(outputs: list[Any], targets: Vector) -> bool:
    """Whether the targets are classes, one per row (ValueError: no such class)."""
    if len(outputs) != 2 or targets.dtype != np.int64 or targets.ndim != 1:
        return False
    labels = targets[targets != IGNORED]
    if isinstance(outputs[1], int) and not ((labels >= 0) & (labels < outputs[1])).all():
        # The runtime takes the label −1 for the last class.
        span = f"{labels.min()} … {labels.max()}"
        raise ValueError(f"targets must be classes 0 … {outputs[1] - 1}, not {span}")
    return True
