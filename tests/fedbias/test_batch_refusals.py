"""Bad input for batch sizes: each is defined, none divides by zero or grows for ever."""

import math
from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.problems import Squares
from fedbias.server import apply, plan_for
from fedbias.state import ServerState
from tests.tools.batch_runs import CLIENTS, DESCENT, NORM, START, TESTS, algorithm, each_test, run
from tests.tools.uneven import uneven


class LossAndGradient:
    """A client whose example gradients nobody knows."""

    dim, size = 4, 30

    def loss(self, point, batch=None):
        return 1.0

    def gradient(self, point, batch=None):
        return np.ones_like(point)


@pytest.mark.parametrize("rule", [rule for rule in TESTS if rule.measures], ids=lambda r: r.name)
def test_a_client_that_cannot_measure_says_so(rule):
    """Kills: an AttributeError in the place of a sentence."""
    with pytest.raises(fb.MissingCapability) as caught:
        run(rule, 1, [LossAndGradient()])
    assert str(caught.value) == (
        f"{rule!r} needs per_example_statistics, which LossAndGradient does not offer"
    )
    assert run(TESTS[-1], 2, [LossAndGradient()] * 2).batch_sizes == [2, 2]  # no spread at all


@pytest.mark.parametrize("rule", [rule for rule in TESTS if rule.measures], ids=lambda r: r.name)
@pytest.mark.parametrize("size", [1e160, 1e200])
def test_a_statistic_that_overflows_is_none(rule, size):
    """A gradient that is a number with a variance that is none: the packet counts, and b stays.

    Kills: an infinity in the header, which no server reads.
    """
    rows = np.diag(np.full(4, math.sqrt(size)))
    objective = Squares(rows, rows @ np.ones(4))
    made = algorithm(rule, batch_size=replace(rule, initial=4))
    state = ServerState(np.zeros(4), enrolled={0: 4})
    report, _ = respond(objective, plan_for(made, state, 0), Ledger())
    again = fb.Report.from_record(report.to_record())
    assert again.statistic is None and again.computed == 4
    after, outcome = apply(replace(made, optimizer=fb.gradient_descent(1e-250)), state, [again])
    assert outcome.applied == (0,) and after.batch_size == 4 and after.samples == 4
    assert math.isnan(outcome.wanted)


@each_test
def test_one_example_beside_others(rule):
    """Client 3 has one: it takes it, without variance, and the others grow. Kills: 0/0."""
    history = run(rule, 30)
    assert history.batch_sizes[-1] > 8 and np.isfinite(history.points).all()
    alone = run(rule, 5, uneven(1, 1)) if rule.compares_clients else run(rule, 5, uneven(1))
    assert alone.batch_sizes == [1] * 5 and np.isfinite(alone.points).all()


@each_test
def test_clients_without_noise(rule):
    """One example each, in many copies. Kills: a size that grows where there is no variance."""
    rows = np.tile([[1.0, 0.0, 0.0, 0.0]], (20, 1))
    history = run(rule, 5, [Squares(rows, np.zeros(20))] * 3)
    assert history.batch_sizes == [2] * 5


@each_test
def test_at_the_minimum_of_every_example(rule):
    """ĝ and all variances are exactly 0. Kills: a division by zero, growth at a solution."""
    exact = [Squares(f.features, f.features @ np.ones(4)) for f in CLIENTS]
    history = run(rule, 4, exact, start=np.ones(4))
    assert history.points.tobytes() == np.ones((5, 4)).tobytes()
    assert history.batch_sizes == [2] * 4
    assert all(math.isnan(outcome.wanted) for outcome in history.outcomes)


def test_a_client_with_no_data():
    """Kills: a mean of nothing."""
    empty = Squares(np.zeros((0, 4)), np.zeros(0))
    with pytest.raises(ValueError, match="run: client 1 has no data"):
        run(NORM, 1, [CLIENTS[0], empty])
    plan = plan_for(algorithm(NORM), ServerState(START), 0)
    with pytest.raises(ValueError, match="the client has no data"):
        respond(empty, plan, Ledger())


def test_one_client_is_not_compared():
    """Alone for good: refused. Alone in a round: undefined, so b stays and goes on afterwards."""
    rule = fb.cross_client_test(eta=0.1, maximum=50)
    with pytest.raises(
        ValueError, match="run: cross_client_test compares clients and there is one: use norm_test"
    ):
        run(rule, 1, CLIENTS[:1])
    history = run(rule, 4, participation=lambda k: [0] if k < 3 else [0, 1])
    assert history.batch_sizes == [2] * 4 and math.isnan(history.outcomes[2].wanted)
    assert history.outcomes[3].wanted > 2
    lonely = run(rule, 3, lost=lambda k: [1, 2, 3])
    assert lonely.batch_sizes == [2] * 3


LOCAL = fb.local_norm_test(eta=0.5, maximum=50)
PLAIN = "measures the examples of a plain batch, not of"


@pytest.mark.parametrize(
    ("rule", "estimator", "sentence"),
    [
        (NORM, fb.exact(), "has no meaning for exact(), which uses all the data"),
        (NORM, fb.clipped(1.0), "has no meaning for clipped(radius=1.0), which uses all the data"),
        (NORM, fb.local_steps(2, 0.1, inner=fb.exact()), "which uses all the data"),
        (fb.linear_batch(2, 9, 9), fb.exact(), "has no meaning for exact()"),
        (NORM, fb.clipped(1.0, fb.minibatch()), f"norm_test {PLAIN} clipped("),
        (NORM, fb.normalised(fb.minibatch()), f"norm_test {PLAIN} normalised("),
        (NORM, fb.meta(0.1), f"norm_test {PLAIN} meta("),
        (NORM, fb.local_steps(2, 0.1), "use minibatch(), or local_norm_test or cross_client_test"),
        (LOCAL, fb.meta(0.1), f"local_norm_test {PLAIN} meta("),
        (LOCAL, fb.clipped(1.0, fb.minibatch()), f"local_norm_test {PLAIN} clipped("),
        (LOCAL, fb.clipped(1.0, fb.local_steps(2, 0.1)), f"local_norm_test {PLAIN} clipped("),
        (LOCAL, fb.local_steps(2, 0.1, inner=fb.clipped(1.0, fb.minibatch())), PLAIN),
        (LOCAL, fb.local_steps(2, 0.1, inner=fb.meta(0.1)), PLAIN),
    ],
)
def test_what_cannot_be_measured(rule, estimator, sentence):
    """One sentence that names a way out. Kills: a test that silently never sees a statistic."""
    with pytest.raises(ValueError) as caught:
        Algorithm(DESCENT, estimator, batch_size=rule)
    message = str(caught.value)
    assert message.startswith("algorithm: ") and sentence in message and "\n" not in message


@pytest.mark.parametrize("rule", TESTS, ids=lambda rule: rule.name)
def test_what_can_be_measured(rule):
    """Kills: a refusal too many."""
    for estimator in (fb.minibatch(), fb.minibatch("reshuffle")):
        Algorithm(DESCENT, estimator, batch_size=rule)
    if rule.local or rule.compares_clients:
        steps = fb.local_steps(3, 0.01)
        history = run(rule, 12, estimator=steps, optimizer=fb.gradient_descent(1.0))
        assert history.batch_sizes[-1] > 2
    if rule.compares_clients:
        assert run(rule, 3, estimator=fb.clipped(1.0, fb.minibatch())).batch_sizes[-1] > 2
