"""Step sizes from the measured sharpness of the global loss (after arXiv 2501.09137)."""

from __future__ import annotations

import math
from typing import Any

import fedbias as fb

from .fedbias import FedBias


def sharpness_step(
    c: float,
    optimizer: fb.Optimizer = fb.gradient_descent(step_size=0.01),
    *,
    sharpness: fb.Lanczos = fb.lanczos(every=10),
    hysteresis: float = 0.1,
    smallest: float = 1e-6,
    largest: float = math.inf,
    **settings: Any,
) -> FedBias:
    """Step size η_k = c/λ̂_k, where λ̂_k is the top eigenvalue of the mean loss's Hessian.

    Parameters
    ----------
    c : float
        In (0, 2) for plain steps and (0, 2(2−β)/β) for ``heavy_ball``: up to where a quadratic of
        curvature λ̂ would be stable. Above 1, larger is nearer to the edge: the paper's trade
        between speed and a flat minimum.
    optimizer : Optimizer
        ``gradient_descent``, ``heavy_ball``, ``polyak`` or ``nesterov``; its own step size holds
        until there is a measurement.
    sharpness : Lanczos
        When and how λ̂ is measured. Between two measurements the step size stays: where the
        sharpness rises fast, measure often or keep away from the limit.
    hysteresis, smallest, largest : float
        η falls at once, rises only by more than the share ``hysteresis``, and stays between the
        bounds; see :func:`fedbias.by_sharpness`.
    **settings
        :class:`FedBias`'s: ``estimator`` (of the gradient: not ``local_steps``), ``compressor``,
        ``feedback`` (not one that counts on a constant step size), …

    Notes
    -----
    Where λ̂ ≤ 0, or cannot be measured, the last step size stays, and the log says so. NOT
    guaranteed: descent. The loss is not a quadratic, and λ̂ is at most the largest eigenvalue; what
    compression and mini-batches add to the steps is not in it.
    """
    rule = fb.by_sharpness(c, hysteresis, smallest, largest)
    return FedBias(optimizer, sharpness=sharpness, steering=rule, **settings)
