"""Rounds with every batch-size test, among four clients with very different amounts of data."""

import numpy as np
import pytest

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.server import plan_for
from tests.tools.uneven import uneven

SIZES = (60, 25, 9, 1)
CLIENTS, ENROLLED = uneven(*SIZES), dict(enumerate(SIZES))
START = np.full(4, 5.0)
NORM = fb.norm_test(eta=0.5, maximum=50)
CROSS = fb.cross_client_test(eta=0.5, maximum=50)
TESTS = [
    NORM,
    fb.local_norm_test(eta=1.0, maximum=50),
    fb.inner_product_test(theta=0.9, maximum=50),
    fb.augmented_test(theta=0.9, nu=2.0, maximum=50),
    fb.coordinate_test(eta=1.0, maximum=50),
    CROSS,
]
DESCENT = fb.gradient_descent(0.3)
each_test = pytest.mark.parametrize("rule", TESTS, ids=lambda rule: rule.name)


def run(rule, rounds=12, objectives=CLIENTS, **settings):
    """The loop with this rule, from START by descent unless the settings say otherwise."""
    settings = {"optimizer": DESCENT, "estimator": fb.minibatch(), "seed": 3} | settings
    start = settings.pop("start", START)
    return fb.run(objectives, settings.pop("optimizer"), start, rounds, batch_size=rule, **settings)


def algorithm(rule, **settings):
    """The same settings for the server's side alone."""
    return Algorithm(DESCENT, **({"estimator": fb.minibatch(), "batch_size": rule} | settings))


def replies(made, state, objectives=CLIENTS):
    """What clients without a past report in this round, all of them."""
    return [
        respond(objective, plan_for(made, state, client), Ledger())[0]
        for client, objective in enumerate(objectives)
    ]
