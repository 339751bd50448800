"""One run over a Grid: what it writes, how it resumes, and who gets which settings."""

import json

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from safetensors.numpy import load_file

import fedbias as fb
from clients import client_app
from simulations import InlineGrid, SettingsError, make_settings, make_task, training
from simulations.output import RunFolder, read_run
from simulations.training import client_app_for, objective_of, show, strategy_for, train
from strategies import load_checkpoint

BASE = {
    "task": "least-squares",
    "dim": 8,
    "clients": 4,
    "rounds": 8,
    "estimator": "local_steps(2, 0.1, momentum=0.5, inner=minibatch('reshuffle'))",
    "batch_size": 5,
    "compressor": "top_k(fraction=0.25)",
    "feedback": "error_feedback()",
    "optimizer": "heavy_ball(step_size=0.4, beta=0.3)",
    "lost": 0.2,
    "seed": 5,
    "timeout": 60.0,
}


def settings_with(**changes):
    return make_settings(BASE | changes)


class Interrupted(BaseException):
    """Someone pulls the plug."""


class Plug:
    """A progress display that pulls the plug while a round is shown."""

    def __init__(self, after):
        self.after = after

    def update(self, record, stopped):
        if record["round"] == self.after:
            raise Interrupted


def go(settings, folder, *, after=None, resume=False):
    grid = InlineGrid(client_app_for(settings), settings.clients)
    plug = None if after is None else Plug(after)
    return train(settings, grid, folder, plug, contexts=grid.contexts, resume=resume)


def records(folder):
    return [record | {"seconds": None} for record in read_run(folder.path).rounds]


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every round."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("after", [1, 4, 8])
def test_interrupted_and_resumed_is_uninterrupted(after, tmp_path):
    """The plug is pulled before the round's checkpoint is written: model, rounds, checkpoint and
    the clients' memories in it. Kills: memories that are not resumed, a round that is there twice.
    """
    settings = settings_with()
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    go(settings, whole)
    with pytest.raises(Interrupted):
        go(settings, broken, after=after)
    assert not broken.model.exists()
    kept = load_checkpoint(broken.path / "checkpoint.safetensors")
    assert kept.state.round == after - 1 and len(records(broken)) == after + 1
    go(settings, broken, resume=True)
    assert records(broken) == records(whole)
    assert [r["round"] for r in records(whole)] == list(range(9))
    one, two = (load_checkpoint(f.path / "checkpoint.safetensors") for f in (whole, broken))
    assert one.meta == two.meta and one.clients.keys() == two.clients.keys()
    assert one.clients and one.state.acknowledged == two.state.acknowledged
    for name, array in one.clients.items():
        assert two.clients[name].tobytes() == array.tobytes()
    for mine, theirs in [
        (one.state.point, two.state.point),
        (one.state.optimizer["velocity"], two.state.optimizer["velocity"]),
        *((load_file(f.model)["point"], one.state.point) for f in (whole, broken)),
    ]:
        assert mine.tobytes() == theirs.tobytes()


@pytest.mark.usefixtures("often")
def test_a_resumed_run_goes_on_with_its_batch_size(tmp_path):
    """Kills: a size, or the samples that a goal, a decay and a schedule count, not resumed."""
    settings = settings_with(
        estimator="minibatch()",
        batch_size="norm_test(eta=0.5, maximum=16)",
        optimizer="adagrad(step_size=0.3)",
        decay="cosine_decay(samples=1000)",
        stop="until(samples=300)",
        rounds=50,
    )
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    done = go(settings, whole)
    with pytest.raises(Interrupted):
        go(settings, broken, after=4)
    again = go(settings, broken, resume=True)
    assert records(broken) == records(whole) and again.stopped == done.stopped
    sizes = [record["batch_size"] for record in records(whole)[1:]]
    assert sizes[0] == 2 and 2 < sizes[3] < sizes[-1] and sizes == sorted(sizes)
    assert again.state.point.tobytes() == done.state.point.tobytes()


@pytest.mark.usefixtures("often")
def test_more_rounds_may_follow(tmp_path):
    """The same run, longer. Kills: a run that begins anew, or refuses to go on."""
    go(settings_with(rounds=8), RunFolder(tmp_path / "long"))
    folder = RunFolder(tmp_path / "short")
    go(settings_with(rounds=3), folder)
    go(settings_with(rounds=8), folder, resume=True)
    assert records(folder) == records(RunFolder(tmp_path / "long"))


@pytest.mark.usefixtures("often")
def test_other_settings_are_not_resumed(tmp_path):
    """Kills: a run whose second half has other settings than it says."""
    folder = RunFolder(tmp_path)
    go(settings_with(rounds=2), folder)
    before = folder.rounds.read_bytes()
    with pytest.raises(SettingsError, match=r"other settings \(batch_size, seed\)"):
        go(settings_with(rounds=4, seed=6, batch_size=6), folder, resume=True)
    assert folder.rounds.read_bytes() == before


@pytest.mark.usefixtures("often")
def test_a_folder_from_before_a_setting_existed_is_resumed(tmp_path):
    """Kills: a new setting, at its default, that is called another one."""
    folder = RunFolder(tmp_path)
    go(settings_with(rounds=2), folder)
    lines = folder.settings.read_text("utf-8").splitlines(keepends=True)
    folder.settings.write_text(
        "".join(s for s in lines if not s.startswith("measure_bias")), "utf-8"
    )
    go(settings_with(rounds=4), folder, resume=True)
    assert [record["round"] for record in records(folder)][-1] == 4


def test_without_resume_everything_begins_anew(tmp_path):
    """Kills: a checkpoint of another run that is found later."""
    folder = RunFolder(tmp_path)
    go(settings_with(rounds=3), folder)
    checkpoint = folder.path / "checkpoint.safetensors"
    assert load_checkpoint(checkpoint).state.round == 3  # the last round always has one
    with pytest.raises(Interrupted):
        go(settings_with(rounds=3, seed=9), folder, after=1)
    assert not checkpoint.exists() and len(records(folder)) == 2
    go(settings_with(rounds=3, seed=9), folder, resume=True)
    assert [r["round"] for r in records(folder)] == [0, 1, 2, 3]


def test_checkpoints_are_not_written_every_round(tmp_path, monkeypatch):
    """Kills: a checkpoint per round, which costs more than the round."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 1e9)
    folder = RunFolder(tmp_path)
    with pytest.raises(Interrupted):
        go(settings_with(), folder, after=6)
    assert not (folder.path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("every", "evaluated"), [(0, []), (1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (9, [0, 5])]
)
def test_central_evaluation_every_so_often(every, evaluated, tmp_path):
    """The start and the last round always. Kills: a last round without an accuracy."""
    folder = RunFolder(tmp_path)
    go(settings_with(rounds=5, evaluate_every=every), folder)
    found = [r["round"] for r in records(folder) if r["test_loss"] is not None]
    assert found == evaluated


def test_a_run_that_its_samples_end_is_evaluated_at_the_end(tmp_path):
    """16 samples a round from 4 clients: over after round 4. Kills: the accuracy of rounds ago."""
    folder = RunFolder(tmp_path)
    changes = {"estimator": "minibatch()", "batch_size": 4, "lost": 0, "evaluate_every": 3}
    go(settings_with(**changes, stop="until(samples=60)"), folder)
    found = [r["round"] for r in records(folder) if r["test_loss"] is not None]
    assert found == [0, 3, 4] and records(folder)[-1]["total_samples"] == 64


class Display:
    """Keeps what it is given."""

    def start(self, *given, **named):
        self.started = given, named

    def update(self, record, stopped):
        self.last = record["round"], stopped


@pytest.mark.parametrize(
    ("batch_size", "stop", "shown"),
    [
        (4, "until()", {"samples": None, "batches": False}),
        ("norm_test(0.5, 8)", "until(samples=60)", {"samples": 60, "batches": True}),
    ],
)
def test_progress_shows_what_decides_the_run(tmp_path, batch_size, stop, shown):
    """Kills: a rule whose sizes nobody sees; a goal that the progress never hears of."""
    settings = settings_with(
        estimator="minibatch()", batch_size=batch_size, stop=stop, optimizer="adagrad(0.1)"
    )
    display, folder = Display(), RunFolder(tmp_path)
    show(display, settings, "a name")
    assert display.started == ((8, "a name"), shown)
    grid = InlineGrid(client_app_for(settings), settings.clients)
    strategy = train(settings, grid, folder, display)
    assert display.last == (strategy.state.round, strategy.stopped)
    assert (strategy.stopped is None) == (stop == "until()")


def test_evaluation_is_the_gap(tmp_path):
    """f(x) − f* at every x, by the problem itself. Kills: the loss of the model before."""
    settings, folder = settings_with(rounds=3, lost=0), RunFolder(tmp_path)
    go(settings, folder)
    problem = make_task(settings).problem
    point = load_file(folder.model)["point"]
    assert records(folder)[3]["test_loss"] == problem.loss(point) - problem.minimum
    assert records(folder)[0]["test_loss"] == problem.loss(np.zeros(8)) - problem.minimum


def test_every_setting_reaches_the_strategy():
    """Kills: a setting that is accepted and then ignored."""
    settings = settings_with(
        fraction=0.5,
        weights="examples",
        minimum_replies=2,
        stop="until(accuracy=0.9)",
        client_evaluation_every=3,
        decay="cosine_decay(samples=100)",
        patience=7,
    )
    strategy = strategy_for(settings)
    assert strategy.algorithm == settings.algorithm()
    assert strategy.algorithm.optimizer == fb.heavy_ball(0.4, 0.3)
    assert strategy.algorithm.compressor == fb.top_k(0.25)
    assert strategy.algorithm.decay == fb.cosine_decay(samples=100)
    assert strategy.algorithm.feedback == fb.error_feedback()
    assert (strategy.algorithm.batch_size, strategy.algorithm.seed) == (5, 5)
    assert (strategy.algorithm.weights, strategy.algorithm.minimum_replies) == ("examples", 2)
    sampling = strategy.sampling
    assert (sampling.fraction, sampling.minimum_clients, sampling.patience) == (0.5, 4, 7)
    assert sampling.partitions == 4
    assert strategy.stop == fb.until(accuracy=0.9) and strategy.evaluate_every == 3


@pytest.mark.parametrize(("samples", "said"), [(24, []), (25, ["ended after 3 rounds with 24 o"])])
def test_a_run_that_falls_short_of_its_samples_says_so(samples, said, tmp_path, caplog):
    """Three rounds of two clients with four examples. Kills: silence, a goal that is just met."""
    changes = {"estimator": "minibatch()", "batch_size": 4, "lost": 0, "clients": 2, "rounds": 3}
    caplog.set_level("WARNING", "flwr")
    go(settings_with(**changes, stop=f"until(samples={samples})"), RunFolder(tmp_path))
    found = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [line[:30] for line in found] == said


def test_a_goal_ends_the_run(tmp_path):
    """Kills: a stop that is not passed on."""
    folder = RunFolder(tmp_path)
    strategy = go(settings_with(stop="until(uplink_bytes=1)"), folder)
    assert strategy.stopped and len(records(folder)) == 2


def test_a_run_that_reached_its_goal_is_over(tmp_path):
    """However fast it was, its last state is kept. Kills: one more round when resumed."""
    settings, folder = settings_with(stop="until(uplink_bytes=1)"), RunFolder(tmp_path)
    first = go(settings, folder)
    before = folder.rounds.read_bytes()
    again = go(settings, folder, resume=True)
    assert again.stopped == first.stopped and again.state.round == first.state.round == 1
    assert folder.rounds.read_bytes() == before


# Objectives ---------------------------------------------------------------------------------------


def context(run_config=None, **node_config):
    named = {key.replace("_", "-"): value for key, value in node_config.items()}
    return Context(1, 9, named, RecordDict(), run_config or {})


def test_the_partition_chooses_the_data():
    """Kills: the same data for everybody."""
    settings = settings_with()
    task = make_task(settings)
    for client in range(4):
        found = objective_of(context(partition_id=client, num_partitions=4), settings)
        assert found is task.objective(client)
        assert objective_of(context(client_id=client, num_partitions=4), settings) is found


START = 'start the SuperNode with --node-config "partition-id=0 num-partitions=2"'


@pytest.mark.parametrize(
    ("node_config", "sentence"),
    [
        ({}, f"node config has no partition-id: {START}"),
        ({"num_partitions": 4}, f"node config has no partition-id: {START}"),
        ({"partition_id": 0}, f"node config has no num-partitions: {START}"),
        (
            {"partition_id": 4, "num_partitions": 4},
            "node config: partition-id must be less than num-partitions = 4, not 4",
        ),
        (
            {"partition_id": "abc", "num_partitions": 4},
            "node config: partition-id must be a whole number >= 0, not 'abc'",
        ),
        (
            {"partition_id": 0, "num_partitions": "4"},
            "node config: num-partitions must be a whole number >= 1, not '4'",
        ),
    ],
)
def test_a_node_that_does_not_know_its_data_is_told_what_to_do(node_config, sentence):
    """Kills: a node id that indexes the data, another client's data, a split nobody else has."""
    with pytest.raises(ValueError) as caught:
        objective_of(context(**node_config), settings_with())
    assert str(caught.value) == sentence


def test_the_run_config_is_the_settings():
    """As `flwr run` gives it, with the app's own keys. Kills: a key that is taken for a setting."""
    config = BASE | {"name": "flower", "runs": ""}
    found = objective_of(context(config, partition_id=2, num_partitions=4))
    expected = make_task(settings_with()).objective(2)
    assert found.features.tobytes() == expected.features.tobytes()
    with pytest.raises(SettingsError, match="run config: there is no setting 'optimiser'"):
        objective_of(context(config | {"optimiser": "adam()"}, partition_id=2, num_partitions=4))


def test_the_federation_says_how_large_it_is():
    """num-partitions goes before the settings. Kills: data that is split for another federation."""
    found = objective_of(context(partition_id=1, num_partitions=2), settings_with())
    assert found is make_task(settings_with(clients=2)).objective(1)
    with pytest.raises(ValueError, match="num-partitions must be a whole number >= 1, not 0"):
        objective_of(context(partition_id=0, num_partitions=0), settings_with())


def test_one_thread_per_client():
    """Kills: sums in another order on every engine; a cohort that may not use the machine."""
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        make_task.cache_clear()
        objective_of(context(partition_id=0, num_partitions=4), settings_with(cohort=True))
        assert torch.get_num_threads() == 2
        objective_of(context(partition_id=0, num_partitions=4), settings_with())
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_losses_are_those_of_the_settings(tmp_path):
    """Kills: a network that loses nothing, other replies, or by rounds from 1."""
    settings, folder = settings_with(), RunFolder(tmp_path)
    go(settings, folder)
    expected = [len(fb.lost(5, k, range(4), 0.2)) for k in range(8)]
    assert [r["lost"] for r in records(folder)[1:]] == expected and sum(expected) > 3


def test_settings_and_model_are_in_the_folder(tmp_path):
    """Kills: a run that cannot be repeated from its folder."""
    settings, folder = settings_with(rounds=2), RunFolder(tmp_path)
    grid = InlineGrid(client_app(lambda c: objective_of(c, settings)), 4)
    train(settings, grid, folder)
    assert make_settings(read_run(folder.path).settings) == settings
    assert load_file(folder.model)["point"].shape == (8,)
    found = load_checkpoint(folder.path / "checkpoint.safetensors")
    assert found.clients == {} and json.dumps(found.meta) == "{}"  # no contexts were given
