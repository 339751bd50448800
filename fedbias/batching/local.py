"""Tests that each client makes of its own batch; the server takes the largest size asked for."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from fedbias.notation import setting
from fedbias.objectives import Statistics
from fedbias.vectors import Vector, squared_norm

from .base import BatchTest, Evidence, ratio


class _LocalTest(BatchTest):
    """A test of each client's own batch; the server takes the largest size that one asks for.

    It needs ⟨g_i, ḡ⟩ or single coordinates, for which the mean over clients would have to come down
    a round late and at d numbers; the client's own ḡ_m is there. With H local steps the test looks
    at the last of them.
    """

    local = True

    def wanted(self, size: int, evidence: Evidence) -> float:
        asked = [reply.statistic for reply in evidence.replies if reply.statistic is not None]
        return max(asked, default=math.nan)


@setting("local_norm_test")
class LocalNormTest(_LocalTest):
    """b = max_m tr Σ_m/(η²‖ḡ_m‖²), each client for itself (arXiv 2406.13936).

    For local steps, whose pseudo-gradient has no variance that the server could compute. Stricter
    than :func:`norm_test`: it does not see that averaging M clients divides the noise by M.
    """

    eta: float  # η
    maximum: int
    initial: int = 2

    measures = "trace"

    def statistic(self, found: Statistics) -> float:
        return ratio(found.trace, self.eta * (self.eta * squared_norm(found.gradient)))


@setting("inner_product_test")
class InnerProductTest(_LocalTest):
    """b = max_m Var_i⟨g_i, ḡ_m⟩/(ϑ²‖ḡ_m‖⁴): noise along the gradient alone.

    Local, see :class:`LocalNormTest`; noise across the gradient goes unnoticed.
    """

    theta: float  # ϑ
    maximum: int
    initial: int = 2

    measures = "along"

    def statistic(self, found: Statistics) -> float:
        return _inner_product(found, self.theta)


@setting("augmented_test")
class AugmentedTest(_LocalTest):
    """The inner-product test, and b ≥ Σ_j Var_i(g_i − (⟨g_i, ḡ_m⟩/‖ḡ_m‖²)ḡ_m)_j/(ν²‖ḡ_m‖²).

    The noise across the gradient is tr Σ_m less the noise along it.
    """

    theta: float  # ϑ
    nu: float  # ν
    maximum: int
    initial: int = 2

    measures = "along"

    def statistic(self, found: Statistics) -> float:
        square = squared_norm(found.gradient)
        across = max(0.0, found.trace - ratio(found.along, square))
        orthogonal = ratio(across, self.nu * (self.nu * square))
        return float(np.maximum(_inner_product(found, self.theta), orthogonal))


@setting("coordinate_test")
class CoordinateTest(_LocalTest):
    """b = max_m max_j Var_ij/(η²ḡ_mj²), with one η for all coordinates.

    Coordinates with ḡ_mj = 0 are left out. One that is merely close to 0 asks for any size, so this
    test soon reaches the maximum.
    """

    eta: float  # η
    maximum: int
    initial: int = 2

    measures = "variances"

    def statistic(self, found: Statistics) -> float:
        means = found.gradient.astype(np.float64)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            asked = cast(Vector, found.variances) / (float(self.eta) * means) ** 2
        return float(np.max(asked, initial=-math.inf, where=np.isfinite(asked)))


def _inner_product(found: Statistics, theta: float) -> float:
    square = squared_norm(found.gradient)
    return ratio(ratio(found.along, square), theta * (theta * square))


local_norm_test, inner_product_test = LocalNormTest, InnerProductTest
augmented_test, coordinate_test = AugmentedTest, CoordinateTest
