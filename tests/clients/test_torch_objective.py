"""The objective of a torch module: torch's own derivatives, and nothing leaks between clients."""

import copy
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Dataset, TensorDataset

import fedbias as fb
from clients import TorchObjective, torch_cohort
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.objectives import Objective, capabilities

pytestmark = pytest.mark.usefixtures("one_thread")
RNG = np.random.default_rng(7)
X, Y = RNG.standard_normal((11, 4)), RNG.integers(0, 3, 11)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}  # relative, of the largest entry
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def mlp(dtype=torch.float32):
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def data(dtype=torch.float32, rows=slice(None)):
    return torch.tensor(X[rows], dtype=dtype), torch.tensor(Y[rows])


def made(dtype=torch.float32, module=None, rows=slice(None), **options):
    return TorchObjective(module or mlp(dtype), cross_entropy, data(dtype, rows), **options)


def some_point(objective, dtype=torch.float32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(objective.dim).astype(str(dtype).removeprefix("torch."))


def plain(point, batch=slice(None), dtype=torch.float32):
    """Loss and gradient by torch alone, on a module that fedbias never saw."""
    module = mlp(dtype)
    nn.utils.vector_to_parameters(torch.from_numpy(point.copy()), module.parameters())
    inputs, targets = data(dtype)
    loss = cross_entropy(module(inputs[batch]), targets[batch])
    loss.backward()
    return loss.item(), nn.utils.parameters_to_vector([w.grad for w in module.parameters()]).numpy()


def close(one, other, tolerance):
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


# Derivatives --------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("batch", [None, np.array([3]), np.array([1, 1, 10, 0])])
def test_the_gradient_is_torchs(dtype, batch):
    """Kills: gradients that add up over calls, a batch left out, parameters in another order."""
    objective = made(dtype)
    assert objective.dim == 4 * 5 + 5 + 5 * 3 + 3 and objective.size == 11
    for seed in range(3):
        point = some_point(objective, dtype, seed)
        before = point.tobytes()
        loss, gradient = plain(point, slice(None) if batch is None else batch, dtype)
        found = objective.gradient(point, batch)
        assert found.dtype == point.dtype and found.shape == point.shape
        close(found, gradient, TOLERANCE[dtype] / 10)
        measured, again = objective.loss_and_gradient(point, batch)
        assert again.tobytes() == found.tobytes() and point.tobytes() == before
        assert measured == pytest.approx(loss, rel=TOLERANCE[dtype])
        assert objective.loss(point, batch) == pytest.approx(loss, rel=TOLERANCE[dtype])


def test_a_gradient_by_hand():
    """½(wx + b − y)² at w = 2, b = 1 on (1, 0) and (3, 1): the residuals are 3 and 6.

    Kills: a sum instead of a mean, a factor of two.
    """
    half = lambda out, y: 0.5 * mse_loss(out[:, 0], y)  # noqa: E731
    objective = TorchObjective(nn.Linear(1, 1), half, (np.float32([[1], [3]]), np.float32([0, 1])))
    point = np.float32([2, 1])
    assert objective.loss(point) == (9 + 36) / 4
    assert objective.gradient(point).tolist() == [(3 + 18) / 2, (3 + 6) / 2]
    assert objective.metrics(point) == {"loss": (9 + 36) / 4}


def test_the_returned_gradient_is_the_callers():
    """Kills: a view of the buffer that the next call overwrites."""
    objective = made()
    point = some_point(objective)
    first = objective.gradient(point)
    kept = first.copy()
    objective.gradient(2 * point)
    assert first.tobytes() == kept.tobytes()
    first[:] = 0
    assert objective.gradient(point).tobytes() == kept.tobytes()


@DTYPES
@pytest.mark.parametrize("micro", [1, 3, 4, 10, 11, 99])
def test_micro_batches_are_the_whole_batch(dtype, micro):
    """11 examples in pieces of 3 leave a piece of 2. Kills: a mean of the pieces' means."""
    whole, pieces = made(dtype), made(dtype, micro_batch=micro)
    point, batch = some_point(whole, dtype), np.array([0, 5, 5, 7, 2, 9, 1])
    for chosen in (None, batch):
        loss, gradient = whole.loss_and_gradient(point, chosen)
        measured, found = pieces.loss_and_gradient(point, chosen)
        close(found, gradient, TOLERANCE[dtype])
        assert measured == pytest.approx(loss, rel=TOLERANCE[dtype])
        assert pieces.loss(point, chosen) == pytest.approx(loss, rel=TOLERANCE[dtype])
    assert pieces.metrics(point)["accuracy"] == whole.metrics(point)["accuracy"]


def test_what_it_offers():
    """Kills: a capability that estimators do not find."""
    objective = made()
    assert isinstance(objective, Objective)
    assert capabilities(objective) == {"gradient", "directional", "hvp", "per_example_statistics"}
    assert objective.buffers is None


# One module, many clients -------------------------------------------------------------------------


def test_clients_share_a_module():
    """Kills: weights or gradients of one client that the other one sees."""
    module = mlp()
    shared = [made(module=module, rows=slice(0, 6)), made(module=module, rows=slice(6, 11))]
    alone = [made(rows=slice(0, 6)), made(rows=slice(6, 11))]
    points = [some_point(alone[0], seed=seed) for seed in range(3)]
    for point in points:
        for other in points:
            for mine, reference in zip(shared, alone, strict=True):
                assert mine.gradient(point).tobytes() == reference.gradient(point).tobytes()
                assert mine.loss(other) == reference.loss(other)
                product = mine.hvp(point, other).tobytes()
                assert product == reference.hvp(point, other).tobytes()


def test_a_tied_weight_counts_once():
    """Kills: a parameter that is twice in the point."""
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    objective = made(module=module)
    assert objective.dim == 16 + 4 + 4
    point, h = some_point(objective), 1e-2
    ahead, behind = (objective.loss(point + s * h * np.eye(24, dtype="f4")[0]) for s in (1, -1))
    assert objective.gradient(point)[0] == pytest.approx((ahead - behind) / (2 * h), rel=0.02)


# Buffers ------------------------------------------------------------------------------------------


def normalised(dtype=torch.float32):
    return nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Linear(2, 3)).to(dtype)


def test_buffers_there_and_back():
    """Means, then variances, without the integer counter. Kills: another order, an alias."""
    objective = made(module=normalised())
    assert objective.buffers.tolist() == [0, 0, 1, 1] and objective.buffers.dtype == np.float32
    values = np.float32([1, 2, 3, 4])
    objective.buffers = values
    values[:] = 9
    objective.buffers[:] = 8
    assert objective.buffers.tolist() == [1, 2, 3, 4]


def test_training_moves_the_buffers_by_hand():
    """r ← 0.9·r + 0.1·batch's, its variance with n − 1. Kills: evaluation mode for gradients,
    training mode for loss and metrics.
    """
    objective = made(torch.float64, normalised(torch.float64))
    point, batch = some_point(objective, torch.float64), np.array([0, 3, 4, 9])
    objective.buffers = np.array([0.5, -0.5, 2.0, 3.0])
    hidden = X[batch] @ point[:8].reshape(2, 4).T + point[8:10]
    objective.gradient(point, batch)
    expected = 0.1 * np.concatenate([hidden.mean(0), hidden.var(0, ddof=1)])
    expected += 0.9 * np.array([0.5, -0.5, 2.0, 3.0])
    np.testing.assert_allclose(objective.buffers, expected, rtol=1e-12)
    kept = objective.buffers.tobytes()
    objective.loss(point)
    objective.metrics(point)
    assert objective.buffers.tobytes() == kept


def test_evaluation_uses_the_buffers():
    """Kills: evaluation that normalises by the batch."""
    objective = made(module=normalised())
    point = some_point(objective)
    before = objective.loss(point)
    objective.buffers = np.float32([5, 5, 9, 9])
    assert objective.loss(point) != before
    objective.buffers = np.float32([0, 0, 1, 1])
    assert objective.loss(point) == before


def test_measuring_the_bias_leaves_the_buffers_alone():
    """The report's buffers are those of the turn's own passes. Kills: a measurement that moves the
    running statistics, or one that starts from statistics that the turn has moved.
    """
    objective = made(torch.float64, normalised(torch.float64))
    point = some_point(objective, torch.float64)
    plan = fb.Plan(
        *(0, 0, 0, -1, fb.clipped(0.5), None, fb.identity(), fb.no_feedback(), point),
        buffers=np.array([0.5, -0.5, 2.0, 3.0]),
    )
    silent, _ = respond(objective, plan, Ledger())
    told, _ = respond(objective, replace(plan, measure_bias=True), Ledger())
    assert replace(told, measured=None, computed=silent.computed) == silent
    exact = objective.gradient(point)
    expected = (max(np.linalg.norm(exact) - 0.5, 0) ** 2, np.sum(exact**2))
    assert (told.measured.bias_square, told.measured.gradient_square) == pytest.approx(expected)


# Dropout ------------------------------------------------------------------------------------------


def masks(reduce=torch.sum, **options):
    """An objective whose gradient is its dropout mask: w·drop(1), summed over four equal rows."""
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1, bias=False))
    rows = torch.ones(4, 64), torch.zeros(4)
    return TorchObjective(module, lambda out, _: reduce(out), rows, **options)


POINT = np.linspace(-1, 1, 64, dtype=np.float32)


def test_dropout_is_drawn_from_the_point_and_the_batch():
    """Kills: a mask that is always the same, a seed without the batch, without the point."""
    objective, one, two = masks(), np.array([0]), np.array([1])
    mask = objective.gradient(POINT, one)
    assert set(mask.tolist()) == {0.0, 2.0} and 10 < (mask > 0).sum() < 54
    torch.manual_seed(5)
    assert objective.gradient(POINT, one).tobytes() == mask.tobytes()
    assert masks().gradient(POINT, one).tobytes() == mask.tobytes()
    assert objective.gradient(POINT, two).tobytes() != mask.tobytes()
    assert objective.gradient(POINT * np.float32(1.5), one).tobytes() != mask.tobytes()
    assert objective.gradient(POINT).tobytes() != objective.gradient(POINT, np.arange(4)).tobytes()


def test_every_row_has_its_own_mask():
    """Kills: one mask for the whole batch, or the same for every micro-batch."""
    assert len(set(masks().gradient(POINT).tolist())) > 2
    assert len(set(masks(torch.mean, micro_batch=1).gradient(POINT).tolist())) > 2


def test_dropout_rests_in_evaluation():
    """Kills: dropout in evaluation."""
    assert masks().loss(POINT) == pytest.approx(4 * POINT.sum(), abs=1e-5)


def test_the_global_random_state_stays():
    """Kills: a client that reseeds the process."""
    objective = masks(lambda out: (out**2).mean())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    objective.gradient(POINT)
    objective.hvp(POINT, POINT)
    objective.loss(POINT)
    assert torch.equal(torch.get_rng_state(), before)


# Data ---------------------------------------------------------------------------------------------


class Rows(Dataset):
    """A data set of numpy rows and whole numbers, as users write them."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i].astype(np.float32), int(Y[i])


@pytest.mark.parametrize(
    "given",
    [
        Rows(),
        TensorDataset(*data()),
        (X.astype(np.float32), Y),
        (X.astype(np.float32).tolist(), Y.tolist()),
    ],
    ids=["dataset", "tensors in a dataset", "arrays", "lists"],
)
def test_any_form_of_data(given):
    """Kills: rows in another order, labels that become floats."""
    objective = TorchObjective(mlp(), cross_entropy, given)
    point = some_point(objective)
    assert objective.size == 11
    assert objective.gradient(point).tobytes() == made().gradient(point).tobytes()
    assert objective.metrics(point) == made().metrics(point)


def test_the_data_is_the_objectives_own():
    """Kills: an array that the caller still writes into."""
    inputs, targets = X.astype(np.float32), Y.copy()
    objective = TorchObjective(mlp(), cross_entropy, (inputs, targets))
    point = some_point(objective)
    before = objective.loss(point)
    inputs[:], targets[:] = 0, 0
    assert objective.loss(point) == before


def test_accuracy_by_hand():
    """Logits are the inputs; the second of three is wrong. Kills: argmin, a count."""
    module = nn.Linear(2, 2)
    inputs = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    point = np.float32([1, 0, 0, 1, 0, 0])
    for options in ({}, {"micro_batch": 2}):
        objective = TorchObjective(
            module, cross_entropy, (inputs, torch.tensor([0, 1, 1])), **options
        )
        metrics = objective.metrics(point)
        assert metrics["accuracy"] == 2 / 3
        expected = np.log1p(np.exp([-1, 1, -1])).mean()
        assert metrics["loss"] == pytest.approx(expected, rel=1e-6)


def test_no_accuracy_without_classes():
    """Kills: an accuracy of real targets."""
    objective = TorchObjective(nn.Linear(4, 3), mse_loss, (data()[0], torch.zeros(11, 3)))
    assert objective.metrics(some_point(objective)).keys() == {"loss"}


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: made(module=Mixed()), "all be float32 or all float64"),
        (lambda: made(module=mlp().half()), "all be float32 or all float64"),
        (lambda: made(module=nn.ReLU()), "all be float32 or all float64"),
        (lambda: made(rows=slice(0)), "0 inputs and 0 targets"),
        (
            lambda: TorchObjective(mlp(), cross_entropy, (data()[0], data()[1][:10])),
            "11 inputs and 10 targets",
        ),
        (lambda: made(micro_batch=0), "micro_batch must be a whole number >= 1, not 0"),
        (lambda: made(micro_batch=2.0), "micro_batch must be a whole number >= 1, not 2.0"),
        (lambda: made().gradient(np.zeros(7, np.float32)), "has 43 parameters"),
        (lambda: made().loss(np.zeros((43, 1), np.float32)), "has 43 parameters"),
        (lambda: made().hvp(np.zeros(44, np.float32), np.zeros(43, np.float32)), "43 parameters"),
    ],
)
def test_impossible_objectives(make, says):
    """Kills: a check that is dropped, a dtype converted in silence."""
    with pytest.raises(ValueError, match=says):
        make()


# Cohorts ------------------------------------------------------------------------------------------


def cohort(objectives):
    return type(objectives[0]).cohort(objectives)


@DTYPES
@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
def test_a_cohort_is_one_by_one(dtype, chunk, monkeypatch):
    """Five clients in chunks of 1, 2, 3. Kills: a client's data for another's, a sum for a mean,
    parameters in another order, a last chunk left out.
    """
    module = mlp(dtype)
    objectives = [made(dtype, module, rows=slice(c, c + 6)) for c in range(5)]
    point = some_point(objectives[0], dtype)
    if chunk:
        monkeypatch.setattr(torch_cohort, "_CHUNK", chunk * objectives[0].dim)
    losses, gradients = cohort(objectives).losses_and_gradients(point)
    assert gradients.shape == (5, 43) and gradients.dtype == point.dtype
    assert losses.shape == (5,) and losses.dtype == np.float64
    for objective, loss, gradient in zip(objectives, losses, gradients, strict=True):
        expected, reference = objective.loss_and_gradient(point)
        close(gradient, reference, TOLERANCE[dtype])
        assert loss == pytest.approx(expected, rel=TOLERANCE[dtype])


def test_a_cohort_leaves_the_module_usable():
    """Kills: parameters that a functional call replaces for good."""
    module = mlp()
    objectives = [made(module=module, rows=slice(c, c + 6)) for c in range(2)]
    point = some_point(objectives[0])
    before = objectives[0].gradient(2 * point)
    cohort(objectives).losses_and_gradients(point)
    assert objectives[0].gradient(2 * point).tobytes() == before.tobytes()


def dropping():
    return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.1), nn.Linear(5, 3))


def test_no_cohort_where_clients_differ_in_more_than_data():
    """Kills: each condition that is dropped."""
    module = mlp()
    rows = slice(0, 6)
    assert cohort([made(module=module, rows=rows)] * 2) is not None
    alike = made(module=module, rows=rows)
    inputs, targets = data(rows=rows)
    pairs = {
        "other shapes": (alike, made(module=module, rows=slice(0, 5))),
        "another module": (alike, made(rows=rows)),
        "another loss": (alike, TorchObjective(module, nn.CrossEntropyLoss(), (inputs, targets))),
        "other targets": (
            TorchObjective(module, cross_entropy, (inputs, targets)),
            TorchObjective(module, cross_entropy, (inputs, torch.zeros(6, 3))),
        ),
        "micro-batches": (alike, made(module=module, rows=rows, micro_batch=2)),
        "only micro-batches": [made(module=module, rows=rows, micro_batch=2)] * 2,
        "buffers": [made(module=normalised(), rows=rows)] * 2,
    }
    assert [name for name, pair in pairs.items() if cohort(pair) is not None] == []


# Corners ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "double"])
def test_a_module_that_was_used_may_be_copied(how):
    """Ray pickles a module that the server has evaluated: then every gradient is zero."""
    module, kind = mlp(), torch.float32
    original = made(module=module)
    point = some_point(original)
    expected = original.gradient(point)
    if how == "deepcopy":
        module = copy.deepcopy(module)
    elif how == "pickle":
        module = pickle.loads(pickle.dumps(module))
    else:
        module, kind = module.double(), torch.float64
    found = made(kind, module).gradient(point.astype(str(kind).removeprefix("torch.")))
    close(found, expected, 1e-5)


def test_no_cohort_with_frozen_parameters():
    """Their gradient is 0, which torch.func does not know. Kills: a cohort that trains them."""
    module = mlp()
    module[0].bias.requires_grad_(False)
    objectives = [made(module=module, rows=slice(c, c + 6)) for c in range(2)]
    assert cohort(objectives) is None


def test_functional_dropout_is_seeded_too():
    """A repeated plan must have identical bytes."""

    class Dropping(nn.Linear):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x), 0.5, self.training)

    objective = made(module=Dropping(4, 3))
    point = some_point(objective)
    assert objective.gradient(point).tobytes() == objective.gradient(point).tobytes()


def test_a_cumulative_batch_norm_repeats():
    """momentum=None averages by num_batches_tracked, which no plan resets."""
    objective = made(module=nn.Sequential(nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 3)))
    point, start, found = some_point(objective), objective.buffers, []
    for _ in range(2):
        objective.buffers = start
        objective.gradient(point)
        found.append(objective.buffers.tobytes())
    assert found[0] == found[1]


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="the data set is empty"):
        TorchObjective(mlp(), cross_entropy, TensorDataset(*data(rows=slice(0))))


def test_a_read_only_point_is_read():
    """np.frombuffer and memory-mapped points cannot be written, and nobody wants to."""
    objective = made()
    point = some_point(objective)
    point.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.gradient(point)


def test_buffers_of_another_length_are_refused():
    with pytest.raises(ValueError):
        made(module=normalised()).buffers = np.zeros(7, np.float32)


def test_a_point_of_another_dtype_is_refused():
    """The core never converts silently, says DESIGN; fb.run then refuses every report."""
    objective = made()
    with pytest.raises(ValueError):
        objective.gradient(some_point(objective).astype(np.float64))


def test_a_layer_may_be_replaced():
    """A new head after a first use: the point must reach it. Kills: a stale flat view."""
    module = mlp()
    point = some_point(made(module=module))
    module[2] = nn.Linear(5, 3)
    objective = made(module=module)
    close(objective.gradient(point), plain(point)[1], 1e-5)


def test_a_batch_larger_than_the_data_is_one_pass():
    """Kills: a batch cut into pieces of the client's few examples, which BatchNorm would notice."""
    few = made(module=nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), rows=slice(0, 1))
    gradient = few.gradient(some_point(few), np.zeros(5, np.int64))
    assert np.isfinite(gradient).all()
