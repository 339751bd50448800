"""Zeroth- and first-order clients in one federation (after arXiv 2210.07703), over Flower."""

from __future__ import annotations

from typing import Any

import fedbias as fb

from .fedbias import FedBias


def hybrid_order(
    optimizer: fb.Optimizer,
    gradient: fb.Estimator | None = fb.minibatch(),
    directional: fb.Estimator | None = None,
    loss: fb.Estimator | None = fb.two_point(directions=8, radius=1e-3),
    *,
    weights: str = "uniform",
    **settings: Any,
) -> FedBias:
    """One model, and estimates by what each client can compute.

    The paper's clients own their models and meet in pairs (:class:`strategies.Gossip`); this is the
    star form, in which clients without back-propagation send a seed and their slopes alone.

    Parameters
    ----------
    optimizer : Optimizer
        The server's step on the mean of all the estimates.
    gradient, directional, loss : Estimator or None
        Of clients that have gradients; of those that have forward-mode derivatives; of those that
        have forward passes alone. None turns away clients that can do nothing else.
    weights : {"uniform", "examples", "inverse_variance"}
        Uniform and by examples: the mean over clients, which aims at the mean of their losses
        whatever each holds. A zeroth-order estimate has k = 1 + (d + 1)/directions times a
        gradient's variance at a stationary point, and more elsewhere; there n_0 of them beside n_1
        gradients leave (n_1 + k·n_0)/(n_0 + n_1)² of it: MORE than the gradients alone, 1/n_1,
        where n_0 < n_1·(k − 2). Inverse variance leaves 1/(n_1 + n_0/k), less than either kind
        alone; right where both kinds draw from the same data, otherwise it leans towards the
        gradient clients' data. It needs two replies of each kind in a round; until then, and with
        a single client of a kind for ever, it is uniform.
    **settings
        :class:`FedBias`'s: ``batch_size``, ``compressor`` (of the gradients), ``fraction``, …

    Notes
    -----
    Clients are believed which kind they are. NOT guaranteed: that zeroth-order clients help; by the
    variances above, with inverse variance n_0 of them are worth at most n_0/k gradient clients, and
    k grows with the model's size d.
    """
    estimator = fb.by_capability(gradient, directional, loss)
    return FedBias(optimizer, estimator, weights=weights, **settings)
