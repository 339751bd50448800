"""The server's step falls with the samples, whatever the batches are."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.decay import decayed
from fedbias.estimators import Estimate, Estimator
from fedbias.state import ServerState

COSINE = fb.cosine_decay(samples=100, final=0.1)
DESCENT = fb.gradient_descent(1.0)
OPTIMIZERS = [
    DESCENT,
    fb.heavy_ball(0.5, 0.25),
    fb.polyak(0.5, 0.25),
    fb.nesterov(0.5, 0.25),
    fb.adagrad(0.5),
    fb.adagrad_norm(0.5, 2.0),
    fb.adam(0.5, 0.8),
]


class Slope:
    """A client whose gradient is (1, 2) everywhere; it takes part with so many examples."""

    dim = 2

    def __init__(self, size=1000):
        self.size = size

    def loss(self, point, batch=None):
        return 0.0

    def gradient(self, point, batch=None):
        return np.array([1.0, 2.0])


def steps(decay, batch_size, rounds, optimizer=DESCENT, **settings):
    """γ_k, from where x_1 went; two clients."""
    history = fb.run(
        *([Slope(), Slope()], optimizer, np.zeros(2), rounds),
        estimator=fb.minibatch(),
        batch_size=batch_size,
        decay=decay,
        **settings,
    )
    return -np.diff(history.points[:, 0])


@pytest.mark.parametrize(
    ("samples", "factor"),
    [
        (0, 1.0),
        (25, 0.1 + 0.9 * (2 + math.sqrt(2)) / 4),  # (1 + cos 45°)/2
        (50, 0.55),
        (100 / 3, 0.775),  # (1 + cos 60°)/2 = 3/4
        (75, 0.1 + 0.9 * (2 - math.sqrt(2)) / 4),
        (100, 0.1),
        (101, 0.1),
        (10**40, 0.1),
    ],
)
def test_half_a_cosine_by_hand(samples, factor):
    """Kills: a whole cosine, a straight line, a rise after the end, final forgotten."""
    assert COSINE.factor(samples) == pytest.approx(factor, rel=1e-14)


@pytest.mark.parametrize(
    ("samples", "factor"),
    [(1, 0.05), (10, 0.5), (19, 0.95), (20, 1.0), (60, 0.6), (100, 0.2), (500, 0.2)],
)
def test_warm_up_by_hand(samples, factor):
    """In proportion up to 20 of 100, then the cosine from 1 to 1/5 over the other 80.

    Kills: a cosine that began before, a factor above 1.
    """
    decay = fb.cosine_decay(samples=100, final=0.2, warmup=20)
    assert decay.factor(samples) == pytest.approx(factor, rel=1e-14)


@given(
    st.integers(2, 10**12).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n - 1), st.integers(0, 2 * n))
    ),
    st.floats(1e-9, 1),
)
def test_a_factor_is_above_zero_and_at_most_one(counts, final):
    """Also before any sample was looked at. Kills: a step of 0, which no optimizer takes."""
    total, warmup, samples = counts
    decay = fb.cosine_decay(total, final, warmup)
    assert 0 < decay.factor(samples) <= 1
    if samples >= warmup:
        assert final * (1 - 1e-12) <= decay.factor(samples + 1) <= decay.factor(samples) + 1e-12


def test_samples_count_not_rounds():
    """Two clients: after the same samples the same step, for b = 5 and b = 10; by hand too.

    Kills: rounds for samples, one client's samples, the samples before this round.
    """
    small, large = steps(COSINE, 5, 12), steps(COSINE, 10, 6)
    np.testing.assert_allclose(small[1::2], large, rtol=1e-12)
    expected = [COSINE.factor(min(20 * (k + 1), 100)) for k in range(6)]
    np.testing.assert_allclose(large, expected, rtol=1e-12)
    assert large[0] < 1 and large[-1] == large[-2] == pytest.approx(0.1)
    np.testing.assert_allclose(steps(fb.no_decay(), 10, 6), np.ones(6), rtol=1e-12)


def test_lost_replies_are_no_samples():
    """Kills: samples of those that were asked."""
    one, two, three = steps(COSINE, 10, 3, lost=lambda k: [[0], [0, 1], []][k])
    assert (one, two) == (pytest.approx(COSINE.factor(10)), 0)
    assert three == pytest.approx(COSINE.factor(30))


def test_growing_batches_decay_sooner():
    """A schedule of both: linear batches and the cosine look at one count of samples."""
    found = steps(COSINE, fb.linear_batch(2, 20, 40), 6)
    sizes, samples, expected = [2, 3, 6, 11, 20, 20], 0, []  # 2 + ⌊18·S/40⌋
    for size in sizes:
        samples += 2 * size
        expected.append(COSINE.factor(samples))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
def test_every_optimizer_decays(optimizer):
    """The step size alone: γ·factor in its place, and nothing else changes.

    Kills: momentum or β that decay, a state that is lost.
    """
    half = decayed(optimizer, COSINE, 50)
    assert type(half) is type(optimizer) and half.step_size == pytest.approx(
        0.55 * optimizer.step_size
    )
    others = {name: value for name, value in vars(optimizer).items() if name != "step_size"}
    assert {name: value for name, value in vars(half).items() if name != "step_size"} == others
    assert decayed(optimizer, COSINE, 0) is decayed(optimizer, fb.no_decay(), 50) is optimizer
    plain, slower = steps(fb.no_decay(), 10, 8, optimizer), steps(COSINE, 10, 8, optimizer)
    assert (slower < plain).all() and (slower > 0).all()
    point, state = np.zeros(2), {}
    for k in range(8):
        step = decayed(optimizer, COSINE, 20 * (k + 1))
        moved, state = step.update(point, np.array([1.0, 2.0]), state)
        assert point[0] - moved[0] == slower[k]
        point = moved


class Uncounted(Estimator):
    """Counts no examples, as a user's own estimator may."""

    name = "uncounted"

    def estimate(self, objective, point, turn):
        return Estimate(objective.gradient(point), 0.0)

    def samples(self, batch_size, size):
        return 0


def test_a_warm_up_without_samples():
    """The first step of the warm-up again and again. Kills: a step of 0, by which the run ends."""
    decay = fb.cosine_decay(100, warmup=4)
    settings = {"estimator": Uncounted(), "decay": decay}
    history = fb.run([Slope()], DESCENT, np.zeros(2), 3, **settings)
    assert history.points[:, 0].tolist() == [0, -0.25, -0.5, -0.75]


PRESET = fb.preset_radius(1.0, 0.1, 2.0)


@pytest.mark.parametrize(
    "feedback",
    [
        fb.differential(),
        fb.differential(memory=True),
        fb.differential(PRESET),
        fb.no_feedback(PRESET),
        fb.ef21(PRESET),
    ],
    ids=repr,
)
def test_who_counts_on_a_constant_step(feedback):
    """Kills: an error that is compensated with another step than the one it was made with."""
    settings = {"compressor": fb.uniform(4), "feedback": feedback, "decay": COSINE}
    with pytest.raises(ValueError, match="counts on a constant step size: use no_decay()"):
        Algorithm(fb.gradient_descent(0.5), **settings)


@pytest.mark.parametrize("feedback", [fb.no_feedback(), fb.error_feedback(), fb.ef21()], ids=repr)
def test_who_does_not(feedback):
    made = Algorithm(fb.gradient_descent(0.5), feedback=feedback, decay=COSINE)
    assert made.decay == COSINE and ServerState(np.zeros(1)).samples == 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fb.cosine_decay(0), "cosine_decay: samples must be a whole number >= 1, not 0"),
        (
            lambda: fb.cosine_decay(1.5),
            "cosine_decay: samples must be a whole number >= 1, not 1.5",
        ),
        (lambda: fb.cosine_decay(9, 0), "final must be a number > 0 and <= 1, not 0"),
        (lambda: fb.cosine_decay(9, 1.5), "final must be a number > 0 and <= 1, not 1.5"),
        (lambda: fb.cosine_decay(9, math.nan), "final must be a number > 0 and <= 1, not nan"),
        (lambda: fb.cosine_decay(9, 0.1, 9), "warmup must be a whole number >= 0 and <= 8, not 9"),
        (
            lambda: fb.cosine_decay(9, 0.1, -1),
            "warmup must be a whole number >= 0 and <= 8, not -1",
        ),
        (
            lambda: fb.run([Slope()], DESCENT, np.zeros(2), 1, decay=0.5),
            "decay must be like cosine",
        ),
    ],
)
def test_impossible_settings(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert sentence in str(caught.value)
