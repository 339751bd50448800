"""Parallel momentum under biased gradients (arXiv 2403.00853) as a Flower strategy."""

from __future__ import annotations

from typing import Any

import fedbias as fb

from .fedbias import FedBias


def parallel_momentum(step_size: float, beta: float = 0.1, **settings: Any) -> FedBias:
    """Server-side momentum that filters the bias of compressed or clipped estimates.

    v_k = (1−β)v_{k−1} + βg_k with v_0 = g_0, x_{k+1} = x_k − γv_k; g_k is the mean of what the
    clients sent. The paper's clients are stateless: ``compressor=fb.top_k(…)`` or
    ``estimator=fb.clipped(…)`` with no feedback, which are passed on like all of
    :class:`FedBias`'s settings.

    Parameters
    ----------
    step_size : float
        γ > 0.
    beta : float
        β in (0, 1]; 1 is plain gradient descent, small is heavy momentum.

    Notes
    -----
    With a persistent bias ‖b_k‖² ≤ C the μ-PL guarantee is a floor of 2C/μ, not convergence
    (:func:`fedbias.theory.momentum_floor`); momentum averages noise, it does NOT remove a constant
    bias. ``feedback=fb.error_feedback()`` shrinks what compression leaves with the step size, for
    contractive compressors.
    """
    return FedBias(fb.heavy_ball(step_size, beta), **settings)
