"""measure_bias: what clients say of their own bias, and that saying it changes nothing else."""

from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias.estimators import Estimate, Estimator
from fedbias.headers import squares
from fedbias.ledger import Ledger
from fedbias.problems import PolicySearch

PROBLEM = fb.LeastSquares.random(6, 10, 1, clients=3)
START = np.linspace(-1, 2, 6)


class Slope:
    """A client whose gradient is one vector everywhere."""

    def __init__(self, gradient, size=1):
        self.slope, self.size = np.array(gradient, float), size

    dim = property(lambda self: self.slope.size)

    def loss(self, point, batch=None):
        return 0.0

    def gradient(self, point, batch=None):
        return self.slope.copy()


def measured(objectives, rounds=1, step=fb.gradient_descent(0.5), **settings):
    start = np.zeros(objectives[0].dim)
    history = fb.run(objectives, step, start, rounds, measure_bias=1, **settings)
    return [outcome.measured for outcome in history.outcomes]


def test_clipping_by_hand():
    """(3, 4) clipped to 1 is (.6, .8): ‖(2.4, 3.2)‖² = 16 beside ‖∇f‖² = 25."""
    (told,) = measured([Slope([3, 4])], estimator=fb.clipped(1.0))
    assert (told.bias_square, told.gradient_square) == pytest.approx((16, 25), rel=1e-12)


def test_what_was_sent_counts_not_what_was_estimated():
    """Top 1 of (3, 1) is (3, 0); with error feedback (3, 1) + (0, 1) = (3, 2) is sent as (3, 0),
    then (3, 3) as (3, 0) and (3, 4) as (0, 4).

    Kills: the estimate in the place of the packet.
    """
    told = measured([Slope([3, 1])], 4, compressor=fb.top_k(0.5), feedback=fb.error_feedback())
    assert [m.bias_square for m in told] == pytest.approx([1, 1, 1, 9 + 9], rel=1e-12)
    assert [m.gradient_square for m in told] == pytest.approx([10] * 4, rel=1e-12)


def test_exact_clients_have_no_bias():
    assert [m.bias_square for m in measured(PROBLEM.objectives, 3)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("weights", "expected"), [("uniform", (4.5, 13)), ("examples", (6.75, 19))]
)
def test_the_mean_over_clients_by_hand(weights, expected):
    """Clipped to 2: (1, 0) stays, ‖·‖² 1; (5, 0) loses 3, ‖·‖² 25; weighted 1:3 where by examples.

    Kills: a sum, the unweighted mean.
    """
    clients = [Slope([1, 0]), Slope([5, 0], size=3)]
    (told,) = measured(clients, estimator=fb.clipped(2.0), weights=weights)
    assert (told.bias_square, told.gradient_square) == expected


@pytest.mark.parametrize("every", [1, 3])
def test_in_every_so_many_rounds(every):
    """Kills: the wrong rounds, a measurement that nobody asked for."""
    history = fb.run(PROBLEM.objectives, fb.gradient_descent(0.1), START, 7, measure_bias=every)
    asked = [k for k, outcome in enumerate(history.outcomes) if outcome.measured is not None]
    assert asked == list(range(0, 7, every))
    sizes = [sum(f.size for f in PROBLEM.objectives) * (1 + (k % every == 0)) for k in range(7)]
    assert [outcome.computed for outcome in history.outcomes] == sizes


def test_it_changes_nothing_else():
    """Bit for bit: points, packets and memories. Kills: a measurement that draws, or remembers."""
    settings = {
        "estimator": fb.local_steps(3, 0.05, momentum=0.5, inner=fb.minibatch("reshuffle")),
        "batch_size": 4,
        "compressor": fb.dithered(3),
        "feedback": fb.no_feedback(),
    }
    one = fb.run(PROBLEM.objectives, fb.adam(0.1), START, 6, **settings)
    other = fb.run(PROBLEM.objectives, fb.adam(0.1), START, 6, measure_bias=1, **settings)
    assert one.points.tobytes() == other.points.tobytes()
    assert one.wire_bits.tolist() == other.wire_bits.tolist()
    for before, after in zip(one.memories, other.memories, strict=True):
        assert {k: v.tobytes() for k, v in before.items()} == {
            k: v.tobytes() for k, v in after.items()
        }


def test_the_mean_bounds_the_average():
    """Jensen: Σ‖b_m‖²/n ≥ ‖b‖², Σ‖∇f_m‖²/n ≥ ‖∇f‖²; equal for clients that are alike."""
    for clients, alike in ((PROBLEM.objectives, False), ([PROBLEM.objectives[0]] * 3, True)):
        sent = []
        history = fb.run(
            clients,
            fb.gradient_descent(0.1),
            START,
            1,
            estimator=fb.clipped(0.5),
            measure_bias=1,
            on_round=lambda k, state, outcome, sent=sent: sent.append((START - state.point) / 0.1),
        )
        exact = np.mean([f.gradient(START) for f in clients], axis=0)
        truth = np.sum((sent[0] - exact) ** 2), np.sum(exact**2)
        told = history.outcomes[0].measured
        for mean, square in zip((told.bias_square, told.gradient_square), truth, strict=True):
            if alike:
                assert mean == pytest.approx(square, rel=1e-10)
            else:
                assert mean > 1.01 * square


class Blind(Estimator):
    """Needs no gradient."""

    name = "blind"
    needs = frozenset()

    def estimate(self, objective, point, turn):
        return Estimate(np.ones_like(point), 0.0)


class LossAlone:
    """A client that cannot differentiate."""

    dim, size = 2, 1

    def loss(self, point, batch=None):
        return 0.0


def test_who_has_no_gradient_says_nothing_and_takes_part():
    """Kills: a refusal; a mean that counts it as zero."""
    clients = [LossAlone(), Slope([4, 1])]
    (told,) = measured(clients, estimator=Blind())
    assert (told.bias_square, told.gradient_square) == pytest.approx((9, 17), rel=1e-12)
    assert measured(clients[:1], estimator=Blind()) == [None]


class Moving(Slope):
    """Its gradient is its buffers, which every gradient moves."""

    def gradient(self, point, batch=None):
        self.buffers = self.buffers + 1
        return self.buffers - 1


def test_the_exact_gradient_is_that_of_the_plans_buffers():
    client = Moving([0, 0])
    client.buffers = np.array([3.0, 4.0])
    (told,) = measured([client], estimator=fb.clipped(1.0))
    assert (told.bias_square, told.gradient_square) == pytest.approx((16, 25), rel=1e-12)


def test_what_the_report_carries_is_the_turns():
    """Two local steps move the buffers twice; measuring must not be seen in them."""
    client = Moving([0, 0])
    client.buffers = np.array([3.0, 4.0])
    states = []
    fb.run(
        *([client], fb.gradient_descent(0.5), np.zeros(2), 1),
        estimator=fb.local_steps(2, 0.1, inner=fb.exact()),
        measure_bias=1,
        on_round=lambda k, state, outcome: states.append(state.buffers.tolist()),
    )
    assert states == [[5, 6]]


def test_a_gradient_that_is_not_finite_is_not_reported():
    assert measured([Slope([np.inf, 0])], estimator=Blind()) == [None]


def test_a_gradient_that_is_an_estimate_is_compared_with_the_exact_one():
    """Kills: REINFORCE compared with its own sample, hence without bias."""
    problem = PolicySearch.chain(3, 0.6, 2, 4, 0, ridge=0.1, clients=1)
    (client,), point = problem.objectives, np.zeros(6)
    (told,) = measured([client])
    client.draw_key = (0, 0, 0)
    off = client.gradient(point) - problem.gradient(point)
    assert told.bias_square == pytest.approx(np.sum(off**2), rel=1e-9) and told.bias_square > 0
    assert told.gradient_square == pytest.approx(np.sum(problem.gradient(point) ** 2), rel=1e-9)


def test_a_sample_of_the_clients_does_not_see_its_own_error():
    """One exact client of three: no bias of its own, though the average is not ∇f."""
    history = fb.run(
        *(PROBLEM.objectives, fb.gradient_descent(0.1), START, 1),
        participation=lambda k: [1],
        measure_bias=1,
    )
    told = history.outcomes[0].measured
    own = np.sum(PROBLEM.objectives[1].gradient(START) ** 2)
    assert told.bias_square == 0 and told.gradient_square == pytest.approx(own, rel=1e-12)


def test_the_report_of_one_client():
    plan = fb.Plan(0, 0, 0, -1, fb.clipped(1.0), None, fb.identity(), fb.no_feedback(), np.zeros(2))
    client = Slope([3, 4])
    assert fb.client.respond(client, plan, Ledger())[0].measured is None
    report, _ = fb.client.respond(client, replace(plan, measure_bias=True), Ledger())
    again = fb.Report.from_record(report.to_record())
    assert again.measured == report.measured
    assert again.measured.gradient_square == pytest.approx(25)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (None, True),
        ([0, 1.5], True),
        ([-1.0, 0.0], False),
        ([float("nan"), 1.0], False),
        ([float("inf"), 1.0], False),
        ([1.0], False),
        ([1.0, 2.0, 3.0], False),
        (["1", 2.0], False),
        (1.0, False),
        ({}, False),
    ],
)
def test_what_a_header_may_say(value, accepted):
    assert squares(value) is accepted
