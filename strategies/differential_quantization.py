"""Differential quantization (arXiv 2002.02508) as a Flower strategy."""

from __future__ import annotations

from typing import Any

import fedbias as fb

from .fedbias import FedBias


def differential_quantization(
    optimizer: fb.Optimizer,
    compressor: fb.Compressor,
    feedback: fb.Feedback = fb.differential(),
    **settings: Any,
) -> FedBias:
    """Train at R bits per dimension along the unquantized trajectory.

    Parameters
    ----------
    optimizer : Optimizer
        ``fb.gradient_descent``, ``fb.nesterov`` or ``fb.polyak``; their parameters for an L-smooth
        μ-strongly convex loss are ``fb.theory.tuned(method, L, μ).optimizer``.
    compressor : Compressor
        The quantizer: ``fb.uniform(bits=4)``, ``fb.lattice("E8", bits=2)``, ….
    feedback : Feedback
        ``fb.differential(radius=fb.preset_radius(L, μ, D))`` for one client, or identical ones:
        exactly n·R payload bits a round and the paper's guarantee.
    **settings
        :class:`FedBias`'s.

    Notes
    -----
    Exact for one client, or clients that are alike and all take part.
    """
    return FedBias(optimizer, compressor=compressor, feedback=feedback, **settings)
