"""Batch sizes over a Grid: the same as in the loop, and told round by round."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

import fedbias as fb
from fedbias.batching import BatchTest
from fedbias.problems import Squares
from strategies import FedBias
from tests.tools.federation import Watched, app_of, slopes, train
from tests.tools.uneven import uneven

SIZES = (40, 25, 9, 1)
CLIENTS = uneven(*SIZES)
START = np.full(4, 3.0)
NORM = fb.norm_test(eta=0.3, maximum=30)
STEP = fb.adagrad_norm(1.0)


def four(objectives=CLIENTS, **options):
    return Watched(app_of(objectives), len(objectives), **options)


def strategy(rule, optimizer=STEP, **settings):
    settings = {"estimator": fb.minibatch(), "minimum_clients": 4} | settings
    return FedBias(optimizer, batch_size=rule, **settings)


def gone(message, reply):
    return Message(Error(4, "gone"), reply_to=message)


def said(**changes):
    """Answer with the honest record and another header."""

    def reply_with(message, reply):
        record = dict(reply.content["fedbias"])
        record["header"] = json.dumps(json.loads(record["header"]) | changes)
        return Message(RecordDict({"fedbias": ConfigRecord(record)}), reply_to=message)

    return reply_with


RULES = [
    NORM,
    fb.augmented_test(theta=0.5, nu=1.0, maximum=30),
    fb.cross_client_test(eta=0.3, maximum=30),
    fb.linear_batch(2, 30, 200),
    fb.stagewise_batch(2, 3, 20, 30),
]
LOSSY = {(k, client) for k in range(10) for client in fb.lost(1, k, range(4), 0.2)}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("feedback", [fb.error_feedback(), fb.ef21()], ids=lambda f: f.name)
def test_as_in_the_loop(rule, feedback):
    """With a fifth of the replies lost, against the run in which they were not asked: points,
    sizes, samples and wishes, bit for bit, and in every record.

    Kills: a rule that is not passed on, sizes of nodes that wait, a field of another round.
    """
    settings = {"compressor": fb.top_k(0.5), "feedback": feedback}
    grid = four(intercept=dict.fromkeys(LOSSY, gone))
    run = train(strategy(rule, **settings), grid, START, 10)
    loop = fb.run(
        *(CLIENTS, STEP, START, 10),
        estimator=fb.minibatch(),
        batch_size=rule,
        **settings,
        participation=lambda k: [c for c in range(4) if (k, c) not in LOSSY],
    )
    assert len(LOSSY) > 5 and run.points.tobytes() == loop.points.tobytes()
    records, total = run.records[1:], 0
    assert [r.batch_size for r in records] == loop.batch_sizes and loop.batch_sizes[-1] > 8
    for record, outcome, checkpoint in zip(
        records, loop.outcomes, run.checkpoints[1:], strict=True
    ):
        total += outcome.samples
        assert (record.samples, record.total_samples) == (outcome.samples, total)
        assert checkpoint.state.samples == total
        wanted = None if math.isnan(outcome.wanted) else outcome.wanted
        assert record.wanted_batch_size == wanted == record.to_dict()["wanted_batch_size"]
    wishes = sum(r.wanted_batch_size is not None for r in records)
    assert wishes == (10 if isinstance(rule, BatchTest) else 0)
    first = run.records[0]
    assert (first.batch_size, first.samples, first.total_samples) == (None, 0, 0)
    assert first.wanted_batch_size is None


def test_what_each_client_is_asked():
    """The plans themselves. Kills: one size for all, a test that some clients are not told of."""
    grid = four()
    run = train(strategy(NORM), grid, START, 8)
    plans = [
        fb.Plan.from_record(message.content["fedbias"])
        for message, _ in grid.sent
        if message.metadata.message_type == "train"
    ]
    for plan in plans:
        size = run.records[plan.round + 1].batch_size
        assert plan.batch_size == min(size, SIZES[plan.client]) and plan.measure == NORM
    assert max(plan.batch_size for plan in plans) > 9
    grid = four()
    train(strategy(fb.constant_batch(12)), grid, START, 1)
    asked = [m.content["fedbias"] for m, _ in grid.sent if m.metadata.message_type == "train"]
    assert {fb.Plan.from_record(record).batch_size for record in asked} == {12}
    assert {fb.Plan.from_record(record).measure for record in asked} == {None}


def test_a_round_without_a_reply():
    """Kills: sizes or samples that advance although nothing did."""
    intercept = {(2, client): gone for client in range(4)}
    run = train(strategy(NORM), four(intercept=intercept), START, 5)
    before, after = run.checkpoints[2].state, run.checkpoints[3].state
    assert (after.batch_size, after.samples) == (before.batch_size, before.samples)
    assert after.batch_size > 2 and after.optimizer is before.optimizer
    record = run.records[3]
    assert (record.applied, record.lost, record.samples) == (0, 4, 0)
    assert record.batch_size == run.records[4].batch_size == after.batch_size
    assert record.wanted_batch_size is None and record.total_samples == after.samples


def test_those_who_are_not_asked_grow_too():
    """Two of four in each round, drawn by the seed. Kills: a size of each client's own."""
    grid = four()
    run = train(strategy(NORM, fraction=0.5, seed=2), grid, START, 12)
    loop = fb.run(
        *(CLIENTS, STEP, START, 12),
        estimator=fb.minibatch(),
        batch_size=NORM,
        participation=lambda k: fb.sample_clients(2, k, range(4), 2),
        seed=2,
    )
    assert [r.batch_size for r in run.records[1:]] == loop.batch_sizes
    assert run.points.tobytes() == loop.points.tobytes()
    assert len({client for _, client in grid.asked()}) == 4 and loop.batch_sizes[-1] > 9


class Late(Watched):
    """A node that connects when the model has gone through five rounds."""

    strategy = None

    def get_node_ids(self):
        state = self.strategy.state
        nodes = list(super().get_node_ids())
        return nodes if state and state.round >= 5 else nodes[:-1]


def test_a_client_that_comes_late_with_more_data():
    """Until then b is bounded by the others' 20. Kills: a bound of the first day, or none."""
    objectives = uneven(10, 20, 400)
    grid = Late(app_of(objectives), 3)
    grid.strategy = strategy(fb.norm_test(eta=0.02, maximum=300), minimum_clients=2)
    run = train(grid.strategy, grid, START, 9)
    sizes = [r.batch_size for r in run.records[1:]]
    assert sizes[:5] == [2, 20, 20, 20, 20] and sizes[5] > 20 and sizes[-1] == 300
    assert [r.samples for r in run.records[1:6]] == [4, 30, 30, 30, 30]
    assert run.records[9].samples == 10 + 20 + 300
    assert run.strategy.state.enrolled == {0: 10, 1: 20, 2: 400}


def test_measuring_the_bias_changes_no_size():
    one = train(strategy(NORM), four(), START, 8)
    other = train(strategy(NORM, measure_bias=1), four(), START, 8)
    assert [r.batch_size for r in one.records] == [r.batch_size for r in other.records]
    assert [r.samples for r in one.records] == [r.samples for r in other.records]
    assert one.points.tobytes() == other.points.tobytes()
    assert other.records[1].computed == other.records[1].samples + sum(SIZES)


def test_it_stops_after_so_many_samples():
    """Kills: samples of one round, a goal that is not looked at."""
    made = strategy(5, stop=fb.until(samples=33))
    run = train(made, four(intercept={(0, 2): gone}), START, 9)
    assert [r.total_samples for r in run.records] == [0, 15, 35]  # 5 each, one lost
    assert made.stopped == "samples 35 reached 33"


def test_the_step_decays_with_the_samples():
    """Gradient 1 everywhere, two clients with b = 5. Kills: a decay that is not passed on."""
    decay = fb.cosine_decay(samples=40, final=0.2)
    made = strategy(5, fb.gradient_descent(1.0), decay=decay, minimum_clients=2)
    run = train(made, four(slopes([1.0], [1.0])), np.zeros(1), 5)
    expected = [decay.factor(10 * k) for k in range(1, 6)]
    assert -np.diff(run.points.ravel()) == pytest.approx(expected, rel=1e-12)


# Strangers ----------------------------------------------------------------------------------------

BAD = [math.inf, -math.inf, math.nan, -1.0, True, "1", [1.0], {}]


@pytest.mark.parametrize("statistic", BAD, ids=repr)
def test_a_statistic_that_is_no_amount_is_refused(statistic, warned):
    """The round goes on without that client, as if it had not been asked.

    Kills: each check that is dropped.
    """
    run = train(strategy(NORM), four(intercept={(1, 0): said(statistic=statistic)}), START, 4)
    (line,) = warned()
    assert line.startswith("round 2: refused the reply of client 0: the header's statistic cannot")
    loop = fb.run(
        *(CLIENTS, STEP, START, 4),
        estimator=fb.minibatch(),
        batch_size=NORM,
        participation=lambda k: [1, 2, 3] if k == 1 else range(4),
    )
    assert run.points.tobytes() == loop.points.tobytes()
    assert [r.batch_size for r in run.records[1:]] == loop.batch_sizes


def test_a_header_with_samples_is_of_another_version(warned):
    """The server counts them itself. Kills: a client whose word moves the decay of the step."""
    run = train(strategy(NORM), four(intercept={(1, 0): said(samples=0)}), START, 2)
    assert run.records[2].refused == 1
    (line,) = warned()
    assert line.startswith("round 2: refused the reply of client 0: the header must have the field")


def test_what_a_client_says_of_its_work_moves_nothing():
    """10^18 example gradients: in the record, but the run stays what it was.

    Kills: ``computed`` for the samples, in the size, the step's decay or the goal.
    """
    settings = {"decay": fb.cosine_decay(samples=300), "stop": fb.until(samples=10**6)}
    honest = train(strategy(NORM, **settings), four(), START, 4)
    liar = four(intercept={0: said(computed=10**18)})
    run = train(strategy(NORM, **settings), liar, START, 4)
    assert run.points.tobytes() == honest.points.tobytes()
    for mine, theirs in zip(run.records[1:], honest.records[1:], strict=True):
        assert (mine.samples, mine.batch_size) == (theirs.samples, theirs.batch_size)
        assert mine.computed > 10**18 > theirs.computed


def test_who_keeps_its_statistic_to_itself():
    """Takes part, and stops the growth of that round alone. Kills: NaN in the size."""
    honest = train(strategy(NORM), four(), START, 2)
    run = train(strategy(NORM), four(intercept={(0, 1): said(statistic=None)}), START, 3)
    assert run.records[1].applied == 4 and run.records[1].wanted_batch_size is None
    assert run.points[1].tobytes() == honest.points[1].tobytes()
    assert honest.records[2].batch_size > 2
    assert run.records[2].batch_size == 2 < run.records[3].batch_size


def test_an_absurd_statistic_ends_at_the_maximum():
    """Kills: a batch larger than the maximum, or than the data."""
    run = train(strategy(NORM), four(intercept={(0, 1): said(statistic=1e300)}), START, 3)
    assert [r.batch_size for r in run.records[1:]] == [2, 30, 30]
    assert math.isfinite(run.records[1].wanted_batch_size)


def test_who_cannot_measure_is_left_out(warned):
    """One of two has gradients alone. Kills: a run that ends with it."""
    objectives = [*slopes([1.0, 0.0, 0.0, 0.0], sizes=[50]), CLIENTS[0]]
    run = train(strategy(NORM, minimum_clients=2), four(objectives), START, 2)
    assert [(r.applied, r.refused) for r in run.records[1:]] == [(1, 1)] * 2
    assert (
        f"{NORM} needs per_example_statistics, which NumpyObjective does not offer" in warned()[0]
    )


def test_a_client_with_no_data_is_turned_away(warned):
    """Kills: a mean over nothing at a client that could have been left out."""
    objectives = [CLIENTS[0], Squares(np.zeros((0, 4)), np.zeros(0))]
    run = train(strategy(NORM, minimum_clients=1), four(objectives), START, 2)
    assert [r.applied for r in run.records[1:]] == [1, 1]
    assert "node 2 cannot take part: client 1 has no data" in warned()
    assert run.strategy.state.enrolled == {0: 40}


def test_a_lonely_client_is_not_compared():
    """Undefined with one reply: b stays. Kills: a division by M − 1 = 0."""
    rule = fb.cross_client_test(eta=0.1, maximum=30)
    run = train(strategy(rule, minimum_clients=1), four(CLIENTS[:1]), START, 3)
    assert [r.batch_size for r in run.records[1:]] == [2] * 3
    assert {r.wanted_batch_size for r in run.records} == {None}


def test_settings_of_the_wrong_kind():
    with pytest.raises(ValueError, match="batch_size must be a whole number >= 1, None, or like"):
        strategy("norm_test(eta=0.5, maximum=8)")
    with pytest.raises(ValueError, match="decay must be like cosine_decay"):
        strategy(NORM, decay="cosine_decay(9)")
    assert strategy(replace(NORM, initial=7)).algorithm.batching.first == 7
