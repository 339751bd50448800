"""The strongest test: fb.run, InlineGrid and Ray give the same bits. And the engines by themselves.

Ray takes long to start, so one start serves all its cases.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from safetensors.numpy import load_file

import fedbias as fb
from clients import client_app
from clients.memory import load_ledger
from fedbias.ledger import NEVER, settle
from fedbias.problems import Squares
from fedbias.vectors import flatten
from simulations import InlineGrid, LossyGrid, make_settings, make_task
from simulations.engines import run_on_ray
from simulations.engines.inline import export_states, import_states
from simulations.output import RunFolder, read_run
from simulations.training import objective_of, strategy_for
from simulations.training import train as train_into
from strategies import FedBias
from tests.tools.federation import Watched, app_of, named, slopes, train

CLIENTS = 5
COMMON = {"clients": CLIENTS, "rounds": 7, "timeout": 60.0, "measure_bias": 3, "seed": 5}
LOCAL = "local_steps(3, 0.1, momentum=0.5, inner=minibatch('reshuffle'))"
CASES = {
    "least squares": {
        "task": "least-squares",
        "dim": 300,  # large enough for numpy's products to be threaded where nobody forbids it
        "optimizer": "gradient_descent(step_size=0.5)",
    },
    "least squares, top-k and momentum": {
        "task": "least-squares",
        "dim": 12,
        "optimizer": "heavy_ball(step_size=0.5, beta=0.2)",
        "compressor": "top_k(fraction=0.2)",
        "feedback": "error_feedback()",
        "fraction": 0.6,
        "lost": 0.2,
    },
    "least squares, dithered and Adam": {
        "task": "least-squares",
        "dim": 12,
        "optimizer": "adam(step_size=0.05)",
        "estimator": "clipped(radius=0.4, inner=minibatch())",
        "batch_size": 6,
        "compressor": "dithered(bits=3)",
        "weights": "examples",
    },
    "logistic, sign and local steps": {
        "task": "logistic",
        "dim": 8,
        "optimizer": "nesterov(step_size=0.6, momentum=0.4)",
        "estimator": LOCAL,
        "batch_size": 7,
        "compressor": "sign()",
        "feedback": "error_feedback()",
        "lost": 0.3,
    },
    "digits": {
        "task": "digits",
        "model": "mlp(hidden=16)",
        "optimizer": "heavy_ball(step_size=0.6, beta=0.3)",
        "estimator": LOCAL,
        "batch_size": 16,
        "compressor": "top_k(fraction=0.05)",
        "feedback": "error_feedback()",
        "lost": 0.2,
    },
    "least squares, EF21 and heavy ball": {
        "task": "least-squares",
        "dim": 13,
        "optimizer": "heavy_ball(step_size=0.3, beta=0.5)",
        "compressor": "lattice('E8', bits=2)",
        "feedback": "ef21()",
        "weights": "examples",
        "fraction": 0.6,
        "lost": 0.2,
    },
    "least squares, differential quantization": {
        "task": "least-squares",
        "dim": 12,
        "optimizer": "nesterov(step_size=0.5, momentum=0.4)",
        "compressor": "uniform(bits=5)",
        "feedback": "differential()",
        "lost": 0.2,
    },
    "digits, differential with memory": {
        "task": "digits",
        "model": "mlp(hidden=16)",
        "optimizer": "polyak(step_size=0.3, momentum=0.3)",
        "estimator": "minibatch('reshuffle')",
        "batch_size": 16,
        "compressor": "rotated(uniform(bits=4))",
        "feedback": "differential(memory=True)",
        "lost": 0.2,
    },
    "logistic, AdaGrad and the norm test": {
        "task": "logistic",
        "dim": 8,
        "optimizer": "adagrad(step_size=0.3)",
        "estimator": "minibatch()",
        "batch_size": "norm_test(eta=0.2, maximum=64)",
        "decay": "cosine_decay(samples=600, warmup=20)",
        "compressor": "top_k(fraction=0.5)",
        "feedback": "error_feedback()",
        "lost": 0.2,
    },
    "least squares, AdaGrad-Norm and clients compared": {
        "task": "least-squares",
        "dim": 12,
        "optimizer": "adagrad_norm(step_size=1.0)",
        "estimator": "minibatch('reshuffle')",
        "batch_size": "cross_client_test(eta=0.5, maximum=20)",
        "compressor": "dithered(bits=3)",
        "feedback": "ef21()",
        "weights": "examples",
        "lost": 0.2,
    },
    "logistic, local steps and their norm test": {
        "task": "logistic",
        "dim": 8,
        "optimizer": "heavy_ball(step_size=0.8, beta=0.5)",
        "estimator": LOCAL,
        "batch_size": "local_norm_test(eta=0.9, maximum=50)",
        "decay": "cosine_decay(samples=2000)",
        "compressor": "sign()",
        "feedback": "error_feedback()",
        "fraction": 0.6,
        "lost": 0.3,
    },
    "digits, AdaGrad and the norm test": {
        "task": "digits",
        "model": "mlp(hidden=16)",
        "optimizer": "adagrad(step_size=0.05)",
        "estimator": "minibatch('reshuffle')",
        "batch_size": "norm_test(eta=0.4, maximum=128, initial=8)",
        "compressor": "top_k(fraction=0.2)",
        "feedback": "error_feedback()",
        "lost": 0.2,
    },
    "digits, forward passes beside gradients": {
        "task": "digits",
        "model": "mlp(hidden=16)",
        "optimizer": "heavy_ball(step_size=0.2, beta=0.3)",
        "forward_only": 3,
        "estimator": "by_capability(gradient=minibatch('reshuffle'), "
        "loss=two_point(directions=4, radius=0.001))",
        "batch_size": 16,
        "weights": "inverse_variance",
        "compressor": "top_k(fraction=0.2)",
        "feedback": "error_feedback()",
        "lost": 0.2,
    },
    "digits, told in seeds": {
        "task": "digits",
        "model": "linear()",
        "optimizer": "adam(step_size=0.01)",
        "forward_only": 5,
        "estimator": "two_point(directions=3, radius=0.001, central=True)",
        "batch_size": 16,
        "decay": "cosine_decay(samples=600)",
        "broadcast": "seeds",
        "fraction": 0.6,
        "lost": 0.2,
    },
    "BatchNorm and Dropout": {
        "task": "tests.tools.normed_task:make_task",
        "optimizer": "polyak(step_size=0.3, momentum=0.3)",
        "estimator": "minibatch('reshuffle')",
        "batch_size": 5,
        "compressor": "uniform(bits=4)",
        "feedback": "error_feedback()",
        "lost": 0.2,
    },
}


def settings_of(case):
    return make_settings({**COMMON, **CASES[case]})


def start_of(settings):
    return flatten(make_task(settings).initial().values())


def left(settings, round):
    """The clients whose replies are lost in a round."""
    return fb.lost(settings.seed, round, range(CLIENTS), settings.lost)


def asked(settings, round):
    """The clients that are asked in a round."""
    count = {0.6: 3, 1.0: 5}[settings.fraction]
    return fb.sample_clients(settings.seed, round, range(CLIENTS), count)


def by_the_loop(settings):
    """The readable reference, from the same settings."""
    task, a = make_task(settings), settings.algorithm()
    objectives = [task.objective(client) for client in range(CLIENTS)]
    able = CLIENTS - settings.forward_only
    return fb.run(
        [*objectives[:able], *map(fb.ForwardOnly, objectives[able:])],
        *(a.optimizer, start_of(settings), settings.rounds),
        estimator=a.estimator,
        compressor=a.compressor,
        feedback=a.feedback,
        batch_size=a.batch_size,
        decay=a.decay,
        weights=a.weights,
        measure_bias=a.measure_bias,
        seed=a.seed,
        participation=lambda k: asked(settings, k),
        lost=lambda k: left(settings, k),
    )


def over_messages(settings):
    """The same settings through Flower's messages in this process."""
    task = make_task(settings)
    inline = InlineGrid(client_app(lambda context: objective_of(context, settings)), CLIENTS)
    grid = LossyGrid(inline, lambda k, client: client in left(settings, k))
    arrays = named(start_of(settings))
    buffers = task.initial_buffers()
    extra = {"initial_buffers": named(flatten(buffers.values()), "extra")} if buffers else {}
    return train(strategy_for(settings), grid, arrays, settings.rounds, **extra), inline


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The strongest test -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_loop_and_flower_are_one(case):
    """All points, bytes, losses, memories and optimizer states, bit for bit.

    Kills: another order, a dtype that changes on its way, a draw that depends on the engine, a
    memory that is committed too early or too late, a buffer that is not averaged.
    """
    settings = settings_of(case)
    (run, inline), loop = over_messages(settings), by_the_loop(settings)
    assert run.points.dtype == loop.points.dtype and run.points.tobytes() == loop.points.tobytes()
    assert len(np.unique(run.points, axis=0)) > 4  # it moved
    assert [8 * r.uplink_bytes for r in run.records[1:]] == loop.wire_bits.tolist()
    for record, outcome in zip(run.records[1:], loop.outcomes, strict=True):
        assert record.applied == len(outcome.applied) and record.refused == 0
        if outcome.applied:
            assert (record.train_loss, record.gradient_norm) == (
                *(outcome.loss, outcome.gradient_norm),
            )
        assert (record.batch_size, record.samples) == (outcome.batch_size, outcome.samples)
        wanted = None if math.isnan(outcome.wanted) else outcome.wanted
        assert record.wanted_batch_size == wanted
        told = outcome.measured and (outcome.measured.bias_square, outcome.measured.gradient_square)
        assert (told or (None, None)) == (record.bias_square, record.gradient_square)
    compared = 3 if settings.forward_only < CLIENTS else 0
    assert sum(record.gradient_square is not None for record in run.records) == compared
    assert (sum(r.lost for r in run.records) > 3) == (settings.lost > 0)
    state = run.strategy.state
    assert state.samples == sum(outcome.samples for outcome in loop.outcomes)
    assert (len(set(loop.batch_sizes)) > 2) == isinstance(settings.batch_size, str)  # it grew
    assert state.optimizer.keys() == loop.optimizer_state.keys()
    for name, array in loop.optimizer_state.items():
        assert state.optimizer[name].tobytes() == array.tobytes()
    remembers = settings.algorithm().feedback.remembers
    assert state.memories.keys() == (set(range(CLIENTS)) if remembers else set())
    for client in range(CLIENTS):
        ledger = load_ledger(inline.contexts[client + 1])
        memory = settle(ledger, state.acknowledged.get(client, NEVER)).memory
        expected = loop.memories[client]
        assert memory.keys() == expected.keys()
        assert all(memory[name].tobytes() == expected[name].tobytes() for name in memory)
        if client in state.memories:  # h_m is the same on both sides
            assert state.memories[client].tobytes() == memory["feedback.gradient"].tobytes()


def test_if_every_reply_is_lost_nothing_advances():
    """Round 2 of 4 vanishes. Kills: an optimizer that steps on nothing, a client that commits."""
    settings = settings_of("logistic, sign and local steps")
    objectives = [make_task(settings).objective(client) for client in range(CLIENTS)]
    a = settings.algorithm()
    grid = LossyGrid(InlineGrid(app_of(objectives), CLIENTS), lambda k, client: k == 1)
    strategy = strategy_for(settings)
    run = train(strategy, grid, start_of(settings), 4)
    assert [(r.applied, r.lost) for r in run.records[1:]] == [(5, 0), (0, 5), (5, 0), (5, 0)]
    before, after = run.checkpoints[1].state, run.checkpoints[2].state
    assert after.point is before.point and after.optimizer is before.optimizer
    assert after.acknowledged == before.acknowledged and after.round == before.round + 1
    assert run.records[2].uplink_bytes == 0 and run.records[2].gradient_norm is None
    loop = fb.run(
        *(objectives, a.optimizer, start_of(settings), 4),
        estimator=a.estimator,
        compressor=a.compressor,
        feedback=a.feedback,
        batch_size=a.batch_size,
        seed=a.seed,
        participation=lambda k: [] if k == 1 else range(CLIENTS),
    )
    assert run.points.tobytes() == loop.points.tobytes()


class LeftOut(InlineGrid):
    """All are there at first; then nodes are away where the lossy network would lose replies."""

    strategy = settings = None
    began = False

    def get_node_ids(self):
        if not self.began:
            self.began = True
            return super().get_node_ids()
        state = self.strategy.state
        away = left(self.settings, state.round if state else 0)
        return [node for node in super().get_node_ids() if node - 1 not in away]


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if "lost" in case])
def test_lost_is_left_out(case):
    """Losing a reply equals not asking. Kills: a client that moves on although nobody heard it."""
    settings = settings_of(case).model_copy(update={"fraction": 1.0})
    lossy, inline = over_messages(settings)
    strategy = strategy_for(settings)
    grid = LeftOut(client_app(lambda context: objective_of(context, settings)), CLIENTS)
    grid.strategy, grid.settings = strategy, settings
    buffers = make_task(settings).initial_buffers()
    extra = {"initial_buffers": named(flatten(buffers.values()), "extra")} if buffers else {}
    out = train(strategy, grid, start_of(settings), settings.rounds, **extra)
    assert out.points.tobytes() == lossy.points.tobytes()
    assert [r.lost for r in out.records] == [0] * len(out.records)
    assert [r.uplink_bytes for r in out.records] == [r.uplink_bytes for r in lossy.records]
    assert strategy.state.acknowledged == lossy.strategy.state.acknowledged
    assert strategy.state.batch_size == lossy.strategy.state.batch_size
    assert strategy.state.variances == lossy.strategy.state.variances
    assert [r.samples for r in out.records] == [r.samples for r in lossy.records]
    for node, context in grid.contexts.items():
        known = strategy.state.acknowledged.get(node - 1, NEVER)
        mine, theirs = (
            settle(load_ledger(c), known).memory for c in (context, inline.contexts[node])
        )
        assert mine.keys() == theirs.keys()
        assert bool(mine) == (node <= CLIENTS - settings.forward_only)
        assert all(mine[name].tobytes() == theirs[name].tobytes() for name in mine)


def choosing(file, cases):
    """A ClientApp for many runs: a file says which one goes on."""
    return client_app(lambda context: objective_of(context, cases[int(file.read_text())]))


@pytest.fixture(scope="module")
def ray_runs(tmp_path_factory):
    """Every case on Ray, one behind the other, in one start."""
    folder = tmp_path_factory.mktemp("ray")
    cases = [settings_of(case) for case in CASES]

    def serve(grid):
        for place, (case, settings) in enumerate(zip(CASES, cases, strict=True)):
            (folder / "case").write_text(str(place))
            train_into(settings, grid, RunFolder(folder / case))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        run_on_ray(serve, choosing(folder / "case", cases), CLIENTS)
    return folder


@pytest.mark.ray
@pytest.mark.parametrize("case", CASES)
def test_ray_gives_the_same_bits(case, ray_runs, tmp_path):
    """Kills: threads that sum in another order, contexts that Ray's workers do not keep."""
    settings = settings_of(case)
    grid = InlineGrid(client_app(lambda context: objective_of(context, settings)), CLIENTS)
    train_into(settings, grid, RunFolder(tmp_path))
    found, expected = (
        load_file(folder / "model.safetensors") for folder in (ray_runs / case, tmp_path)
    )
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes()
    loop = by_the_loop(settings)
    point = flatten([found[name] for name in make_task(settings).initial()])
    assert point.tobytes() == loop.points[-1].tobytes()
    there, here = (read_run(folder).rounds for folder in (ray_runs / case, tmp_path))
    exact = ("round", "train_loss", "gradient_norm", "uplink_bytes", "header_bytes")
    exact += ("batch_size", "samples", "wanted_batch_size")
    counts = ("downlink_bytes", "total_uplink_bytes", "applied", "refused", "lost", "forgotten")
    for mine, theirs in zip(there, here, strict=True):
        assert {key: mine[key] for key in exact + counts} == {
            key: theirs[key] for key in exact + counts
        }
        assert mine["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-5)
        assert mine["accuracy"] == theirs["accuracy"]


def test_ray_hands_on_the_reason(monkeypatch):
    """Kills: an exception that is wrapped or lost, a logger that stays silent ever after."""
    import logging

    import flwr.simulation

    level = logging.getLogger("flwr").level
    started = []

    def at_once(server_app, client_app, clients, backend_config):
        started.append((clients, backend_config["client_resources"]))
        assert logging.getLogger("flwr").level == logging.ERROR
        server_app(None, None)

    def serve(grid):
        raise TimeoutError("2 of 4 clients came")

    monkeypatch.setattr(flwr.simulation, "run_simulation", at_once)
    with pytest.raises(TimeoutError, match="2 of 4 clients came"):
        run_on_ray(serve, ClientApp(), 4, gpus=0.25)
    assert started == [(4, {"num_cpus": 1, "num_gpus": 0.25})]
    assert logging.getLogger("flwr").level == level


def test_without_ray_a_sentence(monkeypatch):
    """Kills: a ModuleNotFoundError without advice."""
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="the ray engine needs Ray: pip install"):
        run_on_ray(lambda grid: None, ClientApp(), 2)


# InlineGrid ---------------------------------------------------------------------------------------


def echo():
    """Counts the messages of its context, and says what it knows; raises when it is told to."""
    app = ClientApp()

    @app.query()
    def query(message, context):
        ask = message.content["q"]
        if "raise" in ask:
            raise {"ValueError": ValueError, "KeyError": KeyError}[ask["raise"]]("broken")
        count = context.state["n"]["n"] + 1 if "n" in context.state else 1
        context.state["n"] = MetricRecord({"n": count})
        told = {
            "count": count,
            "node": json.dumps(dict(context.node_config)),
            "run": json.dumps(dict(context.run_config)),
            "id": context.node_id,
        }
        return Message(RecordDict({"a": ConfigRecord(told)}), reply_to=message)

    return app


def question(grid, node, **ask):
    content = RecordDict({"q": ConfigRecord(ask)})
    return grid.create_message(content, "query", node, "group 7")


def answered(grid, node, **ask):
    (reply,) = grid.send_and_receive([question(grid, node, **ask)])
    return reply


def told(grid, node):
    return dict(answered(grid, node).content["a"])


def test_the_nodes_of_an_inline_grid():
    """Kills: node 0, which is the server; a node configuration without its partition."""
    grid = InlineGrid(echo(), 3)
    assert list(grid.get_node_ids()) == [1, 2, 3]
    assert json.loads(told(grid, 1)["node"]) == {"partition-id": 0, "num-partitions": 3}
    assert json.loads(told(grid, 3)["node"]) == {"partition-id": 2, "num-partitions": 3}
    assert told(grid, 2)["id"] == 2


def test_the_users_node_and_run_configuration():
    """Kills: defaults that are mixed in, one dictionary for all the nodes."""
    grid = InlineGrid(echo(), 2, lambda i: {"client-id": 10 + i}, run_config={"x": 1})
    assert [json.loads(told(grid, n)["node"]) for n in (1, 2)] == [
        {"client-id": 10},
        {"client-id": 11},
    ]
    assert json.loads(told(grid, 1)["run"]) == {"x": 1}
    grid.contexts[1].run_config["x"] = 2
    assert json.loads(told(grid, 2)["run"]) == {"x": 1}


def test_every_client_has_its_own_state():
    """It lives as long as the grid. Kills: one context for all, a state that is thrown away."""
    grid = InlineGrid(echo(), 2)
    assert [told(grid, node)["count"] for node in (1, 1, 2, 1, 2)] == [1, 2, 1, 3, 2]
    assert told(InlineGrid(echo(), 2), 1)["count"] == 1


@pytest.mark.parametrize("kind", ["ValueError", "KeyError"])
def test_an_exception_is_an_error_reply(kind):
    """Kills: an exception of one client that ends the whole run, a reason left out."""
    grid = InlineGrid(echo(), 2)
    good, bad = question(grid, 1), question(grid, 2, **{"raise": kind})
    replies = list(grid.send_and_receive([bad, good]))
    assert [reply.has_error() for reply in replies] == [True, False]
    error = replies[0].error
    assert error.code == 2 and error.reason.startswith(f"{kind}: ") and "broken" in error.reason
    assert replies[0].metadata.src_node_id == 2
    assert told(grid, 2)["count"] == 1


def test_a_node_that_does_not_exist():
    """Kills: a KeyError in the server."""
    reply = answered(InlineGrid(echo(), 2), 9)
    assert reply.error.code == 5 and reply.metadata.src_node_id == 9


def test_messages_and_replies_belong_together():
    """Kills: ids that repeat, a reply twice, replies of others, an unknown id that fails."""
    grid = InlineGrid(echo(), 3)
    messages = [question(grid, node) for node in (2, 3, 2)]
    ids = list(grid.push_messages(messages))
    assert len(set(ids)) == 3 and [m.metadata.message_id for m in messages] == ids
    assert {m.metadata.group_id for m in messages} == {"group 7"}
    (second,) = grid.pull_messages([ids[1]])
    assert second.metadata.reply_to_message_id == ids[1] and second.metadata.src_node_id == 3
    replies = list(grid.pull_messages([ids[2], "unknown", ids[1], ids[0]]))
    assert [reply.metadata.reply_to_message_id for reply in replies] == [ids[2], ids[0]]
    assert {reply.metadata.group_id for reply in replies} == {"group 7"}
    assert list(grid.pull_messages(ids)) == []


def test_a_run_may_be_set():
    """Kills: a description that is ignored."""
    grid = InlineGrid(echo(), 1)
    assert grid.run.run_id == 1
    grid.set_run(Run.create_empty(run_id=7))
    assert grid.run.run_id == 7
    lossy = LossyGrid(grid, lambda k, c: False)
    lossy.set_run(Run.create_empty(run_id=8))
    assert lossy.run.run_id == grid.run.run_id == 8


# Cohorts over the grid ----------------------------------------------------------------------------

PROBLEM = fb.LeastSquares.random(10, 5.0, seed=1, clients=4)


@pytest.mark.parametrize("cohort", [False, True])
def test_a_cohort_is_used_where_it_was_asked_for(cohort, monkeypatch):
    """Then no client computes a gradient by itself. Kills: a cohort that is never made, or that
    nobody asked for.
    """
    calls, gradient = [], Squares.gradient
    monkeypatch.setattr(Squares, "gradient", lambda *a: calls.append(1) or gradient(*a))
    grid = InlineGrid(app_of(PROBLEM.objectives), 4, cohort=cohort)
    strategy = FedBias(fb.heavy_ball(0.5, 0.3), minimum_clients=4, evaluate_every=1)
    run = train(strategy, grid, np.zeros(10), 3)
    assert len(calls) == (0 if cohort else 12)
    loop = fb.run(PROBLEM.objectives, fb.heavy_ball(0.5, 0.3), np.zeros(10), 3)
    np.testing.assert_allclose(run.points, loop.points, rtol=1e-11, atol=1e-13)
    assert [8 * r.uplink_bytes for r in run.records[1:]] == loop.wire_bits.tolist()
    assert [r.client_loss is None for r in run.records] == [True, False, False, False]


def test_apps_that_know_no_cohort_are_asked_one_by_one():
    """Kills: an AttributeError for any other ClientApp."""
    grid = InlineGrid(echo(), 2, cohort=True)
    replies = list(grid.send_and_receive([question(grid, node) for node in (1, 2)]))
    assert [reply.content["a"]["count"] for reply in replies] == [1, 1]


# States -------------------------------------------------------------------------------------------


def test_states_there_and_back():
    """Kills: a node for another, arrays for values, an order or a dtype that changes."""
    settings = settings_of("logistic, sign and local steps")
    _, inline = over_messages(settings)
    arrays, values = export_states(inline.contexts)
    assert len(arrays) > 10
    other = InlineGrid(ClientApp(), CLIENTS)
    import_states(other.contexts, arrays, json.loads(json.dumps(values)))
    again, meta = export_states(other.contexts)
    assert meta == values and list(again) == list(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype and again[name].tobytes() == array.tobytes()
    for node in inline.contexts:
        one, two = load_ledger(inline.contexts[node]), load_ledger(other.contexts[node])
        assert (one.applied, one.pending_round, one.lost) == (
            *(two.applied, two.pending_round, two.lost),
        )
        assert list(one.memory) == list(two.memory) and list(one.pending) == list(two.pending)


# LossyGrid ----------------------------------------------------------------------------------------


def test_a_lossy_network_loses_what_it_was_told():
    """Train replies alone, by round and client, as Flower's own error; the work was done.

    Kills: rounds from 1, nodes taken for clients, requests that are lost, evaluations that are
    lost, an error that does not say to which message it replies.
    """
    seen = []

    def is_lost(round, client):
        seen.append((round, client))
        return (round, client) in {(0, 2), (1, 0), (1, 1)}

    inline = Watched(app_of(slopes([1.0], [2.0], [4.0])), 3)
    grid = LossyGrid(inline, is_lost)
    strategy = FedBias(fb.gradient_descent(1.0), minimum_clients=3, evaluate_every=1)
    run = train(strategy, grid, np.zeros(1), 3)
    assert sorted(seen) == [(k, c) for k in range(3) for c in range(3)] == inline.asked()
    assert run.points.ravel().tolist() == [0, -1.5, -5.5, -5.5 - 7 / 3]
    assert [(r.applied, r.lost, r.refused) for r in run.records[1:]] == [
        *((2, 1, 0), (1, 2, 0), (3, 0, 0))
    ]
    assert all(r.client_loss == 0 for r in run.records[1:])
    assert load_ledger(inline.contexts[3]).applied == 1


@pytest.mark.parametrize("how", ["push and pull", "send and receive"])
def test_a_lost_reply_is_flowers_error(how):
    """Kills: a reply that vanishes, for which the server would wait until its time is up."""
    inline = InlineGrid(app_of(slopes([1.0], [2.0])), 2)
    grid = LossyGrid(inline, lambda k, c: c == 1)
    assert list(grid.get_node_ids()) == [1, 2]
    plan = fb.Plan(
        *(0, 0, 0, -1, fb.exact(), None, fb.identity(), fb.no_feedback(), np.zeros(1))
    ).to_record()
    other = plan | {"header": plan["header"].replace('"client": 0', '"client": 1')}
    messages = [
        grid.create_message(RecordDict({"fedbias": ConfigRecord(r)}), "train", node, "1")
        for node, r in ((1, plan), (2, other))
    ]
    if how == "push and pull":
        replies = list(grid.pull_messages(grid.push_messages(messages)))
    else:
        replies = list(grid.send_and_receive(messages, timeout=3.0))
    assert [reply.has_error() for reply in replies] == [False, True]
    lost, sent = replies[1], messages[1]
    assert lost.error.code == 4 and lost.metadata.src_node_id == 2
    assert lost.metadata.reply_to_message_id == sent.metadata.message_id


def test_a_lossy_network_leaves_errors_as_they_are():
    """Kills: a refusal that becomes a loss."""
    grid = LossyGrid(InlineGrid(app_of(slopes([1.0])), 1), lambda k, c: True)
    content = RecordDict({"fedbias": ConfigRecord({"header": "{"})})
    (reply,) = grid.send_and_receive([grid.create_message(content, "train", 1, "1")])
    assert reply.error.code == 2 and "JSON" in reply.error.reason


# Corners ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [{}, {"fedbias": ConfigRecord({"header": "{"})}])
def test_a_malformed_reply_over_a_lossy_network_is_refused(content):
    """It ends the server instead: LossyGrid parses what the strategy has not validated yet."""

    def malformed(message, reply):
        return Message(RecordDict(dict(content)), reply_to=message)

    grid = Watched(app_of(slopes([1.0], [2.0])), 2, intercept={1: malformed})
    strategy = FedBias(fb.gradient_descent(1.0), minimum_clients=2)
    run = train(strategy, LossyGrid(grid, lambda k, c: False), np.zeros(1), 1)
    assert (run.records[1].applied, run.records[1].refused) == (1, 1)


def test_a_node_that_does_not_exist_in_a_cohort():
    grid = InlineGrid(app_of(PROBLEM.objectives), 2, cohort=True)
    content = RecordDict({"fedbias": ConfigRecord()})
    messages = [grid.create_message(content, "train", node, "1") for node in (1, 9)]
    replies = list(grid.send_and_receive(messages))
    assert replies[1].error.code == 5


def test_the_loop_measures_the_model_it_has():
    """losses[k] is that of x_k with the server's buffers, not with what a client left behind."""
    settings = settings_of("BatchNorm and Dropout")
    objectives = [make_task(settings).objective(client) for client in range(CLIENTS)]
    states = []
    history = fb.run(
        *(objectives, fb.gradient_descent(0.3), start_of(settings), 2),
        on_round=lambda k, state, outcome: states.append(state),
    )
    for state, loss in zip(states, history.losses[1:], strict=True):
        expected = []
        for objective in objectives:
            objective.buffers = state.buffers
            expected.append(objective.loss(state.point))
        assert loss == pytest.approx(np.mean(expected), rel=1e-6)
