"""Adaptive batch sizes (arXiv 2402.11215): what the norm test is worth to AdaGrad-Norm.

x_{k+1} = x_k − αg_k/√S_k with S_k = S_{k−1} + ‖g_k‖² and S_0 > 0, for k = 1 … K; f is L-smooth and
Δ = f(x_1) − inf f. The test's condition is E_k[g_k] = ∇f(x_k) and E_k‖g_k − ∇f(x_k)‖² ≤
η²‖∇f(x_k)‖², where E_k knows all before g_k; so E_k‖g_k‖² ≤ c‖∇f(x_k)‖² with c = 1 + η².

The argument is that of Faw et al. 2022 and Wang et al. 2023 (both COLT) for affine variance, with
no additive part and with the constants kept. Write ∇_k = ∇f(x_k), A = E Σ‖∇_k‖²/√S_{k−1} and
Y = E√S_K; all are finite, as a step has at most the length α.

1. f(x_{k+1}) ≤ f(x_k) − α⟨∇_k, g_k⟩/√S_k + (Lα²/2)‖g_k‖²/S_k, and Σ‖g_k‖²/S_k ≤ ln(S_K/S_0).
2. 1/√S_k = 1/√S_{k−1} − ‖g_k‖²/(√S_{k−1}·√S_k·(√S_{k−1} + √S_k)). With the first part the inner
   product is ‖∇_k‖²/√S_{k−1} on average. The second costs, as ‖g_k‖ ≤ √S_k, at most
   (‖∇_k‖/√S_{k−1})·E_k[‖g_k‖·q], q = ‖g_k‖/(√S_{k−1} + √S_k); by Cauchy-Schwarz E_k[‖g_k‖·q] ≤
   √c·‖∇_k‖·√E_k[q²] ≤ ‖∇_k‖·(1 + c·E_k[q²])/2; and q²/√S_{k−1} ≤ 1/√S_{k−1} − 1/√S_k.
3. By parts, Σ‖∇_k‖²·(1/√S_{k−1} − 1/√S_k) ≤ ‖∇_1‖²/√S_0 + Σ(‖∇_{k+1}‖² − ‖∇_k‖²)/√S_k. As
   ‖∇_{k+1}‖ ≤ ‖∇_k‖ + Lα‖g_k‖/√S_k, a term of the last sum is at most, by Young,
   ‖∇_k‖²/(2c√S_{k−1}) + (1 + 2c)·L²α²·‖g_k‖²/S_k^{3/2}, and Σ‖g_k‖²/S_k^{3/2} ≤ 2/√S_0.
4. Together, α/2 − α/4 of A being left: A ≤ 4Δ/α + (2c/√S_0)·(‖∇_1‖² + 2(1 + 2c)·L²α²)
   + 4Lα·ln(Y/√S_0), where ln is concave.
5. √S_k − √S_{k−1} ≤ ‖g_k‖²/(2√S_{k−1}), so Y ≤ √S_0 + cA/2. Put into 4, y = Y/√S_0 satisfies
   y ≤ 1 + p + q·ln y, which bounds it whatever K is.
6. (E√Σ‖∇_k‖²)² ≤ E[Σ‖∇_k‖²/√S_K]·E√S_K ≤ A·Y.
"""

from __future__ import annotations

import math

from fedbias import checks


def adagrad_norm_bound(
    *,
    gap: float,
    gradient_square: float,
    lipschitz: float,
    step_size: float,
    initial: float,
    eta: float,
) -> float:
    """C in (E√Σ_k‖∇f(x_k)‖²)² ≤ C: O(1/K) for AdaGrad-Norm under the norm test's condition.

    C = 2S_0·y(y − 1)/c, with y the largest solution of y = 1 + p + q·ln y, c = 1 + η²,
    p = 2cΔ/(α√S_0) + c²·(‖∇f(x_1)‖² + 2(1 + 2c)·L²α²)/S_0 and q = 2cLα/√S_0.

    It does not depend on K, so it holds for the infinite sum. By Markov's inequality
    (1/K)·Σ_{k≤K}‖∇f(x_k)‖² ≤ C/(δ²K) for ALL K at once, with probability at least 1 − δ. It is
    no bound on E Σ‖∇f(x_k)‖². As S_0 → ∞, C is four times what runs reach; where S_0 is below
    (Lα)² it is loose, and grows as (Lα)⁴/S_0.

    The condition is about the exact variance and the exact gradient, in every round.
    ``fb.norm_test`` estimates both, and from the round before, so in some rounds its runs are
    above its own η: a few in a hundred.

    Parameters
    ----------
    gap : float
        Δ = f(x_1) − inf f at the start x_1.
    gradient_square : float
        ‖∇f(x_1)‖².
    lipschitz : float
        L.
    step_size : float
        α.
    initial : float
        S_0 > 0.
    eta : float
        η; 0 for exact gradients. Above 1 it is allowed too.
    """
    who = "adagrad_norm_bound"
    checks.real(who, "gap", gap, least=0)
    checks.real(who, "gradient_square", gradient_square, least=0)
    checks.real(who, "lipschitz", lipschitz, above=0)
    checks.real(who, "step_size", step_size, above=0)
    checks.real(who, "initial", initial, above=0)
    checks.real(who, "eta", eta, least=0)
    c, root, slip = 1 + eta**2, math.sqrt(initial), lipschitz * step_size
    p = 2 * c * gap / (step_size * root)
    p += c**2 * (gradient_square + 2 * (1 + 2 * c) * slip**2) / initial
    y = _largest_root(p, 2 * c * slip / root)
    return 2 * initial * y * (y - 1) / c


def _largest_root(p: float, q: float) -> float:
    """The largest solution of y = 1 + p + q·ln y, for p, q > 0, by Newton's method from above."""
    # Beyond it, as ln y ≤ y/(2q) + ln(2q) − 1. The excess is convex, so that Newton's steps fall to
    # the root and stop there.
    y = 2 * (1 + p) + 2 * q * (math.log(2 * q) - 1)
    while (lower := y - (y - 1 - p - q * math.log(y)) / (1 - q / y)) < y:
        y = lower
    return y
