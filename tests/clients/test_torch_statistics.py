"""How the examples' gradients spread: as the gradients themselves do, in bounded memory."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils._python_dispatch import TorchDispatchMode

import fedbias as fb
from clients import TorchObjective, torch_statistics
from fedbias.objectives import Statistics, capabilities
from fedbias.randomness import Purpose, generator
from simulations.models import cnn, linear, mlp

pytestmark = pytest.mark.usefixtures("one_thread")
WHAT = ("trace", "along", "variances")
# Relative, of the largest entry. In float32 the loss of an example is right to some 1e-7, and its
# gradient's error is that of a few hundred products.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
IMAGES = np.random.default_rng(5).standard_normal((13, 1, 8, 8))
LABELS = np.random.default_rng(6).integers(0, 3, 13)


def grouped():
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.LayerNorm(54), nn.Linear(54, 3)),
    )


NETWORKS = {
    "linear": lambda: linear().build((1, 8, 8), 3, seed=0),
    "mlp": lambda: mlp(hidden=7, layers=2).build((1, 8, 8), 3, seed=0),
    "cnn": lambda: cnn().build((1, 8, 8), 3, seed=0),
    "GroupNorm": grouped,
}


def made(module, dtype=torch.float64, **options):
    data = torch.tensor(IMAGES, dtype=dtype), torch.tensor(LABELS)
    return TorchObjective(module.to(dtype), cross_entropy, data, **options)


def some_point(objective, dtype=torch.float64, seed=0):
    point = np.random.default_rng(seed).standard_normal(objective.dim) / 5
    return point.astype(str(dtype).removeprefix("torch."))


def one_by_one(module, point, batch):
    """The b × dim gradients that the client never forms, by torch alone and in float64."""
    module = copy.deepcopy(module).double()
    nn.utils.vector_to_parameters(torch.from_numpy(point.astype(float)), module.parameters())
    rows = []
    for i in range(len(IMAGES)) if batch is None else batch:
        loss = cross_entropy(module(torch.tensor(IMAGES[[i]])), torch.tensor(LABELS[[i]]))
        found = torch.autograd.grad(loss, list(module.parameters()))
        rows.append(nn.utils.parameters_to_vector(found).numpy())
    return np.stack(rows)


def close(one, other, tolerance):
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


def agrees(found, gradients, what, tolerance):
    """Every field of the statistics is that of the gradients, and no other one is there."""
    mean, spread = gradients.mean(axis=0), gradients.var(axis=0, ddof=1)
    close(found.gradient, mean, tolerance)
    assert found.trace == pytest.approx(spread.sum(), rel=tolerance)
    if what == "along":
        assert found.along == pytest.approx(np.var(gradients @ mean, ddof=1), rel=tolerance)
    else:
        assert math.isnan(found.along)
    if what == "variances":
        assert found.variances.dtype == np.float64
        close(found.variances, spread, tolerance)
    else:
        assert found.variances is None


# The numbers --------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("batch", [None, np.array([4, 4, 0, 9, 2])], ids=["all", "one twice"])
@pytest.mark.parametrize("what", WHAT)
def test_they_are_those_of_the_gradients(dtype, network, batch, what):
    """Kills: ddof = 0, a missing square, a mean over all the data, repeated examples counted once,
    one statistic in the place of another, parameters in another order.
    """
    objective = made(NETWORKS[network](), dtype)
    point = some_point(objective, dtype)
    before = point.tobytes()
    found = objective.per_example_statistics(point, batch, what)
    agrees(found, one_by_one(NETWORKS[network](), point, batch), what, TOLERANCE[dtype])
    loss, gradient = objective.loss_and_gradient(point, batch)
    assert found.loss == pytest.approx(loss, rel=TOLERANCE[dtype]) and type(found.loss) is float
    close(found.gradient, gradient, TOLERANCE[dtype])
    assert found.gradient.dtype == point.dtype and found.gradient.shape == point.shape
    assert isinstance(found.trace, float) and isinstance(found.along, float)
    assert point.tobytes() == before


@pytest.mark.parametrize("options", [{"budget": k} for k in (1, 2, 3, 12)] + [{"micro_batch": 5}])
@pytest.mark.parametrize("what", WHAT)
def test_any_pieces(options, what, monkeypatch):
    """13 examples in pieces. Kills: a mean of unequal pieces' means, a last piece left out, the
    variance within pieces alone.
    """
    micro = options.get("micro_batch")
    objective = made(NETWORKS["mlp"](), micro_batch=micro)
    if micro is None:
        # one byte short of another example
        room = 8 * objective.dim * (options["budget"] + 1) - 1
        monkeypatch.setattr(torch_statistics, "BUDGET", room)
    point = some_point(objective)
    found = objective.per_example_statistics(point, None, what)
    agrees(found, one_by_one(NETWORKS["mlp"](), point, None), what, 1e-12)
    assert found.loss == pytest.approx(objective.loss(point), rel=1e-12)


class Largest(TorchDispatchMode):
    """Remember how many entries the largest tensor has that any operation makes."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(each, torch.Tensor):
                self.entries = max(self.entries, each.numel())
        return made


@pytest.mark.parametrize("what", WHAT)
def test_no_tensor_grows_with_the_batch(what, monkeypatch):
    """b = 600 with room for 5 examples' gradients: b × dim would be 600 × 195 entries. The largest
    weight has 192 of them, and a piece has 5 images of 64. Kills: a budget that is ignored, the
    whole batch's inputs gathered at once.
    """
    objective = made(NETWORKS["linear"]())
    monkeypatch.setattr(torch_statistics, "BUDGET", 5 * 8 * objective.dim)
    batch = np.random.default_rng(0).integers(13, size=600)
    with Largest() as largest:
        objective.per_example_statistics(some_point(objective), batch, what)
    assert largest.entries == 5 * 192


def test_a_micro_batch_is_kept():
    """Where more examples would fit the budget: the largest tensor has the gradients of two. Kills:
    a budget that raises the micro-batch.
    """
    objective = made(NETWORKS["linear"](), micro_batch=2)
    with Largest() as largest:
        objective.per_example_statistics(some_point(objective), None, "along")
    assert largest.entries == 2 * objective.dim > 2 * 192  # as many as the sums have


def test_a_module_larger_than_the_budget(monkeypatch):
    """One example at a time. Kills: pieces of no examples, or of all."""
    monkeypatch.setattr(torch_statistics, "BUDGET", 1)
    objective = made(NETWORKS["linear"]())
    point = some_point(objective)
    with Largest() as largest:
        found = objective.per_example_statistics(point, np.array([1, 2, 7]))
    agrees(found, one_by_one(NETWORKS["linear"](), point, [1, 2, 7]), "trace", 1e-12)
    assert largest.entries == 2 * objective.dim  # the sums


@pytest.mark.parametrize("what", WHAT)
def test_one_example_has_no_variance(what):
    """Kills: a division by b − 1 = 0."""
    objective = made(NETWORKS["mlp"]())
    found = objective.per_example_statistics(some_point(objective), np.array([3]), what)
    assert found.trace == 0 and np.isfinite(found.loss)
    assert found.along == 0 if what == "along" else math.isnan(found.along)
    assert what != "variances" or found.variances.tolist() == [0] * objective.dim


@pytest.mark.parametrize("what", WHAT)
def test_one_example_many_times(what):
    """Their variance is 0 up to rounding: below 1e-6 of ‖ḡ‖², and never negative."""
    objective = made(NETWORKS["cnn"](), torch.float32)
    point = some_point(objective, torch.float32)
    found = objective.per_example_statistics(point, np.full(100, 7), what)
    square = float(np.sum(found.gradient.astype(float) ** 2))
    assert 0 <= found.trace < 1e-6 * square
    assert what != "along" or 0 <= found.along < 1e-12 * square**2
    assert what != "variances" or (found.variances >= 0).all()


@pytest.mark.parametrize("what", WHAT)
def test_what_is_not_finite_stays_so(what):
    """A test that sees NaN leaves the batch size as it is. Kills: NaN that becomes 0."""
    objective = made(NETWORKS["mlp"]())
    found = objective.per_example_statistics(np.full(objective.dim, np.nan), None, what)
    assert math.isnan(found.trace) and math.isnan(found.along) and math.isnan(found.loss)
    assert what != "variances" or np.isnan(found.variances).any()


def test_a_million_squares_in_float32():
    """g_i = δ_i (x_i, 1)ᵀ for a linear layer, so that Σ‖g_i‖² = Σ‖δ_i‖²(‖x_i‖² + 1). A float32 sum
    of a million squares in one row is wrong by some 1e-4 (torch's norm is). Kills: such a sum.
    """
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((4, 2000)).astype(np.float32)
    targets = rng.standard_normal((4, 500)).astype(np.float32)
    module = nn.Linear(2000, 500)
    objective = TorchObjective(
        module, lambda out, y: (out * y).sum(1).mean(), (inputs, targets)
    )  # δ_i = y_i
    found = objective.per_example_statistics(np.zeros(objective.dim, np.float32))
    x, y = inputs.astype(float), targets.astype(float)
    squares = (y**2).sum(1) @ ((x**2).sum(1) + 1)
    mean = np.concatenate([(y.T @ x / 4).ravel(), y.mean(0)])
    assert found.trace == pytest.approx((squares - 4 * mean @ mean) / 3, rel=1e-6)


@pytest.mark.parametrize("what", WHAT)
def test_frozen_weights_have_no_gradient(what):
    """As for a plain gradient. Kills: a frozen weight that counts."""
    module = NETWORKS["mlp"]()
    module[1].weight.requires_grad_(False)
    objective = made(module)
    point = some_point(objective)
    gradients = one_by_one(NETWORKS["mlp"](), point, None)
    gradients[:, : 7 * 64] = 0
    agrees(objective.per_example_statistics(point, None, what), gradients, what, 1e-12)


class Sums(nn.Linear):
    """Two biases with one and the same gradient, and a weight without any."""

    def __init__(self):
        super().__init__(64, 3)
        self.again = nn.Parameter(torch.zeros(3))
        self.unused = nn.Parameter(torch.zeros(2))

    def forward(self, images):
        return super().forward(images.flatten(1)) + self.again


@pytest.mark.parametrize("what", WHAT)
def test_gradients_that_share_memory(what):
    """Kills: squares that are written into the gradients."""
    objective = made(Sums())
    point = some_point(objective)
    found = objective.per_example_statistics(point, None, what)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    moved = np.concatenate([point[:-8], point[-8:-5] + point[-5:-2]])
    gradients = one_by_one(module, moved, None)
    whole = np.concatenate([gradients, gradients[:, -3:], np.zeros((13, 2))], axis=1)
    agrees(found, whole, what, 1e-12)


# What the module draws ----------------------------------------------------------------------------


def revealing(first, rows=12, width=40, **options):
    """An objective whose ḡ tells every g_i: example i is the only one that reaches output i, so its
    gradient is what ``first`` made of its inputs, in row i of the weight.
    """
    module = nn.Sequential(first, nn.Linear(width, rows, bias=False))
    data = torch.ones(rows, width), torch.arange(rows)
    return TorchObjective(module, lambda out, i: out.gather(1, i[:, None]).mean(), data, **options)


def revealed(found, rows=12):
    """What the module made of every input, shape (b, width), and all g_i, shape (b, dim)."""
    seen = found.gradient.astype(float).reshape(rows, -1) * rows
    gradients = np.zeros((rows, *seen.shape))
    gradients[np.arange(rows), np.arange(rows)] = seen
    return seen, gradients.reshape(rows, -1)


@pytest.mark.parametrize("pieces", ["whole", "micro_batch", "budget"])
@pytest.mark.parametrize("what", WHAT)
def test_every_example_has_its_own_mask(pieces, what, monkeypatch):
    """And ⟨g_i, ḡ⟩ belongs to the g_i of ḡ: the second pass draws the same masks.

    Kills: one mask for all, the same masks in every piece, a second pass with other masks, dropout
    that rests once the loss is known.
    """
    objective = revealing(nn.Dropout(0.5), micro_batch=5 if pieces == "micro_batch" else None)
    if pieces == "budget":
        monkeypatch.setattr(torch_statistics, "BUDGET", 5 * 4 * objective.dim)
    point = some_point(objective, torch.float32)
    found = objective.per_example_statistics(point, None, what)
    seen, gradients = revealed(found)
    assert set(seen.round(4).ravel()) == {0, 2}
    assert len(np.unique(seen.round(4), axis=0)) == 12
    agrees(found, gradients, what, 1e-5)
    again = objective.per_example_statistics(point, None, what)  # the loss is compared no more
    assert again.gradient.tobytes() == found.gradient.tobytes()


def test_masks_repeat_with_whose_turn_it_is():
    """Kills: masks from torch's own state, masks that no draw key changes."""
    objective = revealing(nn.Dropout(0.5))
    point = some_point(objective, torch.float32)
    found = {}
    for key in ((1, 2), (1, 3)):
        objective.draw_key = key
        for what in WHAT:
            torch.manual_seed(len(found))
            before = torch.get_rng_state()
            gradient = objective.per_example_statistics(point, None, what).gradient
            assert torch.equal(torch.get_rng_state(), before)
            found.setdefault(key, set()).add(gradient.tobytes())
    assert [len(same) for same in found.values()] == [1, 1]
    assert found[1, 2] != found[1, 3]


def test_a_hook_draws_for_every_example():
    """A ramp up or down with probability ½, drawn as resnet18(flips=True) mirrors its images: all
    12 alike has probability 2⁻¹¹, and the seed is fixed. Kills: one draw for all.
    """

    def turned(module, inputs):
        drawn, ramp = torch.rand(len(inputs[0]), 1), torch.arange(40.0)
        return torch.where(drawn < 0.5, inputs[0] * ramp, inputs[0] * (40 - ramp))

    first = nn.Identity()
    first.register_forward_pre_hook(turned)
    objective = revealing(first)
    point = some_point(objective, torch.float32)
    found = objective.per_example_statistics(point, None, "along")
    seen, gradients = revealed(found)
    assert set(seen[:, 0].round(4)) == {0, 40}
    agrees(found, gradients, "along", 1e-5)


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(1),
        nn.BatchNorm2d(1, track_running_stats=False),
        nn.SyncBatchNorm(1),
        nn.InstanceNorm2d(1, track_running_stats=True),
    ],
    ids=["BatchNorm", "without running statistics", "SyncBatchNorm", "InstanceNorm"],
)
@pytest.mark.parametrize("what", WHAT)
def test_statistics_of_the_batch_are_refused(layer, what):
    """One sentence, which names what to do. Kills: gradients of batches of one."""
    objective = made(nn.Sequential(nn.Sequential(layer), nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(ValueError) as refusal:
        objective.per_example_statistics(some_point(objective), None, what)
    assert str(refusal.value) == (
        f"{type(layer).__name__} has statistics of the whole batch, so that no example has a "
        "gradient of its own: build the module with GroupNorm, or use cross_client_test, which "
        "needs no such gradients"
    )


class Resting(nn.BatchNorm2d):
    """BatchNorm that stays in evaluation, as fine-tuning likes it."""

    def train(self, mode=True):
        return super().train(False)


def test_layers_without_statistics_of_the_batch_are_taken():
    """Kills: a refusal by type alone."""
    for layer in (Resting(1), nn.InstanceNorm2d(1, affine=True)):
        network = nn.Sequential(layer, nn.Flatten(), nn.Linear(64, 3)).double()
        objective = made(network)
        point = some_point(objective)
        found = objective.per_example_statistics(point, None, "along")
        agrees(found, one_by_one(network, point, None), "along", 1e-12)


def test_a_layer_that_always_looks_at_its_batch_is_refused():
    """In evaluation too, without running statistics. Kills: a refusal by the mode alone."""
    objective = made(
        nn.Sequential(Resting(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, 3))
    )
    with pytest.raises(ValueError, match="Resting has statistics of the whole batch"):
        objective.per_example_statistics(some_point(objective))


class Branching(nn.Linear):
    def forward(self, images):
        flat = images.flatten(1)
        return super().forward(flat if flat.sum() > 0 else -flat)


class Counting(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images):
        self.seen += images.sum()
        return super().forward(images.flatten(1))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Branching, "data-dependent control flow"), (Counting, "in-place operation")],
)
@pytest.mark.parametrize("what", WHAT)
def test_what_torch_cannot_vectorise_is_a_sentence(kind, reason, what):
    """Kills: a RuntimeError, which would end the client instead of its own answer."""
    objective = made(kind(64, 3))
    with pytest.raises(ValueError, match=reason) as refusal:
        objective.per_example_statistics(some_point(objective), None, what)
    says = str(refusal.value)
    assert says.startswith("this module or its loss cannot be differentiated example by example (")
    assert says.endswith("use cross_client_test, which needs no such gradients")
    assert "\n" not in says and len(says) < 400


class NoForwardMode(nn.Linear):
    """Distances to fixed points, whose derivative along a direction torch does not have."""

    def forward(self, images):
        return torch.cdist(super().forward(images.flatten(1)), torch.eye(3, dtype=torch.float64))


def test_what_lacks_forward_mode_alone_may_use_the_norm_test():
    """Kills: the advice that no gradients of examples are to be had."""
    objective = made(NoForwardMode(64, 3))
    point = some_point(objective)
    assert objective.per_example_statistics(point).trace > 0
    with pytest.raises(ValueError, match="forward AD with _cdist_forward") as refusal:
        objective.per_example_statistics(point, None, "along")
    assert str(refusal.value).endswith("use norm_test, which needs no such derivative")


@pytest.mark.parametrize("micro", [None, 1], ids=["compared", "examples"])
def test_shapes_that_do_not_fit_are_not_explained(micro):
    """Kills: every RuntimeError in the words for what cannot be vectorised."""
    objective = made(nn.Sequential(nn.Flatten(), nn.Linear(63, 3)), micro_batch=micro)
    with pytest.raises(RuntimeError, match="size mismatch|cannot be multiplied"):
        objective.per_example_statistics(some_point(objective))


def test_a_module_without_trained_weights():
    """A sentence; a plain gradient is refused by torch. Kills: a division by zero."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    objective = made(module)
    with pytest.raises(ValueError, match="^no weight of the module is trained: there are no grad"):
        objective.per_example_statistics(some_point(objective))
    with pytest.raises(RuntimeError, match="does not require grad"):
        objective.gradient(some_point(objective))


# The loss of a batch, and those of its examples ---------------------------------------------------


class Centred(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs - inputs.mean(0))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, inputs):
        return self.two(torch.tanh(self.one(inputs)))


class Drawing(nn.Linear):
    """Draws in evaluation too."""

    def forward(self, inputs):
        hidden = nn.functional.dropout(super().forward(nn.functional.dropout(inputs, 0.5)), 0.5)
        return hidden + torch.rand(len(hidden), 1)


ROWS = np.random.default_rng(8).standard_normal((24, 4)).astype(np.float32)
CLASSES = np.arange(24) % 3
SOME_IGNORED = np.where(np.arange(24) % 4 == 3, -100, CLASSES)
WORDS = np.random.default_rng(9).integers(5, size=(24, 6))


def embedding():
    words = nn.Embedding(5, 4, scale_grad_by_freq=True)
    return nn.Sequential(words, nn.Flatten(), nn.Linear(24, 3))


def softmax():
    return nn.Linear(4, 3)


JOINED = {
    "class weights": (
        *(softmax, nn.CrossEntropyLoss(weight=torch.tensor([1, 5, 0.2])), ROWS),
        CLASSES,
    ),
    "small class weights": (
        *(softmax, nn.CrossEntropyLoss(weight=torch.tensor([1, 1.2, 1])), ROWS),
        CLASSES,
    ),
    "ignored labels": (softmax, cross_entropy, ROWS, SOME_IGNORED),
    "ignored words": (
        *(lambda: nn.Unflatten(1, (2, 2)), cross_entropy, ROWS),
        np.stack([CLASSES % 2, np.where(CLASSES == 0, -100, 1)], 1),
    ),
    "a sum": (softmax, nn.CrossEntropyLoss(reduction="sum"), ROWS, CLASSES),
    "a layer": (lambda: Centred(4, 3), cross_entropy, ROWS, CLASSES),
    "gradients by frequency": (embedding, cross_entropy, WORDS, CLASSES),
    "shapes": (lambda: nn.Linear(4, 1), mse_loss, ROWS, ROWS[:, 0]),
}
PLAIN = {
    "softmax": (softmax, cross_entropy, ROWS, CLASSES),
    "label smoothing": (softmax, nn.CrossEntropyLoss(label_smoothing=0.1), ROWS, CLASSES),
    "squares": (lambda: nn.Linear(4, 1), mse_loss, ROWS, ROWS[:, :1]),
    "dropout": (lambda: nn.Sequential(nn.Dropout(), softmax()), cross_entropy, ROWS, CLASSES),
    "GroupNorm": (
        *(lambda: nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6)), cross_entropy, ROWS),
        CLASSES,
    ),
    "tied weights": (Tied, cross_entropy, ROWS, CLASSES),
    "draws in evaluation": (lambda: Drawing(4, 3), cross_entropy, ROWS, CLASSES),
}


def of_case(case, **options):
    build, loss, inputs, targets = case
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build()
    if case is JOINED["ignored words"]:
        module = nn.Sequential(nn.Linear(4, 4), module)
    return TorchObjective(module, loss, (inputs, targets), **options)


REFUSED = (
    "the loss of a batch is not the mean of its examples' losses (class weights, ignored labels, a "
    "sum, or layers that join examples), so that the examples' gradients are those of another "
    "objective: use constant batches or cross_client_test, which need no such gradients"
)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("case", JOINED)
@pytest.mark.parametrize("what", WHAT)
def test_a_loss_that_is_no_mean_is_refused(case, what):
    """At every call, whatever its batch. Kills: the gradient of another objective, losses compared
    without their gradients, examples of one label.
    """
    objective = of_case(JOINED[case])
    point = some_point(objective, torch.float32)
    for batch in (None, np.array([0, 3, 6, 9]), np.array([5])):
        with pytest.raises(ValueError) as refusal:
            objective.per_example_statistics(point, batch, what)
        assert str(refusal.value) == REFUSED
    assert np.isfinite(objective.gradient(point)).all()


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_a_loss_that_is_their_mean_is_taken(case, scale):
    """Once: the second call does not look again. Kills: a tolerance below float32's rounding,
    dropout that is compared, a comparison at each call, one that leaves a trace.
    """
    objective, bare = of_case(PLAIN[case]), of_case(PLAIN[case])
    bare._is_mean = True  # without the comparison
    for seed in range(3):
        point = scale * some_point(objective, torch.float32, seed)
        point = point.astype(np.float32)
        state = torch.get_rng_state()
        one, other = (
            each.per_example_statistics(point, None, "along") for each in (objective, bare)
        )
        assert torch.equal(torch.get_rng_state(), state)
        assert one.gradient.tobytes() == other.gradient.tobytes()
        assert (one.loss, one.trace, one.along) == (other.loss, other.trace, other.along)
        assert objective._is_mean


def test_it_is_compared_once(monkeypatch):
    """And again while nothing can be said, as where no number is finite. Kills: a comparison at
    each call, one that passes on NaN.
    """
    seen, compare = [], TorchObjective._compared
    monkeypatch.setattr(
        *(TorchObjective, "_compared"),
        lambda *given: seen.append(given) or compare(*given),
    )
    objective = of_case(PLAIN["softmax"])
    point = some_point(objective, torch.float32)
    for value, count in ((np.nan, 1), (np.nan, 2), (1, 3), (1, 3), (np.nan, 3)):
        objective.per_example_statistics(value * point)
        assert len(seen) == count


def test_a_comparison_leaves_gradients_and_buffers_alone():
    """Kills: .backward(), and a running mean that moves in evaluation."""

    class Running(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, inputs):
            self.mean = 0.9 * self.mean + 0.1 * inputs.mean(0)
            return super().forward(inputs)

    module = Running()
    objective = TorchObjective(module, cross_entropy, (ROWS, CLASSES))
    point = some_point(objective, torch.float32)
    objective.gradient(point)
    grads, mean = module.weight.grad.clone(), module.mean.clone()
    assert mean.abs().sum() > 0
    objective.per_example_statistics(point)
    assert torch.equal(module.weight.grad, grads) and torch.equal(module.mean, mean)
    assert module.training


def test_a_mean_that_cancels_is_compared_with_its_terms():
    """Gradients ±1 have the mean 0, and rounding is no other objective; 0 and 0 say nothing.

    Kills: a tolerance relative to the mean alone, a comparison of zeros that counts.
    """
    each = Statistics(0.0, np.float32([0, 1e-9]), 2.0)
    assert torch_statistics.is_their_mean(np.array([1e-6, 0]), each, 2) is True
    zeros = Statistics(0.0, np.zeros(2, np.float32), 0.0)
    assert torch_statistics.is_their_mean(np.zeros(2), zeros, 2) is False
    spread = Statistics(0.0, np.float32([3, 0]), 14.0)  # mean square 9 + 14/2 = 16
    assert torch_statistics.is_their_mean(np.array([3.039, 0]), spread, 2) is True
    with pytest.raises(ValueError, match="not the mean"):
        torch_statistics.is_their_mean(np.array([3.041, 0]), spread, 2)
    with pytest.raises(ValueError, match="not the mean"):  # an example's NaN, as if ignored
        torch_statistics.is_their_mean(np.ones(2), Statistics(0.0, np.full(2, np.nan), np.nan), 2)


def test_the_examples_that_are_compared():
    """The least and the largest target are there; a row counts by its sum. Kills: the first."""
    targets = torch.tensor([2] * 9 + [-100] + [7])
    assert torch_statistics.unlike(targets, 3).tolist() == [9, 4, 10]
    assert torch_statistics.unlike(torch.tensor([[1, 1], [3, 0], [0, 0]]), 2).tolist() == [2, 1]


# In a federation ----------------------------------------------------------------------------------


def test_a_test_of_one_client_by_hand():
    """b₁ = ⌈tr Σ/(η²‖ḡ‖²)⌉ of the first round's batch. Kills: a capability that is not found."""
    objective = made(NETWORKS["mlp"]())
    assert "per_example_statistics" in capabilities(objective)
    point, eta = some_point(objective), 0.4
    history = fb.run(
        *([objective], fb.gradient_descent(0.1), point, 2),
        estimator=fb.minibatch(),
        batch_size=fb.norm_test(eta=eta, maximum=13, initial=4),
        seed=3,
    )
    batch = generator(3, 0, 0, Purpose.BATCH).integers(13, size=4)
    found = objective.per_example_statistics(point, batch)
    expected = found.trace / (eta**2 * np.sum(found.gradient**2))
    assert 4 < expected < 13
    assert history.batch_sizes == [4, math.ceil(expected)]
    np.testing.assert_allclose(history.points[1], point - 0.1 * found.gradient, rtol=1e-12)


@pytest.mark.parametrize(
    "rule",
    [
        fb.norm_test(eta=0.5, maximum=13),
        fb.augmented_test(theta=0.8, nu=2.0, maximum=13),
        fb.coordinate_test(eta=1.0, maximum=13),
    ],
    ids=lambda rule: rule.name,
)
def test_a_federation_repeats_bit_for_bit(rule):
    """Dropout, compression and three clients. Kills: masks that do not follow from the plan."""

    def network():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Dropout(0.2), nn.Linear(5, 3))

    def history():
        module = network()
        objectives = [made(module, torch.float32) for _ in range(3)]
        return fb.run(
            *(objectives, fb.adagrad_norm(0.5), some_point(objectives[0], torch.float32), 6),
            estimator=fb.minibatch("reshuffle"),
            compressor=fb.top_k(0.1),
            feedback=fb.error_feedback(),
            batch_size=rule,
        )

    one, two = history(), history()
    assert one.points.tobytes() == two.points.tobytes()
    assert one.batch_sizes == two.batch_sizes
    assert one.batch_sizes == sorted(one.batch_sizes) and one.batch_sizes[0] < one.batch_sizes[-1]
