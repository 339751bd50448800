"""Differential quantization (arXiv 2002.02508) as a Flower strategy."""

from __future__ import annotations

from typing import Any

import fedbias as fb

from .fedbias import FedBias


def differential_quantization(
    optimizer: fb.Optimizer,
    compressor: fb.Compressor,
    feedback: fb.Feedback = fb.ef21(),
    **settings: Any,
) -> FedBias:
    """Quantized gradients whose errors are made good: by EF21, or by the paper's own method.

    Parameters
    ----------
    optimizer : Optimizer
        ``fb.gradient_descent``, ``fb.nesterov`` or ``fb.polyak`` (ef21: any); their parameters for
        an L-smooth, μ-strongly convex loss are ``fb.theory.tuned(method, L, μ).optimizer``.
    compressor : Compressor
        The quantizer: ``fb.uniform(bits=4)``, ``fb.lattice("E8", bits=3)``, ….
    feedback : Feedback
        ``fb.ef21()`` for clients that differ, or of which some are silent: of five feedbacks the
        only one without a floor there and by far the closest at 2 to 4 bits (the command
        ``reproduce feedback``, whose rule this default follows).
        ``fb.differential(radius=fb.preset_radius(L, μ, D))`` for one client, or identical ones: the
        paper's method and guarantee: gradients along the unquantized trajectory, exactly n·R
        payload bits a round, and a model that follows at max{σ, φ(a)} (:mod:`fedbias.theory`).
    **settings
        :class:`FedBias`'s.

    Notes
    -----
    NOT guaranteed: ef21's step size is the uncompressed method's only where the quantizer loses
    little (with E8 at two bits it diverged once); the paper's method keeps a floor, or diverges,
    for clients that differ.
    """
    return FedBias(optimizer, compressor=compressor, feedback=feedback, **settings)
