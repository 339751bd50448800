"""Runs of AdaGrad-Norm with examples without limit, and what they went through."""

from dataclasses import dataclass

import numpy as np

import fedbias as fb
from fedbias.problems import GemanMcClure, noisy
from fedbias.vectors import squared_norm

DIM = 10
# Curvatures over four orders of magnitude: ‖∇f‖ falls through all of a long run, and b grows.
PROBLEM = GemanMcClure(np.geomspace(1, 1e-4, DIM))
START = np.ones(DIM)  # where f is not convex: every curvature is −c_j
LARGEST = 10**15  # which no run reaches


@dataclass(frozen=True)
class Followed:
    """‖∇f(x_k)‖², x_k being the point of round k, and the examples b_k of its estimate."""

    squares: np.ndarray
    sizes: np.ndarray

    def noise_ratios(self, sigma):
        """√(E‖ĝ_k − ∇f(x_k)‖²)/‖∇f(x_k)‖: what the norm test wants to be at most η."""
        return sigma * np.sqrt(DIM / self.sizes / self.squares)

    @property
    def slope(self):
        """Of log (1/k)Σ_{i≤k}‖∇f(x_i)‖² against log k over log-spaced k from 100 on."""
        rounds = np.unique(np.geomspace(100, len(self.squares), 60).astype(int))
        means = np.cumsum(self.squares)[rounds - 1] / rounds
        return np.polyfit(np.log(rounds), np.log(means), 1)[0]


def follow(rule, step_size, rounds, *, estimator=noisy(1.0), initial=1.0, seed=0):
    """AdaGrad-Norm on :data:`PROBLEM` from :data:`START`."""
    squares, sizes = [squared_norm(PROBLEM.gradient(START))], []

    def note(round, state, outcome):
        assert outcome.applied == (0,)
        squares.append(squared_norm(PROBLEM.gradient(state.point)))
        sizes.append(outcome.computed)

    fb.run(
        *([PROBLEM], fb.adagrad_norm(step_size, initial), START, rounds),
        estimator=estimator,
        batch_size=rule,
        on_round=note,
        keep="last",
        seed=seed,
    )
    return Followed(np.array(squares[:-1]), np.array(sizes, float))
