"""What a client measures of its batch: closed forms against the example gradients themselves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbias.objectives import capabilities, variance_of
from fedbias.problems import LogisticLoss, Squares

WHAT = ("trace", "along", "variances")


def squares(rows=9, dim=4, ridge=0.3, dtype=np.float64):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((rows, dim)), rng.standard_normal(rows)
    return Squares(*(array.astype(dtype) for array in values), ridge)


def logistic(rows=9, dim=4, ridge=0.3, dtype=np.float64):
    rng = np.random.default_rng(2)
    features = rng.standard_normal((rows, dim)).astype(dtype)
    return LogisticLoss(features, rng.choice([-1.0, 1.0], rows).astype(dtype), ridge)


def example_gradients(objective, point, batch):
    """One by one, in float64, shape (b, dim)."""
    chosen = range(objective.size) if batch is None else batch
    return np.stack([objective.gradient(point, np.array([i])).astype(float) for i in chosen])


def direct(gradients):
    """The three statistics from the b × dim matrix, which the client never forms."""
    mean = gradients.mean(axis=0)
    return {
        "trace": gradients.var(axis=0, ddof=1).sum(),
        "along": np.var(gradients @ mean, ddof=1),
        "variances": gradients.var(axis=0, ddof=1),
    }


BATCHES = [None, np.array([3, 1]), np.array([0, 5, 5, 7]), np.arange(9)]


@pytest.mark.parametrize("make", [squares, logistic])
@pytest.mark.parametrize("batch", BATCHES, ids=["all", "two", "one twice", "in order"])
@pytest.mark.parametrize("what", WHAT)
def test_closed_forms(make, batch, what):
    """Kills: ddof = 0, a ridge that spreads or is left out of ⟨g_i, ḡ⟩, repeated examples counted
    once, a mean over all the data, one statistic in the place of another.
    """
    objective, point = make(), np.linspace(-1, 2, 4)
    found = objective.per_example_statistics(point, batch, what)
    expected = direct(example_gradients(objective, point, batch))
    assert found.trace == pytest.approx(expected["trace"], rel=1e-12)
    assert isinstance(found.trace, float) and isinstance(found.along, float)
    if what == "along":
        assert found.along == pytest.approx(expected["along"], rel=1e-12)
    else:
        assert math.isnan(found.along)
    if what == "variances":
        np.testing.assert_allclose(found.variances, expected["variances"], rtol=1e-11)
        assert found.variances.sum() == pytest.approx(found.trace, rel=1e-12)
    else:
        assert found.variances is None
    # what is measured changes nothing of the estimate: a run may be compared bit for bit
    assert found.gradient.tobytes() == objective.gradient(point, batch).tobytes()
    assert found.loss == objective.loss(point, batch)


def test_by_hand():
    """Rows (1, 0) and (0, 2), targets 0, at (3, 1): g = (3, 0) and (0, 4), ḡ = (1.5, 2).

    Variances (4.5, 8); ⟨g_i, ḡ⟩ = 4.5 and 8, whose variance is 3.5²/2. With ridge 2 every g_i moves
    by (6, 2): ḡ = (7.5, 4), ⟨g_i, ḡ⟩ = 75.5 and 69, variance 6.5²/2.
    """
    rows, point = np.diag([1.0, 2.0]), np.array([3.0, 1.0])
    plain = Squares(rows, np.zeros(2)).per_example_statistics(point, None, "along")
    assert (plain.trace, plain.along, plain.gradient.tolist()) == (12.5, 6.125, [1.5, 2])
    shifted = Squares(rows, np.zeros(2), 2.0).per_example_statistics(point, None, "along")
    assert (shifted.trace, shifted.along, shifted.gradient.tolist()) == (12.5, 21.125, [7.5, 4])
    each = Squares(rows, np.zeros(2)).per_example_statistics(point, None, "variances")
    assert each.variances.tolist() == [4.5, 8]


@pytest.mark.parametrize("make", [squares, logistic])
@pytest.mark.parametrize("what", WHAT)
def test_one_example_has_no_variance(make, what):
    """Exactly 0, for b = 1 and for a client that has one. Kills: a division by b − 1 = 0."""
    for objective, batch in ((make(), np.array([4])), (make(rows=1), None)):
        found = objective.per_example_statistics(np.ones(4), batch, what)
        assert found.trace == 0
        assert what != "along" or found.along == 0
        assert what != "variances" or found.variances.tolist() == [0] * 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [squares, logistic])
@pytest.mark.parametrize("what", WHAT)
def test_equal_examples_do_not_spread(make, what, dtype):
    """0 up to rounding, and never below: one example drawn five times.

    The rounding of squares that cancel is that of the dtype. Kills: a negative variance.
    """
    objective, point = make(dtype=dtype), np.linspace(-1, 2, 4).astype(dtype)
    for example in range(9):
        batch = np.full(5, example)
        found = objective.per_example_statistics(point, batch, what)
        length = float(np.sum(objective.gradient(point, batch).astype(float) ** 2))
        tiny = 20 * np.finfo(dtype).eps * (length + 1)
        assert 0 <= found.trace <= tiny
        assert what != "along" or 0 <= found.along <= tiny * (length + 1)
        if what == "variances":
            assert 0 <= found.variances.min() <= found.variances.max() <= tiny


@pytest.mark.parametrize("make", [squares, logistic])
@pytest.mark.parametrize("what", WHAT)
def test_single_precision(make, what):
    """float32 gradients measured in float64, against float64 throughout: within 10^−5.

    Kills: squares summed in float32, a gradient that changes its dtype.
    """
    single, double = make(rows=200, dtype=np.float32), make(rows=200)
    point = np.linspace(-1, 2, 4)
    found = single.per_example_statistics(point.astype(np.float32), None, what)
    expected = double.per_example_statistics(point, None, what)
    assert found.gradient.dtype == np.float32
    assert found.trace == pytest.approx(expected.trace, rel=1e-5)
    if what == "along":
        assert found.along == pytest.approx(expected.along, rel=1e-5)
    if what == "variances":
        assert found.variances.dtype == np.float64
        np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-5)


def test_large_gradients_in_single_precision():
    """g = (1, 9)·10^25, whose squares are beyond float32: Σ = 32·10^50. Kills: float32 squares."""
    rows = np.array([[1e25], [3e25]], np.float32)
    objective = Squares(rows, np.zeros(2, np.float32))
    found = objective.per_example_statistics(np.float32([1e-25]), None, "variances")
    assert found.trace == pytest.approx(3.2e51, rel=1e-6)
    assert found.variances == pytest.approx([3.2e51], rel=1e-6)


@given(
    values=st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=8),
    shift=st.sampled_from([0.0, 1.0, 1e8]),
)
def test_variance_of_moments(values, shift):
    """Against numpy's two passes; what cancels is bounded by the sum's rounding, never negative."""
    values = np.array(values) + shift
    squares, count = float(np.sum(values**2)), len(values)
    found = variance_of(squares, float(np.mean(values)) ** 2, count)
    expected = np.var(values, ddof=1) if count > 1 else 0.0
    assert 0 <= found == pytest.approx(expected, rel=1e-9, abs=1e-14 * count * squares)


def test_who_measures():
    """Kills: a capability that nobody is asked for, or that a loss alone has."""
    assert "per_example_statistics" in capabilities(squares())

    class LossAlone:
        dim, size, per_example_statistics = 2, 1, None

        def loss(self, point, batch=None):
            return 0.0

    assert capabilities(LossAlone()) == frozenset()
