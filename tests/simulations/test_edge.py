"""The task in a folder: a graph, x_0 and every client's own file."""

import shutil

import numpy as np
import pytest
from torch.nn.functional import cross_entropy

from fedbias.vectors import flatten
from simulations import SettingsError, Task, make_settings, make_task
from simulations.data import DataError
from simulations.edge import write_onnx_task
from simulations.models import mlp

RNG = np.random.default_rng(6)
SHARDS = [(RNG.random((n, 1, 3, 3), np.float32), np.arange(n) % 4) for n in (5, 7, 6)]
MODEL, NAMES = mlp(hidden=5), ["1.weight", "1.bias", "3.weight", "3.bias"]
SMALL = {"clients": 2, "model": "mlp(hidden=5)"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task") / "new"
    model = MODEL.build((1, 3, 3), 4, seed=0)
    write_onnx_task(folder, model, cross_entropy, SHARDS[:2], SHARDS[2])
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """Give one of one's own."""
    return shutil.copytree(written, tmp_path / "task")


def task_of(folder, **values):
    make_task.cache_clear()
    return make_task(make_settings({"task": "onnx", "data_root": str(folder), **SMALL, **values}))


def test_the_folder_is_a_task(folder):
    """Torch's own losses at x_0, of every client and of the test. Kills: one client's data for
    another's, weights that are not the module's, a test that is some client's data.
    """
    task = task_of(folder)
    assert isinstance(task, Task) and task.clients == 2 and task.initial_buffers() == {}
    initial = task.initial()
    assert list(initial) == NAMES
    point = flatten(initial.values())
    theirs = task_of(folder, task="simulations.edge:torch_task")
    assert [a.tobytes() for a in theirs.initial().values()] == [
        a.tobytes() for a in initial.values()
    ]
    for client in range(2):
        one, other = task.objective(client), theirs.objective(client)
        assert task.objective(client) is one and one.size == len(SHARDS[client][1])
        assert one.metrics(point) == pytest.approx(other.metrics(point), rel=1e-6)
    assert task.evaluate(initial) == pytest.approx(theirs.evaluate(initial), rel=1e-6)
    assert len({task.objective(0).loss(point), task.objective(1).loss(point)}) == 2


def test_a_device_has_its_own_file_alone(folder):
    """Kills: a task that reads, or counts, everybody's data."""
    for other in ("initial.npz", "test.npz", "client-0.npz"):
        (folder / other).unlink()
    task = task_of(folder)
    assert task.objective(1).size == 7
    with pytest.raises(DataError, match=r"client-0\.npz cannot be read: No such file"):
        task.objective(0)


def test_a_server_needs_no_test_data(folder):
    """Kills: a task that cannot be started without; a graph that x_0 alone would need."""
    initial = task_of(folder).initial()
    for other in ("test.npz", "model.onnx"):
        (folder / other).unlink()
    task = task_of(folder)
    assert list(task.initial()) == NAMES and task.evaluate(initial) == {}


def test_micro_batches(folder):
    """Kills: a setting that never arrives."""
    task = task_of(folder, micro_batch=2)
    whole = task_of(folder)
    point = flatten(task.initial().values())
    assert task.objective(1).loss(point) == pytest.approx(whole.objective(1).loss(point), rel=1e-6)
    assert task.objective(1)._micro == 2 and whole.objective(1)._micro is None


def test_x0_of_another_order_or_shape(folder):
    """Kills: weights and biases that change their places, a model of another width."""
    initial = task_of(folder).initial()
    swapped = {name: initial[name] for name in reversed(NAMES)}
    with pytest.raises(DataError, match=r"initial\.npz holds .* but the graph's parameters are"):
        task_of(folder).evaluate(swapped)
    with pytest.raises(DataError, match=r"initial\.npz holds"):
        task_of(folder).evaluate(initial | {"1.bias": np.zeros(6, np.float32)})


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: path.write_bytes(b"words"), r"is not a file of numpy\.savez"),
        (lambda path: path.write_bytes(b""), r"is not a file of numpy\.savez"),
        (lambda path: path.write_bytes(b"PK\x03\x04words"), r"is not a file of numpy\.savez"),
        (lambda path: np.savez(path, x=SHARDS[0][0]), r"must hold inputs and targets, not \['x'\]"),
        (lambda path: np.savez(path, inputs=np.array([{}])), r"is not a file of numpy\.savez"),
    ],
)
def test_files_that_are_no_data(write, says, folder):
    """Kills: numpy's own words; pickled objects, which could do anything."""
    write(folder / "client-1.npz")
    with pytest.raises(DataError, match=rf"client-1\.npz {says}"):
        task_of(folder).objective(1)


def test_an_array_is_not_a_file_of_arrays(folder):
    """Kills: a TypeError from inside."""
    np.save(folder / "array.npy", np.ones(3))
    (folder / "array.npy").rename(folder / "client-0.npz")
    with pytest.raises(DataError, match=r"client-0\.npz is not a file of numpy\.savez"):
        task_of(folder).objective(0)


def test_a_task_without_its_folder():
    """Kills: the working directory as a folder by chance."""
    with pytest.raises(SettingsError, match="task = 'onnx' needs data_root"):
        task_of("")


def test_torch_wants_the_same_model(folder):
    """Kills: weights of another model that are cut or left out."""
    with pytest.raises(
        DataError, match=r"initial\.npz holds other weights than mlp\(hidden=6\) has"
    ):
        task_of(folder, task="simulations.edge:torch_task", model="mlp(hidden=6)")
