"""Slopes of the loss: by hand, their mean and spread, their limits, and losses that are NaN."""

import math

import numpy as np
import pytest

import fedbias as fb
from fedbias import theory
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.objectives import ForwardOnly
from fedbias.problems import LogisticLoss, Squares
from fedbias.randomness import Purpose
from fedbias.rounds import Plan
from fedbias.turn import Turn
from tests.tools.kinds import Cliff

TWO = Squares(np.diag([1.0, 2.0]), np.array([1.0, 2.0]))  # H = diag(1/2, 2), at (7, 3) g = (3, 4)
POINT = np.array([7.0, 3.0])
POINT.flags.writeable = False
BOTH = [fb.two_point(3, 0.5), fb.two_point(3, 0.5, central=True)]


def turn(*, round=0, client=0, seed=0, batch_size=None, memory=None):
    return Turn(seed, round, client, batch_size, memory or {})


def seed_of(at):
    """The seed of a turn's first estimate."""
    return int(at.rng(Purpose.DIRECTION).integers(2**63))


def directions_of(seed, count, dim=2, dtype=np.float64):
    return np.stack([fb.direction((seed, k), dim, dtype) for k in range(count)])


def slopes_of(estimator, objective, point, at=None):
    """S_k as they travel."""
    content = estimator.estimate(objective, point, at or turn()).content
    return np.frombuffer(content.payload, "<f4")


def rounded(slopes):
    return np.asarray(slopes).astype(np.float32)


# By hand ------------------------------------------------------------------------------------------


def test_forward_differences_by_hand():
    """((F(x+u_k/2) − F(x))/½, averaged with u_k; the loss is F(x), for n + 1 passes.

    Kills: a difference turned round, a radius that is forgotten in one place, ν for 2ν.
    """
    at = turn(round=5)
    estimate = fb.two_point(3, 0.5).estimate(ForwardOnly(TWO), POINT, at)
    u = directions_of(seed_of(at), 3)
    slopes = [(TWO.loss(POINT + 0.5 * each) - 13) / 0.5 for each in u]
    np.testing.assert_allclose(estimate.vector, slopes @ u / 3, rtol=1e-6)
    assert slopes_of(fb.two_point(3, 0.5), TWO, POINT, turn(round=5)).tolist() == (
        rounded(slopes).tolist()
    )
    assert estimate.loss == 13 and at.examples == 4 * 2 and at.dropped == 0
    assert POINT.tolist() == [7, 3]


def test_central_differences_by_hand():
    """(F(x+u_k/2) − F(x−u_k/2))/1; the loss is the mean of these six, for as many passes.

    Kills: ν for 2ν, a second point that is not on the other side, a pass that is not counted.
    """
    at, estimator = turn(round=5), fb.two_point(3, 0.5, central=True)
    estimate = estimator.estimate(ForwardOnly(TWO), POINT, at)
    u = directions_of(seed_of(at), 3)
    ahead = np.array([TWO.loss(POINT + 0.5 * each) for each in u])
    behind = np.array([TWO.loss(POINT - 0.5 * each) for each in u])
    slopes = slopes_of(estimator, TWO, POINT, turn(round=5))
    np.testing.assert_allclose(slopes, ahead - behind, rtol=1e-6)
    np.testing.assert_allclose(estimate.vector, (ahead - behind) @ u / 3, rtol=1e-6)
    assert estimate.loss == pytest.approx(np.mean([ahead, behind]), rel=1e-14)
    assert at.examples == 6 * 2


def test_forward_gradients_by_hand():
    """⟨u_k, (3, 4)⟩. Kills: a loss that is not counted or is taken elsewhere."""
    at = turn(round=5)
    objective = ForwardOnly(TWO, directional=True)
    estimate = fb.forward_gradient(3).estimate(objective, POINT, at)
    slopes = directions_of(seed_of(at), 3) @ [3.0, 4.0]
    np.testing.assert_allclose(estimate.vector, slopes @ directions_of(seed_of(at), 3) / 3, 1e-6)
    found = slopes_of(fb.forward_gradient(3), objective, POINT, turn(round=5))
    np.testing.assert_allclose(found, slopes, rtol=1e-6)
    assert estimate.loss == 13 and at.examples == 4 * 2


@pytest.mark.parametrize("estimator", [fb.two_point(4, 0.1), fb.forward_gradient(4)], ids=repr)
def test_one_batch_for_all_the_directions(estimator):
    """That of a minibatch() client with the same number; the next round's is another.

    Kills: a batch for each direction, whose noise would not cancel in a difference.
    """
    seen = []

    class Recording(Squares):
        def loss(self, point, batch=None):
            seen.append(tuple(batch))
            return super().loss(point, batch)

        def directional(self, point, vector, batch=None):
            seen.append(tuple(batch))
            return super().directional(point, vector, batch)

        def gradient(self, point, batch=None):
            seen.append(tuple(batch))
            return super().gradient(point, batch)

    rng = np.random.default_rng(0)
    objective = Recording(rng.standard_normal((1000, 2)), rng.standard_normal(1000))
    at = turn(batch_size=6)
    estimator.estimate(objective, POINT, at)
    assert len(seen) == 5 and len(set(seen)) == 1 and len(seen[0]) == 6 and at.examples == 30
    fb.minibatch().estimate(objective, POINT, turn(batch_size=6))
    assert len(set(seen)) == 1
    estimator.estimate(objective, POINT, turn(batch_size=6, round=1))
    assert len(set(seen)) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_the_callers(dtype):
    """Kills: float64 that creeps in with a scalar."""
    seen = []

    class Typed(Squares):
        def loss(self, point, batch=None):
            seen.append(point.dtype)
            return super().loss(point, batch)

        def directional(self, point, vector, batch=None):
            seen.append(vector.dtype)
            return super().directional(point, vector, batch)

    objective = Typed(np.eye(2, dtype=dtype), np.ones(2, dtype))
    for estimator in (*BOTH, fb.forward_gradient(2)):
        estimate = estimator.estimate(objective, POINT.astype(dtype), turn())
        assert estimate.vector.dtype == dtype and type(estimate.loss) is float
    assert set(seen) == {np.dtype(dtype)}


# On average ---------------------------------------------------------------------------------------

DIM = 10
QUADRATIC = fb.LeastSquares.random(DIM, 20, 3).objectives[0]
X = np.linspace(-1, 1, DIM)
G = QUADRATIC.gradient(X)
HESSIAN = np.stack([QUADRATIC.hvp(X, each) for each in np.eye(DIM)])
EXACT = [fb.forward_gradient(4), fb.two_point(4, 0.1, central=True)]


def drawn(estimator, count, objective=QUADRATIC, point=X):
    """Estimates of as many rounds, shape (count, dim)."""
    rounds = (turn(round=k) for k in range(count))
    return np.stack([estimator.estimate(objective, point, at).vector for at in rounds])


def agrees(values, expected, precision):
    """The mean is the expected one within 4.5 standard errors, which are below the precision.

    A false alarm in one comparison of 10^5.
    """
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 4.5 * error < precision * expected


@pytest.mark.parametrize("central", [None, True], ids=["slopes", "central"])
@pytest.mark.parametrize(
    ("dim", "directions", "count"), [(2, 4, 2000), (10, 4, 1000), (50, 8, 300), (50, 64, 80)]
)
def test_the_relative_error(central, dim, directions, count):
    """E‖g − ∇F‖²/‖∇F‖² = (d+1)/n: .75, 2.75, 6.375, .797, each within 4.5 standard errors.

    Kills: d for d+1, a sum for a mean over directions, one direction in the place of n.
    """
    exact = fb.forward_gradient(directions)
    estimator = fb.two_point(directions, 0.1, central=True) if central else exact
    objective, point = fb.LeastSquares.random(dim, 20, 3).objectives[0], np.ones(dim)
    gradient = objective.gradient(point)
    off = drawn(estimator, count, objective, point) - gradient
    errors = np.sum(off**2, axis=1) / np.sum(gradient**2)
    agrees(errors, theory.relative_error(dim, directions), 0.2)


@pytest.mark.parametrize(
    "estimator", [*EXACT, fb.two_point(4, 0.1)], ids=["slopes", "central", "forward"]
)
def test_no_bias_on_quadratics(estimator):
    """The mean of 1000 is ∇F, each entry within 5 standard errors (error < 10^−5); the forward
    difference's too, as odd moments of u vanish.

    Kills: a bias, in either difference.
    """
    found = drawn(estimator, 1000)
    errors = found.std(axis=0, ddof=1) / math.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - G) < 5 * errors).all()
    assert (5 * errors < 0.2 * np.linalg.norm(G)).all()


def test_what_curvature_adds_to_every_slope():
    """The forward difference is ⟨u, ∇F⟩ + (ν/2)·uᵀHu, the central one ⟨u, ∇F⟩, exactly.

    Kills: a side taken for the other, curvature that does not cancel.
    """
    at = turn(round=3)
    u = directions_of(seed_of(at), 4, DIM)
    curvature = np.einsum("ki,ij,kj->k", u, HESSIAN, u)
    for radius in (1e-3, 0.1, 2.0):
        forward = slopes_of(fb.two_point(4, radius), QUADRATIC, X, turn(round=3))
        central = slopes_of(fb.two_point(4, radius, True), QUADRATIC, X, turn(round=3))
        np.testing.assert_allclose(forward, u @ G + radius / 2 * curvature, rtol=2e-6)
        np.testing.assert_allclose(central, u @ G, rtol=2e-6)
    assert (radius / 2 * curvature > 0.5 * np.abs(u @ G)).any()


def test_the_spread_that_curvature_adds():
    """Of forward differences on a quadratic, as the theory says, and it is the larger part here:
    within 4.5 standard errors, two-sided. Kills: another factor in the docstring."""
    radius, traces = 1.0, (np.trace(HESSIAN), np.trace(HESSIAN @ HESSIAN))
    off = drawn(fb.two_point(2, radius), 1500) - G
    plain = theory.relative_error(DIM, 2) * (G @ G)
    added = radius**2 / 4 * (DIM + 4) * (traces[0] ** 2 + 2 * traces[1]) / 2
    assert added > plain
    agrees(np.sum(off**2, axis=1), plain + added, 0.25)


class Kinked:
    """½·Σ_j L·x_j|x_j|: its gradient L|x_j| has the Lipschitz constant L, and a kink at 0."""

    size, lipschitz = 1, 3.0

    def __init__(self, dim):
        self.dim = dim

    def loss(self, point, batch=None):
        return 0.5 * self.lipschitz * float(np.sum(point * np.abs(point)))


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize(("dim", "share"), [(1, 0.1995), (30, 0.0461)])
def test_the_bias_where_the_gradient_has_a_kink(dim, share, central):
    """∇F_ν(0) = νL·E|u_j| = νL√(2/π) in every entry, where ∇F(0) = 0: for both differences, within
    5 standard errors (error < 10^−5) of at most 15 %.

    The bound (ν/2)L(d+3)^{3/2} holds and is loose: ``share`` of it is reached, 1/5 at d = 1, 1/22
    at d = 30, and no more than 2√d/(d+3)^{3/2} could be. Kills: a radius that is squared or lost.
    """
    objective, radius = Kinked(dim), 0.2
    found = drawn(fb.two_point(64, radius, central), 100, objective, np.zeros(dim))
    entries = found.mean(axis=1)  # all of them alike
    expected = radius * objective.lipschitz * math.sqrt(2 / math.pi)
    error = entries.std(ddof=1) / math.sqrt(len(entries))
    assert abs(entries.mean() - expected) < 5 * error < 0.15 * expected
    bound = theory.difference_bias(radius, objective.lipschitz, dim)
    assert math.sqrt(dim) * expected / bound == pytest.approx(share, rel=1e-3)
    at_most = radius * objective.lipschitz * math.sqrt(dim) / bound
    assert share == pytest.approx(math.sqrt(2 / math.pi) * at_most, rel=1e-3) and at_most <= 0.25


# Limits -------------------------------------------------------------------------------------------


def logistic():
    rng = np.random.default_rng(0)
    return LogisticLoss(rng.standard_normal((30, 4)), rng.choice([-1.0, 1.0], 30), 0.1)


@pytest.mark.parametrize(
    ("central", "radii", "ratio"), [(False, (0.02, 0.002), 10), (True, (0.15, 0.015), 100)]
)
def test_a_radius_of_zero_is_the_forward_gradient(central, radii, ratio):
    """The differences fall as ν, or ν² for central ones: with a tenth of ν to 1/10, or 1/100.

    Kills: an order lost to a second point that is off, a radius in the wrong power.
    """
    objective, point, u = logistic(), np.linspace(-1, 1, 4), directions_of(seed_of(turn()), 5, 4)
    exact = u @ objective.gradient(point)
    slopes = slopes_of(fb.forward_gradient(5), objective, point)
    np.testing.assert_allclose(slopes, exact, rtol=1e-6)
    wide, narrow = (
        slopes_of(fb.two_point(5, radius, central), objective, point) - exact for radius in radii
    )
    np.testing.assert_allclose(wide / narrow, ratio, rtol=0.1)
    tiny = slopes_of(fb.two_point(5, 1e-6, central), objective, point)
    np.testing.assert_allclose(tiny, exact, rtol=1e-5)


class Coarse:
    """1000 + Σx, in float32: a unit in the last place is 2^−14."""

    dim, size = 2, 1

    def loss(self, point, batch=None):
        return float(np.float32(1000 + float(point.sum())))


@pytest.mark.parametrize("central", [False, True])
def test_what_the_losss_rounding_costs(central):
    """ε|F|/ν: an error uniform over a unit in the last place, one in a forward difference besides
    that of F(x), which all of them share, and two halves in a central one. Their spread over 1000
    slopes is within 10 % of that, and ten times as large for a tenth of ν.

    Kills: a difference taken in another order, a division by ν that is left out.
    """
    exact = directions_of(seed_of(turn()), 1000).sum(axis=1)
    point = np.random.default_rng(1).uniform(size=2)
    for radius in (1e-2, 1e-3):
        off = slopes_of(fb.two_point(1000, radius, central), Coarse(), point) - exact
        expected = 2.0**-14 / math.sqrt(24 if central else 12) / radius
        assert abs(np.std(off) / expected - 1) < 0.1


def test_a_radius_that_the_point_cannot_show():
    """X + νu = x in float32: every slope is 0, and no estimate can come of it."""
    point = np.ones(2, np.float32)
    assert not slopes_of(fb.two_point(9, 1e-9), Squares(np.eye(2), np.zeros(2)), point).any()


# Losses that are not finite -----------------------------------------------------------------------


class Spoiled(Squares):
    """A given value where the first coordinate is above 8, and counts how often that happens."""

    value, directional = math.nan, None

    def loss(self, point, batch=None):
        return self.value if point[0] > 8 else super().loss(point, batch)


def spoiled(value):
    objective = Spoiled(TWO.features, TWO.targets)
    object.__setattr__(objective, "value", value)
    return objective


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300], ids=str)
@pytest.mark.parametrize("central", [False, True])
def test_a_direction_without_a_finite_slope_is_left_out(value, central):
    """It is NaN on the wire and counted; the mean, and the loss, are over the others.

    1e300 is finite, its slope is not in float32. Kills: a NaN that reaches the mean, a count of
    those that are kept, a zero in the place of a direction.
    """
    at, count = turn(round=1), 8
    u = directions_of(seed_of(at), count)
    beyond = (POINT + u)[:, 0] > 8
    if central:
        beyond |= (POINT - u)[:, 0] > 8
    assert 1 <= beyond.sum() <= 6
    estimator = fb.two_point(count, 1.0, central)
    estimate = estimator.estimate(spoiled(value), POINT, at)
    plain = estimator.estimate(TWO, POINT, turn(round=1))
    slopes, known = (np.frombuffer(e.content.payload, "<f4") for e in (estimate, plain))
    np.testing.assert_array_equal(slopes, np.where(beyond, np.nan, known))
    by_hand = known[~beyond] @ u[~beyond] / (~beyond).sum()
    np.testing.assert_allclose(estimate.vector, by_hand, rtol=1e-6)
    assert at.dropped == beyond.sum() and at.examples == estimator._passes * 2
    if value != 1e300:
        pairs = [(TWO.loss(POINT + e) + TWO.loss(POINT - e)) / 2 for e in u[~beyond]]
        assert estimate.loss == pytest.approx(np.mean(pairs) if central else 13, rel=1e-12)


def test_dropped_directions_are_counted_in_the_outcome():
    """Through the report, and summed over the clients that were applied."""
    objectives = [Cliff(TWO, 7.5), Cliff(TWO, 8.0), ForwardOnly(TWO)]
    history = fb.run(
        *(objectives, fb.gradient_descent(1e-9), POINT, 2),
        estimator=fb.two_point(8, 1.0),
        lost=lambda k: [1] if k else [],
    )
    beyond = np.zeros((2, 3), int)
    for k, client in np.ndindex(2, 2):
        u = directions_of(seed_of(turn(round=k, client=client)), 8)
        beyond[k, client] = np.sum((POINT + u)[:, 0] > objectives[client].edge)
    assert (beyond[:, 0] > 0).all() and beyond[0, 1] > 0
    assert [outcome.dropped for outcome in history.outcomes] == [beyond[0].sum(), beyond[1, 0]]
    assert not any(outcome.refused for outcome in history.outcomes)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("estimator", [*BOTH, fb.forward_gradient(3)], ids=repr)
def test_no_finite_slope_at_all(value, estimator):
    """Refused in a sentence. Kills: a mean over nothing, an estimate of zeros."""

    class Nowhere(Squares):
        def loss(self, point, batch=None):
            return value

        def directional(self, point, vector, batch=None):
            return value

    with pytest.raises(ValueError) as caught:
        estimator.estimate(Nowhere(TWO.features, TWO.targets), POINT, turn())
    sentence = f"{estimator}: the loss is not finite along any of its directions"
    assert str(caught.value) == sentence


def test_a_loss_that_is_nan_at_the_point_itself():
    """The forward difference has nothing to compare with; a central one does not look there."""

    class Hole(Squares):
        def loss(self, point, batch=None):
            return math.nan if np.array_equal(point, POINT) else super().loss(point, batch)

    hole = Hole(TWO.features, TWO.targets)
    with pytest.raises(ValueError, match="the loss is not finite along any"):
        fb.two_point(3, 0.5).estimate(hole, POINT, turn())
    central = fb.two_point(3, 0.5, central=True)
    assert central.estimate(hole, POINT, turn()).loss == central.estimate(TWO, POINT, turn()).loss


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fb.two_point(8, 0), "two_point: radius must be a number > 0, not 0"),
        (lambda: fb.two_point(8, -1e-3), "two_point: radius must be a number > 0, not -0.001"),
        (lambda: fb.two_point(8, math.nan), "two_point: radius must be a number > 0, not nan"),
        (lambda: fb.two_point(8, math.inf), "two_point: radius must be a number > 0, not inf"),
        (lambda: fb.two_point(8, "1e-3"), "two_point: radius must be a number > 0, not '1e-3'"),
        (lambda: fb.two_point(0, 1), "two_point: directions must be a whole number >= 1 and <= "),
        (lambda: fb.two_point(2**16 + 1, 1), "<= 65536, not 65537"),
        (lambda: fb.two_point(8.0, 1), "directions must be a whole number >= 1"),
        (lambda: fb.two_point(8, 1, central=1), "two_point: central must be True or False, not 1"),
        (lambda: fb.forward_gradient(0), "forward_gradient: directions must be a whole number >="),
        (lambda: fb.forward_gradient(True), "forward_gradient: directions must be"),
    ],
)
def test_impossible_settings(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert sentence in str(caught.value)


# Inside other estimators --------------------------------------------------------------------------


def test_local_steps_look_along_new_directions_in_every_step():
    """By hand, with momentum: three steps, each with the next seed of the turn's stream.

    Kills: the same directions in every step; a seed that restarts; steps that send seeds.
    """
    at = turn(client=2)
    stream = at.rng(Purpose.DIRECTION)
    point, velocity = POINT, np.zeros(2)
    for _ in range(3):
        u = directions_of(int(stream.integers(2**63)), 4)
        slopes = rounded([(TWO.loss(point + 0.1 * e) - TWO.loss(point)) / 0.1 for e in u])
        velocity = 0.5 * velocity + slopes.astype(float) @ u / 4
        point = point - 0.05 * velocity
    estimator = fb.local_steps(3, 0.05, 0.5, inner=fb.two_point(4, 0.1))
    estimate = estimator.estimate(ForwardOnly(TWO), POINT, at)
    np.testing.assert_allclose(estimate.vector, POINT - point, rtol=1e-6)
    np.testing.assert_allclose(at.memory["local_steps.momentum"], velocity, rtol=1e-6)
    assert estimate.loss == 13 and at.examples == 3 * 5 * 2


@pytest.mark.parametrize(
    ("estimator", "length"),
    [(fb.normalised(fb.two_point(4, 0.1)), 1.0), (fb.clipped(0.5, fb.forward_gradient(4)), 0.5)],
    ids=repr,
)
def test_transformed_estimates_travel_as_vectors(estimator, length):
    """Seeds and scalars could not say what was done to them. Kills: a packet that is passed on."""
    objective = ForwardOnly(TWO, directional=True)
    asked = Plan(
        *(0, 0, 0, -1, estimator, None, fb.top_k(0.5), fb.error_feedback(), POINT),
    )
    report, ledger = respond(objective, asked, Ledger())
    assert report.packet.codec == "top_k" and estimator.most_directions == 0
    whole = fb.decode(report.packet) + ledger.pending["feedback.error"]
    assert np.linalg.norm(whole) == pytest.approx(length, rel=1e-12)
