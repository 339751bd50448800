"""Batch sizes in whole rounds: what clients measure, what the server makes of it, and bad input."""

import math
from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias.batching import own_size
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.problems import Squares
from fedbias.randomness import Purpose, generator
from fedbias.server import apply, plan_for
from fedbias.state import ServerState
from tests.tools.batch_runs import (
    CLIENTS,
    CROSS,
    ENROLLED,
    NORM,
    SIZES,
    START,
    TESTS,
    algorithm,
    each_test,
    replies,
    run,
)
from tests.tools.uneven import uneven


def by_hand(weights, rounds):
    """AdaGrad-Norm with the norm test from nothing but the data and the random streams."""
    point, size, squares, samples = START, 2, 0.0, 0
    points, sizes, share = [START], [], np.array(weights) / sum(weights)
    for round in range(rounds):
        mean, variance = np.zeros(4), 0.0
        for client, objective in enumerate(CLIENTS):
            own = min(size, objective.size)
            batch = generator(3, round, client, Purpose.BATCH).integers(objective.size, size=own)
            rows, targets = objective.features[batch], objective.targets[batch]
            gradients = rows * (rows @ point - targets)[:, None]
            mean = mean + share[client] * gradients.mean(axis=0)
            if own > 1:
                variance += share[client] ** 2 * gradients.var(axis=0, ddof=1).sum() / own
            samples += own
        sizes.append(size)
        size = min(50, max(size, math.ceil(size * variance / (0.04 * (mean @ mean)))))
        squares += mean @ mean
        point = point - 2.0 / math.sqrt(squares) * mean
        points.append(point)
    return np.array(points), sizes, samples


@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_a_whole_run_by_hand(weights):
    """Twelve rounds, four clients with 60, 25, 9 and 1 examples: the same sizes, the same points.

    Kills: a size that comes a round too late, a client that draws more than it has, b for b_m,
    weights that the variance forgets.
    """
    points, sizes, samples = by_hand([1] * 4 if weights == "uniform" else SIZES, 12)
    rule = fb.norm_test(eta=0.2, maximum=50)
    history = run(rule, optimizer=fb.adagrad_norm(2.0), weights=weights)
    assert history.batch_sizes == sizes and len(set(sizes)) > 3 and sizes[-1] > 25
    np.testing.assert_allclose(history.points, points, rtol=1e-10)
    assert sum(outcome.samples for outcome in history.outcomes) == samples


@each_test
def test_sizes_follow_what_was_wanted(rule):
    """Round by round. Kills: the wish after the limits, the size of another round, a batch that
    shrinks or exceeds the maximum, samples that are not those of the packets.
    """
    history = run(rule, rounds=30)
    sizes = history.batch_sizes
    assert sizes[0] == 2 and max(sizes) <= 50 and sizes == sorted(sizes)
    assert sizes[-1] > 8  # they did grow
    for before, after, outcome in zip(sizes, sizes[1:], history.outcomes, strict=False):
        grown = before if math.isnan(outcome.wanted) else math.ceil(outcome.wanted)
        assert after == min(50, max(before, grown)) and outcome.batch_size == before
    for size, outcome in zip(sizes, history.outcomes, strict=True):
        assert outcome.samples == outcome.computed == sum(min(size, n) for n in SIZES)


@each_test
def test_single_precision(rule):
    """Kills: a statistic that makes the point float64, a size that is no int."""
    single = [Squares(f.features.astype("f4"), f.targets.astype("f4")) for f in CLIENTS]
    decay = fb.cosine_decay(samples=2000)
    history = run(rule, objectives=single, start=START.astype("f4"), decay=decay)
    assert history.points.dtype == np.float32
    assert {type(size) for size in history.batch_sizes} == {int}
    wanted = run(rule, decay=decay).outcomes[0].wanted
    assert history.outcomes[0].wanted == pytest.approx(wanted, rel=1e-4)
    assert not any(outcome.refused for outcome in history.outcomes)


@pytest.mark.parametrize("weights", ["uniform", "examples"])
@pytest.mark.parametrize("compressor", [fb.identity(), fb.top_k(0.5)], ids=repr)
def test_clients_are_compared_by_what_was_decoded(weights, compressor):
    """σ̂²·Σ w_m²/b_m·b/(η²‖ḡ‖²), σ̂² = Σ w_m‖g_m − ḡ‖²/Σ(w_m(1 − w_m)/b_m), from the packets
    themselves; the last client has one example.

    Kills: the mean's square left out, weights that do not sum to 1, b for b_m, the vectors before
    they were compressed.
    """
    made = algorithm(CROSS, weights=weights, compressor=compressor)
    state = ServerState(START, enrolled=ENROLLED, batch_size=8)
    reports = replies(made, state)
    _, outcome = apply(made, state, reports)
    share = np.ones(4) if weights == "uniform" else np.array(SIZES, float)
    share /= share.sum()
    asked = np.array([8, 8, 8, 1])
    vectors = np.stack([fb.decode(report.packet) for report in reports])
    mean = share @ vectors
    spread = share @ np.sum((vectors - mean) ** 2, axis=1)
    one = spread / np.sum(share * (1 - share) / asked)
    expected = 8 * one * np.sum(share**2 / asked) / (0.25 * (mean @ mean))
    assert outcome.wanted == pytest.approx(expected, rel=1e-9) and expected > 1


@each_test
def test_measuring_changes_nothing_else(rule):
    """With no room to grow it is the constant size, bit for bit; memories and packets too.

    Kills: another draw, or a gradient summed in another order, where statistics are taken.
    """
    objectives = uneven(30, 20, 10)
    settings = {"objectives": objectives, "compressor": fb.top_k(0.5), "feedback": fb.ef21()}
    fixed = run(replace(rule, initial=6, maximum=6), **settings)
    plain = run(6, **settings)
    assert fixed.points.tobytes() == plain.points.tobytes()
    assert fixed.losses.tobytes() == plain.losses.tobytes()
    assert fixed.wire_bits.tolist() == plain.wire_bits.tolist()
    assert fixed.batch_sizes == plain.batch_sizes == [6] * 12
    for mine, theirs in zip(fixed.memories, plain.memories, strict=True):
        assert {k: v.tobytes() for k, v in mine.items()} == {
            k: v.tobytes() for k, v in theirs.items()
        }
    wanted = [outcome.wanted for outcome in fixed.outcomes]
    assert all(map(math.isfinite, wanted)) and max(wanted) > 6
    assert all(math.isnan(outcome.wanted) for outcome in plain.outcomes)


def test_measuring_the_bias_changes_no_size():
    """Kills: the examples of the measurement counted as samples."""
    settings = {"compressor": fb.top_k(0.25), "feedback": fb.error_feedback()}
    one, other = run(NORM, **settings), run(NORM, **settings, measure_bias=2)
    assert one.batch_sizes == other.batch_sizes and one.points.tobytes() == other.points.tobytes()
    assert [o.samples for o in one.outcomes] == [o.samples for o in other.outcomes]
    assert other.outcomes[0].computed == other.outcomes[0].samples + sum(SIZES)


@pytest.mark.parametrize("rule", [8, fb.constant_batch(8)])
def test_a_constant_asks_everyone_for_the_same(rule):
    """A client with one example draws it eight times. Kills: a clamp where there was none."""
    history = run(rule, rounds=3)
    assert history.batch_sizes == [8] * 3
    assert [o.samples for o in history.outcomes] == [32] * 3


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (fb.linear_batch(2, 100, 1000), [2, 2, 3, 4, 5, 7, 9, 12, 15, 19]),
        (fb.stagewise_batch(3, 3, 100, 100), [3] * 10 + [9] * 3),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_schedules_count_samples(rule, expected):
    """By hand from b and the clients' data. Kills: rounds for samples, b·M where some have less."""
    history = run(rule, rounds=60)
    sizes, samples = [], 0
    for _ in range(60):
        sizes.append(min(rule.following(0, fb.batching.Evidence([], 0.0, samples)), 60))
        samples += sum(min(sizes[-1], n) for n in SIZES)
    assert history.batch_sizes == sizes and sizes[: len(expected)] == expected
    assert sizes[-1] == 60  # the largest client's data is the end of it
    assert history.outcomes[-1].samples == sum(SIZES)


def test_samples_are_what_the_estimate_is_made_of():
    """Exact: all the data; H local steps: H·b; meta: three batches. None is all the data."""
    assert run(None, 1, estimator=fb.exact()).outcomes[0].samples == sum(SIZES)
    assert run(None, 1).batch_sizes == [None] and run(None, 1).outcomes[0].samples == sum(SIZES)
    assert run(5, 1, estimator=fb.local_steps(3, 0.1)).outcomes[0].samples == 4 * 3 * 5
    assert run(5, 1, estimator=fb.meta(0.1)).outcomes[0].samples == 4 * 3 * 5
    assert run(5, 2, lost=lambda k: [0, 2]).outcomes[1].samples == 2 * 5


def test_until_so_many_samples():
    """Kills: a goal that nobody looks at, the samples of one round, those of lost replies."""
    history = run(5, 30, stop=fb.until(samples=100), lost=lambda k: [1] if k % 2 else [])
    assert [o.samples for o in history.outcomes] == [20, 15, 20, 15, 20, 15]  # 105 in all
    assert history.stopped == "samples 105 reached 100"
    assert len(run(5, 30, stop=fb.until(samples=101)).outcomes) == 6
    with pytest.raises(ValueError, match="until: samples must be a number >= 0, not -1"):
        fb.until(samples=-1)


def test_everybody_grows():
    """Only clients 0 and 1 are ever asked; 2 and 3 are then asked for no less.

    Kills: a size that is one client's own.
    """
    state = []
    run(NORM, 15, participation=lambda k: [0, 1], on_round=lambda k, s, o: state.append(s))
    late, made = state[-1], algorithm(NORM)
    assert late.batch_size == 50 and late.acknowledged.keys() == {0, 1}
    asked = {client: plan_for(made, late, client).batch_size for client in range(4)}
    assert asked == {0: 50, 1: 25, 2: 9, 3: 1}


def test_who_comes_late_with_more_data():
    """The size is bounded by those who are there, and goes on to grow with the newcomer.

    Kills: a bound that is fixed at the start, or forgotten.
    """
    made, ledgers = algorithm(fb.norm_test(eta=0.05, maximum=500)), {}
    objectives = dict(enumerate(uneven(10, 20, 400)))
    state, asked, sizes = ServerState(START, enrolled={0: 10, 1: 20}), (0, 1), []
    for round in range(8):
        if round == 5:
            asked, state = (0, 1, 2), replace(state, enrolled={**state.enrolled, 2: 400})
        reports = []
        for client in asked:
            plan = plan_for(made, state, client)
            assert plan.batch_size == own_size(
                made.batching, state.batch_size, state.enrolled, client
            )
            ledger = ledgers.get(client, Ledger())
            report, ledgers[client] = respond(objectives[client], plan, ledger)
            assert report.computed == plan.batch_size <= objectives[client].size
            reports.append(report)
        state, outcome = apply(made, state, reports)
        sizes.append(outcome.batch_size)
    assert sizes[:5] == [2, 20, 20, 20, 20] and sizes[5] > 20 and sizes[-1] == 400
    assert own_size(made.batching, state.batch_size, state.enrolled, 0) == 10


@each_test
def test_a_size_beyond_everybodys_data(rule):
    """Counts as all the data of the largest client: 60, whatever it was wished to be.

    Kills: wishes that feed on wishes, and grow although no batch can.
    """
    made = algorithm(replace(rule, maximum=5000))
    ends = []
    for size in (60, 400):
        state = ServerState(START, enrolled=ENROLLED, batch_size=size)
        after, outcome = apply(made, state, replies(made, state))
        ends.append((after.batch_size, after.point.tobytes(), outcome))
    assert ends[0] == ends[1] and ends[0][2].batch_size == 60 <= ends[0][0]


# Nothing moves where nothing was applied ----------------------------------------------------------


@each_test
def test_without_enough_replies_the_size_stays(rule):
    """And the samples. Kills: a round that counts although its step was not made."""
    made = algorithm(rule, minimum_replies=3)
    state = ServerState(START, enrolled=ENROLLED, batch_size=4, samples=77)
    for few in ([], replies(made, state)[:2]):
        after, outcome = apply(made, state, few)
        assert (after.batch_size, after.samples, after.round) == (4, 77, 1)
        assert outcome.batch_size == 4 and outcome.samples == 0 and math.isnan(outcome.wanted)


def test_a_step_beyond_every_float_leaves_the_size():
    """The run diverges: every report is refused. Kills: a size that moves with a refused round."""
    made = replace(algorithm(NORM), optimizer=fb.gradient_descent(1e308))
    state = ServerState(np.full(4, 1e3), enrolled=ENROLLED, batch_size=4, samples=77)
    after, outcome = apply(made, state, replies(made, state))
    assert outcome.applied == () and "the run diverges" in outcome.refused[0]
    assert (after.batch_size, after.samples) == (4, 77)


def test_a_refused_report_is_no_evidence():
    """The round without it, to the last bit. Kills: a variance, samples or a weight of a report
    that was refused.
    """
    made = algorithm(NORM)
    state = ServerState(START, enrolled=ENROLLED, batch_size=8, samples=77)
    good = replies(made, state)
    bad = replace(good[2], statistic=1e9, loss=math.nan)
    after, outcome = apply(made, state, [*good[:2], bad, good[3]])
    without, expected = apply(made, state, [*good[:2], good[3]])
    assert outcome.refused == {2: "9 examples with a loss of nan"}
    assert (after.batch_size, after.samples) == (without.batch_size, without.samples)
    assert outcome.wanted == expected.wanted > 0


# What clients measure -----------------------------------------------------------------------------


class Recording(Squares):
    """Least squares that notes where it was measured, and where only differentiated."""

    def __init__(self, size):
        (base,) = uneven(size)
        super().__init__(base.features, base.targets)
        object.__setattr__(self, "measured", [])
        object.__setattr__(self, "differentiated", [])

    def gradient(self, point, batch=None):
        self.differentiated.append((point.copy(), batch))
        return super().gradient(point, batch)

    def per_example_statistics(self, point, batch=None, what="trace"):
        self.measured.append((point.copy(), batch, what))
        return super().per_example_statistics(point, batch, what)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("rule", [rule for rule in TESTS if rule.local], ids=lambda rule: rule.name)
def test_local_steps_measure_the_last_one(rule, steps):
    """Once, where the last step starts. Kills: the first step measured, or all of them."""
    objective = Recording(30)
    made = algorithm(rule, estimator=fb.local_steps(steps, 0.05, momentum=0.5))
    plan = replace(plan_for(made, ServerState(START), 0), batch_size=7)
    report, _ = respond(objective, plan, Ledger())
    ((point, batch, what),) = objective.measured
    assert len(objective.differentiated) == steps - 1 and what == rule.measures
    local, velocity = START, np.zeros(4)
    for at, chosen in objective.differentiated:
        assert at.tobytes() == local.tobytes()
        velocity = 0.5 * velocity + Squares.gradient(objective, at, chosen)
        local = local - 0.05 * velocity
    assert point.tobytes() == local.tobytes() and len(batch) == 7
    assert report.statistic == rule.statistic(
        Squares.per_example_statistics(objective, point, batch, what)
    )
    assert report.computed == 7 * steps


def test_what_is_measured_is_not_compressed():
    """Nor what feedback adds. Kills: a statistic of the packet."""
    told = set()
    for compressor in (fb.identity(), fb.top_k(0.25), fb.sign(), fb.dithered(2)):
        for feedback in (fb.no_feedback(), fb.error_feedback(), fb.ef21()):
            made = algorithm(NORM, compressor=compressor, feedback=feedback)
            state = ServerState(START, enrolled=ENROLLED, batch_size=9)
            ledger = Ledger(-1, {"feedback.error": np.ones(4), "feedback.gradient": np.ones(4)})
            told.add(respond(CLIENTS[0], plan_for(made, state, 0), ledger)[0].statistic)
    (statistic,) = told
    batch = generator(0, 0, 0, Purpose.BATCH).integers(60, size=9)
    gradients = [CLIENTS[0].gradient(START, batch[i : i + 1]) for i in range(9)]
    assert statistic == pytest.approx(np.var(gradients, axis=0, ddof=1).sum(), rel=1e-12)


def test_nobody_measures_without_a_test():
    """Schedules and comparisons cost the clients nothing. Kills: a statistic nobody asked for."""
    rules = (8, fb.linear_batch(2, 9, 9), fb.stagewise_batch(2, 2, 9, 9), TESTS[-1])
    for rule in rules:
        objective = Recording(30)
        plan = plan_for(algorithm(rule), ServerState(START, batch_size=8), 0)
        assert plan.measure is None and respond(objective, plan, Ledger())[0].statistic is None
        assert objective.measured == [] and len(objective.differentiated) == 1
