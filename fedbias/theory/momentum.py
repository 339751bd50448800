"""Parallel momentum (arXiv 2403.00853): the recursions, as functions.

v_k = (1−β)v_{k−1} + βg_k, x_{k+1} = x_k − γv_k, with g_k = ∇f(x_k) + b_k, f L-smooth. The
inequalities were derived for this form and are checked numerically by the tests;
E_k = ‖v_k − ∇f(x_k)‖².
"""

from __future__ import annotations

import math


def momentum_step_limit(lipschitz: float, beta: float, *, pl: bool = False) -> float:
    """The largest γ for which the Lyapunov inequality holds.

    The positive root of 4γ²L²/β² + γL = 1, or of 8γ²L²/β² + γL = 1 for the μ-PL form.
    """
    factor = (8 if pl else 4) / beta**2
    return (math.sqrt(1 + 4 * factor) - 1) / (2 * factor * lipschitz)


def momentum_potential(
    gap: float, velocity_error: float, step_size: float, beta: float, *, pl: bool = False
) -> float:
    """φ = f − f* + (γ/β)E, or with 2γ/β in the μ-PL form.

    Parameters
    ----------
    gap : float
        f(x_k) − f*.
    velocity_error : float
        E_k = ‖v_k − ∇f(x_k)‖².
    """
    return gap + (2 if pl else 1) * step_size / beta * velocity_error


def momentum_descent(
    potential: float, gradient_square: float, next_bias_square: float, step_size: float
) -> float:
    """The bound φ_k − (γ/2)‖∇f(x_k)‖² + γ‖b_{k+1}‖² on φ_{k+1}, for non-convex f.

    Valid for γ up to :func:`momentum_step_limit`.
    """
    return potential - step_size / 2 * gradient_square + step_size * next_bias_square


def momentum_contraction(
    potential: float,
    next_bias_square: float,
    step_size: float,
    beta: float,
    strong_convexity: float,
) -> float:
    """The bound (1 − min(γμ, β/4))·φ_k + 2γ‖b_{k+1}‖² on φ_{k+1}, for μ-PL f.

    Valid for γ up to :func:`momentum_step_limit` with ``pl=True``.
    """
    rate = min(step_size * strong_convexity, beta / 4)
    return (1 - rate) * potential + 2 * step_size * next_bias_square


def momentum_floor(bias_square: float, strong_convexity: float) -> float:
    """2C/μ: where φ ends at the latest if ‖b_k‖² ≤ C always and γμ ≤ β/4, for μ-PL f."""
    return 2 * bias_square / strong_convexity
