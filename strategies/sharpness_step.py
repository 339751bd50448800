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
    sharpness: fb.Lanczos | int = fb.lanczos(every=10),
    hysteresis: float = 0.1,
    smallest: float = 1e-6,
    largest: float = math.inf,
    **settings: Any,
) -> FedBias:
    """Step size η_k = c/λ̂_k, where λ̂_k estimates the top eigenvalue of the mean loss's Hessian.

    Parameters
    ----------
    c : float
        In (0, 2) for plain steps, (0, 2(2−β)/β) for ``heavy_ball`` (β = 1: plain steps),
        (0, 2(1+γ)) for ``polyak`` and (0, 2(1+γ)/(1+2γ)) for ``nesterov``: up to where a quadratic
        of curvature λ̂ would be stable.
    optimizer : Optimizer
        ``gradient_descent``, ``heavy_ball``, ``polyak`` or ``nesterov``; its own step size holds
        until there is a measurement.
    sharpness : Lanczos
        When and how λ̂ is measured. Between two measurements the step size stays: where the
        sharpness rises fast, measure often or keep away from the limit.
    hysteresis, smallest, largest : float
        η falls at once, rises only by more than the share ``hysteresis``, and stays between the
        bounds; see :func:`fedbias.by_sharpness`. Where training begins the loss may be flat: set
        ``largest``, or the first steps may be too long to come back from.
    **settings
        :class:`FedBias`'s: ``estimator`` (of the gradient: not ``local_steps``), ``compressor``,
        ``feedback`` (not one that counts on a constant step size), …

    Notes
    -----
    Where λ̂ ≤ 0, or cannot be measured, the last step size stays, and the log says so. It saves the
    search for a step size, at the price of the products; a fixed step that was searched for may be
    faster and end flatter (``reproduce edge-of-stability``). NOT guaranteed: descent. The loss is
    not a quadratic. Where all clients are measured λ̂ is at most the largest eigenvalue, and may be
    another one; of a sample of them it leans upwards. What compression and mini-batches add to the
    steps is not in it.
    """
    rule = fb.by_sharpness(c, hysteresis, smallest, largest)
    return FedBias(optimizer, sharpness=sharpness, steering=rule, **settings)
