"""What a decentralized run counts, by hand; its settings, and when it ends."""

import logging

import numpy as np
import pytest
from flwr.app import ConfigRecord

import fedbias as fb
from fedbias.gossip import GossipPlan, ModelQuery
from fedbias.gossip.client import MODEL
from fedbias.rounds import dense
from simulations import InlineGrid
from strategies import FedBias, Gossip
from tests.tools.federation import Coming, Watched, app_of, named, slopes, train
from tests.tools.gossip_runs import gossip, memories

ZERO = np.zeros(2)
PACKET = len(dense(ZERO))


def pairs(*rounds):
    """These pairs in these rounds, and none later."""
    return lambda k: rounds[k] if k < len(rounds) else []


def three(matching, losses=(1.0, 2.0, 6.0), **options):
    """Clients with the gradients (1, 0), (0, 1) and (−4, 2) everywhere, and a step of 1."""
    objectives = slopes([1.0, 0.0], [0.0, 1.0], [-4.0, 2.0], losses=losses, sizes=[3, 4, 5])
    grid = Watched(app_of(objectives), 3, **options.pop("grid", {}))
    strategy = Gossip(fb.exact(), matching, minimum_clients=3, **options.pop("settings", {}))
    return gossip(strategy, grid, ZERO, options.pop("rounds", 3), objectives, **options), grid


# Counted by hand ----------------------------------------------------------------------------------


def test_two_rounds_by_hand():
    """0 and 1 meet, then 1 and 2; X' are (−1, 0), (0, −1), (4, −2) at first.

    Kills: a spread about another point, pairs that did not meet, losses that are weighted.
    """
    run, _ = three(pairs([(0, 1)], [(1, 2)]), rounds=2)
    first, last = run.records[1:]
    # (−1/2, −1/2) twice and (4, −2): the mean (1, −1) is 2·(9/4 + 1/4) + (9 + 1) away, over 3
    assert run.means[1].tolist() == [1, -1] and first.spread == pytest.approx(5, rel=1e-15)
    # X' = (−3/2, −1/2), (−1/2, −3/2), (8, −4): then (15/4, −11/4) twice, about (2, −2)
    assert run.means[2].tolist() == [2, -2]
    assert last.spread == pytest.approx((3.5**2 + 1.5**2 + 2 * (1.75**2 + 0.75**2)) / 3, rel=1e-15)
    assert (first.pairs, last.pairs, first.models, last.models) == (1, 1, 3, 3)
    assert first.train_loss == last.train_loss == first.test_loss == 3.0
    assert (first.samples, last.samples, last.total_samples) == (12, 12, 24)
    assert (first.applied, first.refused, first.lost, first.forgotten) == (3, 0, 0, 0)
    start = run.records[0]
    assert (start.spread, start.models, start.pairs, start.applied) == (0.0, 3, None, 0)
    assert start.evaluation_bytes is None and start.uplink_bytes == start.downlink_bytes == 0
    assert run.result.arrays["w"].numpy().tolist() == [2, -2]
    seen, trained = run.result.evaluate_metrics_clientapp, run.result.train_metrics_clientapp
    assert dict(seen[2]) == {"spread": last.spread, "models": 3} and seen.keys() == {1, 2}
    assert dict(trained[1]) == {"loss": 3.0, "applied": 3, "pairs": 1}
    assert run.result.evaluate_metrics_serverapp.keys() == {0, 1, 2}


def test_bytes_by_hand():
    """Everybody is sent its start once; who met is told of its partner, by its next plan and by the
    query before; everybody's model comes up in every round and for every evaluation.

    Kills: bytes of headers, of what was not sent, relays that are sent again when they were acted
    on, evaluations that count as training.
    """
    run, grid = three(pairs([(0, 1)], [], [(0, 2)]), rounds=4)
    records = run.records[1:]
    assert [r.uplink_bytes for r in records] == [3 * PACKET] * 4
    assert [r.downlink_bytes for r in records] == [3 * PACKET, 2 * PACKET, 0, 2 * PACKET]
    assert [r.evaluation_bytes for r in records] == [5 * PACKET, 3 * PACKET, 5 * PACKET, 3 * PACKET]
    assert [r.total_uplink_bytes for r in records] == [3 * PACKET * k for k in (1, 2, 3, 4)]
    headers = [
        len(reply.content["fedbias"]["header"])
        for message, reply in grid.sent
        if message.metadata.message_type == "train.gossip"
    ]
    assert [r.header_bytes for r in records] == [sum(headers[3 * k : 3 * k + 3]) for k in range(4)]
    assert [m.metadata.group_id for m, _ in grid.sent[3:9]] == ["1"] * 6


def test_what_a_compressor_saves():
    """Up: one of two entries. Down: who met is told all of v_m. Kills: dense bytes, or few, where
    the others went."""
    settings = {"compressor": fb.top_k(0.5), "feedback": fb.ef21()}
    run, _ = three(pairs([(0, 1)]), rounds=2, settings=settings)
    small = fb.top_k(0.5).wire_bytes(2, float)
    assert small != PACKET
    assert [r.uplink_bytes for r in run.records[1:]] == [3 * small] * 2
    assert [r.downlink_bytes for r in run.records[1:]] == [3 * PACKET, 2 * PACKET]
    run, _ = three(pairs([(0, 1)]), rounds=2, settings={"compressor": fb.top_k(0.5)})
    assert [r.downlink_bytes for r in run.records[1:]] == [3 * PACKET, 2 * small]


def test_a_round_of_which_nothing_came():
    """Both of the only pair are away in round 3. Kills: 0/0, a round that waits for somebody."""
    matching = fb.random_pair()
    seed = next(s for s in range(99) if matching.pairs(s, 2, range(3)) == [(0, 1)])
    objectives = slopes([1.0, 0.0], [0.0, 1.0], [-4.0, 2.0])
    grid = Coming(app_of(objectives), 3)

    def leave(record, checkpoint):
        grid.away = {0, 1} if record.round == 2 else set()

    strategy = Gossip(fb.exact(), matching, minimum_clients=3, seed=seed)
    run = gossip(strategy, grid, ZERO, 4, objectives, leave)
    record = run.records[3]
    assert (record.applied, record.lost, record.refused, record.pairs) == (0, 0, 0, 0)
    assert record.train_loss is None and record.samples == record.downlink_bytes == 0
    assert run.result.train_metrics_clientapp.keys() == {1, 2, 4}
    assert (run.records[4].applied, run.records[4].models) == (2, 3)


def test_directions_that_are_dropped_are_counted():
    """F is NaN for x > 1/8 and constant elsewhere: by both forms of a federation.

    Kills: a count that stays on the server.
    """
    objectives = [
        fb.ForwardOnly(Walled(objective)) for objective in slopes([1.0], [1.0], losses=[1, 2])
    ]
    dropped = fb.two_point(16, 1.0)
    counts = []
    grid = InlineGrid(app_of(objectives), 2)
    strategy = Gossip(dropped, minimum_clients=2, seed=3)
    run = gossip(strategy, grid, np.zeros(1), 2, objectives)
    counts.append([record.dropped for record in run.records])
    star = FedBias(fb.gradient_descent(1.0), dropped, minimum_clients=2, seed=3)
    found = train(star, InlineGrid(app_of(objectives), 2), np.zeros(1), 2)
    counts.append([record.dropped for record in found.records])
    history = fb.run(
        *(objectives, fb.gradient_descent(1.0), np.zeros(1), 2), estimator=dropped, seed=3
    )
    expected = [0, *(outcome.dropped for outcome in history.outcomes)]
    assert counts == [expected, expected] and 0 < min(expected[1:]) <= max(expected) < 32
    assert found.records[1].spread is found.records[1].pairs is found.records[1].models is None
    assert found.records[1].evaluation_bytes is None


class Walled:
    """Has no loss beyond 1/8."""

    def __init__(self, inner):
        self.inner, self.dim, self.size = inner, inner.dim, inner.size

    def loss(self, point, batch=None):
        return self.inner.loss(point, batch) if point[0] < 0.125 else float("nan")


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"minimum_clients": 0}, "Gossip: minimum_clients must be a whole number >= 1, not 0"),
        ({"patience": -1}, "Gossip: patience must be a number >= 0, not -1"),
        ({"partitions": 0}, "Gossip: partitions must be a whole number >= 1, not 0"),
        ({"evaluate_every": 0}, "Gossip: evaluate_every must be a whole number >= 1, not 0"),
        ({"stop": 5}, "Gossip: stop must be like until(accuracy=0.9), not 5"),
        ({"stop": fb.until(gradient_norm=1)}, "nobody sends gradients: stop cannot ask for their"),
        ({"estimator": {"hvp": fb.exact()}}, "there is no capability 'hvp'"),
        ({"matching": "ring"}, "matching must be like random_matching(), not 'ring'"),
        ({"step_size": -1}, "gossip: step_size must be a number >= 0"),
        ({"mixing": 0}, "gossip: mixing must be a number > 0 and <= 1, not 0"),
        ({"batch_size": 4}, "batch_size has no meaning for exact()"),
        ({"feedback": fb.error_feedback()}, "use no_feedback() or ef21()"),
        ({"decay": 0.1}, "decay must be like cosine_decay(samples=100000)"),
        ({"compressor": "sign()"}, "compressor must be like identity()"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
    ],
)
def test_impossible_settings(changes, sentence):
    """Kills: each check that is dropped."""
    with pytest.raises(ValueError) as caught:
        Gossip(**({"estimator": fb.exact()} | changes))
    assert sentence in str(caught.value)


def test_the_settings_reach_the_clients():
    """Kills: a setting that the constructor drops."""
    chosen = {
        "estimator": fb.by_capability(gradient=fb.minibatch("reshuffle")),
        "compressor": fb.top_k(0.5),
        "feedback": fb.ef21(),
        "batch_size": 3,
        "mixing": 0.25,
    }
    settings = chosen | {"decay": fb.cosine_decay(samples=100), "step_size": 0.5, "seed": 8}
    settings["estimator"] = {"gradient": fb.minibatch("reshuffle")}
    objectives = slopes([1.0], [2.0], sizes=[9, 9])
    grid = Watched(app_of(objectives), 2)
    gossip(Gossip(**settings, minimum_clients=2), grid, np.zeros(1), 2, objectives)
    records = [message.content["fedbias"] for message, _ in grid.sent[2:]]
    kinds = [message.metadata.message_type for message, _ in grid.sent]
    steps = ["train.gossip"] * 2 + ["query.model"] * 2
    assert kinds == ["query.hello"] * 2 + steps * 2
    plans = [GossipPlan.from_record(record) for record in (*records[:2], *records[4:6])]
    for place, plan in enumerate(plans):
        assert (plan.client, plan.round, plan.seed) == (place % 2, place // 2, 8)
        assert {name: getattr(plan, name) for name in chosen} == chosen
    factor = fb.cosine_decay(samples=100).factor(6)
    assert [plan.step_size for plan in plans] == [0.5, 0.5, 0.5 * factor, 0.5 * factor]
    queries = [ModelQuery.from_record(record) for record in records[2:4]]
    assert [(q.client, q.acknowledged, q.mixing) for q in queries] == [(0, 0, 0.25), (1, 0, 0.25)]


def test_the_summary_names_the_settings(caplog):
    """Kills: a summary without a setting that decides what the run does."""
    caplog.set_level(logging.INFO, "flwr")
    strategy = Gossip(fb.minibatch(), fb.along("ring"), batch_size=8, step_size=0.5, mixing=0.25)
    strategy.summary()
    parts = "along(graph='ring'), no_decay(), minibatch(), identity(), no_feedback()"
    assert f"{parts}, step size 0.5, batch size 8, mixing 0.25" in caplog.text


def test_random_matching_is_the_default():
    """Kills: another default."""
    assert Gossip(fb.exact()).algorithm.matching == fb.random_matching()


def test_nothing_works_before_the_start():
    """Kills: an AttributeError instead of a sentence."""
    with pytest.raises(RuntimeError, match=r"call start\(\): the strategy has no clients yet"):
        Gossip(fb.exact()).aggregate_train(1, [])


@pytest.mark.parametrize("name", ["train_config", "evaluate_config"])
def test_flowers_own_config_is_refused(name):
    """Kills: settings that are silently ignored."""
    grid = InlineGrid(app_of(slopes([1.0], [2.0])), 2)
    with pytest.raises(ValueError, match="settings go to Gossip itself"):
        Gossip(fb.exact()).start(grid, named(np.zeros(1)), **{name: ConfigRecord({"lr": 0.1})})


def test_a_strategy_may_be_started_again():
    """On the same nodes, which remember the first run. Kills: a model, acknowledgements or relays
    of the earlier run.
    """
    objectives = slopes([1.0, 0.0], [0.0, 1.0], [-4.0, 2.0])
    grid = InlineGrid(app_of(objectives), 3)
    strategy = Gossip(fb.exact(), minimum_clients=3)
    runs = [gossip(strategy, grid, ZERO, 3, objectives) for _ in range(2)]
    shown = [[r.to_dict() | {"seconds": 0} for r in run.records] for run in runs]
    assert shown[0] == shown[1]
    assert runs[0].means[3].tobytes() == runs[1].means[3].tobytes()


def test_without_an_evaluation_on_the_server():
    """Kills: a mean that is only computed for who looks at it."""
    run, _ = three(pairs([(0, 1)]), rounds=1, evaluate_fn=None)
    assert run.result.arrays["w"].numpy().tolist() == [1, -1] and run.records[1].test_loss is None


def test_a_model_of_several_arrays():
    """Kills: names, shapes or an order that are lost on the way."""
    objectives = slopes([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    start = named(np.array([[5.0], [6.0]]), "b")
    start["a"] = named(np.array([7.0]))["w"]
    grid = InlineGrid(app_of(objectives), 2)
    result = Gossip(fb.exact()).start(grid, start, 1)
    assert list(result.arrays) == ["b", "a"]
    assert result.arrays["b"].numpy().tolist() == [[4], [4]]
    assert result.arrays["a"].numpy().tolist() == [4]


# The end ------------------------------------------------------------------------------------------


def test_stop_where_models_are_seen():
    """40 bytes a round and a goal of 3·rounds: reached in round 3, seen in round 4.

    Kills: a goal that is missed, or looked at where nobody knows the mean.
    """
    goal = fb.until(uplink_bytes=3 * 3 * PACKET)
    settings = {"stop": goal, "evaluate_every": 2}
    run, grid = three(pairs(), rounds=9, settings=settings)
    assert [record.round for record in run.records] == [0, 1, 2, 3, 4]
    assert [record.models for record in run.records] == [3, None, 3, None, 3]
    assert run.strategy.stopped == f"uplink_bytes {12 * PACKET} reached {9 * PACKET}"
    assert [c.stopped for c in run.checkpoints[:4]] == [None] * 4
    assert run.checkpoints[4].stopped == run.strategy.stopped
    again = gossip(run.strategy, grid, ZERO, 9, [], resume=run.checkpoints[4])
    assert again.records == [] and again.result.arrays["w"].numpy().tolist() == [4, -4]


def test_a_loss_at_the_start_may_end_it():
    """Kills: a goal that round 0 does not look at."""
    run, _ = three(pairs(), settings={"stop": fb.until(loss=10)})
    assert len(run.records) == 1 and run.strategy.stopped.startswith("loss 3 reached 10")


def test_the_clients_keep_their_models():
    """After two rounds without pairs: −2 times the gradients. Kills: a mean that is sent back."""
    run, grid = three(pairs(), rounds=2)
    kept = memories(run.strategy, grid.contexts)
    found = [np.frombuffer(kept[client][MODEL][1]).tolist() for client in range(3)]
    assert found == [[-2, 0], [0, -2], [8, -4]]
