"""What a pair makes of its models, and how far apart all of them are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedbias.vectors import Vector, squared_norm


def averaged(own: Vector, sent: Vector, partner: Vector, mixing: float) -> Vector:
    """A client's model after its pair has met, shape (dim,).

    X + mixing·(v_j − v_i)/2, written so that without loss (v = X) both get the same bits. The sum
    over the pair stays what it was, up to rounding, whatever compression lost.

    Parameters
    ----------
    own : ndarray
        X'_i.
    sent, partner : ndarray
        v_i and v_j: what is known of the two models on both sides.
    mixing : float
        1 is the whole way to the mean.
    """
    met: Vector = (sent + partner) / 2
    if sent is not own:
        met = met + (own - sent)
    return met if mixing == 1 else own + mixing * (met - own)


def mean_and_spread(models: Sequence[Vector]) -> tuple[Vector, float]:
    """The mean model μ, shape (dim,), and Γ = (1/n)·Σ‖X_i − μ‖²."""
    mean: Vector = np.mean(models, axis=0)
    return mean, sum(squared_norm(model - mean) for model in models) / len(models)
