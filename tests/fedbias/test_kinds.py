"""Weights by inverse variance: by hand, from earlier rounds, and what the mean gains by them."""

import math
from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias import theory
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.estimators import as_estimator
from fedbias.kinds import Spread, precisions, remembered
from fedbias.ledger import Ledger
from fedbias.problems import Squares
from fedbias.server import apply, plan_for
from fedbias.state import ServerState
from tests.tools.kinds import able

MIXED = {"gradient": fb.minibatch(), "loss": fb.two_point(4, 1e-3, central=True)}
ALGORITHM = Algorithm(
    *(fb.gradient_descent(1.0), as_estimator(MIXED)),
    batch_size=3,
    weights="inverse_variance",
)


def spread_of(*vectors):
    spread = Spread.like(np.array(vectors[0], float))
    for vector in vectors:
        spread.add(np.array(vector, float))
    return spread


# By hand ------------------------------------------------------------------------------------------


def test_the_variance_by_hand():
    """(1, 0), (3, 0), (5, 6): 8 + 24 about (3, 2), over 2. Kills: a division by 3, no mean."""
    assert spread_of((1, 0), (3, 0), (5, 6)).variance == pytest.approx(16, rel=1e-14)
    assert spread_of((1, 2)).variance is None
    assert spread_of((0.1, 0.2), (0.1, 0.2), (0.1, 0.2)).variance == pytest.approx(0, abs=1e-16)
    assert spread_of((3, 4), (3, 4)).variance == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_variance_beyond_every_float_is_none(dtype):
    """And no warning. Kills: a variance of 0 for an infinite one, which would outweigh all."""
    huge = np.full(2, np.finfo(dtype).max, dtype)
    for signs in ((1, 1), (1, -1), (1, 1, -1)):
        spread = Spread.like(huge)
        for sign in signs:
            spread.add(sign * huge)
        if dtype == np.float64 or signs != (1, -1):
            assert spread.variance is None
            assert remembered({"loss": (2, 3.0)}, {"loss": spread}) == {"loss": (2, 3.0)}


def test_the_running_mean_by_hand():
    """Of all the rounds up to ten, then with a tenth for each; a single reply says nothing.

    Kills: a count that stands still, a memory of another length, a kind that is forgotten.
    """
    values, known = [8.0, 2.0, 5.0, *range(1, 13)], {"gradient": (4, 7.0)}
    for round, value in enumerate(values, 1):
        known = remembered(known, {"loss": spread_of((0,), (math.sqrt(2 * value),))})
        if round <= 10:
            expected = np.mean(values[:round])
        else:
            expected += (value - expected) / 10
        assert known["loss"] == (round, pytest.approx(expected, rel=1e-12))
        assert known["gradient"] == (4, 7.0)
    assert remembered(known, {"loss": spread_of((3,))}) == known
    assert remembered({}, {}) == {}


@pytest.mark.parametrize(
    ("known", "weights"),
    [
        ({}, [1, 1, 1]),
        ({"gradient": 2.0}, [1, 1, 1]),
        ({"gradient": 2.0, "directional": 4.0, "loss": 8.0}, [1, 0.5, 0.25]),
        ({"gradient": 8.0, "directional": 4.0, "loss": 2.0}, [0.25, 0.5, 1]),
        ({"gradient": 2.0, "loss": 8.0}, [1, 0.25, 0.25]),  # nobody has the one between
        ({"gradient": 0.0, "directional": 0.0, "loss": 8.0}, [1, 1, 1e-12]),
        ({"gradient": 0.0, "directional": 0.0, "loss": 0.0}, [1, 1, 1]),
        ({"gradient": 1e-200, "directional": 1.0, "loss": 1e200}, [1, 1e-12, 1e-12]),
    ],
    ids=range(8),
)
def test_weights_by_hand(known, weights):
    """Kills: the variance for its inverse, a largest weight that is not 1, a division by 0, a kind
    that nobody has and all wait for."""
    variances = {kind: (3, value) for kind, value in known.items()}
    found = precisions(variances, ["gradient", "directional", "loss"])
    assert found == dict(zip(["gradient", "directional", "loss"], weights, strict=True))


# In a round ---------------------------------------------------------------------------------------

PROBLEM = fb.LeastSquares.random(5, 10, 0, clients=4)
CLIENTS = able(PROBLEM.objectives, "ggll")
START = np.linspace(-1, 2, 5)


def replies(algorithm, state, clients=CLIENTS):
    return [
        respond(client, plan_for(algorithm, state, number), Ledger())[0]
        for number, client in enumerate(clients)
    ]


def vectors_of(reports):
    return np.stack([fb.decode(report.packet) for report in reports])


def test_a_weighted_mean_by_hand():
    """(g_0 + g_1 + ¼z_2 + ¼z_3)/2.5, and the losses alike.

    Kills: a weight of this round's spread, one that is squared, a mean over the clients.
    """
    state = ServerState(START, variances={"gradient": (4, 2.0), "loss": (4, 8.0)})
    reports = replies(ALGORITHM, state)
    after, outcome = apply(ALGORITHM, state, reports)
    weights = np.array([1, 1, 0.25, 0.25])
    mean = weights @ vectors_of(reports) / 2.5
    np.testing.assert_allclose(START - after.point, mean, rtol=1e-12)
    losses = [report.loss for report in reports]
    assert outcome.loss == pytest.approx(weights @ losses / 2.5, rel=1e-14)


def test_a_mean_by_examples_by_hand():
    """(9·g + 4·z)/13, whatever is known. Kills: kinds that weigh where nobody asked for it."""
    rows = np.random.default_rng(1).standard_normal((13, 5))
    pair = able([Squares(rows[:9], np.ones(9)), Squares(rows[9:], np.ones(4))], "gl")
    algorithm = replace(ALGORITHM, weights="examples")
    state = ServerState(START, variances={"gradient": (4, 2.0), "loss": (4, 8.0)})
    reports = replies(algorithm, state, pair)
    after, _ = apply(algorithm, state, reports)
    mean = np.array([9, 4]) @ vectors_of(reports) / 13
    np.testing.assert_allclose(START - after.point, mean, rtol=1e-12)


def test_weights_follow_from_earlier_rounds_alone():
    """The first mean is uniform; then by what the first round showed; and whatever the others of a
    round reply, a client's own weight in it stays.

    Kills: weights that depend on the noise they weigh, and bias the mean.
    """
    state = ServerState(START)
    reports = replies(ALGORITHM, state)
    vectors = vectors_of(reports)
    after, _ = apply(ALGORITHM, state, reports)
    np.testing.assert_allclose(START - after.point, vectors.mean(axis=0), rtol=1e-12)
    seen = [np.sum(np.var(vectors[place], axis=0, ddof=1)) for place in ([0, 1], [2, 3])]
    assert list(after.variances) == ["gradient", "loss"]
    assert [rounds for rounds, _ in after.variances.values()] == [1, 1]
    np.testing.assert_allclose([mean for _, mean in after.variances.values()], seen, rtol=1e-12)
    second = replies(ALGORITHM, after)
    share = min(seen) / np.array(seen)
    for heard in ([0, 1, 2, 3], [0, 2, 3], [1, 2], [3]):
        chosen = [second[client] for client in heard]
        weights = np.array([share[client // 2] for client in heard])
        mean = weights @ vectors_of(chosen) / weights.sum()
        moved, _ = apply(ALGORITHM, after, chosen)
        np.testing.assert_allclose(after.point - moved.point, mean, rtol=1e-10)


def test_one_reply_of_a_kind_shows_no_spread():
    """Two clients of two kinds: uniform weights for ever. Kills: a variance of 0 for one reply."""
    settings = {"estimator": MIXED, "batch_size": 3}
    pair, common = able(PROBLEM.objectives[:2], "gl"), (fb.gradient_descent(0.1), START, 5)
    weighed = fb.run(pair, *common, weights="inverse_variance", **settings)
    uniform = fb.run(pair, *common, **settings)
    assert weighed.points.tobytes() == uniform.points.tobytes()


def test_a_kind_that_nobody_has_holds_nobody_up():
    """The same run, whether or not the server would also have asked for slopes."""
    settings = {"weights": "inverse_variance", "batch_size": 3}
    common = CLIENTS, fb.gradient_descent(0.1), START, 5
    three = MIXED | {"directional": fb.forward_gradient(4)}
    without = fb.run(*common, estimator=MIXED, **settings)
    within = fb.run(*common, estimator=three, **settings)
    uniform = fb.run(*common, estimator=MIXED, batch_size=3)
    assert without.points.tobytes() == within.points.tobytes() != uniform.points.tobytes()


def test_no_variance_at_all():
    """Alike clients with exact gradients: what those with losses say hardly counts.

    Kills: a division by 0, a weight of 0 for a round in which nobody else replies.
    """
    alike = able([PROBLEM.objectives[0]] * 6, "ggglll")
    states = []
    history = fb.run(
        *(alike, fb.gradient_descent(0.1), START, 6),
        estimator=MIXED | {"gradient": fb.exact()},
        weights="inverse_variance",
        participation=lambda k: [3, 4] if k == 4 else range(6),
        on_round=lambda k, state, outcome: states.append(state),
    )
    assert states[0].variances["gradient"][1] < 1e-12 < states[0].variances["loss"][1]
    for k in (1, 2, 3, 5):
        plain = history.points[k] - 0.1 * PROBLEM.objectives[0].gradient(history.points[k])
        np.testing.assert_allclose(history.points[k + 1], plain, atol=1e-9)
    assert history.outcomes[4].applied == (3, 4)
    assert not np.array_equal(history.points[4], history.points[5])


def test_what_was_not_applied_leaves_the_variances():
    """Refused reports, rounds of too few, rounds that would leave the range; and uniform weights
    keep none at all. Kills: a spread of what moved nothing."""
    state = ServerState(START, variances={"gradient": (4, 2.0), "loss": (4, 8.0)})
    reports = replies(ALGORITHM, state)
    strict = replace(ALGORITHM, minimum_replies=5)
    assert apply(strict, state, reports)[0].variances == state.variances
    wild = replace(ALGORITHM, optimizer=fb.gradient_descent(1e308))
    far = replace(state, point=1e9 * START)
    lost, outcome = apply(wild, far, replies(ALGORITHM, far))
    assert len(outcome.refused) == 4 and lost.variances == state.variances
    spoiled = replace(reports[3], loss=math.nan)
    one, outcome = apply(ALGORITHM, state, [*reports[:3], spoiled])
    assert list(outcome.refused) == [3] and one.variances["loss"] == (4, 8.0)
    assert one.variances["gradient"][0] == 5
    plain = apply(replace(ALGORITHM, weights="uniform"), ServerState(START), reports)
    assert plain[0].variances == {}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"estimator": fb.exact()},
            "compares kinds of estimates, and exact() is one: use by_capability(…), or uniform "
            "weights",
        ),
        (
            {"estimator": {"gradient": fb.exact()}},
            "compares kinds of estimates, and by_capability(gradient=exact()) is one: use "
            "by_capability(…), or uniform weights",
        ),
        (
            {"estimator": MIXED, "feedback": fb.ef21()},
            "weighs a round's replies, and ef21() steps along everybody's memory: use uniform "
            "weights",
        ),
        (
            {"estimator": MIXED, "feedback": fb.differential(memory=True)},
            "weighs a round's replies, and differential(memory=True) steps along everybody's "
            "memory: use uniform weights",
        ),
    ],
)
def test_impossible_settings(settings, sentence):
    """Kills: weights for what has none, each said in full."""
    with pytest.raises(ValueError) as caught:
        fb.run(CLIENTS, fb.gradient_descent(0.1), START, 1, weights="inverse_variance", **settings)
    assert str(caught.value) == f"algorithm: weights='inverse_variance' {sentence}"


# What it buys -------------------------------------------------------------------------------------

DIM, DIRECTIONS, BATCH = 6, 2, 4
N1, N0 = 2, 6
K = theory.variance_ratio(DIM, DIRECTIONS)  # 4.5
rng = np.random.default_rng(7)
ROWS = rng.standard_normal((40, DIM))
ALIKE = Squares(ROWS, ROWS.sum(axis=1) + rng.standard_normal(40))
BEST = np.linalg.lstsq(ROWS, ALIKE.targets, rcond=None)[0]
SLOPES = np.stack([ALIKE.gradient(BEST, np.array([row])) for row in range(40)])
SIGMA = np.sum(SLOPES**2) / 40 / BATCH  # E‖∇f_B‖² of one first-order client, where ∇f = 0


def squares(kinds, weights, rounds, known=None):
    """‖ĝ‖²/σ² of as many rounds at the minimiser, where it is all noise and from which none moves;
    and what the server knows after each of them, or ``known`` before all of them."""
    clients = able([ALIKE] * len(kinds), kinds)
    algorithm = Algorithm(
        fb.gradient_descent(1e-30),
        fb.by_capability(gradient=fb.minibatch(), directional=fb.forward_gradient(DIRECTIONS)),
        batch_size=BATCH,
        weights=weights,
    )
    state, found, seen = ServerState(BEST, variances=known or {}), [], []
    for _ in range(rounds):
        state, outcome = apply(algorithm, state, replies(algorithm, state, clients))
        found.append(outcome.gradient_norm**2 / SIGMA)
        seen.append([variance for _, variance in state.variances.values()])
        state = replace(state, variances=known) if known else state
    assert np.array_equal(state.point, BEST)
    return np.array(found), np.array(seen)


def within(found, expected):
    """The mean within 4.5 standard errors (error < 10^−5), which are below .3 of it."""
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 4.5 * error < 0.3 * expected


@pytest.mark.parametrize(
    ("n1", "n0", "weights", "expected"),
    [
        (N1, 0, "uniform", 1 / N1),
        (0, N0, "uniform", K / N0),
        (N1, N0, "uniform", (N1 + K * N0) / (N1 + N0) ** 2),
        (N1, N0, "inverse_variance", 1 / (N1 + N0 / K)),
    ],
    ids=["few FO", "many ZO", "both, uniform", "both, inverse variance"],
)
def test_the_variance_of_the_averaged_estimate(n1, n0, weights, expected):
    """In units of one FO client's: .5, .75, .453 and .3, each over 300 rounds within 4.5 standard
    errors, with variances that are known. Kills: weights that are not used, a k without its 1.
    """
    known = {"gradient": (9, SIGMA), "directional": (9, K * SIGMA)}
    known = known if weights == "inverse_variance" else None
    within(squares("g" * n1 + "d" * n0, weights, 300, known)[0], expected)
    found = theory.averaged_variance(n1, n0, K, weights)
    assert found == pytest.approx(expected, rel=1e-14)


def test_inverse_variance_is_below_both_populations():
    """With the variances that the replies showed, in 400 rounds after the first ten: within 4.5
    standard errors of 1/(n_1 + n_0/k), and by as many below 1/n_1 of the first-order clients alone,
    which are below the others. What is known is k apart on average, within a quarter.

    Kills: variances that are not learnt, or those of a mean in place of a reply's.
    """
    found, seen = (each[10:] for each in squares("g" * N1 + "d" * N0, "inverse_variance", 410))
    within(found, 1 / (N1 + N0 / K))
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert np.mean(found) + 4.5 * error < 1 / N1 < K / N0
    first, zeroth = seen.mean(axis=0)
    assert 0.75 < first / SIGMA < 1.25 and 0.75 < zeroth / first / K < 1.25


@pytest.mark.parametrize(
    "away", [0.0, 1.0, 4.0], ids=["at the minimiser", "near it", "far from it"]
)
def test_the_variance_away_from_the_minimiser(away):
    """k·σ² + ((d+1)/n)·‖∇f‖², of 3600 forward gradients of batches: within 4.5 standard errors, and
    beyond k·σ² by as many, of which the second part is two fifths or more; but for ∇f = 0.

    Kills: a k that holds everywhere.
    """
    point = BEST + away
    slopes = np.stack([ALIKE.gradient(point, np.array([row])) for row in range(40)])
    slope = slopes.mean(axis=0)
    noise = np.sum((slopes - slope) ** 2) / 40 / BATCH  # σ² of one first-order client here
    extra = (DIM + 1) / DIRECTIONS * (slope @ slope)
    algorithm = Algorithm(
        *(fb.gradient_descent(1e-30), fb.forward_gradient(DIRECTIONS)), batch_size=BATCH
    )
    state, clients, found = ServerState(point), able([ALIKE] * 6, "d" * 6), []
    for number in range(600):
        vectors = vectors_of(replies(algorithm, replace(state, round=number), clients))
        found.extend(np.sum((vectors - slope) ** 2, axis=1))
    within(found, K * noise + extra)
    if away:
        error = np.std(found, ddof=1) / math.sqrt(len(found))
        assert np.mean(found) - 4.5 * error > K * noise
        assert extra > 0.4 * K * noise
    else:
        assert extra < 1e-20
