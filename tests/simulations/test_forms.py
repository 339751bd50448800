"""Hybrid and decentralized runs by the app's settings."""

from dataclasses import asdict

import numpy as np
import pytest

import fedbias as fb
from simulations import InlineGrid, SettingsError, make_settings, make_task
from simulations.output import RunFolder, read_run
from simulations.output.panels import panels
from simulations.training import client_app_for, objective_of, strategy_for, train
from strategies import FedBias, Gossip, load_checkpoint

STAR = {
    "task": "least-squares",
    "dim": 6,
    "clients": 5,
    "rounds": 7,
    "estimator": "by_capability(gradient=minibatch(), loss=two_point(directions=3, radius=1e-4))",
    "batch_size": 4,
    "forward_only": 3,
    "optimizer": "gradient_descent(step_size=0.2)",
    "seed": 2,
}
GOSSIP = STAR | {
    "matching": "random_matching()",
    "compressor": "top_k(fraction=0.5)",
    "feedback": "ef21()",
    "mixing": 0.5,
    "decay": "cosine_decay(samples=100)",
    "lost": 0.2,
}


def trained(settings, folder, resume=False, plug=None):
    grid = InlineGrid(client_app_for(settings), settings.clients)
    return train(settings, grid, folder, plug, contexts=grid.contexts, resume=resume)


def objectives_of(settings):
    task = make_task(settings)
    able = settings.clients - settings.forward_only
    whole = [task.objective(client) for client in range(settings.clients)]
    return [*whole[:able], *map(fb.ForwardOnly, whole[able:])]


def test_a_decentralized_run_is_the_loop(tmp_path):
    """Means, spreads, bytes, pairs and the model that is kept, bit for bit, with lost replies.

    Kills: a setting that does not reach the strategy; clients that all have gradients; replies of
    the decentralized form that no network loses.
    """
    settings = make_settings(GOSSIP)
    folder = RunFolder(tmp_path / "run")
    strategy, a = trained(settings, folder), settings.gossip()
    start = make_task(settings).initial()["point"]
    loop = fb.run_gossip(
        objectives_of(settings),
        [start] * 5,
        7,
        estimator=a.estimator,
        matching=a.matching,
        step_size=0.2,
        decay=a.decay,
        compressor=a.compressor,
        feedback=a.feedback,
        batch_size=4,
        mixing=0.5,
        seed=2,
        lost=lambda k: fb.lost(2, k, range(5), 0.2),
    )
    records = read_run(folder.path).rounds
    assert strategy.state.entry.tobytes() == loop.points[-1].tobytes()
    assert [r["spread"] for r in records] == loop.spreads.tolist()
    assert [8 * r["uplink_bytes"] for r in records[1:]] == loop.wire_bits.tolist()
    assert [r["pairs"] for r in records[1:]] == [len(o.pairs) for o in loop.outcomes]
    assert sum(r["lost"] for r in records) > 3 and loop.spreads[-1] > 0


class Interrupted(BaseException):
    pass


class Plug:
    def update(self, record, stopped):
        if record["round"] == 4:
            raise Interrupted


def test_an_interrupted_decentralized_run_goes_on(tmp_path, monkeypatch):
    """Kills: relays or clients' models that are not in the checkpoint."""
    monkeypatch.setattr("simulations.training.CHECKPOINT_SECONDS", -1.0)
    settings = make_settings(GOSSIP)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    at_once = trained(settings, whole)
    with pytest.raises(Interrupted):
        trained(settings, parts, plug=Plug())
    resumed = trained(settings, parts, resume=True)
    assert resumed.state.entry.tobytes() == at_once.state.entry.tobytes()
    first, second = (load_checkpoint(f.path / "checkpoint.safetensors") for f in (whole, parts))
    assert {n: v.tobytes() for n, v in first.clients.items()} == {
        n: v.tobytes() for n, v in second.clients.items()
    }
    same = [r | {"seconds": 0} for r in read_run(whole.path).rounds]
    assert same == [r | {"seconds": 0} for r in read_run(parts.path).rounds]


def test_the_last_clients_are_the_ones_without_gradients(tmp_path):
    """Two of five keep theirs. Kills: the first ones; one too many."""
    settings = make_settings(STAR)
    grid = InlineGrid(client_app_for(settings), 5)
    able = [hasattr(objective_of(grid.contexts[n], settings), "gradient") for n in grid.contexts]
    assert able == [True, True, False, False, False]
    folder = RunFolder(tmp_path / "run")
    trained(settings, folder)
    packet, seeds = fb.identity().wire_bytes(6, np.float64), 26 + 3 * 4
    assert [r["uplink_bytes"] for r in read_run(folder.path).rounds[1:]] == 7 * [
        2 * packet + 3 * seeds
    ]


def test_settings_reach_the_strategy():
    """Kills: a setting that is left out."""
    star = strategy_for(make_settings(STAR | {"weights": "inverse_variance"}))
    assert isinstance(star, FedBias) and star.algorithm.weights == "inverse_variance"
    settings = make_settings(GOSSIP)
    owned = strategy_for(settings)
    assert isinstance(owned, Gossip)
    assert asdict(owned.algorithm) == asdict(settings.gossip())
    assert owned.algorithm == settings.gossip()
    assert (owned.algorithm.mixing, owned.algorithm.batch_size) == (0.5, 4)


def test_seeds_come_down_too(tmp_path):
    """After the first round the model is not sent. Kills: a broadcast that nobody asked for."""
    values = STAR | {"estimator": "two_point(directions=3, radius=1e-4)", "forward_only": 5}
    records = {}
    for how in ("model", "seeds"):
        folder = RunFolder(tmp_path / how)
        trained(make_settings(values | {"broadcast": how, "dim": 400}), folder)
        records[how] = read_run(folder.path).rounds
    few, many = records["seeds"], records["model"]
    assert [r["test_loss"] for r in few] == [r["test_loss"] for r in many]
    assert few[2]["downlink_bytes"] < many[2]["downlink_bytes"] / 3
    assert few[1]["downlink_bytes"] > 5 * 400 * 8


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"forward_only": 6}, "forward_only = 6: must be at most the number of clients, 5"),
        ({"estimator": "minibatch()"}, "asks everybody for more than a loss"),
        ({"mixing": 0.5}, "mixing = 0.5: has no meaning without matching"),
        ({"broadcast": "seeds"}, "send vectors: use two_point or forward_gradient alone"),
        ({"forward_only": 0, "estimator": "minibatch()", "weights": "inverse_variance"}, "is one"),
        ({"matching": "random_pair()", "weights": "examples"}, "weights = 'examples' is for one"),
        ({"matching": "random_pair()", "fraction": 0.5}, "fraction = 0.5 is for one model"),
        ({"matching": "random_pair()", "clients": 1, "forward_only": 1}, "clients = 1: nobody"),
        ({"matching": "random_pair()", "evaluate_every": 0}, "what is kept is an evaluated mean"),
        ({"matching": "random_pair()", "optimizer": "adam()"}, "take plain steps"),
        ({"matching": "random_pair()", "feedback": "error_feedback()"}, "send models, not"),
        ({"matching": "random_pair()", "batch_size": "linear_batch(2, 4, 9)"}, "it is a number"),
    ],
)
def test_what_does_not_fit_together(changes, sentence):
    """Kills: a setting of one form that the other one ignores."""
    with pytest.raises(SettingsError) as refused:
        make_settings(STAR | changes)
    assert sentence in str(refused.value) and "gossip: " not in str(refused.value)


def test_the_report_draws_the_spread(tmp_path):
    """Without the start, where it is 0. Kills: a logarithmic axis down to nothing."""
    folder = RunFolder(tmp_path / "run")
    trained(make_settings(GOSSIP), folder)
    (panel,) = [p for p in panels([read_run(folder.path)]) if "Spread" in p.title]
    ((points),) = [curve.points for curve in panel.curves]
    assert len(points) == 7 and min(y for _, y in points) > 0 and panel.up.low > 1e-20
