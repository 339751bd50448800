"""Range schedules r_0, r_1, …: bounds on what a quantizer is given, known before the run.

All of them need ‖x_0 − x*‖ ≤ D, exact gradients and ‖e_i‖ ≤ a·r_i; then ‖u_i‖ ≤ r_i always (for
polyak: if f is quadratic). Where
errors enter the point itself (all but the differential ones) they are for gradient descent, with
δ_i ≥ ‖(unquantized step's argument) − x*‖. The differential schedule is the paper's
(arXiv 2002.02508); the others follow from the triangle inequality in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from fedbias.optimizers import GradientDescent

from .quantization import Tuned, transient


def differential_radii(
    method: Tuned, lipschitz: float, distance: float, a: float
) -> Iterator[float]:
    """r_i = L·C_i·D·σ^i + a[(1+γ)r_{i−1} + γ·r_{i−2}], for GD, NAG and HB."""
    gamma, last, earlier = method.momentum, 0.0, 0.0
    for i in count():
        r = _gradient(method, lipschitz, distance, i) + a * ((1 + gamma) * last + gamma * earlier)
        last, earlier = r, last
        yield r


def memory_radii(method: Tuned, lipschitz: float, distance: float, a: float) -> Iterator[float]:
    """Differential quantization of differences, u_i = ∇f(z_i) − h_{i−1} − c_i.

    h_i = ∇f(z_i) − c_i + e_i, so u_i is ∇f(z_i) − ∇f(z_{i−1}) and the errors
    −(2+γ)e_{i−1} + (1+2γ)e_{i−2} − γe_{i−3}. Shrinks only if a < 1/3, for GD.
    """
    gamma, r1, r2, r3, before = method.momentum, 0.0, 0.0, 0.0, 0.0
    for i in count():
        now = _gradient(method, lipschitz, distance, i)
        r = now + before + a * ((2 + gamma) * r1 + (1 + 2 * gamma) * r2 + gamma * r3)
        r1, r2, r3, before = r, r1, r2, now
        yield r


def naive_radii(method: Tuned, lipschitz: float, distance: float, a: float) -> Iterator[float]:
    """u_i = ∇f(x̂_i): r_i = Lδ_i, δ_{i+1} = σδ_i + ηa·r_i, hence (σ + (1+σ)a)^i·LD."""
    eta, delta = _descent(method), distance
    while True:
        r = lipschitz * delta
        delta = method.rate * delta + eta * a * r
        yield r


def error_feedback_radii(
    method: Tuned, lipschitz: float, distance: float, a: float
) -> Iterator[float]:
    """u_i = ∇f(x̂_i) − e_{i−1} with x̂_i = z_i − ηe_{i−1}, not shifted back.

    r_i = L(δ_i + ηa·r_{i−1}) + a·r_{i−1} and δ_{i+1} = σδ_i + η²L·a·r_{i−1}, δ_i ≥ ‖z_i − x*‖.
    """
    eta, delta, last = _descent(method), distance, 0.0
    while True:
        r = lipschitz * (delta + eta * a * last) + a * last
        delta = method.rate * delta + eta**2 * lipschitz * a * last
        last = r
        yield r


def ef21_radii(method: Tuned, lipschitz: float, distance: float, a: float) -> Iterator[float]:
    """u_i = ∇f(x̂_i) − h_{i−1} with h_i = ∇f(x̂_i) + e_i and x̂_{i+1} = x̂_i − ηh_i.

    r_{i+1} = Lη(Lδ_i + a·r_i) + a·r_i and δ_{i+1} = σδ_i + ηa·r_i.
    """
    eta, delta, r = _descent(method), distance, lipschitz * distance
    while True:
        yield r
        error = a * r
        r = lipschitz * eta * (lipschitz * delta + error) + error
        delta = method.rate * delta + eta * error


def _gradient(method: Tuned, lipschitz: float, distance: float, i: int) -> float:
    return lipschitz * transient(method, i) * distance * method.rate**i


def _descent(method: Tuned) -> float:
    """η of gradient descent (ValueError for another method)."""
    if not isinstance(method.optimizer, GradientDescent):
        raise ValueError(f"this schedule is for gradient descent, not for {method.optimizer}")
    return method.optimizer.step_size
