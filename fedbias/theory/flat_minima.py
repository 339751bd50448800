"""Gradient descent on L(a, b) = ½(aᵀb − Φ)² finds flatter minima than its flow (arXiv 2501.09137).

With ε = aᵀb − Φ, the squared norm λ = ‖a‖² + ‖b‖² and the imbalance
Q = ‖a+b‖·‖a−b‖ = √(λ² − 4(aᵀb)²), a step a − ηεb, b − ηεa multiplies a+b by 1 − ηε and a−b by
1 + ηε. Everything here follows from that, for any d, and is exact. At a minimum λ is the sharpness
too, the largest eigenvalue of ∇²L; so the flattest are those of least norm, with λ = 2|Φ| and
Q = 0. A point is a, then b, in one array of shape (2d,).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from fedbias.vectors import Vector, norm, squared_norm


def shallow_residual(point: Vector, target: float) -> float:
    """ε = aᵀb − Φ at a point of shape (2d,): a, then b."""
    a, b = np.split(point, 2)
    return float(a @ b) - target


def shallow_imbalance(point: Vector) -> float:
    """Q = ‖a+b‖·‖a−b‖ at a point of shape (2d,): a, then b; |a² − b²| for d = 1.

    0 only where b = ±a.
    """
    a, b = np.split(point, 2)
    return norm(a + b) * norm(a - b)


def shallow_sharpness(point: Vector, target: float) -> float:
    """The largest eigenvalue of ∇²L, at any point: λ/2 + √(λ²/4 + ε² + 2ε·aᵀb).

    A point has shape (2d,): a, then b.

    In the basis a+b, a−b the sum under the root is (ε + aᵀb)² + Q²/4, so it is taken that way.
    With the minus sign it is another eigenvalue, the others are ε and −ε, each d−1 times. None is
    above it, as (λ/2)² + ε² + 2ε·aᵀb ≥ (λ/2 − |ε|)²; nor is any of them in size.
    """
    across = math.hypot(2 * shallow_residual(point, target) + target, shallow_imbalance(point) / 2)
    return squared_norm(point) / 2 + across


def shallow_step(
    residual: float, squared_norm: float, imbalance: float, target: float, step_size: float
) -> tuple[float, float, float]:
    """(ε, λ, Q) after a step of gradient descent, from those before: three numbers for any d.

    ε⁺ = ε(1 − ηλ + η²ε(ε+Φ)), λ⁺ = (1 + η²ε²)λ − 4ηε(ε+Φ), Q⁺ = |1 − η²ε²|·Q.

    Parameters
    ----------
    residual, squared_norm, imbalance : float
        ε, λ = ‖a‖² + ‖b‖² and Q.
    target : float
        Φ.
    step_size : float
        η.
    """
    move, product = step_size * residual, residual + target  # ηε, aᵀb
    return (
        residual * (1 - step_size * squared_norm + step_size * move * product),
        (1 + move * move) * squared_norm - 4 * move * product,
        _shrinkage(move) * imbalance,
    )


def shallow_flow_limit(imbalance: float, target: float) -> float:
    """λ_GF = √(Q_0² + 4Φ²): the sharpness where the gradient flow ends, which conserves Q."""
    return math.hypot(imbalance, 2 * target)


def shallow_descent_limit(
    imbalance: float, residuals: Iterable[float], target: float, step_size: float
) -> float:
    """λ_∞ = √(Q_0²·Π_t(1−η²ε_t²)² + 4Φ²) ≥ 2|Φ|: the sharpness where gradient descent ends.

    Parameters
    ----------
    imbalance : float
        Q_0.
    residuals : iterable of float
        ε_0, ε_1, … at all the points that a step was taken from, of a run that converges; those
        that are left out at its end change Q by the factor 1 − η²·Σε_t², to first order.
    """
    left = math.prod(_shrinkage(step_size * value) for value in residuals)
    return shallow_flow_limit(left * imbalance, target)


def shallow_flatness_bound(
    imbalance: float, residuals: Iterable[float], target: float, step_size: float
) -> float:
    """λ_GF as an upper bound on λ_∞; it is one if η|ε_t| ≤ √2 throughout.

    Then no factor |1 − η²ε_t²| is above 1. Where some are, Q may grow, and λ_∞ may be above λ_GF:
    it need not be, as other factors may make up for them.

    Parameters
    ----------
    imbalance, residuals, target, step_size
        As in :func:`shallow_descent_limit`.

    Raises
    ------
    ValueError
        If η|ε_t| > √2 for some t.
    """
    for step, value in enumerate(residuals):
        if not (move := step_size * abs(value)) <= math.sqrt(2):  # NaN is not either
            raise ValueError(
                f"shallow_flatness_bound: step_size·|residual| must be at most √2 throughout, not "
                f"{move:g} as in step {step}: gradient descent may end sharper than its flow"
            )
    return shallow_flow_limit(imbalance, target)


def shallow_rate(step_size: float, limit: float) -> float:
    """|1 − ηλ_∞|: by what ε shrinks per step in the end; 1 or more if such a limit repels.

    The limit of |ε⁺/ε| = |1 − ηλ + η²ε(ε+Φ)|; a single step may be above or below it.
    """
    return abs(1 - step_size * limit)


def _shrinkage(move: float) -> float:
    """|1 − η²ε²| = Q⁺/Q for the move ηε, accurate where it is nearly 0."""
    return abs((1 - move) * (1 + move))
