"""∇²f·v of a torch module: the slope of its training gradient, and one symmetric matrix."""

import curvlinops
import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.backends import cudnn, mha, mkldnn
from torch.nn.functional import (
    cross_entropy,
    embedding_bag,
    mse_loss,
    multi_margin_loss,
)
from torch.utils.checkpoint import checkpoint

import fedbias as fb
from clients import TorchObjective
from tests.tools.torch_nets import Attention, Recurrent

pytestmark = pytest.mark.usefixtures("one_thread")
RNG = np.random.default_rng(11)
X, Y = RNG.standard_normal((11, 6, 4)), RNG.integers(0, 3, 11)
BATCHES = pytest.mark.parametrize("batch", [None, np.array([0, 4, 4, 9, 2, 10])])


class Distances(nn.Module):
    """To learned centres, by a function of torch's without a second derivative."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.ones(3, 24))

    def forward(self, inputs):
        return -torch.cdist(inputs.flatten(1), self.centres)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.ones(2, 3))

    def forward(self, inputs):
        return embedding_bag((inputs[:, :, 0] > 0).long(), self.rows)


class Cubes(torch.autograd.Function):
    """x³ with its own derivative, once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slope


class HiddenCubes(Cubes):
    """Of whose derivative torch knows nothing."""

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return 3 * x**2 * slope


class Through(nn.Module):
    """A linear layer and a function behind it."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(24, 3), function

    def forward(self, inputs):
        return self.function(self.linear(inputs.flatten(1)))


def recomputed(hidden):
    return checkpoint(torch.tanh, hidden, use_reentrant=True)


def mlp(act=nn.Tanh):
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 5), act(), nn.Linear(5, 3))


def convolutional():
    layers = [nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3))


def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3))


def dropping():
    return nn.Sequential(mlp(), nn.Dropout(0.5), nn.Linear(3, 3))


def made(module, dtype=torch.float64, loss=cross_entropy, **options):
    data = torch.tensor(X, dtype=dtype), torch.tensor(Y)
    return TorchObjective(module.to(dtype), loss, data, **options)


def two_vectors(dim, dtype=torch.float64, seed=0):
    kind = str(dtype).removeprefix("torch.")
    return np.random.default_rng(seed).standard_normal((2, dim)).astype(kind)


def close(one, other, tolerance):
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


# What it is ---------------------------------------------------------------------------------------


def test_a_product_by_hand():
    """½(wx + b − y)² on x = 1 and 3: the Hessian is the mean of (x² x; x 1). Kills: a sum for a
    mean, a factor of two, a product with something else.
    """
    half = lambda out, y: 0.5 * mse_loss(out[:, 0], y)  # noqa: E731
    objective = TorchObjective(nn.Linear(1, 1), half, (np.float32([[1], [3]]), np.float32([0, 1])))
    for point in np.float32([[2, 1], [0, 0]]):
        assert objective.hvp(point, np.float32([1, 0])).tolist() == [(1 + 9) / 2, (1 + 3) / 2]
        assert objective.hvp(point, np.float32([1, -2])).tolist() == [5 - 2 * 2, 2 - 2 * 1]
        assert objective.hvp(point, np.float32([1, 0]), np.array([1, 1])).tolist() == [9, 3]


@BATCHES
@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize("make", [mlp, Attention, Recurrent, encoder, convolutional])
def test_it_is_the_slope_of_the_gradient(make, micro, batch):
    """Central differences in float64: with h = 10⁻⁵ both h² and 10⁻¹⁶/h are far below 10⁻⁷. Rows
    (11 or 6) in pieces of 4 leave a smaller one, and BatchNorm sees the pieces.

    Kills: another batch or point, pieces that weigh alike, the whole batch for its pieces,
    evaluation mode, a fused kernel that refuses.
    """
    objective = made(make(), micro_batch=micro)
    point, vector = two_vectors(objective.dim)
    before, step = (point.tobytes(), vector.tobytes()), 1e-5
    ahead, behind = (objective.gradient(point + sign * step * vector, batch) for sign in (1, -1))
    close(objective.hvp(point, vector, batch), (ahead - behind) / (2 * step), 1e-7)
    assert (point.tobytes(), vector.tobytes()) == before


@pytest.mark.parametrize("make", [mlp, lambda: mlp(nn.ReLU), convolutional])
def test_single_precision(make):
    """Kills: products in another dtype."""
    double, single = made(make()), made(make(), torch.float32)
    point, vector = two_vectors(double.dim)
    found = single.hvp(point.astype(np.float32), vector.astype(np.float32))
    assert found.dtype == np.float32
    close(found, double.hvp(point, vector), 1e-4)


@BATCHES
@pytest.mark.parametrize("micro", [None, 4])
def test_one_symmetric_matrix_under_dropout(micro, batch):
    """⟨u, Hv⟩ = ⟨Hu, v⟩ to rounding, and H(u + v) = Hu + Hv: products at one point see the same
    masks, another turn's others. Kills: draws that go on from product to product.
    """
    objective = made(dropping(), micro_batch=micro)
    point, _ = two_vectors(objective.dim)
    one, other = two_vectors(objective.dim, seed=1)
    products = [objective.hvp(point, each, batch) for each in (one, other)]
    assert other @ products[0] == pytest.approx(one @ products[1], rel=1e-11)
    close(objective.hvp(point, one + other, batch), sum(products), 1e-12)
    objective.draw_key = (1, 2)
    assert np.abs(objective.hvp(point, one, batch) - products[0]).max() > 1e-3


@BATCHES
@pytest.mark.parametrize("micro", [None, 4])
def test_the_masks_are_those_of_the_gradient(micro, batch):
    """½·mean (Σ_j w_j·m_j·x_j)² is homogeneous: its gradient at w is its Hessian times w.

    Kills: evaluation mode, masks of another draw or of another piece.
    """
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(24, 1, bias=False))
    objective = made(module, loss=lambda out, _: 0.5 * (out**2).mean(), micro_batch=micro)
    point, _ = two_vectors(objective.dim)
    close(objective.hvp(point, point, batch), objective.gradient(point, batch), 1e-12)


# One symmetric matrix, up to rounding -------------------------------------------------------------


def wide(between, act):
    """50 000 weights; what is ``between`` the layers comes from their width."""
    layers = [nn.Linear(144, 256), between(256), act(), nn.Linear(256, 48), between(48), act()]
    return nn.Sequential(*layers, nn.Linear(48, 10))


WIDE = {
    "plain": lambda: wide(lambda width: nn.Identity(), nn.Tanh),
    "BatchNorm": lambda: wide(nn.BatchNorm1d, nn.ReLU),
    "LayerNorm": lambda: wide(nn.LayerNorm, nn.GELU),
    "dropout": lambda: wide(lambda width: nn.Dropout(0.3), nn.ReLU),
}


def learned(make, rounds, sure=1.0):
    """Random labels, learned by heart in single precision: the net, the same in double, the point.

    ``sure`` multiplies the last layer, which takes the loss towards 0.
    """
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((48, 144)), torch.tensor(rng.integers(0, 10, 48))
    torch.manual_seed(0)
    single, double = (
        TorchObjective(make().to(kind), cross_entropy, (torch.tensor(rows, dtype=kind), labels))
        for kind in (torch.float32, torch.float64)
    )
    torch.manual_seed(0)
    point = torch.nn.utils.parameters_to_vector(make().parameters()).detach().numpy()
    speed = np.zeros_like(point)
    for _ in range(rounds):
        speed = np.float32(0.9) * speed - np.float32(0.1) * single.gradient(point)
        point = point + speed
    point[-490:] *= np.float32(sure)
    return single, double, point


def sharpest(objective, point):
    return fb.top_eigenpair(
        lambda v: objective.hvp(point, v), objective.dim, 20, 0, dtype=point.dtype
    )


@pytest.mark.parametrize(
    ("kind", "rounds", "sure"),
    [(kind, rounds, 1.0) for kind in WIDE for rounds in (0, 80)]
    + [("LayerNorm", 80, 1.7), ("BatchNorm", 80, 1.3)],
)
def test_single_precision_is_symmetric_enough(kind, rounds, sure):
    """Before training and at losses down to 1e-6: a reading, within a hundredth of that in double.
    The last two are 1e-3 off symmetry; √ε is 3.5e-4, ∛ε 4.9e-3. Kills: a bound that calls the
    rounding of a trained net an error.
    """
    single, double, point = learned(WIDE[kind], rounds, sure)
    found = sharpest(single, point)
    assert found.residual < 2e-2 * found.value
    if kind != "dropout":  # whose masks would be others
        exact = sharpest(double, point.astype(float))
        assert found.value == pytest.approx(exact.value, rel=1e-2)


def test_where_all_is_rounding_nothing_is_measured():
    """At a loss that is 0 in single precision, but not in double. Kills: a reading that is half of
    the sharpness.
    """
    single, double, point = learned(WIDE["LayerNorm"], 80, 3.0)
    assert single.loss(point) == 0 < double.loss(point.astype(float))
    with pytest.raises(fb.NotMeasured, match="not those of one symmetric matrix.*but rounding"):
        sharpest(single, point)
    assert sharpest(double, point.astype(float)).value > 0


@pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm, None])
def test_second_derivatives_that_are_wrong(normed):
    """weight_norm's in torch 2.13: its own double backward is not symmetric. Where a later one's
    is, it is measured. Kills: a reading of products that are nobody's Hessian.
    """

    def make():
        return nn.Sequential(
            nn.Flatten(), normed(nn.Linear(24, 8)) if normed else nn.Linear(24, 8), nn.Tanh(),
            nn.Linear(8, 3),
        )  # fmt: skip

    objective = made(make())
    point, one = two_vectors(objective.dim)
    other = two_vectors(objective.dim, seed=1)[0]
    forth, back = other @ objective.hvp(point, one), one @ objective.hvp(point, other)
    if abs(forth - back) < 1e-9 * abs(forth):
        assert sharpest(objective, point).value > 0
    else:
        assert normed
        with pytest.raises(fb.NotMeasured, match="a second derivative that is wrong"):
            sharpest(objective, point)


# What it leaves alone -----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [cross_entropy, multi_margin_loss])
def test_the_buffers_stay(loss):
    """The counter of batches too, and where there is no product. Kills: running statistics that a
    measurement moves.
    """
    module = convolutional()
    objective = made(module, loss=loss, micro_batch=4)
    point, vector = two_vectors(objective.dim)
    objective.gradient(point)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    assert len(before) == 3
    if loss is cross_entropy:
        objective.hvp(point, vector)
    else:
        with pytest.raises(ValueError, match="no second derivatives"):
            objective.hvp(point, vector)
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    objective.gradient(point)
    assert not torch.equal(module[1].running_mean, before["1.running_mean"])


def test_it_leaves_the_gradient_alone():
    """Kills: an hvp that adds to the flat gradient, or gives a view of it."""
    objective = made(mlp())
    point, vector = two_vectors(objective.dim)
    gradient = objective.gradient(point)
    product = objective.hvp(point, vector)
    kept = product.tobytes()
    assert objective.gradient(point).tobytes() == gradient.tobytes()
    assert objective.hvp(point, vector).tobytes() == product.tobytes() == kept
    objective.hvp(point, point)
    assert product.tobytes() == kept


@pytest.mark.parametrize(("make", "kept"), [(Recurrent, False), (mlp, True)])
def test_torchs_settings(make, kept):
    """A module with recurrent layers goes without cudnn, which has no second derivative of them;
    everything comes back. Kills: slow kernels for the rest of the process, or for every module.
    """
    module, seen = make(), []
    objective = made(module, torch.float32)
    module.register_forward_pre_hook(lambda *_: seen.append(bool(cudnn.enabled)))
    vectors = two_vectors(objective.dim, torch.float32)
    try:
        for before in (True, False):
            cudnn.enabled = before
            objective.hvp(*vectors)
            assert bool(cudnn.enabled) == before
    finally:
        cudnn.enabled = True
    assert seen == [kept, False]
    assert mha.get_fastpath_enabled() and mkldnn.enabled


# What has no part, and what there is not ----------------------------------------------------------


def test_rows_of_frozen_weights_are_zero():
    """The others are the Hessian's rows and columns of the weights that are trained.

    Kills: a product along what is not trained, zero rows elsewhere, an error.
    """
    objective, module = made(mlp()), mlp()
    point, vector = two_vectors(objective.dim)
    module[1].weight.requires_grad_(False)
    frozen = np.arange(objective.dim) < module[1].weight.numel()
    expected = np.where(frozen, 0, objective.hvp(point, np.where(frozen, 0, vector)))
    part = made(module)
    close(part.hvp(point, vector), expected, 1e-12)
    module.requires_grad_(False)
    assert not part.hvp(point, vector).any()


@pytest.mark.parametrize("how", ["unused", "linear", "constant"])
def test_no_curvature(how):
    """Where the gradient does not see a weight, is the same everywhere or is zero, the product is
    zero there. Kills: an error, a refusal where nothing is missing.
    """
    module, loss, kept = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)), cross_entropy, 75
    if how == "unused":
        module.register_parameter("unused", nn.Parameter(torch.zeros(2)))
    elif how == "linear":
        loss, kept = (lambda out, _: out.mean()), 0
    else:
        module, kept = Through(torch.sign), 0
    objective = made(module, loss=loss)
    product = objective.hvp(*two_vectors(objective.dim))
    unused = 2 if how == "unused" else 0
    assert objective.dim == 75 + unused and np.count_nonzero(product) == kept


@pytest.mark.parametrize(
    ("make", "loss", "reason"),
    [
        (Distances, cross_entropy, "derivative for '_cdist_backward' is not implemented"),
        (Bag, cross_entropy, "derivative for '_embedding_bag_backward' is not implemented"),
        (mlp, multi_margin_loss, "derivative for aten::multi_margin_loss_backward is not imp"),
        (lambda: Through(Cubes.apply), cross_entropy, "with @once_differentiable"),
        (lambda: Through(Cubes.apply), lambda out, _: out.mean(), "with @once_differentiable"),
        (lambda: Through(HiddenCubes.apply), cross_entropy, "a backward pass of its own is not"),
        (lambda: Through(recomputed), cross_entropy, "When use_reentrant=True, torch.utils.check"),
    ],
)
def test_what_has_no_second_derivatives(make, loss, reason):
    """Each has a gradient. Kills: torch's own words alone, a curvature of zero without a word."""
    objective = made(make(), loss=loss)
    point, vector = two_vectors(objective.dim)
    assert objective.gradient(point).any()
    with pytest.raises(ValueError, match=f"no second derivatives .*{reason}") as error:
        objective.hvp(point, vector)
    said = str(error.value)
    assert "\n" not in said and said.endswith("): its sharpness cannot be measured")
    assert mha.get_fastpath_enabled() and mkldnn.enabled


@pytest.mark.filterwarnings("ignore")  # of dynamo's own, which stumbles over them as errors
def test_compiled_modules_have_none():
    """Kills: torch's own words alone."""
    objective = made(Through(torch.compile(torch.tanh, backend="aot_eager")))
    with pytest.raises(ValueError, match="no second derivatives .torch.compile with aot_autograd"):
        objective.hvp(*two_vectors(objective.dim))


def test_training_goes_on_without_second_derivatives():
    """Kills: a run that ends with what was only to be measured, or moves by it."""
    objectives = [made(mlp(), loss=multi_margin_loss) for _ in range(2)]
    start = two_vectors(objectives[0].dim)[0]
    told, plain = (
        fb.run(objectives, fb.gradient_descent(0.1), start=start, rounds=3, **measuring)
        for measuring in ({"sharpness": fb.lanczos(every=2)}, {})
    )
    assert np.array_equal(told.points, plain.points) and told.readings == []
    assert list(told.unmeasured) == [0, 2]
    assert "client 0: this module or its loss has no second" in told.unmeasured[2]


def test_a_loss_that_is_not_differentiable():
    """An error rate. Kills: torch's words of grad_fn; a curvature of zero."""
    objective = made(mlp(), loss=lambda out, y: (out.argmax(1) != y).double().mean())
    with pytest.raises(ValueError, match="no second derivatives .the loss does not follow"):
        objective.hvp(*two_vectors(objective.dim))


@pytest.mark.parametrize(
    ("module", "loss", "says"),
    [
        (nn.Linear(5, 3), cross_entropy, "cannot be multiplied"),
        (mlp(), lambda out, _: out, "only for scalar outputs"),
    ],
)
def test_other_errors_are_torchs(module, loss, says):
    """Kills: every error in the words of this one; a vector of losses that is summed up."""
    objective = made(module, loss=loss)
    with pytest.raises(RuntimeError, match=says):
        objective.hvp(*two_vectors(objective.dim))


@pytest.mark.parametrize("change", [lambda v: v[1:], lambda v: v.astype(np.float32)])
def test_vectors_that_do_not_fit(change):
    """Kills: a vector that is cut or converted."""
    objective = made(mlp())
    point, vector = two_vectors(objective.dim)
    with pytest.raises(ValueError, match="vector must be like the point, not"):
        objective.hvp(point, change(vector))


def test_vectors_as_others_hold_them():
    """Read only, as in messages, or a column of a matrix. Kills: torch's warning."""
    objective = made(mlp())
    point, vector = two_vectors(objective.dim)
    expected = objective.hvp(point, vector)
    column = np.stack([vector, point], axis=1)[:, 0]
    assert np.array_equal(objective.hvp(point, column), expected)
    vector.flags.writeable = point.flags.writeable = False
    assert np.array_equal(objective.hvp(point, vector), expected)


# Against others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [mlp, lambda: mlp(nn.ReLU), lambda: mlp(nn.GELU)])
def test_the_hessian_is_that_of_curvlinops(make):
    """All of it, over batches of 5, 4 and 2 there and pieces of 4 here. So is its top eigenpair.

    Kills: a mean of the pieces' means, rows in another order.
    """
    module = make().double()
    objective = made(module, micro_batch=4)
    point, _ = two_vectors(objective.dim)
    ours = np.stack([objective.hvp(point, unit) for unit in np.eye(objective.dim)])
    data = list(
        zip(torch.tensor(X).split([5, 4, 2]), torch.tensor(Y).split([5, 4, 2]), strict=True)
    )
    weights = list(module.parameters())
    theirs = curvlinops.HessianLinearOperator(module, nn.CrossEntropyLoss(), weights, data)
    matrix = (theirs @ torch.eye(objective.dim, dtype=torch.float64)).detach().numpy()
    close(ours, matrix, 1e-12)
    values, vectors = np.linalg.eigh(matrix)
    pair = fb.top_eigenpair(lambda v: objective.hvp(point, v), objective.dim, 60, 0)
    assert pair.value == pytest.approx(values[-1], rel=1e-11)
    assert abs(pair.vector @ vectors[:, -1]) == pytest.approx(1, abs=1e-10)
    assert pair.residual < 1e-8 * values[-1]
