"""Clients that are not alike: which feedback keeps a floor, which one removes it."""

import numpy as np
import pytest

import fedbias as fb
from fedbias import theory
from fedbias.problems import Squares
from tests.tools.quantized import Recorder, endless

# Four clients with one Hessian (κ = 10) and minimisers of their own.
CASE = endless("gradient_descent", 8)
ROWS = CASE.objective.features
CENTRES = np.random.default_rng(3).standard_normal((4, 8))
APART = [Squares(ROWS, ROWS @ centre) for centre in CENTRES]
BEST = CENTRES.mean(axis=0)


def late(objectives, optimizer, feedback, best, rounds, bits, **settings):
    """Distances from the best point after a third, two thirds and all of the rounds."""
    history = fb.run(
        *(objectives, optimizer, np.ones(best.size), rounds),
        compressor=fb.uniform(bits),
        feedback=feedback,
        **settings,
    )
    assert not any(outcome.refused for outcome in history.outcomes)
    distance = np.linalg.norm(history.points - best, axis=1)
    return history, distance[[rounds // 3, 2 * rounds // 3, rounds]]


@pytest.mark.parametrize("method", theory.METHODS)
@pytest.mark.parametrize("bits", [3, 5])
def test_a_memory_removes_the_floor(method, bits):
    """Same Hessian, other minimisers: without h a floor of one to four times 2^−R stays, with h
    none. Kills: a memory that is never subtracted; a floor that is hidden.
    """
    optimizer = theory.tuned(method, 1.0, 0.1).optimizer
    _, floored = late(APART, optimizer, fb.differential(), BEST, 180, bits)
    _, free = late(APART, optimizer, fb.differential(memory=True), BEST, 180, bits)
    assert (floored > 2.0**-bits).all() and (floored < 4 * 2.0**-bits).all()
    assert free[-1] < 1e-12 and free[0] < 1e-3


@pytest.mark.parametrize("memory", [False, True])
def test_the_mean_point_follows_gradient_descent_exactly(memory):
    """x̂ + ηē is the unquantized iterate; so the floor without memory is ‖ηē‖, no more, no less."""
    clients = [Recorder(client) for client in APART]
    feedback = fb.differential(memory=memory)
    history, _ = late(clients, CASE.method.optimizer, feedback, BEST, 150, 3)
    asked = np.mean([client.asked for client in clients], axis=0)
    exact = fb.run(APART, CASE.method.optimizer, np.ones(8), 149).points
    np.testing.assert_allclose(asked, exact, rtol=0, atol=1e-12)
    error = np.mean([kept["feedback.error"] for kept in history.memories], axis=0)
    shift = CASE.method.optimizer.step_size * error
    np.testing.assert_allclose(history.points[-1] + shift, BEST, rtol=0, atol=1e-11)
    assert (np.linalg.norm(error) < 1e-12) == memory


def test_half_participation_and_different_hessians():
    """EF21 converges linearly, by the same factor in each third; the others keep a floor.

    Its h_m end at ∇f_m(x*), which is not 0.
    """
    problem = fb.LeastSquares.random(8, 10, 0, clients=4)
    asked = {"participation": lambda k: fb.sample_clients(0, k, range(4), 2)}
    common = (problem.objectives, fb.gradient_descent(0.3))
    history, (one, two, three) = late(*common, fb.ef21(), problem.minimizer, 600, 3, **asked)
    assert three < 1e-8 and 0.5 < np.log(two / three) / np.log(one / two) < 2
    for kept, objective in zip(history.memories, problem.objectives, strict=True):
        slope = objective.gradient(problem.minimizer)
        np.testing.assert_allclose(kept["feedback.gradient"], slope, rtol=0, atol=1e-8)
        assert np.linalg.norm(slope) > 1e-3
    for feedback in (fb.differential(), fb.differential(memory=True), fb.error_feedback()):
        _, stays = late(*common, feedback, problem.minimizer, 600, 3, **asked)
        assert (stays > 1e-3).all() and (stays < 0.1).all()
