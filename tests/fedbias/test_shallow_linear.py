"""The two-layer linear net: its clients against their mean, derivatives against differences."""

import numpy as np
import pytest

import fedbias as fb
from fedbias.objectives import capabilities
from fedbias.problems import ShallowLinearLoss

each_width = pytest.mark.parametrize("width", [1, 2, 5])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_values_by_hand():
    """aᵀb = 1·3 + 2·4 = 11. Kills: b before a, an offset of the other sign, a missing ½."""
    point, vector = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.0, 0.0, 1.0])
    plain, off = ShallowLinearLoss(9.0, 2), ShallowLinearLoss(9.0, 2, offset=1.0)
    assert (plain.dim, plain.size) == (4, 1)
    assert plain.loss(point) == 2 and plain.gradient(point).tolist() == [6, 8, 2, 4]
    assert off.loss(point) == 0.5 * 1**2 - 0.5 * 1**2
    assert off.gradient(point).tolist() == [3, 4, 1, 2]
    assert plain.directional(point, vector) == 6 + 4
    assert plain.hvp(point, vector).tolist() == [5 * 3, 5 * 4 + 2, 5 * 1 + 2, 5 * 2]


@each_width
@pytest.mark.parametrize("offset", [0.0, -0.75])
def test_derivatives_against_central_differences(width, offset, rng):
    """L is quartic: the error is O(h²) = 10^−10. Kills: any wrong term of gradient or hvp."""
    objective, h = ShallowLinearLoss(0.7, width, offset), 1e-5
    assert capabilities(objective) == {"gradient", "directional", "hvp"}
    for _ in range(5):
        x, v = rng.standard_normal((2, 2 * width))
        slope = (objective.loss(x + h * v) - objective.loss(x - h * v)) / (2 * h)
        assert objective.gradient(x) @ v == pytest.approx(slope, abs=1e-7)
        assert objective.directional(x, v) == pytest.approx(objective.gradient(x) @ v, rel=1e-12)
        bend = (objective.gradient(x + h * v) - objective.gradient(x - h * v)) / (2 * h)
        np.testing.assert_allclose(objective.hvp(x, v), bend, atol=1e-7)


@each_width
@pytest.mark.parametrize("clients", [1, 2, 3, 4, 7])
def test_the_clients_differ_and_their_mean_is_the_problem(width, clients, rng):
    """Kills: clients that are alike, or whose mean target is not Φ; a constant that stays."""
    problem = fb.ShallowLinear(1.5, width, clients)
    offsets = [f.offset for f in problem.objectives]
    assert len(set(offsets)) == clients and sum(offsets) == pytest.approx(0, abs=1e-15)
    point, vector = rng.standard_normal((2, 2 * width))
    residual = point[:width] @ point[width:] - 1.5
    assert problem.loss(point) == pytest.approx(0.5 * residual**2, rel=1e-14)
    for name, whole in (("loss", problem.loss(point)), ("gradient", problem.gradient(point))):
        parts = [getattr(f, name)(point) for f in problem.objectives]
        np.testing.assert_allclose(np.mean(parts, axis=0), whole, rtol=1e-13)
        apart = [np.abs(part - whole).max() > 1e-3 for part in parts]
        assert apart == [offset != 0 for offset in offsets]
    products = [f.hvp(point, vector) for f in problem.objectives]
    whole = ShallowLinearLoss(1.5, width).hvp(point, vector)
    np.testing.assert_allclose(np.mean(products, axis=0), whole, atol=1e-14)


def test_at_a_minimum_of_the_mean_no_client_stands_still():
    """Kills: clients that share the minimisers of L."""
    problem, point = fb.ShallowLinear(2.0, 1, 4), np.array([4.0, 0.5])
    assert problem.loss(point) == problem.minimum == 0
    assert not problem.gradient(point).any()
    assert [f.offset for f in problem.objectives] == [-0.75, -0.25, 0.25, 0.75]
    assert [f.gradient(point).tolist() for f in problem.objectives] == [
        [0.375, 3.0],
        [0.125, 1.0],
        [-0.125, -1.0],
        [-0.375, -3.0],
    ]
    assert [f.loss(point) for f in problem.objectives] == [0] * 4


def test_there_are_no_such_numbers():
    problem = fb.ShallowLinear(1.0, 3)
    assert problem.lipschitz is problem.strong_convexity is problem.minimizer is None
    assert problem.objectives == [ShallowLinearLoss(1.0, 3)]


@pytest.mark.parametrize("batch", [None, [0], [0, 0]])
def test_the_batch_makes_no_difference(batch):
    objective, point = ShallowLinearLoss(1.0, 1, 0.25), np.array([1.5, 2.0])
    assert objective.loss(point, batch) == 0.5 * 1.75**2 - 0.5 * 0.25**2
    assert objective.gradient(point, batch).tolist() == [1.75 * 2, 1.75 * 1.5]
    assert objective.directional(point, point, batch) == 1.75 * 6
    np.testing.assert_array_equal(objective.hvp(point, point, batch), objective.hvp(point, point))


def test_float32_stays_float32():
    """Also for a target that is numpy's. Kills: a silent conversion."""
    objective = fb.ShallowLinear(np.float64(1.25), 2, clients=3).objectives[0]
    point = np.array([1, 2, 3, 4], np.float32)
    assert objective.gradient(point).dtype == objective.hvp(point, point).dtype == np.float32
    assert type(objective.loss(point)) is float
    assert type(objective.directional(point, point)) is float


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((np.nan, 1), "ShallowLinear: target must be a number, not nan"),
        ((1.0, 0), "ShallowLinear: dim must be a whole number >= 1, not 0"),
        ((1.0, 1, 0), "ShallowLinear: clients must be a whole number >= 1, not 0"),
    ],
)
def test_bad_input(arguments, sentence):
    with pytest.raises(ValueError) as caught:
        fb.ShallowLinear(*arguments)
    assert str(caught.value) == sentence
