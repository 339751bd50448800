"""Zeroth- and first-order clients in one federation (arXiv 2210.07703).

A zeroth-order estimate is the mean of s_k u_k over n directions u_k ~ N(0, I) in R^d, with the
slope s_k = ⟨u_k, ∇F⟩ or a difference of F that stands for it. Since E uuᵀ = I and
E‖uuᵀg‖² = (d+2)‖g‖², one direction has the mean ∇F and (d+1)‖∇F‖² of spread about it.
"""

from __future__ import annotations

import math

from fedbias import checks


def difference_bias(radius: float, lipschitz: float, dim: int) -> float:
    """(ν/2)·L·(d+3)^{3/2} ≥ ‖E g − ∇F(x)‖, for the forward and for the central difference.

    Nesterov and Spokoiny 2017, for an L-smooth F. It is loose: the mean is that of ∇F(x+νu), so
    the bias is below νL√d as well, 2√d/(d+3)^{3/2} of the bound: a quarter of it at d = 1, about
    2/d for many. √(2/π) of that is reached, where ∂_jF = L|x_j| and x = 0.

    Parameters
    ----------
    radius : float
        ν.
    lipschitz : float
        L.
    dim : int
        d.
    """
    checks.real("difference_bias", "radius", radius, least=0)
    checks.real("difference_bias", "lipschitz", lipschitz, least=0)
    checks.whole("difference_bias", "dim", dim, least=1)
    return radius / 2 * lipschitz * math.pow(dim + 3, 1.5)


def relative_error(dim: int, directions: int) -> float:
    """(d+1)/n = E‖g − ∇F‖²/‖∇F‖² for exact slopes along n directions.

    Also for central differences where F is quadratic. Forward differences there add
    (ν²/4)·(d+4)·((tr H)² + 2·tr H²)/n to E‖g − ∇F‖².
    """
    checks.whole("relative_error", "dim", dim, least=1)
    checks.whole("relative_error", "directions", directions, least=1)
    return (dim + 1) / directions


def variance_ratio(dim: int, directions: int) -> float:
    """1 + (d+1)/n = k: the second moment E‖g‖² of a zeroth-order client, in a first-order one's.

    For slopes of the same batches. It is the ratio of the variances too where ∇F(x) = 0; elsewhere
    that is larger, k + ((d+1)/n)·‖∇F‖²/σ², with σ² the first-order client's variance.
    """
    return 1 + relative_error(dim, directions)


def averaged_variance(first_order: int, zeroth_order: int, ratio: float, weights: str) -> float:
    """Variance of the mean of n_1 + n_0 independent estimates, in units of one first-order one.

    (n_1 + k·n_0)/(n_1 + n_0)² with uniform weights; 1/(n_1 + n_0/k) with weights 1/variance, the
    least that any weights have, below either population alone.

    Parameters
    ----------
    first_order, zeroth_order : int
        n_1 and n_0, not both 0.
    ratio : float
        k, a zeroth-order estimate's variance in units of a first-order one's.
    weights : {"uniform", "inverse_variance"}
    """
    who = "averaged_variance"
    checks.whole(who, "first_order", first_order, least=0)
    checks.whole(who, "zeroth_order", zeroth_order, least=0 if first_order else 1)
    checks.real(who, "ratio", ratio, above=0)
    checks.choice(who, "weights", weights, ("uniform", "inverse_variance"))
    if weights == "inverse_variance":
        return 1 / (first_order + zeroth_order / ratio)
    clients = first_order + zeroth_order
    return (first_order + ratio * zeroth_order) / (clients * clients)


def pair_contraction(clients: int) -> float:
    """1 − 1/(n−1) = E Γ'/Γ, where one uniformly random pair of n clients averages its models.

    Γ = (1/n)·Σ‖X_i − X̄‖². A pair that averages takes ‖X_i − X_j‖²/2 from nΓ, and the mean of
    ‖X_i − X_j‖² over all the pairs is 2nΓ/(n−1).
    """
    checks.whole("pair_contraction", "clients", clients, least=2)
    return 1 - 1 / (clients - 1)


def matching_contraction(clients: int) -> float:
    """E Γ'/Γ, where the pairs of a uniformly random near-perfect matching average their models.

    There are ⌊n/2⌋ of them, each as likely to be any pair as the one of :func:`pair_contraction`,
    and what they take from Γ adds up: 1 − ⌊n/2⌋/(n−1). That is (n−2)/(2(n−1)) for an even n, and
    1/2 for an odd one, of which a client idles.
    """
    checks.whole("matching_contraction", "clients", clients, least=2)
    return 1 - (clients // 2) / (clients - 1)
