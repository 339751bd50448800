"""Examples without limit: the loss has its constants, the oracle the law of real examples."""

import math

import numpy as np
import pytest

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.batching import BatchSize
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.objectives import Statistics
from fedbias.problems import GemanMcClure, Squares, noisy
from fedbias.randomness import Purpose
from fedbias.rounds import Plan, Report
from fedbias.turn import Turn
from fedbias.vectors import squared_norm
from tests.tools.adaptive_runs import PROBLEM, START

TWO = GemanMcClure(np.array([2.0, 1.0]))
POINT = np.array([1.0, 3.0])


class Everything(BatchSize):
    """A test that hands over all the statistics of a batch."""

    name = "everything"
    first = 2

    def __init__(self, measures):
        self.measures, self.found = measures, []

    def following(self, size, evidence):
        return size

    def statistic(self, found):
        self.found.append(found)
        return found.trace


def test_the_loss_by_hand():
    """2·1/2 + 9/10; slopes 2·2·1/4 and 2·3/100. Kills: a constant, a power."""
    assert TWO.loss(POINT) == pytest.approx(1.9, rel=1e-15)
    np.testing.assert_allclose(TWO.gradient(POINT), [1.0, 0.06], rtol=1e-15)
    assert TWO.loss(TWO.minimizer) == 0 and not TWO.gradient(TWO.minimizer).any()
    assert (TWO.dim, TWO.lipschitz, TWO.size) == (2, 4.0, 2**62)


def test_its_smoothness_is_attained_and_it_is_not_convex():
    """Second differences over a grid: largest 2 at 0, smallest −1/2 at ±1; L = 2·max c."""
    one, grid, h = GemanMcClure(np.ones(1)), np.linspace(-4, 4, 8001), 1e-4
    curvatures = [(one.gradient(t + h) - one.gradient(t - h)).item() / (2 * h) for t in grid]
    assert max(np.abs(curvatures)) == pytest.approx(one.lipschitz, abs=1e-6)
    assert min(curvatures) == pytest.approx(-0.5, abs=1e-6)
    assert curvatures[4000] == max(curvatures) and grid[np.argmin(curvatures)] in (-1, 1)
    slopes = [(one.loss(t + h) - one.loss(t - h)) / (2 * h) for t in grid[::100]]
    np.testing.assert_allclose(slopes, [one.gradient(t).item() for t in grid[::100]], atol=1e-7)
    ahead = PROBLEM.gradient(START + h) - PROBLEM.gradient(START - h)
    np.testing.assert_allclose(ahead / (2 * h), -0.5 * PROBLEM.scales, atol=1e-6)


def measured(count, what="variances", sigma=2.0, rounds=1):
    """The statistics of one batch in each of these rounds."""
    rule = Everything(what)
    for round in range(rounds):
        turn = Turn(0, round, 0, count, measure=rule)
        estimate = noisy(sigma).estimate(TWO, POINT, turn)
        assert turn.examples == count and estimate.loss == TWO.loss(POINT)
        np.testing.assert_array_equal(estimate.vector, rule.found[-1].gradient)
    return rule.found


def formed(count):
    """The same statistics from ``count`` gradients that are really there, 2000 times."""
    noise = 2.0 * np.random.default_rng(1).standard_normal((2000, count, 2))
    found = []
    for gradients in TWO.gradient(POINT) + noise:
        mean, spread = gradients.mean(axis=0), gradients.var(axis=0, ddof=1)
        along = np.var(gradients @ mean, ddof=1)
        found.append(Statistics(TWO.loss(POINT), mean, spread.sum(), along, spread))
    return found


LOOKS = {
    "trace": {
        "mean": lambda s: s.gradient[0],
        "its square": lambda s: squared_norm(s.gradient),
        "trace": lambda s: s.trace,
        "trace squared": lambda s: s.trace**2,
    },
    "along": {
        "along": lambda s: s.along,
        "along per square": lambda s: s.along / squared_norm(s.gradient),
        "across times along": lambda s: s.trace * s.along - s.along**2 / squared_norm(s.gradient),
    },
    "variances": {
        "first": lambda s: s.variances[0],
        "product": lambda s: s.variances[0] * s.variances[1],
        "mean and variance": lambda s: s.gradient[0] * s.variances[0],
    },
}


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("what", LOOKS)
def test_the_oracle_has_the_law_of_real_examples(what, count):
    """Moments of 2000 batches against as many that were formed: 5 deviations of the difference.

    Twenty looks, at one in 10^6 each. Kills: b for b − 1, variances that go with the mean.
    """
    drawn, real = measured(count, what, rounds=2000), formed(count)
    for name, look in LOOKS[what].items():
        ours, theirs = [look(found) for found in drawn], [look(found) for found in real]
        error = math.sqrt((np.var(ours) + np.var(theirs)) / 2000)
        assert abs(np.mean(ours) - np.mean(theirs)) < 5 * error, name
    assert math.isnan(drawn[0].along) == (what != "along")
    assert (drawn[0].variances is None) == (what != "variances")


def test_a_batch_of_any_size():
    """b = 10^12 is drawn at once: σ√(d/b) of noise, tr Σ = σ²d to √(2/(bd)). One has no spread."""
    (huge,) = measured(10**12)
    assert 1e-7 < np.abs(huge.gradient - TWO.gradient(POINT)).max() < 1.2e-5  # 2·10^−6 expected
    assert huge.trace == pytest.approx(8, rel=1e-5) and huge.trace != 8
    (single,) = measured(1)
    assert (single.trace, single.variances.tolist()) == (0, [0, 0])
    (silent,) = measured(5, sigma=0.0)
    np.testing.assert_array_equal(silent.gradient, TWO.gradient(POINT))
    assert silent.trace == 0


def test_without_a_batch_size_it_looks_at_all_the_data():
    """Kills: noise of one example, examples that are not counted."""
    turn = Turn(0, 0, 0, None)
    some = GemanMcClure(TWO.scales, size=400)
    off = noisy(3.0).estimate(some, POINT, turn).vector - TWO.gradient(POINT)
    np.testing.assert_allclose(
        off, 3 / 20 * Turn(0, 0, 0, 400).stream(Purpose.BATCH).standard_normal(2), rtol=1e-12
    )
    assert turn.examples == 400 and turn.statistic is None


def test_local_steps_see_new_noise_in_every_step():
    """Kills: a stream that starts again within a turn, so that the noise does not average out."""
    flat = Squares(np.zeros((1, 3)), np.zeros(1))  # ∇f = 0, and no per_example_statistics asked
    turn = Turn(0, 0, 0, 4)
    moved = fb.local_steps(2, 1.0, inner=noisy(1.0)).estimate(flat, np.zeros(3), turn).vector
    draws = Turn(0, 0, 0, 4).stream(Purpose.BATCH).standard_normal((2, 3)) / 2
    np.testing.assert_allclose(moved, draws.sum(axis=0), rtol=1e-12)
    assert turn.examples == 8


def test_the_dtype_is_the_points():
    """Kills: noise in float64 that turns a float32 run into another."""
    small = GemanMcClure(np.ones(2, np.float32))
    turn = Turn(0, 0, 0, 4, measure=fb.norm_test(0.5, 100))
    assert noisy(1.0).estimate(small, np.ones(2, np.float32), turn).vector.dtype == np.float32


TESTS = [
    fb.norm_test(0.5, 10**12),
    fb.local_norm_test(0.5, 10**12),
    fb.inner_product_test(0.5, 10**12),
    fb.augmented_test(0.5, 0.5, 10**12),
    fb.coordinate_test(0.5, 10**12),
    fb.cross_client_test(0.5, 10**12),
]


@pytest.mark.parametrize("rule", TESTS, ids=lambda rule: rule.name)
def test_every_test_can_look_at_it(rule):
    """On an objective with gradients alone; sizes grow. Kills: a capability asked in vain."""
    history = fb.run(
        [TWO] * 2,
        *(fb.adagrad_norm(1.0, 1.0), POINT, 40),
        estimator=noisy(1.0),
        batch_size=rule,
    )
    assert all(np.isfinite(outcome.wanted) for outcome in history.outcomes)
    assert history.batch_sizes[0] == 2 and history.batch_sizes[-1] > 100


@pytest.mark.parametrize(
    ("estimator", "rule", "fits"),
    [
        (noisy(1.0), fb.norm_test(0.5, 64), True),
        (fb.local_steps(2, 0.1, inner=noisy(1.0)), fb.local_norm_test(0.5, 64), True),
        (fb.local_steps(2, 0.1, inner=noisy(1.0)), fb.norm_test(0.5, 64), False),
        (fb.clipped(1.0, noisy(1.0)), fb.norm_test(0.5, 64), False),
        (
            fb.local_steps(2, 0.1, inner=fb.clipped(1.0, noisy(1.0))),
            fb.local_norm_test(0.5, 64),
            False,
        ),
        (fb.clipped(1.0, noisy(1.0)), fb.cross_client_test(0.5, 64), True),
        (fb.clipped(1.0, noisy(1.0)), fb.constant_batch(8), True),
    ],
)
def test_whose_examples_a_test_can_measure(estimator, rule, fits):
    """Kills: a test of a pseudo-gradient's or a clipped gradient's examples."""
    if fits:
        assert Algorithm(fb.adagrad(1.0), estimator, batch_size=rule).batching == rule
    else:
        with pytest.raises(ValueError, match="measures the examples of a plain batch"):
            Algorithm(fb.adagrad(1.0), estimator, batch_size=rule)


def test_a_report_of_very_many_examples_crosses_the_wire():
    """10^15 of 2^62 examples are counted exactly."""
    rule = fb.norm_test(0.5, 10**15)
    plan = Plan(
        0, 0, 0, -1, noisy(1.0), 10**15, fb.identity(), fb.no_feedback(), POINT, measure=rule
    )
    report, _ = respond(TWO, Plan.from_record(plan.to_record()), Ledger())
    read = Report.from_record(report.to_record())
    assert (read.computed, read.examples) == (10**15, 2**62)
    assert read.statistic == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("sigma", [-1.0, math.inf, math.nan, "1"])
def test_no_such_noise(sigma):
    with pytest.raises(ValueError, match="noisy: sigma must be a number >= 0"):
        noisy(sigma)
