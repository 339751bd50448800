"""A run may be interrupted after any round: what goes on is the same run, bit for bit."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fedbias as fb
from fedbias.sharpness import Reading
from fedbias.state import ServerState
from simulations import InlineGrid, LossyGrid
from simulations.engines.inline import export_states, import_states
from strategies import Checkpoint, FedBias, checkpoint, load_checkpoint, save_checkpoint
from tests.tools.federation import app_of, named, train

ODD = np.array([0.1, -0.0, 5e-324, 1e300])
FULL = Checkpoint(
    ServerState(
        point=ODD,
        round=7,
        optimizer={"velocity": ODD / 3, "count": np.array([3])},
        acknowledged={0: 6, 12: 2, 3: -1},
        counts={0: 4, 12: 0},
        memories={0: ODD * 3, 12: -ODD},
        enrolled={0: 5, 12: 2**40, 3: 1},
        batch_size=37,
        samples=2**70,
        variances={"gradient": (3, 0.1), "loss": (1, 1 / 3)},
        buffers=np.float32([1, 2]) / 3,
        sharpness=Reading(5, 1 / 3, 5e-324, 31, 4, None),
        step_size=0.1 + 0.2,
    ),
    total_uplink_bytes=2**40,
    seconds=0.1 + 0.2,
    clients={"1/fedbias.memory/a": ODD * 2, "2/x/y": np.array([2**40], np.int64)},
    meta={"1/fedbias.ledger": {"applied": 3, "lost": False}, "1/fedbias.memory": ["a"]},
)
BARE = Checkpoint(ServerState(np.float32([1, 2]) / 3))


def same_vectors(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape
        assert one[name].tobytes() == other[name].tobytes()


def same(one, other):
    same_vectors({"point": one.state.point}, {"point": other.state.point})
    same_vectors(one.state.optimizer, other.state.optimizer)
    same_vectors(one.clients, other.clients)
    assert all(type(client) is int for client in (*one.state.memories, *one.state.counts))
    same_vectors(one.state.memories, other.state.memories)
    assert one.state.counts == other.state.counts
    assert one.state.enrolled == other.state.enrolled
    assert one.state.batch_size == other.state.batch_size
    assert one.state.samples == other.state.samples
    assert one.state.variances == other.state.variances
    assert one.state.sharpness == other.state.sharpness
    assert one.state.step_size == other.state.step_size
    assert (one.state.buffers is None) == (other.state.buffers is None)
    if one.state.buffers is not None:
        same_vectors({"b": one.state.buffers}, {"b": other.state.buffers})
    assert one.state.round == other.state.round
    assert one.state.acknowledged == other.state.acknowledged
    assert one.total_uplink_bytes == other.total_uplink_bytes
    assert one.seconds == other.seconds and one.meta == other.meta


@pytest.mark.parametrize("whole", [FULL, BARE])
def test_there_and_back(whole, tmp_path):
    """Kills: a field left out, a dtype or a sign of zero that changes, keys that become text."""
    path = tmp_path / "deep" / "er" / "checkpoint.safetensors"
    save_checkpoint(path, whole)
    same(load_checkpoint(path), whole)
    save_checkpoint(path, load_checkpoint(path))
    same(load_checkpoint(path), whole)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_from_before_there_were_batch_sizes(tmp_path):
    """Loads, and goes on with the constant that it was run with. Kills: a KeyError."""
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, FULL)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["fedbias"])
    assert header.pop("batch_size") == 37 and header.pop("samples") == 2**70
    save_file(load_file(path), path, metadata={"fedbias": json.dumps(header)})
    found = load_checkpoint(path)
    assert found.state.batch_size is None and found.state.samples == 0
    same(replace(found, state=replace(found.state, batch_size=37, samples=2**70)), FULL)


def test_a_file_from_before_the_sharpness_was_measured(tmp_path):
    """Loads, and goes on with the optimizer's own step size. Kills: a KeyError."""
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, FULL)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["fedbias"])
    assert header.pop("sharpness")["value"] == 1 / 3 and header.pop("step_size") == 0.1 + 0.2
    save_file(load_file(path), path, metadata={"fedbias": json.dumps(header)})
    state = load_checkpoint(path).state
    assert state.sharpness is None and state.step_size is None


def test_views_are_saved_as_they_look(tmp_path):
    """safetensors writes the memory behind an array. Kills: strides that are not minded."""
    point = np.arange(10.0)[::2]
    state = ServerState(point, optimizer={"v": np.arange(6.0).reshape(2, 3).T})
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(state))
    found = load_checkpoint(tmp_path / "c.safetensors").state
    assert found.point.tolist() == [0, 2, 4, 6, 8]
    assert found.optimizer["v"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("when", ["while writing", "before replacing", "meta"])
def test_a_failing_write_leaves_the_old_file(when, tmp_path, monkeypatch):
    """Kills: a file that is opened for writing before the new one is whole."""
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, FULL)
    before, broken = path.read_bytes(), BARE

    def half(arrays, file, metadata):
        file.write_bytes(b"half of it")
        raise OSError("no space left on device")

    def interrupted(*_):
        raise OSError("interrupted")

    if when == "while writing":
        monkeypatch.setattr(checkpoint, "save_file", half)
    elif when == "before replacing":
        monkeypatch.setattr(os, "replace", interrupted)
    else:
        broken = Checkpoint(BARE.state, meta={"x": object()})
    with pytest.raises((OSError, TypeError)):
        save_checkpoint(path, broken)
    monkeypatch.undo()
    assert path.read_bytes() == before
    same(load_checkpoint(path), FULL)
    save_checkpoint(path, BARE)  # what the failure left behind is in nobody's way
    same(load_checkpoint(path), BARE)


def foreign(path, kind):
    if kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        save_checkpoint(path, FULL)
        path.write_bytes(path.read_bytes()[:-9])
    elif kind == "a model":
        save_file({"w": np.ones(3)}, path)
    elif kind == "other metadata":
        save_file({"point": np.ones(3)}, path, metadata={"format": "pt"})
    elif kind == "no JSON":
        save_file({"point": np.ones(3)}, path, metadata={"fedbias": "{"})
    elif kind == "no round":
        save_file({"point": np.ones(3)}, path, metadata={"fedbias": "{}"})
    elif kind == "no point":
        save_checkpoint(path, BARE)
        header = {"fedbias": json.dumps({"round": 0, "acknowledged": []})}
        save_file({"other": load_file(path)["point"]}, path, metadata=header)


@pytest.mark.parametrize(
    "kind",
    [
        *("text", "empty", "truncated", "a model", "other metadata", "no JSON"),
        *("no round", "no point"),
    ],
)
def test_a_foreign_file_is_refused(kind, tmp_path):
    """Kills: an error of safetensors or json that reaches the user."""
    path = tmp_path / "checkpoint.safetensors"
    foreign(path, kind)
    with pytest.raises(ValueError, match="checkpoint.safetensors is not a fedbias checkpoint"):
        load_checkpoint(path)


# Interrupted and resumed --------------------------------------------------------------------------

PROBLEM = fb.LeastSquares.random(8, 6.0, seed=3, clients=4)
ZERO = np.zeros(8)
ROUNDS = 9
SETTINGS = {
    "estimator": fb.local_steps(3, 0.05, momentum=0.6, inner=fb.minibatch("reshuffle")),
    "compressor": fb.top_k(0.25),
    "batch_size": 5,
}
OPTIMIZERS = [fb.heavy_ball(0.4, 0.2), fb.adam(0.05), fb.adagrad_norm(0.3), fb.nesterov(0.3, 0.5)]
CASES = [
    *((optimizer, fb.error_feedback()) for optimizer in OPTIMIZERS),
    (fb.heavy_ball(0.4, 0.2), fb.ef21()),
    (fb.polyak(0.3, 0.5), fb.differential(memory=True)),
]
SEED = 12


def is_lost(round, client):
    return bool(fb.lost(SEED, round, [client], 0.2))


class Run:
    """One process's life: a grid with its clients' contexts, and what they remember."""

    def __init__(self, optimizer, feedback=fb.error_feedback(), **changes):
        self.inline = InlineGrid(app_of(PROBLEM.objectives), 4)
        self.grid = LossyGrid(self.inline, is_lost)
        settings = {**SETTINGS, "feedback": feedback, "seed": SEED, **changes}
        self.strategy = FedBias(optimizer, **settings, minimum_clients=4, fraction=0.8)

    def go(self, rounds, resume=None):
        self.run = train(self.strategy, self.grid, ZERO, rounds, resume=resume)
        return self

    def keep(self, path):
        arrays, values = export_states(self.inline.contexts)
        last = self.run.checkpoints[-1]
        whole = Checkpoint(last.state, last.total_uplink_bytes, last.seconds, arrays, values)
        save_checkpoint(path, whole)


def test_the_losses_are_there():
    """Otherwise the tests below prove less than they say."""
    pairs = [(k, c) for k in range(ROUNDS) for c in range(4) if is_lost(k, c)]
    assert len(pairs) > 4 and len({c for _, c in pairs}) > 2


@pytest.mark.parametrize(("optimizer", "feedback"), CASES, ids=lambda o: o.name)
@pytest.mark.parametrize("after", [0, 1, 4, 8])
def test_interrupted_and_resumed_is_uninterrupted(optimizer, feedback, after, tmp_path):
    """Points, optimizer state, acknowledgements, bytes, and all that the clients remember.

    Kills: a memory, a pending outcome, a flag or a round number that is not in the checkpoint.
    """
    whole = Run(optimizer, feedback).go(ROUNDS)
    path = tmp_path / "checkpoint.safetensors"
    Run(optimizer, feedback).go(after).keep(path)
    found = load_checkpoint(path)
    resumed = Run(optimizer, feedback)
    import_states(resumed.inline.contexts, found.clients, found.meta)
    resumed.go(ROUNDS, resume=found)
    records, expected = resumed.run.records, whole.run.records[after + 1 :]
    assert [r.to_dict() | {"seconds": 0} for r in records] == [
        r.to_dict() | {"seconds": 0} for r in expected
    ]
    assert resumed.run.points.tobytes() == whole.run.points[after + 1 :].tobytes()
    mine, theirs = resumed.strategy.state, whole.strategy.state
    same_vectors(mine.optimizer, theirs.optimizer)
    assert (mine.round, mine.acknowledged) == (theirs.round, theirs.acknowledged)
    assert mine.counts == theirs.counts and bool(mine.memories) == feedback.remembers
    same_vectors(mine.memories, theirs.memories)
    arrays, values = export_states(resumed.inline.contexts)
    reference, settings = export_states(whole.inline.contexts)
    same_vectors(arrays, reference)
    assert values == settings
    kept = "feedback.gradient" if feedback.remembers else "feedback.error"
    assert any(kept in name for name in arrays)
    assert any("local_steps.momentum" in name for name in arrays)
    final = resumed.run.result.arrays["w"].numpy()
    assert final.tobytes() == whole.run.result.arrays["w"].numpy().tobytes()


GROWING = {
    "norm test": {
        "estimator": fb.minibatch("reshuffle"),
        "batch_size": fb.norm_test(eta=0.8, maximum=14),
        "decay": fb.cosine_decay(samples=300),
    },
    "clients compared": {
        "estimator": fb.minibatch(),
        "batch_size": fb.cross_client_test(eta=0.5, maximum=14),
    },
    "local": {"batch_size": fb.local_norm_test(eta=0.9, maximum=14)},
    "linear": {"batch_size": fb.linear_batch(2, 14, 150)},
}


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("after", [1, 4, 8])
def test_sizes_go_on_where_they_were(name, after, tmp_path):
    """With lost replies, AdaGrad-Norm and a decaying step: records, points, sizes and samples.

    Kills: a size that begins again, samples that count from the interruption.
    """
    settings = {"optimizer": fb.adagrad_norm(1.0), **GROWING[name]}
    whole, path = Run(**settings).go(ROUNDS), tmp_path / "checkpoint.safetensors"
    Run(**settings).go(after).keep(path)
    found, resumed = load_checkpoint(path), Run(**settings)
    import_states(resumed.inline.contexts, found.clients, found.meta)
    resumed.go(ROUNDS, resume=found)
    records = [record.to_dict() | {"seconds": 0} for record in whole.run.records[1:]]
    assert [r.to_dict() | {"seconds": 0} for r in resumed.run.records] == records[after:]
    assert resumed.run.points.tobytes() == whole.run.points[after + 1 :].tobytes()
    mine, theirs = resumed.strategy.state, whole.strategy.state
    same_vectors(mine.optimizer, theirs.optimizer)
    assert (mine.batch_size, mine.samples) == (theirs.batch_size, theirs.samples)
    assert found.state.batch_size == records[after]["batch_size"]
    assert found.state.samples == records[after - 1]["total_samples"] > 0
    assert len({record["batch_size"] for record in records}) > 2


@pytest.mark.parametrize("after", [1, 4])
def test_weights_go_on_where_they_were(after, tmp_path):
    """Inverse variances of two kinds. Kills: weights that begin again at uniform."""
    objectives = [*PROBLEM.objectives[:2], *map(fb.ForwardOnly, PROBLEM.objectives[2:])]
    estimator = {"gradient": fb.minibatch(), "loss": fb.two_point(4, 1e-3)}
    settings = {"estimator": estimator, "batch_size": 3, "weights": "inverse_variance"}
    settings = {"optimizer": fb.gradient_descent(0.2), "minimum_clients": 4, **settings}
    whole, first, again = (FedBias(**settings) for _ in range(3))
    run = train(whole, InlineGrid(app_of(objectives), 4), ZERO, ROUNDS)
    grid, path = InlineGrid(app_of(objectives), 4), tmp_path / "checkpoint.safetensors"
    part = train(first, grid, ZERO, after).checkpoints[-1]
    arrays, values = export_states(grid.contexts)
    save_checkpoint(path, replace(part, clients=arrays, meta=values))
    found, other = load_checkpoint(path), InlineGrid(app_of(objectives), 4)
    import_states(other.contexts, found.clients, found.meta)
    resumed = train(again, other, ZERO, ROUNDS, resume=found)
    assert resumed.point.tobytes() == run.point.tobytes()
    assert again.state.variances == whole.state.variances
    assert found.state.variances == part.state.variances != {}


class Leaving(InlineGrid):
    """A grid whose last node is not there any more, from some moment on."""

    gone = False

    def get_node_ids(self):
        nodes = list(super().get_node_ids())
        return nodes[:-1] if self.gone else nodes


def test_who_is_away_is_not_forgotten(tmp_path):
    """EF21 with a client that leaves after round 3: resumed without it is the same run.

    Kills: a mean over those that are there when the run goes on.
    """
    path = tmp_path / "checkpoint.safetensors"

    def strategy():
        return FedBias(fb.gradient_descent(0.3), feedback=fb.ef21(), minimum_clients=3)

    def leave(record, checkpoint):
        if record.round == 3:
            whole.gone = True
            arrays, values = export_states(whole.contexts)
            save_checkpoint(path, replace(checkpoint, clients=arrays, meta=values))

    whole, again = (Leaving(app_of(PROBLEM.objectives), 4) for _ in range(2))
    one, other = strategy(), strategy()
    one.start(whole, named(ZERO), 7, on_round=leave)
    found, again.gone = load_checkpoint(path), True
    import_states(again.contexts, found.clients, found.meta)
    other.start(again, named(ZERO), 7, resume=found)
    assert other.state.point.tobytes() == one.state.point.tobytes()
    assert other.state.enrolled == one.state.enrolled and len(one.state.enrolled) == 4


def test_without_the_clients_memories_they_say_so(tmp_path):
    """Elsewhere than in one process the memories are gone. Kills: a silent difference."""
    path = tmp_path / "checkpoint.safetensors"
    first = Run(OPTIMIZERS[0]).go(4)
    first.keep(path)
    found = load_checkpoint(path)
    resumed = Run(OPTIMIZERS[0]).go(ROUNDS, resume=found)
    known = set(found.state.acknowledged)
    assert sum(r.forgotten for r in resumed.run.records) == len(known) > 2


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    """Kills: a round too many."""
    path = tmp_path / "checkpoint.safetensors"
    first = Run(OPTIMIZERS[0]).go(3)
    first.keep(path)
    again = Run(OPTIMIZERS[0]).go(3, resume=load_checkpoint(path))
    assert again.run.records == []
    assert again.run.result.arrays["w"].numpy().tobytes() == first.run.point.tobytes()


def test_the_clock_goes_on(clock):
    """Kills: seconds that begin anew, or that count the pause."""
    start = Checkpoint(ServerState(ZERO, round=2), total_uplink_bytes=1000, seconds=50.0)
    records = Run(OPTIMIZERS[0]).go(3, resume=start).run.records
    assert records[0].round == 3 and records[0].seconds == 50
    assert records[0].total_uplink_bytes == 1000 + records[0].uplink_bytes


def test_a_run_that_reached_its_goal_stays_there():
    """The checkpoint is of the round that reached the goal: nothing is left to do."""
    goal = fb.until(uplink_bytes=1)
    strategy = FedBias(OPTIMIZERS[0], minimum_clients=4, stop=goal)
    grid = InlineGrid(app_of(PROBLEM.objectives), 4)
    first = train(strategy, grid, ZERO, ROUNDS)
    assert first.strategy.state.round == 1
    again = train(strategy, grid, ZERO, ROUNDS, resume=first.checkpoints[-1])
    assert again.strategy.state.round == 1
