"""Clients with very different amounts of noisy data, on which batch sizes grow."""

import numpy as np

from fedbias.problems import Squares


def uneven(*sizes, dim=4, seed=0):
    """Least squares around (1, …, 1) with targets of noise 1, one client per size."""
    rng = np.random.default_rng(seed)
    rows = [rng.standard_normal((size, dim)) for size in sizes]
    return [Squares(r, r.sum(axis=1) + rng.standard_normal(len(r))) for r in rows]
