"""Graphs of ONNX: torch's own losses without torch, and a sentence for every other file."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import fedbias as fb
from clients import OnnxObjective, TorchObjective, export_onnx
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.objectives import capabilities

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(5)
X, Y = RNG.random((11, 1, 6, 6), np.float32), RNG.integers(0, 3, 11)
BATCHES = [None, np.array([3]), np.array([1, 1, 10, 0])]
FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64


class Tied(nn.Module):
    """One weight in two places, one that is never used, and another function in training."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.out = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3)
        self.other.weight = self.one.weight
        self.unused = nn.Parameter(torch.ones(2, 2))

    def forward(self, inputs):
        hidden = self.other(self.one(inputs.flatten(1)).tanh())
        return self.out(hidden * (2 if self.training else 1))


MODULES = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3)),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3)),
    "cnn": lambda: nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Dropout(0.5), nn.Linear(36, 3)),
    ),
    "tied": Tied,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Modules in training mode and their graphs, each made once from two examples."""
    folder, made = tmp_path_factory.mktemp("graphs"), {}

    def graph(name):
        if name not in made:
            module, path = MODULES[name](), folder / f"{name}.onnx"
            export_onnx(module, cross_entropy, (X[:2], Y[:2]), path)
            made[name] = module, path
        return made[name]

    return graph


@pytest.fixture
def squares(tmp_path):
    """Write mean_i (⟨inputs_i, w⟩ − targets_i)² by hand, changed in one place."""

    def write(dim=2, kind=FLOAT, *, inputs=None, targets=None, weight=None, names=None, loss=()):
        shapes = {"inputs": inputs or ["n", dim], "targets": targets or ["n"], "w": weight or [dim]}
        names = names or {}
        value = helper.make_tensor_value_info
        given = [value(names.get(name, name), kind, shape) for name, shape in shapes.items()]
        i, t, w = (each.name for each in given)
        nodes = [
            helper.make_node("MatMul", [i, w], ["products"]),
            helper.make_node("Sub", ["products", t], ["outputs"]),
            helper.make_node("Mul", ["outputs", "outputs"], ["squares"]),
            helper.make_node("ReduceMean", ["squares"], ["loss"], keepdims=len(loss)),
        ]
        made = [value("loss", kind, list(loss)), value("outputs", kind, ["n"])]
        graph = helper.make_graph(nodes, "squares", given, made)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, tmp_path / "squares.onnx")
        return tmp_path / "squares.onnx"

    return write


def rows(count=3, dim=2, dtype=np.float32):
    return np.arange(count * dim, dtype=dtype).reshape(count, dim), np.ones(count, dtype)


def some_point(dim, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(dim).astype(dtype)


# Losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", MODULES)
def test_the_loss_is_torchs(name, batch, exported):
    """At points that the module never had, for any number of examples. Kills: weights or dropout
    in the graph, another order of the parameters, one that is left out, a batch left out.
    """
    module, path = exported(name)
    ours, theirs = OnnxObjective(path, (X, Y)), TorchObjective(module, cross_entropy, (X, Y))
    assert (ours.dim, ours.size) == (theirs.dim, 11)
    assert [part for part, _ in ours.layout.shapes] == [p for p, _ in module.named_parameters()]
    for seed in range(3):
        point = some_point(ours.dim, seed=seed)
        before = point.tobytes()
        assert ours.loss(point, batch) == pytest.approx(theirs.loss(point, batch), rel=1e-6)
        assert point.tobytes() == before
    found, wanted = ours.metrics(point), theirs.metrics(point)
    assert found["accuracy"] == wanted["accuracy"] and found.keys() == wanted.keys()
    assert found["loss"] == ours.loss(point) == pytest.approx(wanted["loss"], rel=1e-6)


def test_by_hand(squares):
    """Residuals 0, 4 and 8. Kills: a sum for a mean, a batch left out, a numpy scalar."""
    objective = OnnxObjective(squares(), rows())  # rows (0, 1), (2, 3), (4, 5), targets 1
    assert isinstance(objective, fb.Objective) and (objective.dim, objective.size) == (2, 3)
    point = np.ones(2, np.float32)  # products 1, 5, 9
    assert objective.loss(point) == np.float32((0 + 16 + 64) / 3)
    assert type(objective.loss(point)) is float
    assert objective.loss(point, np.array([1, 1, 2, 0])) == (16 + 16 + 64 + 0) / 4
    assert objective.metrics(point) == {"loss": objective.loss(point)}


def test_float64_stays_float64(tmp_path):
    """To 1e-13 of torch's, and without an accuracy. Kills: a conversion on the way."""
    inputs, targets = RNG.standard_normal((7, 4)), RNG.standard_normal((7, 3))
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    export_onnx(module, mse_loss, (inputs, targets), tmp_path / "m.onnx")
    ours = OnnxObjective(tmp_path / "m.onnx", (inputs, targets))
    theirs = TorchObjective(module, mse_loss, (inputs, targets))
    point = some_point(ours.dim, np.float64)
    assert ours.metrics(point) == {"loss": pytest.approx(theirs.loss(point), rel=1e-13)}


@pytest.mark.parametrize("batch", BATCHES)
def test_micro_batches_weigh_as_their_examples(batch, exported):
    """The last one of 11 by 4 has three. Kills: equal weights, a piece left out or counted twice,
    an accuracy of one piece."""
    _, path = exported("cnn")
    whole, pieces = OnnxObjective(path, (X, Y)), OnnxObjective(path, (X, Y), micro_batch=4)
    point = some_point(whole.dim)
    assert pieces.loss(point, batch) == pytest.approx(whole.loss(point, batch), rel=1e-6)
    assert pieces.metrics(point)["accuracy"] == whole.metrics(point)["accuracy"] > 0


def test_pieces_are_as_small_as_asked(exported, monkeypatch):
    """Kills: a micro_batch that bounds nothing."""
    objective, sizes = OnnxObjective(exported("linear")[1], (X, Y), micro_batch=4), []
    run = objective._session.run

    class Watched:
        def run(self, wanted, feeds):
            sizes.append((wanted, len(feeds["inputs"]), len(feeds["targets"])))
            return run(wanted, feeds)

    objective._session = Watched()
    objective.loss(some_point(objective.dim))
    assert sizes == [(["loss"], size, size) for size in (4, 4, 3)]


def test_a_point_is_not_copied(squares):
    """2·10^5 parameters in less than a tenth of their memory. Kills: a copy of the parameters."""
    objective = OnnxObjective(squares(200_000), rows(2, 200_000))
    point = some_point(200_000)
    objective.loss(point)
    tracemalloc.start()
    try:
        objective.loss(point)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < point.nbytes / 10


def test_it_offers_its_loss_alone(squares):
    """Kills: a gradient by some other way."""
    objective = OnnxObjective(squares(), rows())
    assert capabilities(objective) == set()
    plan = fb.Plan(
        *(0, 3, 0, -1, fb.exact(), None, fb.identity(), fb.no_feedback(), np.zeros(2, np.float32))
    )
    with pytest.raises(fb.MissingCapability, match="needs gradient, which OnnxObjective"):
        respond(objective, plan, Ledger())


@pytest.mark.parametrize(("options", "threads"), [({}, 1), ({"threads": 3}, 3)])
def test_one_thread_unless_it_is_told(options, threads, squares, monkeypatch):
    """Kills: sums in an order that the machine chooses."""
    made, session = [], onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, given, **rest: made.append(given) or session(path, given, **rest),
    )
    OnnxObjective(squares(), rows(), **options)
    assert [given.intra_op_num_threads for given in made] == [threads]


# Export -------------------------------------------------------------------------------------------


def test_the_module_stays_as_it_is(tmp_path):
    """Kills: a module that is left in evaluation mode, or loses its weights."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Dropout(0.5))
    module[2].eval()
    before = [weight.detach().clone() for weight in module.parameters()]
    export_onnx(module, cross_entropy, (X[:2], Y[:2]), tmp_path / "m.onnx")
    assert [part.training for part in module] == [True, True, False]
    for weight, values in zip(module.parameters(), before, strict=True):
        assert torch.equal(weight, values) and weight.requires_grad


class Branching(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs.flatten(1)) * (1 if inputs.sum() > 0 else -1)


class Sized(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs.reshape(2, 36))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.loss = nn.Parameter(torch.ones(3, 36))

    def forward(self, inputs):
        return inputs.flatten(1) @ self.loss.T


def frozen():
    module = MODULES["mlp"]()
    module[1].bias.requires_grad_(False)
    return module


@pytest.mark.parametrize(
    ("module", "count", "says"),
    [
        (lambda: nn.Sequential(nn.BatchNorm2d(1), MODULES["linear"]()), 2, "GroupNorm instead"),
        (frozen, 2, r"1\.bias is frozen"),
        (MODULES["linear"], 1, "two rows or more"),
        (lambda: Branching(36, 3), 2, "cannot export this module"),
        (lambda: Sized(36, 3), 2, "cannot export this module"),
        (Named, 2, "a parameter is called 'loss'"),
    ],
)
def test_modules_that_no_graph_could_train(module, count, says, tmp_path):
    """Kills: buffers that stay for ever, a frozen weight that moves, one size of batches."""
    with pytest.raises(ValueError, match=says):
        export_onnx(module(), cross_entropy, (X[:count], Y[:count]), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_export_without_its_extra(missing, tmp_path, monkeypatch):
    """Kills: an error from inside torch."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=f"needs {missing}: .* the extra `export`"):
        export_onnx(MODULES["linear"](), cross_entropy, (X, Y), tmp_path / "m.onnx")


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"names": {"inputs": "x"}}, "has no input 'inputs'"),
        ({"names": {"targets": "y"}}, "has no input 'targets'"),
        ({"inputs": [3, 2]}, "inputs must take any number of rows"),
        ({"targets": [3]}, "targets must take any number of rows"),
        ({"loss": [1]}, "loss must be a scalar"),
        ({"weight": ["k"]}, "parameter 'w' must have a fixed shape"),
        ({"kind": TensorProto.FLOAT16}, "inputs must be tensor.float16., not float32"),
        ({"inputs": ["n", 3], "weight": [3]}, r"inputs must have the shape \['n', 3\], not \(3, 2"),
        ({"inputs": ["n", 4, 2]}, "inputs must have the shape"),
    ],
)
def test_graphs_of_another_form(changes, says, squares):
    """One sentence each. Kills: a KeyError, a shape that only the runtime refuses."""
    with pytest.raises(ValueError, match=says) as error:
        OnnxObjective(squares(**changes), rows())
    assert "\n" not in str(error.value)


def test_parameters_of_one_dtype(tmp_path):
    """Kills: parameters of two dtypes in one point, a graph without any."""
    value, one = helper.make_tensor_value_info, helper.make_node
    for kinds, says in (
        ((), "nothing"),
        ((FLOAT, DOUBLE), "float32, float64"),
        ((INT64,), "int64"),
    ):
        given = [value("inputs", FLOAT, ["n", 2]), value("targets", FLOAT, ["n"])]
        given += [value(f"w{place}", kind, [2]) for place, kind in enumerate(kinds)]
        made = [value("loss", FLOAT, []), value("outputs", FLOAT, ["n", 2])]
        nodes = [
            one("ReduceMean", ["inputs"], ["loss"], keepdims=0),
            one("Identity", ["inputs"], ["outputs"]),
        ]
        graph = helper.make_graph(nodes, "g", given, made)
        opset = [helper.make_opsetid("", 18)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "g.onnx")
        with pytest.raises(ValueError, match=f"be float32 or all float64, not {says}"):
            OnnxObjective(tmp_path / "g.onnx", rows())


def test_files_that_are_no_graph(tmp_path):
    """Kills: an error without a class that the client app knows."""
    with pytest.raises(ValueError, match=r"there is no graph .*/nothing\.onnx"):
        OnnxObjective(tmp_path / "nothing.onnx", rows())
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ValueError, match=r"text\.onnx cannot be loaded: .*Protobuf"):
        OnnxObjective(tmp_path / "text.onnx", rows())


def test_what_fails_inside_the_graph(squares):
    """Rows of 3 for weights of 2, which no shape forbids. Kills: the runtime's own exception."""
    objective = OnnxObjective(squares(inputs=["n", "k"]), rows(2, 3))
    with pytest.raises(ValueError, match=r"squares\.onnx fails: .*MatMul") as error:
        objective.loss(np.ones(2, np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("inputs", "targets", "says"),
    [
        (X.astype(np.float64), Y, "inputs must be float32, not float64"),
        (X, Y.astype(np.int32), "targets must be int64, not int32"),
        (X[:, 0], Y, "inputs must have the shape"),
        (X, Y[:, None], "targets must have the shape"),
        (X, Y[:10], "11 inputs and 10 targets"),
        (X[:0], Y[:0], "0 inputs and 0 targets"),
        (X, np.where(Y == 2, -1, Y), r"classes 0 … 2, not -1 … 1"),
        (X, Y + 1, r"classes 0 … 2, not 1 … 3"),
    ],
)
def test_data_that_do_not_fit(inputs, targets, says, exported):
    """Kills: data that are converted, labels that count from the end or are read beyond it."""
    with pytest.raises(ValueError, match=says):
        OnnxObjective(exported("linear")[1], (inputs, targets))


def test_ignored_labels(exported):
    """As torch counts them. Kills: −100 as a wrong label."""
    module, path = exported("linear")
    some = np.where(np.arange(11) < 4, -100, Y)
    ours, theirs = OnnxObjective(path, (X, some)), TorchObjective(module, cross_entropy, (X, some))
    point = some_point(ours.dim)
    assert ours.loss(point) == pytest.approx(theirs.loss(point), rel=1e-6)


@pytest.mark.parametrize(
    ("point", "says"),
    [
        (np.ones(2), "has float32 parameters, not float64"),
        (np.ones(3, np.float32), r"has 2 parameters, not \(3,\)"),
        (np.ones((1, 2), np.float32), r"has 2 parameters, not \(1, 2\)"),
    ],
)
def test_points_that_do_not_fit(point, says, squares):
    """Kills: a point that is converted or cut."""
    with pytest.raises(ValueError, match=says):
        OnnxObjective(squares(), rows()).loss(point)


@pytest.mark.parametrize("field", ["micro_batch", "threads"])
def test_impossible_settings(field, squares):
    """Kills: a check that is dropped."""
    with pytest.raises(ValueError, match=f"OnnxObjective: {field} must be a whole number >= 1"):
        OnnxObjective(squares(), rows(), **{field: 0})


def test_without_its_extra(squares, monkeypatch):
    """Kills: a ModuleNotFoundError that names no extra, or one that became a ValueError."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="needs onnxruntime: .* the extra `edge`"):
        OnnxObjective(squares(), rows())


# Without torch ------------------------------------------------------------------------------------

PROGRAM = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTorch())
import numpy as np
import fedbias as fb
from clients import OnnxObjective
from simulations import InlineGrid
from strategies import FedBias
from tests.tools.federation import app_of, train
data = np.load(sys.argv[2])
one = OnnxObjective(sys.argv[1], (data["inputs"], data["targets"]))
grid = InlineGrid(app_of([one]), 1)
strategy = FedBias(
    fb.gradient_descent(0.5), fb.two_point(32, 1e-3), minimum_clients=1, batch_size=8, seed=4
)
found = train(strategy, grid, np.zeros(one.dim, np.float32), 5)
assert not {"torch", "onnx", "onnxscript"} & sys.modules.keys()
print(*(record.refused for record in found.records), found.point.tobytes().hex())
"""


def test_a_client_process_without_torch(exported, tmp_path):
    """Hello and five rounds where importing torch fails: the same bits as beside torch, and a loss
    that falls. Kills: torch at the import of a client, a client that is refused.
    """
    _, path = exported("mlp")
    np.savez(tmp_path / "data.npz", inputs=X, targets=Y)
    command = (sys.executable, "-W", "ignore", "-c", PROGRAM, str(path), str(tmp_path / "data.npz"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *refused, point = done.stdout.split()
    assert refused == ["0"] * 6
    objective = OnnxObjective(path, (X, Y))
    history = fb.run(
        *([objective], fb.gradient_descent(0.5), np.zeros(objective.dim, np.float32), 5),
        estimator=fb.two_point(32, 1e-3),
        batch_size=8,
        seed=4,
    )
    assert bytes.fromhex(point) == history.points[-1].tobytes()
    assert history.losses[-1] < history.losses[0]
