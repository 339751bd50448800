"""Parallel momentum is the heavy ball of paper A, and nothing else."""

import inspect

import numpy as np
import pytest

import fedbias as fb
from strategies import FedBias, parallel_momentum
from tests.tools.federation import Watched, app_of, slopes, train

PROBLEM = fb.LeastSquares.random(6, 10.0, seed=4, clients=3)
ZERO = np.zeros(6)


def three():
    return Watched(app_of(PROBLEM.objectives), 3)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compressor": fb.top_k(0.34)},
        {"estimator": fb.clipped(0.2), "feedback": fb.error_feedback(), "compressor": fb.sign()},
        {"estimator": fb.minibatch(), "batch_size": 3, "weights": "examples", "seed": 8},
    ],
)
def test_it_is_the_heavy_ball_of_the_loop(beta, settings):
    """Bit for bit, all points and losses. Kills: β for 1 − β, a setting that is not passed on."""
    run = train(parallel_momentum(0.4, beta, minimum_clients=3, **settings), three(), ZERO, 6)
    loop = fb.run(PROBLEM.objectives, fb.heavy_ball(0.4, beta), ZERO, 6, **settings)
    assert run.points.tobytes() == loop.points.tobytes()
    assert [8 * r.uplink_bytes for r in run.records[1:]] == loop.wire_bits.tolist()
    assert [r.train_loss for r in run.records[1:]] == [o.loss for o in loop.outcomes]


def test_by_hand():
    """Gradients 4, then β = 1/4: v = 4, 4, 4; from (8 then 0): v = 8, 6. Kills: a damped start."""
    run = train(parallel_momentum(0.5, 0.25), Watched(app_of(slopes([4.0])), 1), np.zeros(1), 3)
    assert run.points.ravel().tolist() == [0, -2, -4, -6]
    square = fb.LeastSquares(np.array([[1.0]]), np.array([8.0]))  # gradient x − 8
    run = train(parallel_momentum(1.0, 0.25), Watched(app_of(square.objectives), 1), np.zeros(1), 2)
    assert run.points.ravel().tolist() == [0, 8, 14]


def test_beta_one_is_gradient_descent():
    """Kills: momentum that stays where there should be none."""
    momentum = train(parallel_momentum(0.4, 1.0, minimum_clients=3), three(), ZERO, 5)
    plain = train(FedBias(fb.gradient_descent(0.4), minimum_clients=3), three(), ZERO, 5)
    assert momentum.points.tobytes() == plain.points.tobytes()


def test_the_default_is_documented():
    """Kills: another default, a parameter that the docstring does not name."""
    strategy = parallel_momentum(0.3)
    assert strategy.algorithm.optimizer == fb.heavy_ball(0.3, 0.1)
    assert strategy.algorithm.feedback == fb.no_feedback()  # the paper's clients are stateless
    parameters = inspect.signature(parallel_momentum).parameters
    assert list(parameters) == ["step_size", "beta", "settings"]
    documentation = inspect.getdoc(parallel_momentum)
    assert all(f"{name} : float" in documentation for name in ("step_size", "beta"))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [((0.0,), "step_size"), ((-1,), "step_size"), ((1, 0), "beta"), ((1, 1.5), "beta")],
)
def test_impossible_settings(arguments, field):
    """Kills: a check that is dropped."""
    with pytest.raises(ValueError, match=f"heavy_ball: {field} must be a number > 0"):
        parallel_momentum(*arguments)
    with pytest.raises(TypeError, match="speed"):
        parallel_momentum(0.1, speed=3)
