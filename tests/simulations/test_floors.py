"""A federation measured against the truth, and what theory says of it: for every bias."""

from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias import theory
from fedbias.optimizers import HeavyBall
from simulations.reproductions.biases.cases import CASES, reshuffling_bias, step_sizes
from simulations.reproductions.biases.floors import Recursion, Trace, follow, without_noise
from tests.tools.bias_runs import covered_step, problem_of, run, start_of

each_case = pytest.mark.parametrize("name", CASES)
each_beta = pytest.mark.parametrize("beta", [1.0, 0.1])


def recursion(name, beta, step_size):
    problem = problem_of(name)
    minimum = getattr(problem, "minimum", 0.0)
    convexity = problem.strong_convexity
    return Recursion(step_size, beta, problem.lipschitz, convexity, minimum)


class Parabola:
    """f = x²/2 on the line."""

    lipschitz = strong_convexity = 1.0

    def loss(self, point):
        return 0.5 * float(point @ point)

    def gradient(self, point):
        return point


# What is measured ---------------------------------------------------------------------------------


def test_a_trace_by_hand():
    """f = x²/2, bias ½, γ = ½, β = ½, x_0 = 2: v = 5/2, then ½·5/2 + ½·(3/4 + ½) = 15/8.

    Kills: an estimate that is the velocity; a velocity of the round before; squares not taken.
    """
    trace = without_noise(
        Parabola(), HeavyBall(0.5, 0.5), np.array([2.0]), 3, lambda x: 0.5 + 0 * x
    )
    assert trace.points.ravel().tolist() == [2, 0.75, 0.75 - 15 / 16]
    assert trace.losses.tolist() == [2, 9 / 32, 0.5 * (3 / 16) ** 2]
    assert trace.slopes.tolist() == [4, 9 / 16, (3 / 16) ** 2]
    assert trace.errors == pytest.approx([0.25] * 3, rel=1e-14)
    assert trace.velocity_errors[:2].tolist() == [0.25, (15 / 8 - 3 / 4) ** 2]


@each_beta
def test_following_a_federation_finds_its_errors(beta):
    """None for exact gradients; for the biased ones those of the estimates themselves."""
    problem, step = problem_of("maml"), covered_step("maml")
    exact = follow(
        problem,
        HeavyBall(step, beta),
        np.ones(7),
        20,
        estimator=fb.meta(0.5),
        batch_size=None,
        seed=0,
    )
    assert exact.errors.max() < 1e-25 and exact.points.shape == (20, 7)
    sgd = run("reshuffled", 1.0, 0.1, 3)
    sent = (sgd.points[0] - sgd.points[1]) / 0.1
    expected = np.sum((sent - problem_of("reshuffled").gradient(sgd.points[0])) ** 2)
    assert sgd.errors[0] == pytest.approx(expected, rel=1e-12) == sgd.velocity_errors[0]
    other = run("reshuffled", 1.0, 0.1, 3, seed=1)
    assert other.errors[0] != sgd.errors[0]


@each_beta
def test_the_last_batch_of_an_epoch_is_known_beforehand(beta):
    """Ten batches of 4 are an epoch: the first one has no bias, of the last one it is all.

    Kills: examples that were seen instead of those to come, another epoch's or client's order.
    """
    problem, trace = problem_of("reshuffled"), run("reshuffled", beta, 0.05)
    squares = [
        np.sum(reshuffling_bias(problem, point, k, 0, 4) ** 2)
        for k, point in enumerate(trace.points)
    ]
    np.testing.assert_allclose(squares[9::10], trace.errors[9::10], rtol=1e-9)
    assert max(squares[::10]) < 1e-25
    middle = np.array(squares).reshape(6, 10)[:, 1:9] / trace.errors.reshape(6, 10)[:, 1:9]
    assert 0 < middle.mean() < 1


# What theory says ---------------------------------------------------------------------------------


@each_case
@each_beta
def test_the_recursion_holds_where_it_is_covered(name, beta):
    """60 rounds of every bias at the largest step. Kills: a measured error that is too small."""
    trace = run(name, beta, covered_step(name))
    covered = recursion(name, beta, covered_step(name))
    assert covered.covered and covered.violations(trace) == 0
    assert trace.errors.min() > 0
    window = range(30, 59)
    assert covered.measure(trace)[window].mean() <= covered.floor_bound(trace, window)


@each_case
def test_a_wrong_recursion_is_broken(name):
    """Without the errors, with β = 0.01 for 0.1, with a step far beyond the limit.

    Kills: a recursion that holds because it says nothing."""
    step = covered_step(name)
    silent = replace(run(name, 1.0, step), errors=np.zeros(60))
    assert recursion(name, 1.0, step).violations(silent) > 0
    assert recursion(name, 0.01, step).violations(run(name, 0.1, step)) > 0
    far = recursion(name, 0.1, 400 * step)
    assert not far.covered and far.violations(run(name, 0.1, 400 * step)) > 0


def test_what_is_covered():
    """γ up to the limit, and γμ up to β/4. Kills: the other form's limit, a missing condition."""
    for convexity in (None, 0.1):
        limit = theory.momentum_step_limit(1, 0.1, pl=convexity is not None)
        assert Recursion(limit, 0.1, 1, convexity).covered
        assert not Recursion(1.001 * limit, 0.1, 1, convexity).covered
    assert not Recursion(theory.momentum_step_limit(1, 0.1, pl=True), 0.1, 1, 1.0).covered


def test_the_allowed_floor_by_hand():
    """C = (3 + 5)/2; φ falls from 2 to 1 over two rounds. Kills: C of the rounds themselves."""
    trace = Trace(
        np.zeros((4, 1)),
        np.array([9.0, 3, 2.5, 2]),
        np.array([9.0, 7, 5, 3]),
        np.array([9.0, 9, 3, 5]),
        np.zeros(4),
    )
    window = range(1, 3)
    convex = Recursion(0.5, 1.0, 1.0, strong_convexity=0.25, minimum=1.0)
    assert convex.potentials(trace) == [8, 2, 1.5, 1]
    assert convex.floor_bound(trace, window) == 2 * 4 / 0.25 + 0.5 / 0.5 / 0.25
    assert convex.measure(trace).tolist() == [8, 2, 1.5, 1]
    other = Recursion(0.5, 1.0, 1.0)
    assert other.floor_bound(trace, window) == 2 * 4 + 2 * 0.5 / 0.5
    assert other.measure(trace).tolist() == [9, 7, 5, 3]


@each_beta
def test_the_floor_of_a_constant_bias_is_allowed_with_a_factor_four(beta):
    """f = x²/2 with E[ĝ] = ∇f + b ends at b²/2, allowed is 2b². Two-sided."""
    step = theory.momentum_step_limit(1, beta, pl=True) / 2
    trace = without_noise(
        Parabola(), HeavyBall(step, beta), np.ones(1), 3000, lambda x: 0.3 + 0 * x
    )
    exact, window = Recursion(step, beta, 1.0, 1.0), range(2800, 2999)
    assert trace.losses[window].mean() == pytest.approx(0.09 / 2, rel=1e-9)
    assert exact.floor_bound(trace, window) == pytest.approx(2 * 0.09, rel=1e-9)


def test_the_two_step_sizes():
    """Least squares with L = 1: rounded down to 4 digits, and ½. Kills: rounding up, 1/λ."""
    covered, larger = step_sizes(problem_of("reshuffled"), start_of("reshuffled"), 0.1)
    limit = theory.momentum_step_limit(1, 0.1, pl=True)
    assert limit - 1e-5 < covered <= limit and covered == float(f"{covered:.4g}")
    assert larger == 0.5
    policy = problem_of("reinforce")
    covered, larger = step_sizes(policy, start_of("reinforce"), 0.1)
    assert covered <= theory.momentum_step_limit(policy.lipschitz, 0.1) < larger < 10
    point = start_of("reinforce") + 1e-3
    flat = np.linalg.norm(policy.gradient(point) - policy.gradient(point - 1e-3)) / 1e-3 / 8**0.5
    assert flat < 0.5 / larger * 1.01
