"""What a meeting does: exact averages, the spread's contraction, and a run by hand."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbias as fb
from fedbias.gossip import mean_and_spread
from fedbias.gossip.spread import averaged
from fedbias.problems import Squares
from tests.tools.gossip_clients import HALF, at, centred, matchings


def test_a_meeting_by_hand():
    """X' = 1 of which 1/2 was sent, and 3 came: 1 + (3 − 1/2)/2. Kills: what compression lost is
    lost, or counted twice; a mixing that is not looked at."""
    own, sent, partner = at(1, 0.5, 3)
    assert averaged(own, sent, partner, 1.0) == 2.25
    assert averaged(own, sent, partner, 0.5) == 1.625
    assert averaged(own, own, partner, 1.0) == 2.0
    assert averaged(own, own, partner, 0.25) == 1.25


def test_mean_and_spread_by_hand():
    """Of (0, 0), (6, 0), (0, 6): the mean (2, 2), and squares of 8, 20, 20 about it."""
    mean, spread = mean_and_spread([np.array(model, float) for model in ((0, 0), (6, 0), (0, 6))])
    assert mean.tolist() == [2.0, 2.0] and spread == pytest.approx(16, rel=1e-15)
    mean, spread = mean_and_spread([np.float32([1e30]), np.float32([-1e30])])
    assert mean.dtype == np.float32 and mean == 0
    assert spread == pytest.approx(1e60, rel=1e-6)  # far beyond float32


DYADIC = st.lists(st.integers(-(2**20), 2**20), min_size=4, max_size=4)


@given(DYADIC, DYADIC, st.sampled_from([1.0, 0.5, 0.25]))
def test_a_pairs_mean_stays_bit_for_bit(models, sent, mixing):
    """Whatever compression made of the models, with numbers that need no rounding.

    Kills: v for X, a correction with the wrong sign.
    """
    one, other = np.array(models, float).reshape(2, 2) / 8
    first, second = np.array(sent, float).reshape(2, 2) / 8
    met = averaged(one, first, second, mixing), averaged(other, second, first, mixing)
    np.testing.assert_array_equal(met[0] + met[1], one + other)
    np.testing.assert_array_equal(met[0] - one, mixing * (second - first) / 2)


FLOATS = st.floats(-1e6, 1e6)


@given(st.lists(FLOATS, min_size=4, max_size=4), st.sampled_from([np.float32, np.float64]))
def test_without_loss_both_get_the_same_bits(numbers, dtype):
    """And their mean to its rounding. Kills: X + (v − X)/2, which differs in the last bit."""
    one, other = np.array(numbers, dtype).reshape(2, 2)
    first, second = averaged(one, one, other, 1.0), averaged(other, other, one, 1.0)
    assert first.tobytes() == second.tobytes() and first.dtype == dtype
    info = np.finfo(dtype)
    for a, b, met in zip(one.tolist(), other.tolist(), first.tolist(), strict=True):
        exact = (Fraction(a) + Fraction(b)) / 2
        allowed = Fraction(float(info.eps)) * abs(exact) / 2
        assert abs(Fraction(met) - exact) <= allowed + Fraction(float(info.smallest_subnormal))


@given(st.lists(FLOATS, min_size=4, max_size=4), st.floats(0.01, 1))
def test_with_loss_the_mean_stays_to_rounding(numbers, mixing):
    """The sum of a pair moves by a few units in the last place of the largest number there."""
    one, other, first, second = np.array(numbers).reshape(4, 1)
    met = averaged(one, first, second, mixing) + averaged(other, second, first, mixing)
    allowed = 8 * np.finfo(float).eps * np.abs(numbers).max()
    np.testing.assert_allclose(met, one + other, rtol=0, atol=allowed)


@pytest.mark.parametrize("matching", [fb.random_matching(), fb.random_pair(), fb.along("ring")])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mixing": 0.5},
        {"compressor": fb.top_k(0.5)},
        {"compressor": fb.top_k(0.5), "feedback": fb.ef21(), "mixing": 0.25},
    ],
    ids=str,
)
def test_meetings_alone_keep_the_mean_model_bit_for_bit(matching, settings):
    """Ten rounds without steps, of dyadic models. Kills: a mean that drifts with what was lost."""
    starts = np.random.default_rng(1).integers(-64, 64, (4, 4)).astype(float)
    idle = {"estimator": fb.exact(), "step_size": 0.0, "matching": matching}
    clients = fb.LeastSquares.random(4, 10, 0, clients=4).objectives
    history = fb.run_gossip(clients, list(starts), 10, **idle, **settings)
    assert (history.points == starts.mean(axis=0)).all()
    assert history.spreads[-1] < history.spreads[0]


@pytest.mark.parametrize("compressor", [fb.dithered(2), fb.uniform(3), fb.sign(), fb.random_k(0.5)])
@pytest.mark.parametrize("feedback", [fb.no_feedback(), fb.ef21()])
def test_any_loss_keeps_the_mean_model(compressor, feedback):
    """To rounding. Kills: a mean of what was sent in the place of the antisymmetric form."""
    starts = list(np.random.default_rng(1).standard_normal((5, 6)))
    clients = fb.LeastSquares.random(6, 10, 0, clients=5).objectives
    idle = {"estimator": fb.exact(), "step_size": 0.0, "matching": fb.random_matching()}
    travels = {"compressor": compressor, "feedback": feedback, "mixing": 0.1}
    history = fb.run_gossip(clients, starts, 20, **idle, **travels)
    np.testing.assert_allclose(history.points - history.points[0], 0, rtol=0, atol=1e-13)
    assert history.spreads[-1] != history.spreads[0]


def ratio(models, pairs):
    """Γ'/Γ once these pairs met."""
    met = list(models)
    for i, j in pairs:
        met[i] = averaged(models[i], models[i], models[j], 1.0)
        met[j] = averaged(models[j], models[j], models[i], 1.0)
    return mean_and_spread(met)[1] / mean_and_spread(models)[1]


CONTRACTION = {  # E Γ'/Γ: (n−2)/(2(n−1)) for a perfect matching, 1/2 where one is alone
    4: Fraction(2, 6),
    5: Fraction(1, 2),
    6: Fraction(4, 10),
    7: Fraction(1, 2),
}


@pytest.mark.parametrize("count", [4, 5, 6])
def test_the_contraction_over_all_matchings(count):
    """The papers' factors, as the mean over everything that may be drawn, for any models.

    Kills: half an average, a Γ about another point than the mean.
    """
    for seed in range(3):
        models = list(np.random.default_rng(seed).standard_normal((count, 3)))
        everything = [ratio(models, pairs) for pairs in matchings(range(count))]
        assert np.mean(everything) == pytest.approx(float(CONTRACTION[count]), rel=1e-14)
        pairs = [ratio(models, [(i, j)]) for j in range(count) for i in range(j)]
        assert np.mean(pairs) == pytest.approx(1 - 1 / (count - 1), rel=1e-14)


@pytest.mark.parametrize("count", [5, 6])
@pytest.mark.parametrize("pair", [False, True])
def test_the_contraction_that_runs_show(count, pair):
    """Γ'/Γ of the first round of 60 runs, with 200 entries so that it varies little: its mean lies
    within 4.5 of its standard errors, once in 10^5 seeds not, and these are small enough to tell
    n from n − 1. Kills: a meeting that one of the two hears of, a round that nobody settles.
    """
    matching = fb.random_pair() if pair else fb.random_matching()
    expected = 1 - 1 / (count - 1) if pair else float(CONTRACTION[count])
    clients, shrunk = [Squares(np.eye(1, 200), np.zeros(1))] * count, []
    for seed in range(60):
        starts = list(np.random.default_rng(seed).standard_normal((count, 200)))
        idle = {"estimator": fb.exact(), "step_size": 0.0, "matching": matching}
        before, after = fb.run_gossip(clients, starts, 1, **idle, seed=seed).spreads
        shrunk.append(after / before)
    error = np.std(shrunk) / np.sqrt(len(shrunk))
    assert error < 0.007 and abs(np.mean(shrunk) - expected) < 4.5 * error


def test_three_clients_two_rounds_by_hand():
    """f_i = (x − c_i)²/2 at c = 0, 6, 12 from 12, 0, 0, steps of 1/2 with momentum 1/2.

    Round 0: v = 12, −6, −12, so X' = 6, 3, 6; the first two meet at 4.5. Round 1: v = 6 + 4.5,
    −3 − 1.5, −6 − 6, so X' = −.75, 6.75, 12; the first and the last meet at 5.625.
    Kills: a step after the meeting, an idle one that stays, a momentum that is averaged.
    """
    chosen = [[(0, 1)], [(2, 0)]]
    history = fb.run_gossip(
        *(centred(0, 6, 12), at(12, 0, 0), 2),
        estimator=HALF,
        matching=lambda k: chosen[k],
    )
    assert history.points.tolist() == [[4.0], [5.0], [6.0]]
    assert history.spreads.tolist() == [32.0, 0.5, 0.28125]
    np.testing.assert_allclose(history.losses, [14, 12.5, 12], rtol=1e-15)
    models = [memory["gossip.model"].item() for memory in history.memories]
    assert models == [5.625, 6.75, 5.625]
    momenta = [memory["local_steps.momentum"].item() for memory in history.memories]
    assert momenta == [10.5, -4.5, -12.0]
    assert [outcome.pairs for outcome in history.outcomes] == [((0, 1),), ((0, 2),)]
    assert [outcome.applied for outcome in history.outcomes] == [(0, 1, 2)] * 2
    # (x − c)²/2 where each of them stands before its step: 72, 18, 72, and 10.125, 1.125, 18
    assert [outcome.loss for outcome in history.outcomes] == [54.0, 9.75]
    assert [outcome.samples for outcome in history.outcomes] == [3, 3]
    assert [outcome.computed for outcome in history.outcomes] == [3, 3]


def test_what_was_lost_by_hand():
    """Models (4, 1) and (2, −3) of which top_k sends one entry: (4, 0) and (0, −3).

    X_0 + ((0, −3) − (4, 0))/2 = (2, −.5), and the other (4, −1.5): the sum stays (6, −2).
    """
    flat = [Squares(np.eye(2), np.zeros(2))] * 2
    history = fb.run_gossip(
        *(flat, [np.array([4.0, 1.0]), np.array([2.0, -3.0])], 1),
        estimator=fb.exact(),
        matching=fb.random_matching(),
        step_size=0.0,
        compressor=fb.top_k(0.5),
    )
    assert history.memories[0]["gossip.model"].tolist() == [2.0, -0.5]
    assert history.memories[1]["gossip.model"].tolist() == [4.0, -1.5]
    assert history.payload_bits.tolist() == [2 * fb.top_k(0.5).encode(np.ones(2)).payload_bits]


def test_changes_by_hand():
    """ef21 sends C(X' − v), and v moves by it on both sides; half the way to the mean each time.

    Round 0 sends what it did above: v = (4, 0) and (0, −3), so X = (3, .25) and (3, −2.25). Then
    C(X − v) = (−1, 0) and (3, 0), so v = (3, 0) and (3, −3), and X moves by ± (0, −3)/4.
    Kills: a change for what is known, an h that stays behind.
    """
    flat = [Squares(np.eye(2), np.zeros(2))] * 2
    history = fb.run_gossip(
        *(flat, [np.array([4.0, 1.0]), np.array([2.0, -3.0])], 2),
        estimator=fb.exact(),
        matching=fb.random_matching(),
        step_size=0.0,
        compressor=fb.top_k(0.5),
        feedback=fb.ef21(),
        mixing=0.5,
    )
    assert history.memories[0]["gossip.model"].tolist() == [3.0, -0.5]
    assert history.memories[1]["gossip.model"].tolist() == [3.0, -1.5]
    assert history.memories[0]["feedback.gradient"].tolist() == [3.0, 0.0]
    assert history.memories[1]["feedback.gradient"].tolist() == [3.0, -3.0]
