"""h_m, what server and clients remember of gradients: by hand, on both sides, and its effect."""

from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias import memories
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.problems import Squares
from fedbias.server import apply, plan_for
from fedbias.state import ServerState

HALF = fb.uniform(1)  # of one entry: q = u/2
STEP = fb.gradient_descent(0.5)


def pulls(*targets, sizes=None):
    """One client per target b, f = (x − b)²/2."""
    sizes = sizes or [1] * len(targets)
    return [Squares(np.ones((n, 1)), np.full(n, b)) for b, n in zip(targets, sizes, strict=True)]


def traced(objectives, optimizer, rounds, start=None, **settings):
    """The history, and h_m on the server after every round."""
    seen = []
    start = np.zeros(objectives[0].dim) if start is None else start
    history = fb.run(
        *(objectives, optimizer, start, rounds),
        on_round=lambda k, state, outcome: seen.append(
            {client: h.copy() for client, h in state.memories.items()}
        ),
        **settings,
    )
    assert not any(outcome.refused for outcome in history.outcomes)
    return history, seen


def test_ef21_by_hand():
    """Targets 8 and −4; client 1 is silent in round 1, client 0 in round 2. All dyadic.

    Gradients −8, 4 → h −4, 2, mean −1; −7.5 → h₀ = −5.75, mean −1.875; 5.4375 → h₁ = 3.71875.
    Kills: a mean over those that were heard, an h that is not kept, a step along q.
    """
    asked = {0: [0, 1], 1: [0], 2: [1]}
    settings = {"compressor": HALF, "feedback": fb.ef21(), "participation": asked.get}
    history, seen = traced(pulls(8.0, -4.0), STEP, 3, **settings)
    assert history.points.ravel().tolist() == [0, 0.5, 1.4375, 1.9453125]
    assert [{m: h.item() for m, h in each.items()} for each in seen] == [
        {0: -4, 1: 2},
        {0: -5.75, 1: 2},
        {0: -5.75, 1: 3.71875},
    ]
    assert [memory["feedback.gradient"].item() for memory in history.memories] == [-5.75, 3.71875]
    norms = [outcome.gradient_norm for outcome in history.outcomes]
    assert norms == [1, 1.875, 1.015625]


def test_unseen_clients_count_as_zero():
    """Three enrolled, one heard: −4/3. Kills: a mean over those that were ever seen."""
    settings = {"compressor": HALF, "feedback": fb.ef21(), "participation": lambda k: [1]}
    history, _ = traced(pulls(1.0, 8.0, 1.0), STEP, 2, **settings)
    assert history.points[1].item() == 0.5 * (4 / 3)
    silent, seen = traced(pulls(1.0, 8.0), STEP, 2, feedback=fb.ef21(), lost=lambda k: [0, 1])
    assert not silent.points.any() and seen == [{}, {}]


def test_ef21_with_weights_by_examples():
    """1 and 3 examples: (−4 + 3·2)/4 = ½; then client 1 is silent and weighs as before."""
    clients = pulls(8.0, -4.0, sizes=[1, 3])
    asked = {0: [0, 1], 1: [0]}
    settings = {"compressor": HALF, "feedback": fb.ef21(), "participation": asked.get}
    history, _ = traced(clients, STEP, 2, weights="examples", **settings)
    assert history.points.ravel().tolist() == [0, -0.25, -0.234375]


def test_differential_with_a_memory_steps_along_those_that_were_heard():
    """Not pooled: its shift presumes that everyone is. The mean of h + q over the applied."""
    asked = {0: [0, 1], 1: [0]}
    feedback = fb.differential(memory=True)
    settings = {"compressor": HALF, "feedback": feedback, "participation": asked.get}
    history, seen = traced(pulls(8.0, -4.0), STEP, 2, **settings)
    # round 0: h −4 and 2, e 4 and −2, x 0.5; round 1: z 2.5, u −5.5 − 4 + 4, h −6.75
    assert history.points.ravel().tolist() == [0, 0.5, 3.875]
    assert {m: h.item() for m, h in seen[1].items()} == {0: -6.75, 1: 2}


FEEDBACKS = {"ef21": fb.ef21(), "memory": fb.differential(memory=True)}
each = pytest.mark.parametrize("name", FEEDBACKS)
PROBLEM = fb.LeastSquares.random(6, 10, 1, clients=4)
START = np.linspace(-1, 2, 6)


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compressor", [fb.uniform(3), fb.top_k(0.4), fb.dithered(4)], ids=repr)
def test_both_sides_have_the_same_h(name, dtype, compressor):
    """Bit for bit after every round, half of them asked, some lost. Kills: h + u on one side."""
    problem = fb.LeastSquares(
        *(np.random.default_rng(0).standard_normal((24, 6)).astype(dtype), np.ones(24, dtype), 4)
    )
    for rounds in range(1, 9):
        history, seen = traced(
            *(problem.objectives, fb.gradient_descent(0.1), rounds, START.astype(dtype)),
            compressor=compressor,
            feedback=FEEDBACKS[name],
            participation=lambda k: fb.sample_clients(0, k, range(4), 2),
            lost=lambda k: fb.lost(0, k, range(4), 0.3),
        )
        for client, memory in enumerate(history.memories):
            assert ("feedback.gradient" in memory) == (client in seen[-1])
            if memory:
                assert memory["feedback.gradient"].tobytes() == seen[-1][client].tobytes()
                assert seen[-1][client].dtype == dtype
    assert len(seen[-1]) == 4


@each
def test_the_server_forgets_what_a_client_forgot(name):
    """A client that begins anew sends C(g), which is h on both sides. Kills: h_old + C(g)."""
    algorithm = Algorithm(STEP, compressor=HALF, feedback=FEEDBACKS[name])
    state, (client,) = ServerState(np.zeros(1)), pulls(8.0)
    ledger = Ledger()
    for k in range(5):
        ledger = Ledger() if k == 3 else ledger
        report, ledger = respond(client, plan_for(algorithm, state, 0), ledger)
        before, (state, outcome) = state, apply(algorithm, state, [report])
        assert outcome.forgotten == ((0,) if k == 3 else ())
        assert state.memories[0].item() == ledger.pending["feedback.gradient"].item()
        assert state.counts == {0: (1, 2, 3, 0, 1)[k]}
        if k == 3:
            assert state.memories[0].item() == (before.point.item() - 8) / 2


def test_a_refused_report_moves_no_memory():
    """Neither its own nor another's. Kills: h that moves before the checks are through."""
    algorithm = Algorithm(STEP, compressor=HALF, feedback=fb.ef21())
    clients, state = pulls(8.0, -4.0), ServerState(np.zeros(1))
    reports = [
        respond(client, plan_for(algorithm, state, m), Ledger())[0]
        for m, client in enumerate(clients)
    ]
    state, _ = apply(algorithm, state, reports)
    late = replace(reports[0], round=0)
    huge = fb.Packet("identity", np.dtype(float), 1, None, (), np.array([np.inf]).tobytes())
    for bad in (late, replace(reports[0], round=1, packet=huge)):
        after, outcome = apply(algorithm, state, [bad])
        assert outcome.refused.keys() == {0} and after.memories is state.memories
    twice = replace(reports[0], round=1)
    after, outcome = apply(algorithm, state, [twice, twice])
    assert after.memories[0].item() == -8 and outcome.refused.keys() == {0}


def test_a_round_with_too_few_moves_no_memory():
    """Nor a count. Kills: h that moves though the model did not."""
    algorithm = Algorithm(STEP, compressor=HALF, feedback=fb.ef21(), minimum_replies=2)
    clients, state = pulls(8.0, -4.0), ServerState(np.zeros(1))
    reports = [
        respond(client, plan_for(algorithm, state, m), Ledger())[0]
        for m, client in enumerate(clients)
    ]
    after, outcome = apply(algorithm, state, reports[:1])
    assert after == replace(state, round=1) and outcome.received == 1
    moved, _ = apply(algorithm, state, reports)
    assert moved.memories.keys() == moved.counts.keys() == {0, 1}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows_beyond_the_limit_lie_in_a_file(monkeypatch, count):
    """And hold the same. Kills: rows of another dtype or shape, a file that is never used."""
    like = np.zeros(5, np.float32)
    assert memories.file_rows(count, like, 0) is None
    monkeypatch.setattr(memories, "IN_MEMORY", 3 * like.nbytes - 1)
    for clients, mapped in ((0, count == 3), (9, count > 0)):
        rows = memories.file_rows(count, like, clients)
        assert (rows is not None) == mapped
        if mapped:
            assert isinstance(rows, np.memmap)
            assert rows.shape == (count, 5) and rows.dtype == np.float32
    vectors = [(7 * m, np.full(5, m / 3, np.float32)) for m in range(count)]
    kept = memories.shelved(iter(vectors), count, like)
    assert [kept[client].tobytes() for client, _ in vectors] == [v.tobytes() for _, v in vectors]
    assert all(isinstance(row, np.memmap) == (count == 3) for row in kept.values())


@each
def test_points_do_not_know_where_memories_lie(name, monkeypatch):
    """Bit for bit with and without mapping. Kills: a row that the next round writes over."""
    settings = {
        "compressor": fb.uniform(3),
        "feedback": FEEDBACKS[name],
        "participation": lambda k: fb.sample_clients(0, k, range(4), 2),
    }
    plain, before = traced(PROBLEM.objectives, fb.gradient_descent(0.1), 12, START, **settings)
    monkeypatch.setattr(memories, "IN_MEMORY", 0)
    kept = []
    mapped = fb.run(
        *(PROBLEM.objectives, fb.gradient_descent(0.1), START, 12),
        on_round=lambda k, state, outcome: kept.append(state.memories),
        **settings,
    )
    assert mapped.points.tobytes() == plain.points.tobytes()
    for state, expected in zip(kept, before, strict=True):  # the old ones, after all rounds
        assert {m: h.tobytes() for m, h in state.items()} == {
            m: h.tobytes() for m, h in expected.items()
        }
        assert all(isinstance(h.base, np.memmap) for h in state.values())


def told(objective, feedback, compressor, step, start, rounds=2):
    history = fb.run(
        *([objective], step, start, rounds),
        compressor=compressor,
        feedback=feedback,
        measure_bias=1,
    )
    measured = [outcome.measured for outcome in history.outcomes]
    return [each for one in measured for each in (one.bias_square, one.gradient_square)]


def test_the_bias_of_what_the_server_is_told():
    """h + q for ef21: top 1 of (3, 1) is (3, 0), then (3, 1). Kills: q alone in its place."""

    class Slope:
        dim, size = 2, 1

        def loss(self, point, batch=None):
            return 0.0

        def gradient(self, point, batch=None):
            return np.array([3.0, 1.0])

    said = told(Slope(), fb.ef21(), fb.top_k(0.5), STEP, np.zeros(2))
    assert said == pytest.approx([1, 10, 0, 10], rel=1e-12, abs=1e-12)


def test_the_bias_with_a_preset_radius():
    """f = x²/2, L = 3, μ = 1: r_0 = 24, cells of 12: 8 → 6; r_1 = 21: 5 → 5.25."""
    (client,) = pulls(0.0)
    preset = fb.preset_radius(3.0, 1.0, 8.0)
    said = told(client, fb.no_feedback(preset), fb.uniform(2), STEP, np.array([8.0]))
    assert said == [4, 64, 0.0625, 25]
