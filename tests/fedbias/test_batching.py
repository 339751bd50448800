"""The rules for the batch size as pure functions: by hand, against numpy, and in their limits."""

import itertools
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbias as fb
from fedbias.batching import Evidence, Reply, next_size
from fedbias.batching.base import ratio
from fedbias.objectives import Statistics

NORM = fb.norm_test(eta=0.5, maximum=1000)
CROSS = fb.cross_client_test(eta=0.5, maximum=1000)
LOCAL = {
    "norm": fb.local_norm_test(eta=0.5, maximum=1000),
    "inner product": fb.inner_product_test(theta=0.2, maximum=1000),
    "augmented": fb.augmented_test(theta=0.2, nu=0.3, maximum=1000),
    "coordinate": fb.coordinate_test(eta=0.5, maximum=1000),
}
TESTS = [NORM, CROSS, *LOCAL.values()]
named = {"ids": lambda rule: rule.name}
# Three clients' example gradients, of 6, 4 and 9 examples.
GRADIENTS = [np.random.default_rng(c).normal(1.0, 3.0, (n, 5)) for c, n in enumerate((6, 4, 9))]


def found(gradients):
    """All that could be measured of a matrix of example gradients, directly."""
    mean = gradients.mean(axis=0)
    return Statistics(
        loss=0.0,
        gradient=mean,
        trace=float(gradients.var(axis=0, ddof=1).sum()),
        along=float(np.var(gradients @ mean, ddof=1)),
        variances=gradients.var(axis=0, ddof=1),
    )


def evidence(*statistics, square=1.0, samples=2):
    """Replies of equal weight."""
    share = 1 / max(1, len(statistics))
    return Evidence([Reply(share, samples, value) for value in statistics], square, 0)


# The formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.3, 0.2)])
def test_the_norm_test_against_the_variance_of_the_mean(weights):
    """b·V/(η²‖ĝ‖²), V the variance of Σ w_m ḡ_m, in float64 from all the gradients.

    Kills: weights not squared, n_m for b_m, η for η², Σ w_m‖ḡ_m‖² for ‖Σ w_m ḡ_m‖².
    """
    mean = sum(w * g.mean(axis=0) for w, g in zip(weights, GRADIENTS, strict=True))
    replies = [
        Reply(w, len(g), NORM.statistic(found(g))) for w, g in zip(weights, GRADIENTS, strict=True)
    ]
    square = float(mean @ mean)
    asked = NORM.wanted(8, Evidence(replies, square, 0))
    deviations = [w * (g - g.mean(axis=0)) for w, g in zip(weights, GRADIENTS, strict=True)]
    variance = sum(np.sum(d**2) / (len(d) - 1) / len(d) for d in deviations)
    assert asked == pytest.approx(8 * variance / (0.5**2 * square), rel=1e-12)


def test_the_norm_test_by_hand():
    """trΣ = 12 of b = 4 with w = 1/4, trΣ = 8 of b = 2 with 3/4: V = 12/16/4 + 8·9/16/2 = 2.4375.

    η²‖ĝ‖² = 3/4, so b grows by 3.25.
    """
    seen = Evidence([Reply(0.25, 4, 12.0), Reply(0.75, 2, 8.0)], 3.0, 0)
    assert NORM.wanted(4, seen) == 13 and NORM.following(4, seen) == 13
    assert NORM.wanted(5, seen) == 16.25 and NORM.following(5, seen) == 17
    assert next_size(NORM, 5, seen) == (17, 16.25)
    assert NORM.wanted(4, replace(seen, share=0.5)) == 6.5  # as many memories of silent clients


def test_local_tests_by_hand():
    """g = (3, 0) and (1, 2): ḡ = (2, 1), variances (2, 2), ⟨g_i, ḡ⟩ = 6 and 4 with variance 2.

    norm 4/(5/4); inner product 2/(.04·25); across 4 − 2/5 = 3.6 over .09·5; coordinate 2/(1/4).
    """
    seen = found(np.array([[3.0, 0.0], [1.0, 2.0]]))
    expected = {"norm": 3.2, "inner product": 2.0, "augmented": 8.0, "coordinate": 8.0}
    assert {name: rule.statistic(seen) for name, rule in LOCAL.items()} == pytest.approx(expected)
    strict = fb.augmented_test(theta=0.05, nu=0.3, maximum=9)  # 2/(.0025·25) > 8
    assert strict.statistic(seen) == pytest.approx(32)


@pytest.mark.parametrize("gradients", GRADIENTS, ids=len)
def test_local_tests_against_the_gradients(gradients):
    """Kills: a power of ‖ḡ‖ or of a bound, the noise along ḡ not taken from the trace, a sum over
    coordinates for the largest.
    """
    mean, seen = gradients.mean(axis=0), found(gradients)
    square, along = float(mean @ mean), np.var(gradients @ mean, ddof=1)
    across = gradients - np.outer(gradients @ mean / square, mean)  # projected, one by one
    trace = gradients.var(axis=0, ddof=1).sum()
    expected = {
        "norm": trace / (0.5**2 * square),
        "inner product": along / (0.2**2 * square**2),
        "augmented": max(
            along / (0.2**2 * square**2),
            across.var(axis=0, ddof=1).sum() / (0.3**2 * square),
        ),
        "coordinate": (gradients.var(axis=0, ddof=1) / (0.5 * mean) ** 2).max(),
    }
    assert {name: rule.statistic(seen) for name, rule in LOCAL.items()} == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("name", LOCAL)
def test_the_server_takes_the_largest(name):
    """Whatever the weights, the batches and ‖ĝ‖ are. Kills: a mean over clients, the last one's."""
    seen = Evidence([Reply(0.1, 9, 30.0), Reply(0.8, 2, 70.2), Reply(0.1, 5, 12.0)], 1e-9, 0)
    assert LOCAL[name].wanted(8, seen) == 70.2 and LOCAL[name].following(8, seen) == 71
    assert LOCAL[name].wanted(8, replace(seen, replies=[*seen.replies, Reply(1, 1, None)])) == 70.2


def spread(weights, vectors):
    mean = sum(w * v for w, v in zip(weights, vectors, strict=True))
    return sum(w * np.sum((v - mean) ** 2) for w, v in zip(weights, vectors, strict=True)), mean


def test_clients_compared_by_hand():
    """(1, 0), (3, 0), (2, 3): ḡ = (2, 1), Σ‖g_m − ḡ‖² = 8; b = 4: σ̂² = 16, 16/(3·η²·5) = 4 4/15.

    Kills: 1/M for 1/(M−1), M left out.
    """
    seen = Evidence([Reply(1 / 3, 4, None)] * 3, 5.0, 0, spread=8 / 3)
    assert CROSS.wanted(4, seen) == pytest.approx(64 / 15) and CROSS.following(4, seen) == 5
    assert CROSS.wanted(8, seen) == pytest.approx(128 / 15)


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.3, 0.2), (0.9, 0.05, 0.05)])
def test_clients_compared_against_the_gradients(weights):
    """Σw²·s², s² = Σ w‖g_m − ḡ‖²/(1 − Σw²) the unbiased variance of one; w = 1/M: σ̂²/(M b)."""
    means = [g.mean(axis=0) for g in GRADIENTS]
    total, mean = spread(weights, means)
    seen = Evidence([Reply(w, 4, None) for w in weights], float(mean @ mean), 0, total)
    shares = sum(w**2 for w in weights)
    expected = 4 * shares * total / (1 - shares) / (0.25 * (mean @ mean))
    assert CROSS.wanted(4, seen) == pytest.approx(expected, rel=1e-12)
    if len(set(weights)) == 1:
        sigma = 4 / 2 * sum(np.sum((m - mean) ** 2) for m in means)
        assert expected == pytest.approx(sigma / (3 * 0.25 * (mean @ mean)), rel=1e-12)


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1)])
def test_the_clients_spread_is_unbiased_for_the_variance_of_the_mean(weights):
    """iid clients in R^40, 4000 rounds: E = Σw²·trΣ/b within 5 standard errors (error < 10^−6).

    Kills: another correction for unequal weights.
    """
    draws = np.random.default_rng(0).standard_normal((4000, 3, 40))
    shares = sum(w**2 for w in weights)
    values = []
    for vectors in draws:
        total, _ = spread(weights, vectors)
        seen = Evidence([Reply(w, 4, None) for w in weights], 4.0, 0, total)
        values.append(CROSS.wanted(1, seen))  # η²‖ĝ‖² = 1
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - 40 * shares) < 5 * error < 0.02 * 40 * shares


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1), (0.98, 0.01, 0.01)])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 8, 5), (100, 1, 7)])
def test_unequal_clients_compared_in_exact_expectation(sizes, weights, share):
    """g_m = μ ± σ/√b_m, all eight signs: the mean of V is share·σ²Σ w_m²/b_m, to 10^−12.

    Kills: b for b_m in either sum, 1 − Σw² where sizes differ, the share left out or squared.
    """
    sigma, values = 3.0, []
    for signs in itertools.product((-1, 1), repeat=3):
        vectors = [
            np.array([5 + s * sigma / math.sqrt(b)]) for s, b in zip(signs, sizes, strict=True)
        ]
        total, _ = spread(weights, vectors)
        told = [Reply(w, b, None) for w, b in zip(weights, sizes, strict=True)]
        values.append(CROSS.wanted(1, Evidence(told, 4.0, 0, total, share)))  # η²‖ĝ‖² = 1
    expected = sum(w**2 / b for w, b in zip(weights, sizes, strict=True)) * sigma**2
    assert np.mean(values) == pytest.approx(share * expected, rel=1e-12)


# How sizes grow -----------------------------------------------------------------------------------

GROWN = [(0.0, 8), (0.5, 8), (7.5, 8), (8.0, 8), (8.0000001, 9), (15.2, 16)]
GROWN += [(999.5, 1000), (1000.0, 1000), (1000.5, 1000), (1e300, 1000)]


@pytest.mark.parametrize(("asked", "size"), GROWN)
def test_rounded_up_never_shrunk_never_above(asked, size):
    """From 8, by every test. Kills: rounding down or to the nearest, a batch that shrinks, a
    maximum that is not one.
    """
    for rule in LOCAL.values():
        assert rule.following(8, evidence(asked, 1.0)) == size
    grows = evidence(asked, square=4.0, samples=8)  # V = asked/8, η²‖ĝ‖² = 1
    assert NORM.wanted(8, grows) == asked and NORM.following(8, grows) == size
    compared = Evidence([Reply(0.5, 8, None)] * 2, 4.0, 0, spread=asked / 8)
    assert CROSS.wanted(8, compared) == asked and CROSS.following(8, compared) == size


def test_at_equality_a_test_holds():
    """V = η²‖ĝ‖² asks for what there is; a hair more for one example more."""
    assert NORM.following(16, evidence(32.0, square=64.0)) == 16  # V = 32/2 = 16 = 64/4
    assert NORM.following(16, evidence(32.000001, square=64.0)) == 17
    assert NORM.following(16, evidence(31.0, square=64.0)) == 16


@pytest.mark.parametrize("rule", TESTS, **named)
def test_no_noise_asks_for_nothing(rule):
    """Zero variance. Kills: a size that grows by itself."""
    still = found(np.tile([1.0, 2.0], (4, 1)))
    if rule.measures:
        assert rule.statistic(still) == 0
    assert rule.following(8, evidence(0.0, 0.0)) == 8
    assert rule.following(8, Evidence([Reply(0.5, 8, 0.0)] * 2, 1.0, 0, spread=0.0)) == 8


@pytest.mark.parametrize("rule", TESTS, **named)
@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_a_mean_of_zero_changes_nothing(rule, noise):
    """ḡ = ĝ = 0, with and without variance: undefined, not the maximum.

    Kills: 0/0, a division by zero, an endless growth where nothing can be learnt.
    """
    if rule.local:
        opposite = np.sqrt(noise) * np.array([[1.0, 0.0], [-1.0, 0.0]])
        assert not math.isfinite(rule.statistic(found(opposite)))
    asked = None if rule.local else noise
    seen = replace(evidence(asked, asked, square=0.0), spread=noise)
    assert math.isnan(rule.wanted(8, seen)) and rule.following(8, seen) == 8
    assert next_size(rule, 8, seen)[0] == 8


def test_a_coordinate_that_is_zero_is_left_out():
    """Dead units; and one that overflows. Kills: 0/0 in one coordinate that decides for all."""
    dead = np.array([[3.0, 0.0, 1.0], [1.0, 0.0, -1.0]])  # ḡ = (2, 0, 0), variances (2, 0, 2)
    assert LOCAL["coordinate"].statistic(found(dead)) == 2
    with np.errstate(all="ignore"):
        assert LOCAL["coordinate"].statistic(found(dead * [1.0, 1.0, 1e200] + [0, 0, 1e200])) == 2


@pytest.mark.parametrize("rule", [NORM, *LOCAL.values()], **named)
def test_a_statistic_that_is_missing(rule):
    """One of two overflowed at its client. The federation's test is undefined then; a local one
    goes by those that are there.
    """
    one, none = evidence(40.0, None), evidence(None, None)
    assert rule.following(8, none) == 8 and math.isnan(rule.wanted(8, none))
    if rule.local:
        assert rule.following(8, one) == 40
    else:
        assert math.isnan(rule.wanted(8, one)) and rule.following(8, one) == 8


@pytest.mark.parametrize("rule", [rule for rule in TESTS if rule.measures], **named)
@pytest.mark.parametrize("big", [1e200, math.inf, math.nan])
def test_gradients_beyond_every_float(rule, big):
    """Σ is not finite: no statistic, or one that is no number; never a warning or an exception."""
    with np.errstate(all="ignore"):
        seen = found(big * np.array([[1.0, 3.0], [-0.5, 1.0]]))
    assert not math.isfinite(rule.statistic(seen))


@pytest.mark.parametrize("bound", [1e200, 1e-200])
def test_bounds_whose_square_no_float_holds(bound):
    """Whatever that means, it does not end the run. Kills: OverflowError."""
    seen = Evidence([Reply(0.5, 8, 3.0)] * 2, 1.0, 0, spread=3.0)
    for rule in (replace(NORM, eta=bound), replace(CROSS, eta=bound)):
        assert rule.following(8, seen) == 8
    for rule in LOCAL.values():
        bounds = {name: bound for name in ("eta", "theta", "nu") if hasattr(rule, name)}
        value = replace(rule, **bounds).statistic(found(GRADIENTS[0]))
        assert value == 0 if bound > 1 else not math.isfinite(value)


def test_one_reply_cannot_be_compared():
    """Kills: 1/(M − 1) with M = 1."""
    seen = Evidence([Reply(1.0, 8, None)], 1.0, 0, spread=0.0)
    assert math.isnan(CROSS.wanted(8, seen)) and CROSS.following(8, seen) == 8


def test_a_client_that_hardly_counts_is_compared_all_the_same():
    """Weights 1 and 10^−17, spread 3·10^−17: σ̂² = 24 and V = 3, so 8·3/(1/4). Kills: 1 − Σw²,
    which is 0 in floats.
    """
    lopsided = Evidence([Reply(1.0, 8, None), Reply(1e-17, 8, None)], 1.0, 0, spread=3e-17)
    assert CROSS.wanted(8, lopsided) == pytest.approx(96, rel=1e-12)


BEYOND = [  # σ²/‖ĝ‖² is no float
    (NORM, Evidence([Reply(1.0, 8, 1e300)], 1e-300, 0)),
    (CROSS, Evidence([Reply(0.5, 8, None)] * 2, 1e-300, 0, spread=1e300)),
]


@pytest.mark.parametrize(("rule", "seen"), BEYOND, ids=["norm", "cross"])
def test_a_wish_beyond_every_float_is_the_maximum(rule, seen):
    """The noise is finite and the mean tiny, not zero. Kills: an overflow that counts as undefined,
    so that b stays where it is needed most; OverflowError in ⌈∞⌉.
    """
    assert rule.wanted(8, seen) > 1e300 and rule.following(8, seen) == 1000
    assert next_size(rule, 8, seen)[0] == 1000


@pytest.mark.parametrize("name", ["norm", "inner product", "augmented"])
def test_a_local_wish_beyond_every_float_can_be_sent(name):
    """It is the largest float, and finite, so that the header takes it; b is the maximum then.

    Kills: a client whose mean is tiny that is not heard.
    """
    tiny = Statistics(0.0, np.array([1e-154, 0.0]), trace=1e30, along=1e30, variances=np.ones(2))
    value = LOCAL[name].statistic(tiny)
    assert value == sys.float_info.max
    assert LOCAL[name].following(8, evidence(value, 1.0)) == 1000


@pytest.mark.parametrize(
    ("noise", "signal", "value"),
    [
        (3.0, 2.0, 1.5),
        (0.0, 2.0, 0.0),
        (1e300, 1e-300, sys.float_info.max),
        (5e-324, 5e-324, 1.0),
        (3.0, math.inf, 0.0),
        (3.0, 0.0, math.nan),
        (0.0, 0.0, math.nan),
        (math.inf, 2.0, math.nan),
        (math.inf, math.inf, math.nan),
        (math.nan, 2.0, math.nan),
        (3.0, math.nan, math.nan),
    ],
)
def test_ratios(noise, signal, value):
    """Undefined for a mean of zero and for noise that is no number; otherwise finite."""
    assert ratio(noise, signal) == pytest.approx(value, nan_ok=True, rel=0, abs=0)


@pytest.mark.parametrize("eta", [10**200, 1e200])
def test_an_absurd_bound_asks_for_nothing(eta):
    """A whole number whose square no float holds. Kills: OverflowError."""
    seen = Evidence([Reply(0.5, 8, 3.0)] * 2, 1.0, 0, spread=3.0)
    for kind in (fb.norm_test, fb.cross_client_test):
        assert kind(eta=eta, maximum=9).wanted(8, seen) == 0
    for kind in (fb.local_norm_test, fb.coordinate_test):
        assert kind(eta=eta, maximum=9).statistic(found(GRADIENTS[0])) == 0


numbers = st.one_of(
    st.floats(min_value=0, allow_nan=False),
    st.sampled_from([0.0, 5e-324, 1e-308, 1.0, 1e308, 1.7976931348623157e308]),
)
anything = st.one_of(st.floats(), numbers, st.sampled_from([math.inf, -math.inf, math.nan]))
replies = st.lists(
    st.builds(Reply, st.floats(0, 1, exclude_min=True), st.integers(1, 2**64), st.none() | numbers),
    max_size=4,
)


@given(
    rule=st.sampled_from(TESTS),
    size=st.integers(2, 1000),
    seen=st.builds(
        *(Evidence, replies, anything, st.integers(0, 2**70), anything),
        st.floats(0, 1, exclude_min=True),
    ),
)
def test_whatever_is_seen_a_test_never_shrinks_nor_exceeds(rule, size, seen):
    """Fuzz: a whole number within [size, maximum], without a warning."""
    after, asked = next_size(rule, size, seen)
    assert type(after) is int and size <= after <= rule.maximum
    assert isinstance(asked, float)


@given(
    rule=st.sampled_from([rule for rule in TESTS if rule.measures]),
    values=st.tuples(anything, anything, anything, anything, anything, anything),
)
def test_whatever_was_measured_a_statistic_is_a_number_or_undefined(rule, values):
    """Fuzz: never a negative number for what can be measured, never an exception."""
    trace, along, *rest = values
    seen = Statistics(0.0, np.array(rest[:2]), abs(trace), abs(along), np.abs(rest[2:]))
    value = rule.statistic(seen)
    assert isinstance(value, float) and (value >= 0 or not math.isfinite(value))
