"""⟨∇f, v⟩ without the gradient: forward mode in torch, closed forms by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.backends import mha, mkldnn
from torch.nn.functional import cross_entropy

import fedbias as fb
from clients import NumpyObjective, TorchObjective
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.objectives import capabilities
from fedbias.problems import LogisticLoss, Squares
from tests.tools.torch_nets import Attention, Recurrent

pytestmark = pytest.mark.usefixtures("one_thread")
RNG = np.random.default_rng(9)
X, Y = RNG.standard_normal((11, 6, 4)), RNG.integers(0, 3, 11)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}  # relative to ‖∇f‖·‖v‖
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))
BATCHES = pytest.mark.parametrize("batch", [None, np.array([3]), np.array([1, 1, 10, 0])])


class Distances(nn.Module):
    """To learned centres, by a function of torch's that has no forward-mode derivative."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.ones(3, 24))

    def forward(self, inputs):
        return -torch.cdist(inputs.flatten(1), self.centres, p=3)


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 5), nn.Tanh(), nn.Linear(5, 3))


def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3))


def made(module, dtype=torch.float64, **options):
    data = torch.tensor(X, dtype=dtype), torch.tensor(Y)
    return TorchObjective(module.to(dtype), cross_entropy, data, **options)


def two_vectors(dim, dtype=torch.float64, seed=0):
    kind = str(dtype).removeprefix("torch.")
    return np.random.default_rng(seed).standard_normal((2, dim)).astype(kind)


def agrees(found, gradient, vector, dtype=torch.float64):
    assert type(found) is float
    scale = np.linalg.norm(gradient) * np.linalg.norm(vector)
    assert abs(found - float(gradient @ vector)) <= TOLERANCE[dtype] * scale


# Torch --------------------------------------------------------------------------------------------


@DTYPES
@BATCHES
@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize("make", [mlp, Attention, Recurrent, encoder])
def test_it_is_the_gradients_product(make, micro, batch, dtype):
    """Of modules without dropout, to rounding. Kills: a batch left out, equal weights of unequal
    pieces, tangents of another weight, a fused kernel that refuses.
    """
    objective = made(make(), dtype, micro_batch=micro)
    point, vector = two_vectors(objective.dim, dtype)
    before = point.tobytes(), vector.tobytes()
    found = objective.directional(point, vector, batch)
    agrees(found, objective.gradient(point, batch), vector, dtype)
    assert (point.tobytes(), vector.tobytes()) == before
    assert objective.directional(point, 2 * vector, batch) == pytest.approx(2 * found, rel=1e-5)


def test_it_is_the_slope_of_the_loss():
    """A central difference in float64, with dropout and BatchNorm: the loss is that of evaluation
    mode, and buffers stay. Kills: training mode, a draw.
    """
    norm = nn.BatchNorm1d(5)
    norm.running_mean += torch.arange(5)
    module = nn.Sequential(nn.Flatten(), nn.Linear(24, 5), norm, nn.Tanh(), nn.Dropout(0.5))
    objective = made(nn.Sequential(module, nn.Linear(5, 3)))
    point, vector = two_vectors(objective.dim)
    buffers, step = objective.buffers, 1e-6
    ahead, behind = (objective.loss(point + sign * step * vector) for sign in (1, -1))
    found = objective.directional(point, vector)
    assert found == pytest.approx((ahead - behind) / (2 * step), rel=1e-7)
    assert np.array_equal(objective.buffers, buffers)
    assert objective.directional(point, vector) == found


def test_frozen_weights_have_no_part():
    """Kills: a slope along what is not trained; an error where nothing is."""
    module = mlp()
    module[1].weight.requires_grad_(False)
    objective = made(module)
    point, vector = two_vectors(objective.dim)
    agrees(objective.directional(point, vector), objective.gradient(point), vector)
    along_frozen = np.where(np.arange(objective.dim) < module[1].weight.numel(), vector, 0)
    assert objective.directional(point, along_frozen) == 0
    module.requires_grad_(False)
    assert objective.directional(point, vector) == 0


def test_torchs_settings_come_back():
    """Whatever they were. Kills: slow kernels for the rest of the process."""
    assert mha.get_fastpath_enabled() and mkldnn.enabled
    objective = made(Recurrent(), torch.float32)
    vectors = two_vectors(objective.dim, torch.float32)
    objective.directional(*vectors)
    assert mha.get_fastpath_enabled() and mkldnn.enabled
    try:
        mha.set_fastpath_enabled(False)
        mkldnn.enabled = False
        objective.directional(*vectors)
        assert not (mha.get_fastpath_enabled() or mkldnn.enabled)
    finally:
        mha.set_fastpath_enabled(True)
        mkldnn.enabled = True


def test_what_has_no_such_derivative():
    """Kills: torch's own words alone, settings that stay, other errors in this one's words."""
    objective = made(Distances())
    with pytest.raises(ValueError, match="along a direction .* use two_point") as error:
        objective.directional(*two_vectors(objective.dim))
    assert "\n" not in str(error.value) and mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        made(nn.Linear(5, 3)).directional(*two_vectors(18))


@pytest.mark.parametrize("change", [lambda v: v[1:], lambda v: v.astype(np.float32)])
def test_vectors_that_do_not_fit(change):
    """Kills: a vector that is cut or converted."""
    objective = made(mlp())
    point, vector = two_vectors(objective.dim)
    with pytest.raises(ValueError, match="vector must be like the point, not"):
        objective.directional(point, change(vector))


def test_vectors_that_are_read_only():
    """As messages hold them. Kills: torch's warning, which is an error here."""
    objective = made(mlp())
    point, vector = two_vectors(objective.dim)
    found = objective.directional(point, vector)
    vector.flags.writeable = point.flags.writeable = False
    assert objective.directional(point, vector) == found


# Closed forms -------------------------------------------------------------------------------------

ROWS = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
POINT, VECTOR = np.array([1.0, -1.0]), np.array([0.5, 2.0])  # ROWS·v is (.5, 4, 2.5), ⟨x, v⟩ −1.5


@pytest.mark.parametrize(
    ("batch", "ridge", "value"),
    [
        (None, 0.0, -16 / 3),  # residuals 0, −4, 0
        (np.array([1, 1, 2]), 0.0, -32 / 3),
        (None, 0.5, -16 / 3 - 0.75),
    ],
)
def test_least_squares_by_hand(batch, ridge, value):
    """Kills: a sum for a mean, a ridge left out, the residual's sign, a batch left out."""
    objective = Squares(ROWS, np.array([1.0, 2.0, 0.0]), ridge)
    assert objective.directional(POINT, VECTOR, batch) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("batch", "value"),
    [(None, -(0.5 - 4 + 2.5) / 2 / 3), (np.array([0, 0, 1, 0]), -(3 * 0.5 - 4) / 2 / 4)],
)
def test_logistic_by_hand(batch, value):
    """At 0 every σ is ½. Kills: labels left out, a sum for a mean, a batch left out."""
    objective = LogisticLoss(ROWS, np.array([1.0, -1.0, 1.0]), ridge=2.0)
    assert objective.directional(np.zeros(2), VECTOR, batch) == pytest.approx(value, rel=1e-14)


@BATCHES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["linear", "logistic"])
def test_closed_forms_are_the_gradients_products(kind, dtype, batch):
    """Kills: a margin's sign, a ridge left out, a number of another type."""
    rows, signs = RNG.standard_normal((11, 4)), RNG.choice([-1.0, 1.0], 11)
    objective = getattr(NumpyObjective, kind)(rows.astype(dtype), signs.astype(dtype), ridge=0.7)
    point, vector = two_vectors(4, dtype=torch.from_numpy(rows.astype(dtype)).dtype)
    found = objective.directional(point, vector, batch)
    gradient = objective.gradient(point, batch)
    agrees(found, gradient, vector, torch.from_numpy(gradient).dtype)


def test_a_function_of_ones_own():
    """Kills: a capability that is always there, a batch left out, vector and point swapped."""
    squares = Squares(ROWS, np.array([1.0, 2.0, 0.0]))
    plain = NumpyObjective(squares.loss, dim=2, size=3)
    assert capabilities(plain) == set() and not hasattr(plain, "directional")
    objective = NumpyObjective(
        *(squares.loss, None, None),
        lambda x, v, batch: np.float32(squares.directional(x, v, batch)),
        dim=2,
        size=3,
    )
    assert capabilities(objective) == {"directional"}
    assert objective.directional(POINT, VECTOR) == np.float32(-16 / 3)
    batch = np.array([1, 1, 2])
    assert objective.directional(POINT, VECTOR, batch=batch) == np.float32(-32 / 3)
    assert type(objective.directional(POINT, VECTOR)) is float


@pytest.mark.parametrize("kind", ["torch", "squares"])
def test_estimates_from_slopes_alone(kind):
    """The mean of forward gradients is the gradient: 4000 directions have a relative squared error
    of (d+1)/4000 in the mean; three times that is beyond 1 − 10⁻⁶ (a weighted χ², d ≥ 8).
    Kills: a capability that estimators do not find, a slope of something else.
    """
    objective = made(mlp()) if kind == "torch" else Squares(X[:, :, 0] @ np.eye(6, 8), Y * 1.0)
    point, _ = two_vectors(objective.dim)
    estimator = fb.forward_gradient(4000 if kind == "squares" else 400)
    plan = fb.Plan(*(0, 3, 0, -1, estimator, None, fb.identity(), fb.no_feedback(), point))
    report, _ = respond(objective, plan, Ledger())
    gradient = objective.gradient(point)
    error = np.sum((fb.decode(report.packet) - gradient) ** 2) / np.sum(gradient**2)
    assert error < 3 * (objective.dim + 1) / estimator.directions
