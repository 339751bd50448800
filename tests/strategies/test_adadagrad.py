"""AdAdaGrad is AdaGrad with a batch size that grows, and nothing else."""

import inspect
import math

import numpy as np
import pytest

import fedbias as fb
from strategies import FedBias, adadagrad, adadagrad_norm
from tests.tools.federation import Watched, app_of, slopes, train
from tests.tools.uneven import uneven

CLIENTS = uneven(40, 25, 9)
START = np.full(4, 3.0)
TEST = fb.norm_test(eta=0.3, maximum=30)
MAKE = {"adadagrad": (adadagrad, fb.adagrad(0.5)), "norm": (adadagrad_norm, fb.adagrad_norm(0.5))}


def three():
    return Watched(app_of(CLIENTS), 3)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": TEST},
        {"batch_size": fb.coordinate_test(eta=2.0, maximum=30), "weights": "examples", "seed": 8},
        {"batch_size": TEST, "compressor": fb.top_k(0.5), "feedback": fb.error_feedback()},
        {"batch_size": TEST, "decay": fb.cosine_decay(samples=400)},
        {
            "batch_size": fb.local_norm_test(eta=0.8, maximum=30, initial=3),
            "estimator": fb.local_steps(2, 0.05, inner=fb.minibatch("reshuffle")),
        },
    ],
    ids=lambda settings: settings["batch_size"].name,
)
def test_it_is_adagrad_of_the_loop(name, settings):
    """Bit for bit, all points and sizes. Kills: another optimizer, a setting that is not passed
    on, an estimator that is not the one asked for.
    """
    make, optimizer = MAKE[name]
    run = train(make(0.5, **settings, minimum_clients=3), three(), START, 12)
    loop = fb.run(CLIENTS, optimizer, START, 12, **{"estimator": fb.minibatch(), **settings})
    assert run.points.tobytes() == loop.points.tobytes()
    assert [r.batch_size for r in run.records[1:]] == loop.batch_sizes
    assert loop.batch_sizes[-1] > 8
    assert [r.train_loss for r in run.records[1:]] == [o.loss for o in loop.outcomes]


def test_by_hand():
    """Gradient 3 everywhere: AdaGrad steps α/√k, AdaGrad-Norm with S_0 = 27 steps 3α/√(9k + 27).

    Two rounds from 0 with α = 6: −6, −6 − 6/√2; with S_0: −3, −3 − 6/√5. Kills: S_0 left out.
    """
    settings = {"batch_size": fb.constant_batch(1), "minimum_clients": 1}
    run = train(adadagrad(6.0, **settings), Watched(app_of(slopes([3.0])), 1), np.zeros(1), 2)
    assert run.points.ravel() == pytest.approx([0, -6, -6 - 6 / math.sqrt(2)])
    strategy = adadagrad_norm(6.0, **settings, initial=27.0)
    run = train(strategy, Watched(app_of(slopes([3.0])), 1), np.zeros(1), 2)
    assert run.points.ravel() == pytest.approx([0, -3, -3 - 6 / math.sqrt(5)])


def test_the_defaults_are_documented():
    """Kills: another default, a parameter that the docstring does not name."""
    for make, optimizer in MAKE.values():
        algorithm = make(0.5, TEST).algorithm
        assert algorithm.optimizer == optimizer and algorithm.estimator == fb.minibatch()
        assert algorithm.batching == TEST and algorithm.decay == fb.no_decay()
        documentation = inspect.getdoc(make)
        parameters = inspect.signature(make).parameters
        assert all(f"\n{name} : " in documentation for name in parameters if name != "settings")
        assert list(parameters)[:3] == ["step_size", "batch_size", "estimator"]
        assert "NOT guaranteed" in documentation and "**settings" in documentation
    assert list(inspect.signature(adadagrad_norm).parameters)[3:] == ["initial", "settings"]


def test_impossible_settings():
    """Kills: a check that is dropped, a batch size that is forgotten."""
    for make, optimizer in MAKE.values():
        with pytest.raises(ValueError, match=f"{optimizer.name}: step_size must be a number > 0"):
            make(0, TEST)
        with pytest.raises(TypeError, match="batch_size"):
            make(0.5)
        with pytest.raises(ValueError, match=r"has no meaning for exact\(\)"):
            make(0.5, TEST, fb.exact())
        with pytest.raises(TypeError, match="speed"):
            make(0.5, TEST, speed=3)
        assert isinstance(make(0.5, TEST), FedBias)
    with pytest.raises(ValueError, match="adagrad_norm: initial must be a number >= 0, not -1"):
        adadagrad_norm(0.5, TEST, initial=-1)
