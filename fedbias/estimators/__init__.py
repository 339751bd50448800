"""What a client computes: estimates of ∇f_m, most of them biased.

An estimator is a setting with one method. ``needs`` names the capabilities it asks of the
objective (:mod:`fedbias.objectives`); ``inner`` is the estimator it transforms.
"""

from .base import Estimate, Estimator
from .first_order import Exact, Meta, Minibatch, exact, meta, minibatch
from .mixed import ByCapability, as_estimator, by_capability
from .transforms import (
    Clipped,
    LocalSteps,
    Normalised,
    clip,
    clipped,
    local_steps,
    normalised,
)
from .zeroth_order import ForwardGradient, TwoPoint, forward_gradient, two_point

__all__ = [
    "ByCapability",
    "Clipped",
    "Estimate",
    "Estimator",
    "Exact",
    "ForwardGradient",
    "LocalSteps",
    "Meta",
    "Minibatch",
    "Normalised",
    "TwoPoint",
    "as_estimator",
    "by_capability",
    "clip",
    "clipped",
    "exact",
    "forward_gradient",
    "local_steps",
    "meta",
    "minibatch",
    "normalised",
    "two_point",
]
