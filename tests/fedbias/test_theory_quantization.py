"""Paper B's numbers: parameters, thresholds, coverings and range schedules, by hand."""

import math
from itertools import islice

import numpy as np
import pytest

import fedbias as fb
from fedbias import theory

KAPPAS = [1.5, 10.0, 100.0, 1000.0]
each_method = pytest.mark.parametrize("method", theory.METHODS)
each_kappa = pytest.mark.parametrize("kappa", KAPPAS)


def test_tuned_parameters_by_hand():
    """L = 4, μ = 1. Kills: κ for √κ, a momentum that is not squared, 1/L for 2/(L+μ)."""
    descent = theory.tuned("gradient_descent", 4, 1)
    assert descent == theory.Tuned(fb.gradient_descent(0.4), 0.0, 0.6, 4)
    nesterov = theory.tuned("nesterov", 4, 1)
    assert nesterov == theory.Tuned(fb.nesterov(0.25, 1 / 3), 1 / 3, math.sqrt(0.5), 4)
    polyak = theory.tuned("polyak", 4, 1)
    assert polyak == theory.Tuned(fb.polyak(4 / 9, 1 / 9), 1 / 9, 1 / 3, 4)


@each_method
@each_kappa
def test_the_rate_is_that_of_the_worst_eigenvalue(method, kappa):
    """σ is the spectral radius of the step's matrix, over all curvatures from μ to L.

    For nesterov that is 1 − 1/√κ, below the σ of every strongly convex f. Kills: a rate of
    another method.
    """
    tuned = theory.tuned(method, 1.0, 1 / kappa)
    eta, gamma = tuned.optimizer.step_size, tuned.momentum
    radii = []
    for curvature in np.linspace(1 / kappa, 1, 201):
        step = 1 - eta * curvature
        first, second = (step * (1 + gamma), -step * gamma)
        if method == "polyak":
            first, second = (step + gamma, -gamma)
        radii.append(np.abs(np.linalg.eigvals([[first, second], [1.0, 0.0]])).max())
    expected = 1 - kappa**-0.5 if method == "nesterov" else tuned.rate
    assert max(radii) == pytest.approx(expected, abs=2e-8)
    assert max(radii) <= tuned.rate + 2e-8


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("gradient_descent", [0.290, 0.029, 0.003]),
        ("nesterov", [1.377, 1.499, 1.556]),
        ("polyak", [1.784, 1.604, 1.587]),
    ],
)
def test_the_rates_without_loss(method, expected):
    """At κ = 10, 100, 1000 and ρ = 1; log₂ρ more otherwise. Kills: a threshold of σ for σ²."""
    methods = [theory.tuned(method, kappa, 1) for kappa in (10, 100, 1000)]
    rates = [theory.lossless_rate(tuned) for tuned in methods]
    assert [round(rate, 3) for rate in rates] == expected
    for tuned, rate in zip(methods, rates, strict=True):
        assert theory.lossless_rate(tuned, 8.0) == pytest.approx(rate + 3, rel=1e-12)


@each_method
@each_kappa
@pytest.mark.parametrize("covering", [1.0, 4.0])
def test_the_lossless_rate_is_the_threshold(method, kappa, covering):
    """There φ(a) = σ; just below it the errors win, just above it they lose."""
    tuned = theory.tuned(method, kappa, 1)
    bits = theory.lossless_rate(tuned, covering)

    def growth(bits):
        return theory.error_growth(covering * 2**-bits, tuned.momentum)

    assert growth(bits) == pytest.approx(tuned.rate, rel=1e-12)
    assert growth(bits - 1e-6) > tuned.rate > growth(bits + 1e-6)
    a = covering * 2 ** -(bits + 0.5)
    assert theory.contraction(tuned, a) == tuned.rate
    a = covering * 2 ** -(bits - 0.5)
    assert theory.contraction(tuned, a) == growth(bits - 0.5)


def test_what_costs_no_bit_and_what_costs_infinitely_many():
    """A good enough covering needs R = 0, and σ = 0 cannot be attained with any R."""
    assert theory.lossless_rate(theory.tuned("gradient_descent", 10, 1), 0.5) == 0
    for method in theory.METHODS[::2]:
        perfect = theory.tuned(method, 2, 2)
        assert perfect.rate == perfect.momentum == 0
        assert theory.lossless_rate(perfect) == math.inf


@pytest.mark.parametrize("momentum", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("a", [0.0, 1e-6, 0.1, 1.0, 8.0])
def test_error_growth_is_the_largest_root(a, momentum):
    """λ² = a[(1+γ)λ + γ]. Kills: the other root, a forgotten γ."""
    root = theory.error_growth(a, momentum)
    assert root**2 == pytest.approx(a * ((1 + momentum) * root + momentum), rel=1e-12)
    roots = np.roots([1, -a * (1 + momentum), -a * momentum])
    assert root == pytest.approx(roots.max(), rel=1e-9)
    if momentum == 0:
        assert root == a


def test_contractions_by_hand():
    """κ = 3, σ = ½. Kills: a sum for a maximum and the reverse, bits for 2^−R."""
    tuned = theory.tuned("gradient_descent", 3, 1)
    assert tuned.rate == 0.5
    assert [theory.contraction(tuned, a) for a in (0.0, 0.25, 0.75, 2.0)] == [0.5, 0.5, 0.75, 2]
    assert [theory.naive_contraction(tuned, a) for a in (0.0, 0.5, 2.0)] == [0.5, 1.25, 3.5]
    assert [theory.converse(tuned, bits) for bits in (0, 0.5, 1, 3)] == [1, 0.5**0.5, 0.5, 0.5]


@each_kappa
def test_the_bounds_are_ordered(kappa):
    """converse ≤ differential ≤ naive for every R, ρ ≥ 1; equal, all three, in the limit."""
    tuned = theory.tuned("gradient_descent", kappa, 1)
    for bits in np.linspace(0, 12, 49):
        for covering in (1.0, 2.0):
            a = covering * 2**-bits
            differential = theory.contraction(tuned, a)
            assert theory.converse(tuned, bits) <= differential
            assert differential < theory.naive_contraction(tuned, a)
    assert theory.naive_contraction(tuned, 2.0**-50) == pytest.approx(tuned.rate, rel=1e-13)


def test_coverings():
    """As counted: Zⁿ for n = 1 … 24, its limit, and four lattices. Kills: a volume for a radius."""
    integer = [theory.integer_covering(n) for n in (1, 2, 4, 8, 16, 24)]
    assert [round(rho, 3) for rho in integer] == [1.000, 1.253, 1.490, 1.685, 1.827, 1.888]
    assert theory.integer_covering(10**6) == pytest.approx(
        math.sqrt(math.pi * math.e / 2), rel=1e-4
    )
    assert round(math.sqrt(math.pi * math.e / 2), 3) == 2.066
    lattices = [theory.lattice_covering(name) for name in ("A2", "D4", "E8", "Leech")]
    assert [round(rho, 4) for rho in lattices] == [1.0996, 1.2533, 1.1914, 1.0900]
    assert [theory.cube_covering(n) for n in (1, 4, 16)] == [1, 2, 4]
    for n, rho in ((2, lattices[0]), (4, lattices[1]), (8, lattices[2]), (24, lattices[3])):
        assert 1 < rho < theory.integer_covering(n) < theory.cube_covering(n)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: theory.tuned("adam", 2, 1), "tuned: method must be one of 'gradient_descent'"),
        (lambda: theory.tuned("polyak", 1, 2), "tuned: lipschitz must be a number >= 2, not 1"),
        (lambda: theory.tuned("polyak", 1, 0), "tuned: strong_convexity must be a number > 0"),
        (lambda: theory.tuned("polyak", math.nan, 1), "tuned: lipschitz must be a number >= 1"),
        (lambda: theory.tuned("polyak", math.inf, 1), "tuned: lipschitz must be a number >= 1"),
        (lambda: theory.lattice_covering("Z"), "lattice_covering: name must be one of 'A2'"),
    ],
)
def test_refused(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(sentence)


def test_transient_constants_by_hand():
    """Kills: √κ for √(κ+1), i for i + 1."""
    descent, nesterov, polyak = (theory.tuned(method, 4, 1) for method in theory.METHODS)
    assert [theory.transient(descent, i) for i in (0, 1, 5)] == [1, 1, 1]
    assert [theory.transient(nesterov, i) for i in (0, 1, 5)] == [math.sqrt(5)] * 3
    assert [theory.transient(polyak, i) for i in (0, 1, 5)] == [4, 8, 24]


@each_method
@pytest.mark.parametrize("kappa", [1.5, 10.0, 100.0])
def test_the_transient_bounds_every_gradient(method, kappa):
    """‖∇f(z_i)‖ ≤ L·C_i·D·σ^i, z_i the unquantized points: curvatures μ … L, x_0 = 1, x* = 0."""
    tuned, curvature = theory.tuned(method, 1.0, 1 / kappa), np.linspace(1 / kappa, 1, 101)
    point, state = np.ones(101), {}
    for i in range(120):
        bound = theory.transient(tuned, i) * tuned.rate**i
        assert (np.abs(curvature * point) <= bound * (1 + 1e-9) + 1e-300).all()
        query = point
        point, state = tuned.optimizer.update(query, curvature * query, state)


DESCENT = theory.Tuned(fb.gradient_descent(0.5), 0.0, 0.5, 3.0)
NESTEROV = theory.Tuned(fb.nesterov(0.5, 0.5), 0.5, 0.5, 3.0)
POLYAK = theory.Tuned(fb.polyak(0.5, 0.5), 0.5, 0.5, 4.0)


@pytest.mark.parametrize(
    ("schedule", "method", "a", "expected"),
    [
        (theory.differential_radii, DESCENT, 0.25, [8, 6, 3.5, 1.875]),
        (theory.differential_radii, NESTEROV, 0.25, [16, 14, 11.25, 7.96875]),
        (theory.differential_radii, POLYAK, 0.25, [32, 44, 44.5, 38.1875]),
        (theory.memory_radii, DESCENT, 0.25, [8, 16, 16, 15]),
        (theory.memory_radii, NESTEROV, 0.25, [16, 34, 41.25, 50.78125]),
        (theory.naive_radii, DESCENT, 0.25, [8, 6, 4.5, 3.375]),
        (theory.error_feedback_radii, DESCENT, 0.5, [8, 12, 18, 27]),
        (theory.ef21_radii, DESCENT, 0.5, [8, 16, 24, 36]),
    ],
)
def test_schedules_by_hand(schedule, method, a, expected):
    """L = 2, D = 4, σ = η = ½ (and γ = ½): dyadic. Kills: any term of a recursion, dropped."""
    assert list(islice(schedule(method, 2.0, 4.0, a), 4)) == expected


def ratio(schedule, method, a, step=800):
    """What r_i grows by, late."""
    first, second = islice(schedule(method, 1.0, 1.0, a), step, step + 2)
    return second / first


@each_method
@pytest.mark.parametrize("a", [1e-4, 0.05, 0.3, 0.9, 1.3])
def test_differential_radii_contract_as_the_method_does(method, a):
    """Kills: ranges that shrink faster than what they bound, or more slowly."""
    tuned = theory.tuned(method, 1.0, 0.1)
    late = ratio(theory.differential_radii, tuned, a)
    within = 2e-3 if method == "polyak" else 1e-6  # (i+1)·σ^i
    assert late == pytest.approx(theory.contraction(tuned, a), rel=within)


@pytest.mark.parametrize("a", [0.0, 0.1, 0.7, 2.0])
def test_naive_radii_are_a_geometric_row(a):
    """(σ + (1+σ)a)^i·LD."""
    tuned = theory.tuned("gradient_descent", 5.0, 0.5)
    radii = list(islice(theory.naive_radii(tuned, 5.0, 3.0, a), 40))
    expected = 15 * theory.naive_contraction(tuned, a) ** np.arange(40)
    np.testing.assert_allclose(radii, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("a", "shrinks"), [(0.3, True), (0.33, True), (0.337, False), (0.5, False)]
)
def test_memory_radii_shrink_below_a_third(a, shrinks):
    assert (
        ratio(theory.memory_radii, theory.tuned("gradient_descent", 1.0, 0.1), a) < 1
    ) == shrinks


@pytest.mark.parametrize("schedule", [theory.error_feedback_radii, theory.ef21_radii])
def test_without_errors_the_radii_follow_the_gradients(schedule):
    """a = 0: LDσ^i, and for ef21 the differences' ηL·LDσ^i. Kills: an error that is not a·r."""
    tuned = theory.tuned("gradient_descent", 2.0, 0.5)
    radii = np.array(list(islice(schedule(tuned, 2.0, 1.0, 0.0), 6)))
    step = 1.6 if schedule is theory.ef21_radii else tuned.rate
    np.testing.assert_allclose(radii[1:], 2 * step * tuned.rate ** np.arange(5), rtol=1e-12)
    assert radii[0] == 2
