"""What the server knows of the batches without a client's word: samples, and the noise of ĝ."""

import math
from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias.problems import noisy
from fedbias.server import apply
from fedbias.state import ServerState
from tests.tools.batch_runs import CROSS, ENROLLED, NORM, START, algorithm, replies, run
from tests.tools.uneven import uneven

# Samples ------------------------------------------------------------------------------------------

PLAIN, STEPS = fb.minibatch(), fb.local_steps(4, 0.1)
ESTIMATORS = [  # of b = 7 where it draws, and of all 30 examples
    (fb.exact(), None, 30),
    (PLAIN, 7, 30),
    (fb.minibatch("reshuffle"), 7, 30),
    (noisy(1.0), 7, 30),
    (fb.meta(0.1), 21, 90),
    (STEPS, 28, 120),
    (fb.local_steps(4, 0.1, momentum=0.9, inner=fb.meta(0.1)), 84, 360),
    (fb.local_steps(4, 0.1, inner=fb.exact()), None, 120),
    (fb.clipped(1.0), None, 30),
    (fb.clipped(1.0, PLAIN), 7, 30),
    (fb.clipped(1.0, STEPS), 28, 120),
    (fb.normalised(), None, 30),
    (fb.normalised(PLAIN), 7, 30),
    (fb.normalised(fb.clipped(2.0, fb.meta(0.1))), 21, 90),
    (fb.two_point(3, 0.1), 7, 30),
    (fb.two_point(3, 0.1, central=True), 7, 30),
    (fb.forward_gradient(3), 7, 30),
    (fb.local_steps(4, 0.1, inner=fb.two_point(3, 0.1)), 28, 120),
    (fb.by_capability(gradient=PLAIN, loss=fb.two_point(3, 0.1)), 7, 30),
]
PASSES = {  # of forward passes over the batch, for who has no gradients
    fb.two_point(3, 0.1): 4,
    fb.two_point(3, 0.1, central=True): 6,
    fb.forward_gradient(3): 4,
    fb.local_steps(4, 0.1, inner=fb.two_point(3, 0.1)): 4,
}


def test_every_estimator_counts_its_samples():
    """No kind is left out of the table."""
    assert {estimator.name for estimator, _, _ in ESTIMATORS} >= set(
        fb.notation.names(fb.Estimator)
    )


@pytest.mark.parametrize(("estimator", "some", "everything"), ESTIMATORS, ids=repr)
def test_samples_by_hand(estimator, some, everything):
    """H·b, 3b, b; and what a client then computes is just that, as often as it passes over it.

    Kills: H or 3 left out, H for H·3, a wrapper that forgets its inner one, b for all the data,
    the loss at the point not counted.
    """
    assert estimator.samples(None, 30) == everything
    assert some is None or estimator.samples(7, 30) == some
    (client,) = uneven(30)
    for size, expected in ((None, everything), *([(7, some)] if some else [])):
        history = run(size, 2, [client], estimator=estimator)
        for outcome in history.outcomes:
            assert outcome.samples == expected
            assert outcome.computed == PASSES.get(estimator, 1) * expected


def test_a_clients_word_moves_no_samples():
    """It says that it has other data, or computed less: b_m is what it was asked for.

    Kills: ``computed`` or ``examples`` for the samples.
    """
    made = algorithm(NORM)
    state = ServerState(START, enrolled=ENROLLED, batch_size=30, samples=5)
    honest = replies(made, state)
    expected, known = apply(made, state, honest)
    assert known.samples == 30 + 25 + 9 + 1 and expected.samples == 70
    for lie in ({"computed": 0}, {"computed": 10**18}, {"examples": 1}, {"examples": 10**18}):
        after, outcome = apply(made, state, [replace(honest[0], **lie), *honest[1:]])
        assert (after.samples, outcome.samples) == (70, 65)
        assert (after.batch_size, outcome.wanted) == (expected.batch_size, known.wanted)


def test_a_newcomers_samples():
    """The server asks whom it has not met for b, whatever it has, and counts that."""
    made = algorithm(8)
    state = ServerState(START)
    assert apply(made, state, replies(made, state))[1].samples == 4 * 8
    made = algorithm(replace(NORM, initial=8))
    assert apply(made, state, replies(made, state))[1].samples == 4 * 8


# The noise of ĝ -----------------------------------------------------------------------------------

DIM, SIGMA = 400, 3.0
(ALIKE,) = uneven(9, dim=DIM)  # the data of every client


def second_rounds(rule, feedback, asked, seeds):
    """(‖ĝ − ∇f‖², V) of a round in which ``asked`` of four clients reply, after one of all four.

    b = 6 in both, V from the wish, and the step so small that the point stays.
    """
    point, step, found = np.ones(DIM), 1e-9, []
    gradient = ALIKE.gradient(point)
    for seed in range(seeds):
        history = run(
            *(replace(rule, initial=6, maximum=6), 2, [ALIKE] * 4),
            start=point,
            estimator=noisy(SIGMA),
            feedback=feedback,
            participation=lambda k: asked if k else range(4),
            optimizer=fb.gradient_descent(step),
            seed=seed,
        )
        mean, outcome = (history.points[1] - history.points[2]) / step, history.outcomes[1]
        seen = outcome.wanted * rule.eta**2 * outcome.gradient_norm**2 / 6
        found.append((np.sum((mean - gradient) ** 2), seen))
    return np.array(found).T


@pytest.mark.parametrize("rule", [NORM, CROSS], ids=lambda rule: rule.name)
@pytest.mark.parametrize(
    ("feedback", "asked", "estimates"),
    [(fb.no_feedback(), (0, 1), 2), (fb.ef21(), (0, 1), 4), (fb.ef21(), (1, 2, 3), 4)],
    ids=["two replies", "two replies and two memories", "three and one"],
)
def test_the_noise_of_the_mean_where_some_are_silent(rule, feedback, asked, estimates):
    """Clients alike: dσ²/6 over ``estimates`` is the variance of the mean of as many batches of 6;
    ĝ has it over 40 runs, and that is what the test sees of it.

    Each within 5 standard errors (error < 10^−5), which are below a tenth of it. Kills: V of the
    replies alone, twice too large beside as many memories; a share that is squared, or turned over.
    """
    exact = DIM * SIGMA**2 / 6 / estimates
    for values in second_rounds(rule, feedback, asked, 40):
        error = np.std(values) / math.sqrt(len(values))
        assert abs(np.mean(values) - exact) < 5 * error < exact / 10


@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_the_share_of_the_replies_by_hand(weights):
    """Of ĝ's weight, the weight of those that replied: 2 of 4 clients, or 85 of 95 examples.

    Kills: a count for the weights, a pool of those that were asked, of those that have memories.
    """
    made = algorithm(NORM, feedback=fb.ef21(), weights=weights)
    state = ServerState(START, enrolled=ENROLLED, batch_size=8)
    reports = replies(made, state)[:2]
    _, outcome = apply(made, state, reports)
    own = [1, 1] if weights == "uniform" else [60, 25]
    pool = 4 if weights == "uniform" else 95
    noise = sum(
        (w / sum(own)) ** 2 * report.statistic / 8 for w, report in zip(own, reports, strict=True)
    )
    expected = 8 * (sum(own) / pool) * noise / (0.25 * outcome.gradient_norm**2)
    assert outcome.wanted == pytest.approx(expected, rel=1e-12)
    _, late = apply(made, state, reports, {9: 5})  # one more, and ĝ falls as the share does
    more = 5 if weights == "uniform" else 100
    assert late.wanted == pytest.approx(expected * more / pool, rel=1e-12)
