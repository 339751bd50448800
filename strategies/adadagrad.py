"""AdAdaGrad: adaptive steps and adaptive batch sizes together (arXiv 2402.11215), over Flower."""

from __future__ import annotations

from typing import Any

import fedbias as fb

from .fedbias import FedBias


def adadagrad(
    step_size: float,
    batch_size: fb.BatchSize,
    estimator: fb.Estimator = fb.minibatch(),
    **settings: Any,
) -> FedBias:
    """AdaGrad, S ← S + g² and x ← x − αg/√S per coordinate, with batches that grow on demand.

    Parameters
    ----------
    step_size : float
        α > 0.
    batch_size : BatchSize
        ``fb.norm_test(eta=0.5, initial=8, maximum=256)``, or another test. The paper's theorem for
        AdaGrad asks for ``fb.coordinate_test``; its experiments use the norm test.
    estimator : Estimator
        ``fb.minibatch()``, or ``fb.local_steps(…)`` with a local test.
    **settings
        :class:`FedBias`'s.

    Notes
    -----
    NOT guaranteed: the theorem's condition. The test knows ĝ, not ∇f, and chooses the size of the
    NEXT batch; what compression does to ĝ it takes for gradient.
    """
    return FedBias(fb.adagrad(step_size), estimator, batch_size=batch_size, **settings)


def adadagrad_norm(
    step_size: float,
    batch_size: fb.BatchSize,
    estimator: fb.Estimator = fb.minibatch(),
    *,
    initial: float = 0.0,
    **settings: Any,
) -> FedBias:
    """AdaGrad-Norm, S ← S + ‖g‖² and x ← x − αg/√S, with batches that grow on demand.

    If in every round E ĝ = ∇f and E‖ĝ − ∇f‖² ≤ η²‖∇f‖², and S_0 > 0, then (1/K)Σ‖∇f(x_k)‖² falls
    as 1/K with high probability, for smooth f, convex or not
    (:func:`fedbias.theory.adagrad_norm_bound`).

    Parameters
    ----------
    step_size : float
        α > 0.
    batch_size : BatchSize
        ``fb.norm_test(eta=0.5, initial=8, maximum=256)``, or another test.
    estimator : Estimator
        ``fb.minibatch()``, or ``fb.local_steps(…)`` with a local test.
    initial : float
        S_0 ≥ 0.
    **settings
        :class:`FedBias`'s.

    Notes
    -----
    NOT guaranteed: that condition. The test has estimates of both sides, a round late; it cannot
    hold once b is at its maximum or at the clients' data; clients that differ and stay away, biased
    compression and reshuffling break E ĝ = ∇f.
    """
    optimizer = fb.adagrad_norm(step_size, initial)
    return FedBias(optimizer, estimator, batch_size=batch_size, **settings)
