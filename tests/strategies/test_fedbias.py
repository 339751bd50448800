"""The strategy over a Grid: who is asked, what is counted, and when it ends."""

import logging
import math
from itertools import permutations

import numpy as np
import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict

import fedbias as fb
from fedbias.rounds import dense
from strategies import FedBias
from tests.tools.federation import Watched, app_of, named, slopes, train

PROBLEM = fb.LeastSquares.random(6, 4.0, seed=2, clients=5)
ZERO = np.zeros(6)
STEP = fb.gradient_descent(0.5)


def five(**options):
    return Watched(app_of(PROBLEM.objectives), 5, **options)


def numbered(*numbers):
    """Node i + 1 is the client numbers[i]."""
    return lambda i: {"partition-id": numbers[i]}


def gone(message, reply):
    return Message(Error(4, "gone"), reply_to=message)


# Who is asked -------------------------------------------------------------------------------------


def test_sampling_is_keyed_by_client():
    """Whatever node a client is, the same clients are asked and the same bits come out.

    Kills: sampling nodes, sampling by order of connection, one sample for all the rounds.
    """
    runs = []
    for order in [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)]:
        grid = five(node_config=numbered(*order))
        strategy = FedBias(STEP, fraction=0.4, minimum_clients=5, seed=9)
        runs.append((train(strategy, grid, ZERO, 8), grid.asked()))
    expected = [(k, c) for k in range(8) for c in fb.sample_clients(9, k, range(5), 2)]
    assert len(set(expected)) > 10
    for run, asked in runs:
        assert asked == expected
        assert run.points.tobytes() == runs[0][0].points.tobytes()
        assert [r.applied for r in run.records] == [0] + [2] * 8


def test_numbers_need_not_be_consecutive():
    """Clients 3, 20 and 7 of a larger federation. Kills: places taken for numbers."""
    objectives = dict(zip((3, 7, 20), slopes([1.0], [2.0], [4.0]), strict=True))
    grid = Watched(app_of(objectives), 3, numbered(20, 3, 7))
    run = train(FedBias(fb.gradient_descent(1.0), fraction=0.5, seed=1), grid, np.zeros(1), 6)
    expected = [(k, c) for k in range(6) for c in fb.sample_clients(1, k, (3, 7, 20), 2)]
    assert grid.asked() == expected
    assert run.strategy.state.acknowledged.keys() == {c for _, c in expected}


@pytest.mark.parametrize(
    ("fraction", "minimum_replies", "count"),
    [(1.0, 1, 5), (0.5, 1, 2), (0.7, 1, 4), (0.01, 1, 1), (0.2, 3, 3), (0.2, 5, 5)],
)
def test_how_many_are_asked(fraction, minimum_replies, count):
    """Kills: truncation instead of rounding, a round without anyone, more than there are."""
    grid = five()
    strategy = FedBias(STEP, fraction=fraction, minimum_replies=minimum_replies, minimum_clients=5)
    run = train(strategy, grid, ZERO, 1)
    assert len(grid.asked()) == count
    assert run.records[1].applied == count
    assert run.records[1].lost == run.records[1].refused == 0


def test_another_seed_asks_others():
    """Kills: a seed that is not passed on."""
    grids = [five(), five()]
    for seed, grid in enumerate(grids):
        train(FedBias(STEP, fraction=0.4, minimum_clients=5, seed=seed), grid, ZERO, 6)
    assert grids[0].asked() != grids[1].asked()


def test_a_round_waits_for_clients():
    """All the nodes are gone for a while. Kills: rounds that are used up without anybody."""

    class Restarting(Watched):
        polls = 0

        def get_node_ids(self):
            self.polls += 1
            return [] if 3 <= self.polls < 6 else super().get_node_ids()

    grid = Restarting(app_of(PROBLEM.objectives), 5)
    run = train(FedBias(STEP, minimum_clients=5), grid, ZERO, 4)
    assert [r.applied for r in run.records] == [0, 5, 5, 5, 5]


# The mean -----------------------------------------------------------------------------------------


def test_weights_by_examples_by_hand():
    """(1, 2) with 1 example and (3, 6) with 3. Kills: weights that are not passed on."""
    objectives = slopes([1.0, 2.0], [3.0, 6.0], sizes=[1, 3], losses=[1.0, 2.0])
    for weights, point, loss in [("uniform", [-2, -4], 1.5), ("examples", [-2.5, -5], 1.75)]:
        strategy = FedBias(fb.gradient_descent(1.0), weights=weights, minimum_clients=2)
        run = train(strategy, Watched(app_of(objectives), 2), np.zeros(2), 1)
        assert run.point.tolist() == point and run.records[1].train_loss == loss
        assert run.records[1].gradient_norm == math.hypot(*point)
        metrics = run.result.train_metrics_clientapp[1]
        known = {"loss": loss, "gradient_norm": math.hypot(*point), "step_size": 1.0, "applied": 2}
        assert dict(metrics) == known


class Shuffled(Watched):
    """Delivers the replies in a given order."""

    order = (0, 1, 2, 3)

    def pull_messages(self, message_ids):
        found = sorted(super().pull_messages(message_ids), key=lambda m: m.metadata.src_node_id)
        return [found[place] for place in self.order]


def test_the_order_of_replies_changes_no_bit():
    """10^16, 1, −10^16 and 1 sum to 0, 1 or 2. Kills: sums in order of arrival, here or in the
    evaluation on the clients.
    """
    vectors, losses = [[1e16], [1.0], [-1e16], [1.0]], [1e16, 1.0, -1e16, 1.0]
    objectives = slopes(*vectors, sizes=[1, 2, 1, 3], losses=losses)
    found = set()
    for order in permutations(range(4)):
        grid = Shuffled(app_of(objectives), 4)
        grid.order = order
        strategy = FedBias(
            fb.heavy_ball(0.1, 0.5), weights="examples", minimum_clients=4, evaluate_every=1
        )
        run = train(strategy, grid, np.zeros(1), 2)
        first, last = run.records[1:]
        found.add((run.points.tobytes(), first.client_loss, last.client_loss, last.train_loss))
    assert len(found) == 1


def test_too_few_replies_leave_everything_untouched():
    """Two of five answer in round 2, where three are needed. Kills: a step on too few, and a
    client whose memory moves although its report was not applied.
    """
    intercept = {(1, client): gone for client in (0, 2, 4)}
    settings = {
        "estimator": fb.local_steps(2, 0.1, momentum=0.5, inner=fb.minibatch("reshuffle")),
        "compressor": fb.top_k(0.2),
        "feedback": fb.error_feedback(),
    }
    strategy = FedBias(
        fb.heavy_ball(0.5, 0.3),
        **settings,
        batch_size=4,
        minimum_replies=3,
        minimum_clients=5,
    )
    run = train(strategy, five(intercept=intercept), ZERO, 4)
    assert [(r.applied, r.refused, r.lost) for r in run.records[1:]] == [
        *((5, 0, 0), (0, 0, 3), (5, 0, 0), (5, 0, 0))
    ]
    before, after = (run.checkpoints[k].state for k in (1, 2))
    assert after.round == 2 and after.point is before.point and after.optimizer is before.optimizer
    assert after.acknowledged == before.acknowledged == dict.fromkeys(range(5), 0)
    assert run.records[2].uplink_bytes > 0 and run.records[2].train_loss is None
    assert 2 not in run.result.train_metrics_clientapp
    left_out = fb.run(
        *(PROBLEM.objectives, fb.heavy_ball(0.5, 0.3), ZERO, 4),
        **settings,
        batch_size=4,
        participation=lambda k: [] if k == 1 else range(5),
    )
    assert run.points.tobytes() == left_out.points.tobytes()


# What is counted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compressor", [fb.identity(), fb.top_k(0.5), fb.sign()])
def test_bytes_by_hand(compressor):
    """The lengths of the packets that went over the Grid, and nothing else.

    Kills: bits for bytes, headers counted twice, lost replies that cost, the start's bytes.
    """
    intercept = {(0, 1): gone, (2, 3): gone, (2, 4): gone}
    grid = five(intercept=intercept)
    run = train(FedBias(STEP, compressor=compressor, minimum_clients=5), grid, ZERO, 3)
    size = compressor.wire_bytes(6, np.float64)
    asked = [pair for pair in grid.sent if pair[0].metadata.message_type == "train"]
    total = 0
    assert (run.records[0].uplink_bytes, run.records[0].downlink_bytes) == (0, 0)
    for k, record in enumerate(run.records[1:]):
        plans = [message.content["fedbias"] for message, _ in asked[5 * k : 5 * k + 5]]
        reports = [
            reply.content["fedbias"]
            for (message, reply), client in zip(asked[5 * k : 5 * k + 5], range(5), strict=True)
            if (k, client) not in intercept
        ]
        assert record.uplink_bytes == sum(len(r["packet"]) for r in reports)
        assert record.uplink_bytes == len(reports) * size
        assert record.header_bytes == sum(len(r["header"]) for r in reports)
        assert record.downlink_bytes == sum(len(p["point"]) for p in plans)
        assert record.downlink_bytes == 5 * len(dense(ZERO))
        assert (record.lost, record.applied) == (5 - len(reports), len(reports))
        total += record.uplink_bytes
        assert record.total_uplink_bytes == run.checkpoints[k + 1].total_uplink_bytes == total
        assert record.to_dict()["round"] == record.round == k + 1


@pytest.mark.parametrize("code", [3, 4, 5])
def test_what_never_came_is_lost_not_refused(code, warned):
    """Flower's codes for messages that were not delivered. Kills: a refusal of silence."""
    grid = five(intercept={2: lambda m, _: Message(Error(code, "gone"), reply_to=m)})
    run = train(FedBias(STEP, minimum_clients=5), grid, ZERO, 2)
    assert [(r.applied, r.refused, r.lost) for r in run.records[1:]] == [(4, 0, 1)] * 2
    assert warned() == []
    left_out = fb.run(PROBLEM.objectives, STEP, ZERO, 2, participation=lambda k: [0, 1, 3, 4])
    assert run.points.tobytes() == left_out.points.tobytes()


def test_what_does_not_come_in_time_is_lost():
    """Kills: a server that waits for ever, a late reply that counts in the next round."""
    kept = {}

    def late(message, reply):
        kept[message.metadata.message_id] = reply
        return []

    class Late(Watched):
        def pull_messages(self, message_ids):
            known = list(message_ids)
            if len(self.asked()) > 5:  # in the second round the late one arrives, unasked
                return super().pull_messages(known) + list(kept.values())
            return super().pull_messages(known)

    grid = Late(app_of(PROBLEM.objectives), 5, intercept={(0, 3): late})
    run = train(FedBias(STEP, minimum_clients=5), grid, ZERO, 2, timeout=7.0)
    assert (run.records[1].applied, run.records[1].lost, run.records[1].refused) == (4, 1, 0)
    assert run.records[1].seconds == pytest.approx(7, abs=0.1)
    assert run.records[2].applied == 5 and run.records[2].refused == 1
    left_out = fb.run(PROBLEM.objectives, STEP, ZERO, 2, lost=lambda k: [3] if k == 0 else [])
    assert run.points.tobytes() == left_out.points.tobytes()


def test_replies_may_come_one_by_one(clock):
    """Kills: a round that ends with the first replies."""

    class Slow(Watched):
        def pull_messages(self, message_ids):
            first = [key for key in message_ids if key in self._replies][:1]
            return super().pull_messages(first) if clock.now % 1 > 0.3 else []

    run = train(FedBias(STEP, minimum_clients=5), Slow(app_of(PROBLEM.objectives), 5), ZERO, 2)
    assert [r.applied for r in run.records] == [0, 5, 5] and clock.naps


# Evaluation ---------------------------------------------------------------------------------------


def test_clients_evaluate_by_hand(warned):
    """Losses 1 and 4 with 1 and 3 examples are 13/4 in the mean. Kills: an unweighted mean, a
    round too many, an evaluation of the model before the step.
    """
    objectives = slopes([1.0], [1.0], [1.0], sizes=[1, 3, 5], losses=[1.0, 4.0, 0.0])
    seen = []
    for client in range(2):
        objectives[client].metrics = lambda x, c=client: (
            seen.append(x.copy()) or {"loss": [1.0, 4.0][c], "accuracy": [0.5, 1.0][c], str(c): 1}
        )

    def refuse(point):
        raise ValueError("the disk is full")

    objectives[2].metrics = refuse
    strategy = FedBias(fb.gradient_descent(1.0), minimum_clients=3, evaluate_every=2)
    run = train(strategy, Watched(app_of(objectives), 3), np.zeros(1), 5)
    assert [r.client_loss for r in run.records] == [None, None, 3.25, None, 3.25, None]
    assert [r.client_accuracy for r in run.records] == [None, None, 0.875, None, 0.875, None]
    assert [x.tolist() for x in seen] == [[-2.0], [-2.0], [-4.0], [-4.0]]
    found = run.result.evaluate_metrics_clientapp
    expected = {"loss": 3.25, "accuracy": 0.875, "num-examples": 4}
    assert {number: dict(metrics) for number, metrics in found.items()} == {
        2: expected,
        4: expected,
    }
    assert [line for line in warned() if line.startswith("round")] == [
        f"round {number}: client 2 did not evaluate: the disk is full" for number in (2, 4)
    ]
    assert run.records[2].downlink_bytes == 3 * 22 and run.records[2].lost == 0


def test_nobody_evaluates_unless_asked():
    """Kills: evaluation by default, which costs a model per client and round."""
    grid = five()
    run = train(FedBias(STEP, minimum_clients=5), grid, ZERO, 2)
    assert grid.asked("evaluate") == [] and dict(run.result.evaluate_metrics_clientapp) == {}


def test_central_evaluation_and_the_result():
    """Kills: the old model evaluated under the new number, a result of the first round."""
    seen = []

    def evaluate(number, arrays):
        assert list(arrays) == ["layer"]
        seen.append((number, arrays["layer"].numpy().copy()))
        if number == 2:
            return None
        return MetricRecord({"loss": 10.0 - number, "accuracy": number / 10, "other": 1})

    start = named(np.arange(6.0).reshape(2, 3), "layer")
    run = train(FedBias(STEP, minimum_clients=5), five(), start, 3, evaluate_fn=evaluate)
    assert [number for number, _ in seen] == [0, 1, 2, 3]
    for (_, array), point in zip(seen, run.points, strict=True):
        assert array.shape == (2, 3) and array.tobytes() == point.tobytes()
    assert [r.test_loss for r in run.records] == [10, 9, None, 7]
    assert [r.accuracy for r in run.records] == [0, 0.1, None, 0.3]
    assert sorted(run.result.evaluate_metrics_serverapp) == [0, 1, 3]
    assert run.result.evaluate_metrics_serverapp[3]["other"] == 1
    assert run.result.arrays["layer"].numpy().tobytes() == run.point.tobytes()
    assert sorted(run.result.train_metrics_clientapp) == [1, 2, 3]
    assert np.all(np.diff([r.train_loss for r in run.records[1:]]) < 0)
    assert start["layer"].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_several_arrays_keep_their_names_and_shapes():
    """Kills: arrays in alphabetical order, a shape that is flattened."""
    start = named(np.zeros((2, 2)), "z")
    start["a"] = named(np.ones(2))["w"]
    run = train(FedBias(STEP, minimum_clients=5), five(), start, 1)
    assert {k: v.shape for k, v in run.result.arrays.items()} == {"z": (2, 2), "a": (2,)}
    assert list(run.result.arrays) == ["z", "a"] and run.points[0].tolist() == [0, 0, 0, 0, 1, 1]
    joined = [*run.result.arrays["z"].numpy().ravel(), *run.result.arrays["a"].numpy()]
    assert joined == run.point.tolist()


# The end ------------------------------------------------------------------------------------------


def test_stop_on_accuracy():
    """Kills: a goal that is never looked at, a run that stops before it is reached."""
    strategy = FedBias(STEP, minimum_clients=5, stop=fb.until(accuracy=0.3))
    evaluate = lambda number, arrays: MetricRecord({"accuracy": number / 10})  # noqa: E731
    run = train(strategy, five(), ZERO, 9, evaluate_fn=evaluate)
    assert len(run.records) == 4 and run.strategy.state.round == 3
    assert strategy.stopped == "accuracy 0.3 reached 0.3"
    again = train(strategy, five(), ZERO, 2)  # without evaluation there is no accuracy
    assert strategy.stopped is None and len(again.records) == 3


def test_stop_on_bytes():
    """5 clients send 62 bytes each. Kills: bytes of one round, bytes of one client."""
    strategy = FedBias(STEP, minimum_clients=5, stop=fb.until(uplink_bytes=311))
    run = train(strategy, five(), ZERO, 9)
    assert len(run.records) == 3 and strategy.stopped == "uplink_bytes 620 reached 311"


def test_stop_on_the_gradient_norm():
    """Kills: a goal that compares the wrong way round."""
    reference = train(FedBias(STEP, minimum_clients=5), five(), ZERO, 9)
    goal = reference.records[4].gradient_norm
    strategy = FedBias(STEP, minimum_clients=5, stop=fb.until(gradient_norm=goal))
    assert len(train(strategy, five(), ZERO, 9).records) == 5
    assert strategy.stopped.startswith("gradient_norm ")


def test_stop_on_seconds(clock):
    """Every reply of client 0 takes a second. Kills: seconds since the round began."""

    def slow(message, reply):
        clock.now += 1
        return reply

    strategy = FedBias(STEP, minimum_clients=5, stop=fb.until(seconds=3))
    run = train(strategy, five(intercept={0: slow}), ZERO, 9)
    assert [r.seconds for r in run.records] == [0, 1, 2, 3]
    assert strategy.stopped == "seconds 3 reached 3"


def test_a_goal_reached_at_the_start_ends_it_there(caplog):
    """Kills: a first round that nobody needs."""
    caplog.set_level(logging.INFO, "flwr")
    grid = five()
    strategy = FedBias(STEP, minimum_clients=5, stop=fb.until(loss=1.0))
    run = train(strategy, grid, ZERO, 9, evaluate_fn=lambda *_: MetricRecord({"loss": 0.5}))
    assert len(run.records) == 1 and grid.asked() == []
    assert "stopped before round 1: loss 0.5 reached 1" in caplog.text
    assert run.result.arrays["w"].numpy().tolist() == ZERO.tolist()


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fraction": 0}, "FedBias: fraction must be a number > 0 and <= 1, not 0"),
        ({"fraction": 2}, "FedBias: fraction must be a number > 0 and <= 1, not 2"),
        ({"fraction": "all"}, "FedBias: fraction must be a number > 0 and <= 1, not 'all'"),
        ({"minimum_clients": 0}, "FedBias: minimum_clients must be a whole number >= 1, not 0"),
        ({"patience": -1}, "FedBias: patience must be a number >= 0, not -1"),
        ({"partitions": 0}, "FedBias: partitions must be a whole number >= 1, not 0"),
        ({"patience": math.nan}, "FedBias: patience must be a number >= 0, not nan"),
        ({"evaluate_every": -1}, "FedBias: evaluate_every must be a whole number >= 0, not -1"),
        ({"evaluate_every": 0.5}, "FedBias: evaluate_every must be a whole number >= 0, not 0.5"),
        ({"stop": "soon"}, "FedBias: stop must be like until(accuracy=0.9), not 'soon'"),
        ({"minimum_replies": 0}, "minimum_replies must be a whole number >= 1, not 0"),
        ({"weights": "size"}, "weights must be one of 'uniform', 'examples', 'inverse_variance'"),
        ({"batch_size": 8}, "batch_size=8 has no meaning for exact()"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"optimizer": 0.1}, "optimizer must be like gradient_descent(step_size=0.1), not 0.1"),
        ({"estimator": fb.sign()}, "estimator must be like exact(), not sign()"),
        ({"compressor": "sign()"}, "compressor must be like identity(), not 'sign()'"),
        ({"feedback": fb.sign()}, "feedback must be like no_feedback(), not sign()"),
    ],
)
def test_impossible_settings(changes, sentence):
    """Kills: each check that is dropped."""
    with pytest.raises(ValueError) as caught:
        FedBias(**({"optimizer": STEP} | changes))
    assert sentence in str(caught.value)


def test_the_settings_reach_the_clients():
    """Kills: a setting that the constructor drops."""
    chosen = {
        "estimator": fb.clipped(3.0, fb.minibatch("reshuffle")),
        "compressor": fb.dithered(3),
        "feedback": fb.error_feedback(),
    }
    grid = five()
    train(FedBias(STEP, **chosen, batch_size=7, seed=11, minimum_clients=5), grid, ZERO, 1)
    plans = [
        fb.Plan.from_record(message.content["fedbias"])
        for message, _ in grid.sent
        if message.metadata.message_type == "train"
    ]
    for client, plan in enumerate(plans):
        assert (plan.client, plan.batch_size, plan.seed, plan.round) == (client, 7, 11, 0)
        assert {name: getattr(plan, name) for name in chosen} == chosen


def test_the_summary_names_the_settings(caplog):
    """Kills: a summary of other settings, or without one that decides what the run does."""
    caplog.set_level(logging.INFO, "flwr")
    FedBias(fb.adam(), fb.normalised(), fb.sign(), fb.error_feedback()).summary()
    parts = "adam(), no_decay(), normalised(), sign(), error_feedback(), batch size None"
    assert parts in caplog.text
    FedBias(STEP, fb.minibatch(), batch_size=8, decay=fb.cosine_decay(90)).summary()
    assert f"{STEP}, cosine_decay(samples=90), minibatch(), " in caplog.text
    assert "batch size 8" in caplog.text


def test_nothing_works_before_the_start():
    """Kills: an AttributeError instead of a sentence."""
    with pytest.raises(RuntimeError, match=r"call start\(\): the strategy has no model yet"):
        FedBias(STEP).aggregate_train(1, [])


def test_a_strategy_may_be_started_again():
    """Kills: a model, or acknowledgements, of the earlier run."""
    strategy = FedBias(fb.heavy_ball(0.5, 0.2), minimum_clients=5)
    first = train(strategy, five(), ZERO, 3)
    second = train(strategy, five(), ZERO, 3)
    assert first.points.tobytes() == second.points.tobytes()
    assert [r.uplink_bytes for r in second.records[1:]] == [5 * 62] * 3


# BatchNorm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_buffers_are_averaged_by_hand(weights):
    """Two clients, two rounds, through every message: r ← mean of 0.9·r + 0.1·own statistics.

    Kills: buffers of the last client, buffers that the plan does not carry, bytes not counted.
    """
    import torch
    from torch import nn
    from torch.nn.functional import mse_loss

    from clients import TorchObjective

    rng = np.random.default_rng(4)
    shards = [(rng.standard_normal((n, 3)), rng.standard_normal((n, 1))) for n in (4, 8)]
    module = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1)).double()
    torch.set_num_threads(1)
    objectives = [TorchObjective(module, mse_loss, shard) for shard in shards]
    share = [1 / 2, 1 / 2] if weights == "uniform" else [1 / 3, 2 / 3]
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(2):
        mean = 0.9 * mean + 0.1 * sum(
            s * x.mean(0) for s, (x, _) in zip(share, shards, strict=True)
        )
        variance = 0.9 * variance + 0.1 * sum(
            s * x.var(0, ddof=1) for s, (x, _) in zip(share, shards, strict=True)
        )
    buffers = named(np.zeros(3), "0.running_mean")
    buffers["0.running_var"] = named(np.ones(3))["w"]
    grid = Watched(app_of(objectives), 2)
    strategy = FedBias(STEP, weights=weights, minimum_clients=2, evaluate_every=1)
    start = named(np.zeros((1, 3)), "1.weight")
    start["1.bias"] = named(np.zeros(1))["w"]
    run = train(strategy, grid, start, 2, initial_buffers=buffers)
    arrays = run.result.arrays
    assert list(arrays) == ["1.weight", "1.bias", "0.running_mean", "0.running_var"]
    np.testing.assert_allclose(arrays["0.running_mean"].numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(arrays["0.running_var"].numpy(), variance, rtol=1e-12)
    packets = len(dense(np.zeros(4))) + len(dense(np.zeros(6)))
    assert [r.uplink_bytes for r in run.records] == [0, 2 * packets, 2 * packets]
    assert [r.downlink_bytes for r in run.records] == [0, 2 * packets, 2 * packets]
    # what the clients measured is the model with the mean buffers
    losses = []
    for inputs, targets in shards:
        hidden = (inputs - mean) / np.sqrt(variance + 1e-5)
        residual = hidden @ run.point[:3] + run.point[3] - targets[:, 0]
        losses.append(np.mean(residual**2))
    assert run.records[2].client_loss == pytest.approx(np.average(losses, weights=[4, 8]), rel=1e-9)


# Corners ------------------------------------------------------------------------------------------


def test_a_second_start_counts_from_zero():
    strategy = FedBias(STEP, minimum_clients=5)
    train(strategy, five(), ZERO, 2)
    record = train(strategy, five(), ZERO, 0).records[0]
    assert (record.uplink_bytes, record.downlink_bytes, record.applied) == (0, 0, 0)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"metrics": MetricRecord({"loss": 1.0})}),
        RecordDict({"metrics": MetricRecord({"loss": [1.0, 2.0], "num-examples": 12})}),
        RecordDict({"metrics": MetricRecord({"loss": 1.0, "num-examples": -48})}),
        RecordDict({"metrics": MetricRecord({"loss": math.nan, "num-examples": 12})}),
    ],
)
def test_a_bad_evaluation_is_left_out(content):
    """A malicious client must not end the run, nor turn the mean into NaN."""

    class Evil(Watched):
        def _answer(self, message):
            if message.metadata.message_type == "evaluate" and message.metadata.dst_node_id == 2:
                return Message(content, reply_to=message)
            return super()._answer(message)

    strategy = FedBias(STEP, minimum_clients=5, evaluate_every=1)
    run = train(strategy, Evil(app_of(PROBLEM.objectives), 5), ZERO, 1)
    assert math.isfinite(run.records[1].client_loss)
