"""Tasks: the built-in ones, your own, and the sentence for everything that is none."""

import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedbias.vectors import Layout, flatten, unflatten
from simulations import ProblemTask, SettingsError, Task, TorchTask, make_settings, make_task
from simulations.data import DataError, digits
from simulations.output import read_run
from simulations.tasks import TASKS

ROOT = Path(__file__).parents[2]
SMALL = {"clients": 3, "model": "linear()"}
LABELS = [7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]  # of the training images
CHECKED = [0, 0, 0, 1, 9]  # of the test images
COUNT = itertools.count()


def idx(array):
    """An IDX file of bytes, by hand."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def data_root(tmp_path):
    """Four small files of images whose every pixel is twenty times the label."""
    for part, labels in (("train", LABELS), ("t10k", CHECKED)):
        images = np.tile(np.reshape(labels, (-1, 1, 1)) * 20, (1, 28, 28))
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.array(labels)))
    return str(tmp_path)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that can be imported, under a new name each time."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source):
        name = f"own_task_{next(COUNT)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


def task_of(**values):
    return make_task(make_settings(values))


def zeros(task):
    return {name: np.zeros_like(array) for name, array in task.initial().items()}


# Built in ---------------------------------------------------------------------------------------


def test_the_help_names_every_built_in_task():
    """Kills: a task that nobody can find."""
    described = make_settings({}).__class__.model_fields["task"].description
    assert described.split(", or ")[0].split(", ") == list(TASKS)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "onnx"])  # see test_edge.py
def test_a_built_in_task_fits_itself(name, data_root):
    """Kills: an objective of another dimension, dtype or number of clients than the task's x_0."""
    task = task_of(task=name, data_root=data_root, **SMALL)
    assert isinstance(task, Task) and task.clients == 3
    point = flatten(task.initial().values())
    for client in range(3):
        objective = task.objective(client)
        assert objective.dim == point.size and objective.size >= 1
        assert objective.gradient(point).dtype == point.dtype
    metrics = task.evaluate(task.initial())
    assert set(metrics) == {"loss"} | ({"accuracy"} if isinstance(task, TorchTask) else set())
    assert all(math.isfinite(value) for value in metrics.values())


def test_digits_are_dealt_to_the_clients_without_rest():
    """Kills: examples given to two clients or to none."""
    task = task_of(partition="dirichlet(alpha=0.1)", clients=7, model="linear()")
    assert sum(task.objective(client).size for client in range(7)) == len(digits().train_y)


def test_the_seed_decides_partition_and_weights_and_not_the_test_data():
    """Kills: a draw that ignores the seed, or depends on what was drawn before."""
    one, again, other = (
        task_of(model="linear()", clients=clients, seed=seed)
        for clients, seed in ((5, 1), (5, 1), (5, 2))
    )
    make_task.cache_clear()
    fresh = task_of(model="linear()", clients=5, seed=1)
    sizes = [[task.objective(m).size for m in range(5)] for task in (one, again, fresh, other)]
    assert sizes[0] == sizes[1] == sizes[2] != sizes[3]
    weights = [flatten(task.initial().values()) for task in (one, fresh, other)]
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
    assert one.evaluate(zeros(one)) == other.evaluate(zeros(other))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files_by_data_root(name, data_root):
    """Weights of zero give every class a tenth: loss ln 10, and class 0 wins its ties.

    Kills: train files taken for test files; labels or images out of order; a wrong scale.
    """
    task = task_of(
        task=name, data_root=data_root, clients=2, model="linear()", partition="contiguous()"
    )
    assert [task.objective(client).size for client in range(2)] == [6, 6]
    metrics = task.evaluate(zeros(task))
    assert metrics["loss"] == pytest.approx(math.log(10), rel=1e-6)
    assert metrics["accuracy"] == CHECKED.count(0) / len(CHECKED)
    # One weight of 1 from a pixel to class 9: that logit is the pixel, 20·label/255.
    weight, bias = task.initial()
    one = zeros(task)
    one[weight][9, 300] = 1
    logits = [20 * label / 255 for label in CHECKED]
    losses = [
        math.log(9 + math.exp(z)) - (z if label == 9 else 0)
        for z, label in zip(logits, CHECKED, strict=True)
    ]
    assert task.evaluate(one)["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert bias in one


def test_missing_files_are_named_with_the_places_that_were_searched(tmp_path):
    """Kills: a data root that is ignored, and another place searched instead."""
    with pytest.raises(DataError, match="train-images-idx3-ubyte") as caught:
        task_of(task="mnist", data_root=str(tmp_path / "none"))
    assert str(tmp_path / "none") in str(caught.value) and "--data-root" in str(caught.value)


@pytest.mark.parametrize("name", ["least-squares", "logistic"])
def test_a_problem_is_evaluated_as_its_gap(name):
    """Kills: f instead of f − f*; the minimum of another problem; dim, κ or seed left out."""
    task = task_of(task=name, dim=4, clients=3, condition=7.0, seed=5)
    problem = task.problem
    assert task.evaluate({"point": problem.minimizer})["loss"] == pytest.approx(0, abs=1e-12)
    gap = np.mean([f.loss(np.zeros(4)) for f in problem.objectives]) - problem.minimum
    assert task.evaluate(task.initial())["loss"] == pytest.approx(gap, rel=1e-12) and gap > 0
    assert task.initial()["point"].tolist() == [0.0] * 4 and task.initial_buffers() == {}
    if name == "least-squares":
        assert problem.lipschitz / problem.strong_convexity == pytest.approx(7)
    other = task_of(task=name, dim=4, clients=3, condition=7.0, seed=6)
    assert not np.array_equal(other.problem.minimizer, problem.minimizer)


@pytest.mark.parametrize("name", ["digits", "least-squares"])
@pytest.mark.parametrize("client", [-1, 3, 10**6])
def test_a_client_out_of_range_is_refused(name, client):
    """Kills: Python's −1, which is the last client's data once more."""
    task = task_of(task=name, **SMALL)
    with pytest.raises(ValueError, match=f"there is data for clients 0 … 2, not for {client}$"):
        task.objective(client)


def test_more_clients_than_examples():
    """Kills: clients without data."""
    with pytest.raises(ValueError, match="2000 clients cannot share 1437 examples"):
        task_of(clients=2000)


def test_the_start_stays_the_start():
    """The module is shared: every objective loads its points into it.

    Kills: x_0 read from the module after training began; an evaluation of what was loaded last.
    """
    task = task_of(**SMALL)
    before = {name: array.copy() for name, array in task.initial().items()}
    first = task.evaluate(before)
    point = flatten(before.values())
    task.objective(0).gradient(point + 1)
    for name, array in task.initial().items():
        np.testing.assert_array_equal(array, before[name])
    assert task.evaluate(before) == first
    moved = unflatten(point + 1, Layout.of(before))
    assert task.evaluate(moved) != first


def test_a_task_is_made_once_for_equal_settings():
    """Kills: data read and dealt again for every message of every client."""
    assert task_of(**SMALL) is task_of(**SMALL) is not task_of(**SMALL, seed=1)


def test_buffers_are_part_of_a_task():
    """Kills: BatchNorm's statistics forgotten at the start or in the evaluation."""
    import torch
    from torch.nn.functional import cross_entropy

    data = (torch.arange(8.0).reshape(4, 2), torch.tensor([0, 1, 0, 1]))
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    task = TorchTask(model, cross_entropy, [data], data)
    buffers = task.initial_buffers()
    assert {name: array.tolist() for name, array in buffers.items()} == {
        "0.running_mean": [0.0, 0.0],
        "0.running_var": [1.0, 1.0],
    }  # and not the count of batches, which is no float
    shifted = {**buffers, "0.running_mean": np.array([3, 4], np.float32)}
    losses = {task.evaluate(task.initial() | extra)["loss"] for extra in (buffers, shifted)}
    assert len(losses) == 2


def test_a_task_without_test_data_has_no_evaluation():
    """Kills: an evaluation on nothing."""
    import torch

    data = (torch.ones(2, 1), torch.zeros(2, 1))
    task = TorchTask(torch.nn.Linear(1, 1), torch.nn.functional.mse_loss, [data])
    assert task.evaluate(task.initial()) == {}


# Your own ---------------------------------------------------------------------------------------

OWN = """
import fedbias as fb
from simulations import ProblemTask

def make_task(settings):
    return ProblemTask(fb.LeastSquares.random(3, 2.0, settings.seed, clients=settings.clients))

def five(settings):
    return ProblemTask(fb.LeastSquares.random(3, 2.0, 0, clients=5))

def nothing(settings):
    pass

number = 7
"""


def test_a_task_by_dotted_path(module):
    """Kills: a function that is not given the settings."""
    name = module(OWN)
    task = task_of(task=f"{name}:make_task", clients=4, seed=2)
    assert isinstance(task, ProblemTask) and task.clients == 4
    expected = task_of(task="least-squares", dim=3, condition=2.0, clients=4, seed=2)
    np.testing.assert_array_equal(task.problem.minimizer, expected.problem.minimizer)


@pytest.mark.parametrize("path", ["imagenet", "module:", ":function", "", ":"])
def test_a_name_that_is_no_dotted_path_lists_the_tasks(path):
    """Kills: a KeyError, or an attempt to import the empty module."""
    with pytest.raises(SettingsError) as caught:
        task_of(task=path)
    assert str(caught.value) == (
        f"task = {path!r}: there is none; known: digits, fashion-mnist, mnist, least-squares, "
        "logistic, onnx, or module:function"
    )


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("no_such_module:make_task", "No module named 'no_such_module'"),
        ("json:make_task", "module 'json' has no attribute 'make_task'"),
    ],
)
def test_a_dotted_path_that_leads_nowhere(path, why):
    """Kills: a traceback of importlib."""
    with pytest.raises(SettingsError, match=f"^task = {path!r} cannot be imported: {why}"):
        task_of(task=path)


def test_a_module_that_lacks_something_itself(module):
    """Kills: the blame on the task's own module."""
    name = module("import no_such_thing\n")
    with pytest.raises(SettingsError, match="No module named 'no_such_thing'"):
        task_of(task=f"{name}:make_task")


def test_a_function_that_makes_no_task(module):
    """Kills: an AttributeError in the middle of the first round."""
    path = f"{module(OWN)}:nothing"
    with pytest.raises(SettingsError, match=f"^task = '{path}' made None, which is not a Task$"):
        task_of(task=path)


def test_a_task_of_another_number_of_clients(module):
    """Kills: a run that waits for clients that never come, or leaves some out."""
    path = f"{module(OWN)}:five"
    says = f"^task = '{path}' has data for 5 clients, but clients = 4$"
    with pytest.raises(SettingsError, match=says):
        task_of(task=path, clients=4)


def test_the_example_of_the_readme_runs_as_it_stands(tmp_path):
    """Its block is saved as mymodule.py and its command run in that folder.

    Kills: an example that went stale; a task in the working directory that is not found.
    """
    part = (ROOT / "README.md").read_text("utf-8").split("<!-- own task -->")[1]
    source = re.search(r"```python\n(.*?)```", part, re.DOTALL).group(1)
    assert len([line for line in source.splitlines() if line.strip()]) <= 20
    (tmp_path / "mymodule.py").write_text(source)
    command = re.search(r"-m simulations (run --task mymodule:make_task.*)", part).group(1).split()
    done = subprocess.run(
        [sys.executable, "-m", "simulations", *command, "--runs", tmp_path, "--name", "own"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "own")
    assert run.settings["task"] == "mymodule:make_task"
    # Two unit Gaussians at a distance of √18: the best classifier is right with Φ(√18/2) = .983.
    assert run.values("accuracy")[-1] > 0.95 and run.values("train_loss")[-1] < 0.3


def test_a_task_that_fails_says_where(tmp_path, monkeypatch):
    """Kills: a traceback of the app around one line of the user's."""
    (tmp_path / "failing_task.py").write_text(
        "def make_task(settings):\n    return {}['weights']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=r"failing_task.py, line 2: KeyError: 'weights'$"):
        make_task(make_settings({"task": "failing_task:make_task"}))
