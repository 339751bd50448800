"""Schedules by hand, whose batch is how large, and which settings are no rule."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.batching import (
    BatchTest,
    Evidence,
    Reply,
    as_batch_size,
    next_size,
    own_size,
    size_now,
)
from fedbias.objectives import Statistics
from fedbias.server import plan_for
from fedbias.state import ServerState

BOUNDS = [
    (fb.norm_test, ("eta",)),
    (fb.local_norm_test, ("eta",)),
    (fb.cross_client_test, ("eta",)),
    (fb.coordinate_test, ("eta",)),
    (fb.inner_product_test, ("theta",)),
    (fb.augmented_test, ("theta", "nu")),
]
TESTS = [rule(**dict.fromkeys(bounds, 0.5), maximum=1000) for rule, bounds in BOUNDS]
each_kind = pytest.mark.parametrize(
    ("rule", "bounds"), BOUNDS, ids=lambda value: getattr(value, "name", "")
)

# Schedules ----------------------------------------------------------------------------------------


def after(rule, samples, size=1):
    return rule.following(size, Evidence([], math.nan, samples))


def test_a_constant_stays():
    rule = fb.constant_batch(size=32)
    assert rule.first == 32 and [after(rule, s) for s in (0, 10**9)] == [32, 32]
    assert after(rule, 5, size=999) == 32


def test_linear_by_hand():
    """2 → 10 over 100 samples: one more for every 12.5. Kills: rounding up, a ramp without end."""
    rule = fb.linear_batch(initial=2, maximum=10, samples=100)
    samples = [0, 12, 13, 24, 25, 50, 99, 100, 101, 10**30]
    assert [after(rule, s) for s in samples] == [2, 2, 3, 3, 4, 6, 9, 10, 10, 10]
    assert rule.first == 2
    flat = fb.linear_batch(initial=7, maximum=7, samples=1)
    assert [after(flat, s) for s in (0, 1, 2)] == [7, 7, 7]


def test_stagewise_by_hand():
    """Threefold every 100 samples. Kills: a stage too late, a sum for a product."""
    rule = fb.stagewise_batch(initial=2, factor=3, every=100, maximum=50)
    samples = [0, 99, 100, 199, 200, 299, 300, 10**30]
    assert [after(rule, s) for s in samples] == [2, 2, 6, 6, 18, 18, 50, 50]
    assert rule.first == 2


def test_the_papers_stages():
    """2048, 4096 and 8192 for 2.5, 2.5 and 95 % of two million samples."""
    rule = fb.stagewise_batch(initial=2048, factor=2, every=50_000, maximum=8192)
    sizes = np.array([after(rule, s) for s in range(0, 2_000_000, 1000)])
    shares = {size: float(np.mean(sizes == size)) for size in (2048, 4096, 8192)}
    assert shares == {2048: 0.025, 4096: 0.025, 8192: 0.95}


@given(
    initial=st.integers(1, 10**6),
    more=st.integers(0, 10**12),
    length=st.integers(1, 10**12),
    factor=st.integers(2, 10**6),
    samples=st.lists(st.integers(0, 10**40), min_size=2, max_size=2).map(sorted),
)
def test_schedules_rise_within_their_bounds(initial, more, length, factor, samples):
    """Fuzz. Kills: a number that overflows, a stage of 10^40 that is computed in full."""
    for rule in (
        fb.linear_batch(initial, initial + more, length),
        fb.stagewise_batch(initial, factor, length, initial + more),
    ):
        early, late = (after(rule, s) for s in samples)
        assert rule.first == after(rule, 0) == initial <= early <= late <= initial + more
        assert after(rule, 41 * length) == initial + more or rule.name == "stagewise_batch"
        assert type(late) is int


# Whose size ---------------------------------------------------------------------------------------

ENROLLED = {0: 40, 1: 1, 5: 12}


@pytest.mark.parametrize("rule", [*TESTS, fb.linear_batch(2, 99, 9)], ids=lambda r: r.name)
def test_a_client_takes_no_more_than_it_has(rule):
    """While the others go on. Kills: the smallest client's data as everybody's limit."""
    sizes = {c: own_size(rule, 20, ENROLLED, c) for c in (0, 1, 5, 7)}
    assert sizes == {0: 20, 1: 1, 5: 12, 7: 20}  # nobody knows yet what 7 has
    assert own_size(rule, 60, ENROLLED, 0) == size_now(rule, 60, ENROLLED) == 40
    assert own_size(rule, 60, {**ENROLLED, 8: 50}, 8) == 50  # it came late, with more than all
    assert own_size(rule, None, ENROLLED, 1) == 1 and size_now(rule, None, ENROLLED) == 2
    assert size_now(rule, 60, {}) == 60


def test_a_constant_is_not_clamped():
    """A client with less data draws with repetition, as it did before there were rules."""
    rule = fb.constant_batch(20)
    assert {own_size(rule, None, ENROLLED, c) for c in (0, 1, 5, 7)} == {20}
    assert own_size(rule, 20, {0: 3}, 0) == size_now(rule, 20, {0: 3}) == 20


RANGES = [*TESTS, fb.linear_batch(2, 1000, 9), fb.stagewise_batch(2, 2, 9, 1000)]


@pytest.mark.parametrize("rule", RANGES, ids=lambda rule: rule.name)
def test_a_states_size_above_the_maximum(rule):
    """Of a run that had a larger one: the maximum, for the round and for each client.

    Kills: a size that never comes down to the maximum, in a plan or in the next state.
    """
    enrolled = {0: 10**6, 1: 999}
    assert size_now(rule, 1001, enrolled) == size_now(rule, 10**9, enrolled) == 1000
    assert (own_size(rule, 5000, enrolled, 0), own_size(rule, 5000, enrolled, 1)) == (1000, 999)
    assert own_size(rule, 5000, {}, 2) == 1000
    assert (size_now(rule, 1000, enrolled), size_now(rule, 999, enrolled)) == (1000, 999)
    settings = fb.gradient_descent(0.1), fb.minibatch()
    state = ServerState(np.zeros(2), enrolled=enrolled, batch_size=5000)
    assert plan_for(Algorithm(*settings, batch_size=rule), state, 0).batch_size == 1000


def test_without_a_rule_there_is_no_size():
    assert size_now(None, None, ENROLLED) is own_size(None, None, ENROLLED, 0) is None
    size, wanted = next_size(None, None, Evidence([], 1.0, 0))
    assert size is None and math.isnan(wanted)


def test_schedules_want_nothing_of_the_gradients():
    """Kills: a wish reported where no test was made."""
    for rule in (fb.constant_batch(4), fb.linear_batch(2, 9, 9), fb.stagewise_batch(2, 2, 9, 8)):
        size, wanted = next_size(rule, 2, Evidence([Reply(1.0, 2, 99.0)], 1.0, 9))
        assert size == {"constant_batch": 4, "linear_batch": 9, "stagewise_batch": 4}[rule.name]
        assert math.isnan(wanted) and rule.measures is None
        with pytest.raises(ValueError, match=f"{rule.name} measures nothing"):
            rule.statistic(Statistics(0.0, np.ones(2), 1.0))


# Settings -----------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("bad", [0, -0.5, math.nan, math.inf, "0.5", None, True])
def test_impossible_bounds(rule, bounds, bad):
    """Kills: a bound of zero, which no batch satisfies, and each check that is dropped."""
    good = dict.fromkeys(bounds, 0.5)
    for name in bounds:
        with pytest.raises(ValueError, match=f"{rule.name}: {name} must be a number > 0"):
            rule(**(good | {name: bad}), maximum=8)
    assert rule(**good, maximum=8).initial == 2


@each_kind
def test_impossible_ranges(rule, bounds):
    """One example has no variance; a maximum below the start is no range."""
    good = dict.fromkeys(bounds, 0.5)
    for initial in (1, 0, -3, 2.5, True, "2", None):
        with pytest.raises(ValueError, match=f"{rule.name}: initial must be a whole number >= 2"):
            rule(**good, maximum=8, initial=initial)
    for maximum in (8, 2.5, True, "64", None, math.inf):
        with pytest.raises(ValueError, match=f"{rule.name}: maximum must be a whole number >= 9"):
            rule(**good, maximum=maximum, initial=9)
    exact = rule(**good, maximum=9, initial=9)
    assert (exact.first, exact.maximum) == (9, 9)
    assert issubclass(rule, BatchTest) and exact.clamps


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fb.constant_batch(0), "constant_batch: size must be a whole number >= 1, not 0"),
        (lambda: fb.linear_batch(0, 8, 8), "linear_batch: initial must be a whole number >= 1"),
        (lambda: fb.linear_batch(8, 7, 8), "linear_batch: maximum must be a whole number >= 8"),
        (lambda: fb.linear_batch(1, 8, 0), "linear_batch: samples must be a whole number >= 1"),
        (lambda: fb.stagewise_batch(0, 2, 9, 9), "stagewise_batch: initial must be a whole"),
        (lambda: fb.stagewise_batch(9, 2, 9, 8), "stagewise_batch: maximum must be a whole number"),
        (lambda: fb.stagewise_batch(1, 1, 9, 9), "stagewise_batch: factor must be a whole number"),
        (lambda: fb.stagewise_batch(1, 1.5, 9, 9), "factor must be a whole number >= 2, not 1.5"),
        (lambda: fb.stagewise_batch(1, 2, 0, 9), "every must be a whole number >= 1, not 0"),
        (lambda: fb.stagewise_batch(1, 2, 2.5, 9), "every must be a whole number >= 1, not 2.5"),
    ],
)
def test_impossible_schedules(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert sentence in str(caught.value)


def test_a_number_is_a_constant():
    assert as_batch_size(8) == fb.constant_batch(8) and as_batch_size(None) is None
    assert all(as_batch_size(rule) is rule for rule in TESTS)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_a_number_of_numpys_is_one(kind):
    """Spelled, and sent, like any other. Kills: isinstance(value, int)."""
    assert as_batch_size(kind(8)) == fb.constant_batch(8) == fb.constant_batch(kind(8))
    assert type(as_batch_size(kind(8)).size) is int
    made = Algorithm(fb.gradient_descent(0.1), fb.minibatch(), batch_size=kind(8))
    plan = plan_for(made, ServerState(np.zeros(2)), 0)
    assert fb.Plan.from_record(plan.to_record()).batch_size == 8


@each_kind
def test_sizes_that_no_header_takes(rule, bounds):
    """2^64 − 1 is the largest. Kills: a size that grows until no client reads its plan."""
    good = dict.fromkeys(bounds, 0.5)
    assert rule(**good, maximum=2**64 - 1).maximum == 2**64 - 1
    with pytest.raises(ValueError, match=f"{rule.name}: maximum .* and <= {2**64 - 1}, not"):
        rule(**good, maximum=2**64)


@pytest.mark.parametrize(
    "make",
    [
        as_batch_size,
        fb.constant_batch,
        fb.cosine_decay,
        lambda n: fb.linear_batch(1, n, 9),
        lambda n: fb.linear_batch(1, 9, n),
        lambda n: fb.stagewise_batch(1, 2, 9, n),
    ],
)
def test_no_count_is_larger_than_a_header_takes(make):
    make(2**64 - 1)
    with pytest.raises(ValueError, match=f">= . and <= {2**64 - 1}, not {2**64}"):
        make(2**64)


@pytest.mark.parametrize("bad", [True, False, "8", 2.5, 8.0, [8], fb.minibatch(), math.nan])
def test_what_is_no_batch_size(bad):
    with pytest.raises(ValueError, match="batch_size must be a whole number >= 1, None, or like"):
        as_batch_size(bad)
