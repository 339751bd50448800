"""Differential quantization (arXiv 2002.02508): contraction factors, thresholds, coverings.

f is L-smooth and μ-strongly convex on R^n, κ = L/μ; the quantizer has ‖e‖ ≤ a·r with
a = ρ·2^(−R), ρ its covering efficiency and R its bits per dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedbias import checks
from fedbias.lattices import A2, D4, E8
from fedbias.leech import LEECH
from fedbias.optimizers import GradientDescent, Nesterov, Optimizer, Polyak

METHODS = ("gradient_descent", "nesterov", "polyak")
_LATTICES = {code.name: code for code in (A2, D4, E8, LEECH)}


@dataclass(frozen=True)
class Tuned:
    """A classical method with the parameters that its rate is known for.

    Attributes
    ----------
    optimizer : Optimizer
    momentum : float
        γ; 0 for gradient descent.
    rate : float
        σ: without quantization ‖x_i − x*‖ ≤ C_i·σ^i·‖x_0 − x*‖, see :func:`transient`. For polyak
        only where f is quadratic, or near x*.
    condition : float
        κ.
    """

    optimizer: Optimizer
    momentum: float
    rate: float
    condition: float


def tuned(method: str, lipschitz: float, strong_convexity: float) -> Tuned:
    """The method with its classical parameters.

    GD η = 2/(L+μ), σ = (κ−1)/(κ+1). NAG η = 1/L, γ = (√κ−1)/(√κ+1), σ = √(1−1/√κ).
    HB η = 4/(√L+√μ)², γ = ((√κ−1)/(√κ+1))², σ = (√κ−1)/(√κ+1).

    Parameters
    ----------
    method : {"gradient_descent", "nesterov", "polyak"}
    lipschitz, strong_convexity : float
        L ≥ μ > 0.
    """
    checks.choice("tuned", "method", method, METHODS)
    checks.real("tuned", "strong_convexity", strong_convexity, above=0)
    checks.real("tuned", "lipschitz", lipschitz, least=strong_convexity)
    kappa = lipschitz / strong_convexity
    root = math.sqrt(kappa)
    slow = (root - 1) / (root + 1)
    if method == "gradient_descent":
        step = 2 / (lipschitz + strong_convexity)
        return Tuned(GradientDescent(step), 0.0, (kappa - 1) / (kappa + 1), kappa)
    if method == "nesterov":
        return Tuned(Nesterov(1 / lipschitz, slow), slow, math.sqrt(1 - 1 / root), kappa)
    step = 4 / (math.sqrt(lipschitz) + math.sqrt(strong_convexity)) ** 2
    return Tuned(Polyak(step, slow**2), slow**2, slow, kappa)


def transient(method: Tuned, step: int) -> float:
    """C_i in ‖∇f(z_i)‖ ≤ L·C_i·D·σ^i: 1 (GD), √(κ+1) (NAG), 2(i+1)√κ (HB)."""
    match method.optimizer:
        case GradientDescent():
            return 1.0
        case Nesterov():
            return math.sqrt(method.condition + 1)
    return 2 * (step + 1) * math.sqrt(method.condition)


def error_growth(a: float, momentum: float) -> float:
    """φ(a) = ½[a(1+γ) + √(a²(1+γ)² + 4aγ)]: the rate of the ranges by themselves; a for γ = 0.

    The largest root of λ² = a[(1+γ)λ + γ], the recursion of the ranges.
    """
    linear = a * (1 + momentum)
    return (linear + math.sqrt(linear**2 + 4 * a * momentum)) / 2


def contraction(method: Tuned, a: float) -> float:
    """max{σ, φ(a)}: what the differentially quantized method contracts by."""
    return max(method.rate, error_growth(a, method.momentum))


def naive_contraction(method: Tuned, a: float) -> float:
    """σ + (1+σ)a: gradient descent that quantizes ∇f(x̂_i) itself, at η = 2/(L+μ)."""
    if not isinstance(method.optimizer, GradientDescent):
        raise ValueError(f"naive_contraction is known for gradient descent, not {method.optimizer}")
    return method.rate + (1 + method.rate) * a


def lossless_rate(method: Tuned, covering: float = 1.0) -> float:
    """The least R with φ(a) ≤ σ: max(0, log₂(ρ[(1+γ)σ+γ]/σ²)); ∞ for σ = 0 (κ = 1)."""
    checks.real("lossless_rate", "covering", covering, above=0)
    if method.rate == 0:
        return math.inf
    growth = (1 + method.momentum) * method.rate + method.momentum
    return max(0.0, math.log2(covering * growth) - 2 * math.log2(method.rate))


def converse(method: Tuned, bits: float) -> float:
    """max{σ, 2^(−R)}: no quantized gradient descent contracts faster with R bits a dimension.

    arXiv 2002.02508. For NAG and HB only the 2^(−R) in it is a bound from below, by counting balls:
    their σ is what is known from above, and on quadratics NAG is faster.
    """
    return max(method.rate, math.exp2(-bits))


def cube_covering(dim: int) -> float:
    """ρ = √n of b-bit scalars on the cube that encloses the ball."""
    return math.sqrt(dim)


def integer_covering(dim: int) -> float:
    """ρ of Z^n whose points are counted on the ball: (√n/2)·V_n^(1/n), below √(πe/2) = 2.066."""
    return math.sqrt(dim) / 2 * _ball(dim)


def lattice_covering(name: str) -> float:
    """ρ of a lattice whose points are counted on the ball: the n-th root of its thickness.

    A2 1.0996, D4 1.2533, E8 1.1914, Leech 1.0900. A nested code of the lattice, which has exactly
    2^(nb) points, does NOT reach it: see :class:`fedbias.compressors.nested.Lattice`.
    """
    checks.choice("lattice_covering", "name", name, tuple(_LATTICES))
    code = _LATTICES[name]
    square = float(np.linalg.det(code.basis @ code.basis.T))  # of the volume of a cell
    return code.covering_radius * _ball(code.dim) / math.pow(square, 0.5 / code.dim)


def _ball(dim: int) -> float:
    """V_n^(1/n), V_n the volume of the unit ball."""
    return math.sqrt(math.pi) / math.exp(math.lgamma(dim / 2 + 1) / dim)
