"""Short runs of the cases of ``reproduce biases``, each computed once."""

from functools import cache

import numpy as np

from fedbias.optimizers import HeavyBall
from simulations.reproductions.biases.cases import CASES, step_sizes
from simulations.reproductions.biases.floors import follow


@cache
def problem_of(name):
    return CASES[name].make(**CASES[name].arguments)


def start_of(name):
    return np.full(problem_of(name).objectives[0].dim, CASES[name].start)


@cache
def run(name, beta, step_size, rounds=60, seed=0):
    case = CASES[name]
    return follow(
        problem_of(name),
        HeavyBall(step_size, beta),
        start_of(name),
        rounds,
        estimator=case.estimator,
        batch_size=case.batch_size,
        seed=seed,
    )


def covered_step(name):
    return step_sizes(problem_of(name), start_of(name), 0.1)[0]
