"""fb.run is a loop one could write by hand, and these tests do."""

import math

import numpy as np
import pytest

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.server import plan_for
from fedbias.state import ServerState

PROBLEM = fb.LeastSquares.random(4, 10, 0, clients=3)
START = np.linspace(-1, 2, 4)
DESCENT = fb.gradient_descent(0.5)


def run(optimizer=DESCENT, start=START, rounds=6, **settings):
    return fb.run(PROBLEM.objectives, optimizer, start, rounds, **settings)


def test_gradient_descent_by_hand():
    """Bit for bit. Kills: anything between the clients' gradients and the step."""
    point, points = START, [START]
    for _ in range(6):
        point = point - 0.5 * (sum(f.gradient(point) for f in PROBLEM.objectives) / 3)
        points.append(point)
    history = run()
    assert history.points.tobytes() == np.array(points).tobytes()
    losses = [sum(f.loss(point) for f in PROBLEM.objectives) / 3 for point in points]
    assert history.losses.tolist() == losses and losses[-1] < losses[0]


def test_heavy_ball_with_top_k_by_hand():
    """Bit for bit: v ← (1−β)v + βg, g the mean of the clients' largest two of four entries."""
    point, velocity, points = START, None, [START]
    for _ in range(6):
        total = np.zeros(4)
        for objective in PROBLEM.objectives:
            gradient = objective.gradient(point)
            gradient[np.argsort(-np.abs(gradient), kind="stable")[2:]] = 0
            total += gradient
        mean = total / 3
        velocity = mean if velocity is None else (1 - 0.25) * velocity + 0.25 * mean
        point = point - 0.5 * velocity
        points.append(point)
    history = run(fb.heavy_ball(0.5, 0.25), compressor=fb.top_k(0.5))
    assert history.points.tobytes() == np.array(points).tobytes()
    assert history.optimizer_state["velocity"].tobytes() == velocity.tobytes()


def test_error_feedback_with_a_lost_reply_by_hand():
    """Bit for bit: top 1 of g + e; what was lost on the way leaves no e.

    Kills: an error that is never committed, or is committed with a lost reply.
    """
    point, errors, points = START, [np.zeros(4)] * 3, [START]
    for round in range(6):
        total = np.zeros(4)
        arrived = [client for client in range(3) if (round, client) not in ((2, 1), (4, 0))]
        for client in arrived:
            corrected = PROBLEM.objectives[client].gradient(point) + errors[client]
            place = np.argmax(np.abs(corrected))
            total[place] += corrected[place]
            errors[client] = corrected.copy()
            errors[client][place] = 0
        point = point - 0.5 * (total / len(arrived))
        points.append(point)
    history = run(
        compressor=fb.top_k(0.25),
        feedback=fb.error_feedback(),
        lost=lambda k: {2: [1], 4: [0]}.get(k, []),
    )
    assert history.points.tobytes() == np.array(points).tobytes()
    kept = [memory["feedback.error"] for memory in history.memories]
    np.testing.assert_array_equal(kept, errors)


def test_weights_by_examples():
    """Shares of 5 and 4 rows: the mean over all rows. Kills: a uniform mean, in steps or losses."""
    rows, values = np.random.default_rng(0).standard_normal((2, 9, 4))
    problem = fb.LeastSquares(rows, values[:, 0], clients=2)
    whole = fb.LeastSquares(rows, values[:, 0], clients=1)
    history = fb.run(problem.objectives, DESCENT, START, 5, weights="examples")
    expected = fb.run(whole.objectives, DESCENT, START, 5)
    np.testing.assert_allclose(history.points, expected.points, rtol=1e-12)
    np.testing.assert_allclose(history.losses, expected.losses, rtol=1e-12)
    uniform = fb.run(problem.objectives, DESCENT, START, 5)
    assert np.abs(history.points[-1] - uniform.points[-1]).max() > 1e-3


@pytest.mark.parametrize("asked", [[0], [2, 0], [], [0, 1, 2]])
def test_participation_and_loss(asked):
    """Only those asked and heard count. Kills: a mean over everybody, a step on nothing."""
    gone = [client for client in range(3) if client not in asked]
    gradients = [PROBLEM.objectives[client].gradient(START) for client in sorted(asked)]
    expected = START - 0.5 * (sum(gradients) / len(asked)) if asked else START
    for settings in ({"participation": lambda k: iter(asked)}, {"lost": lambda k: iter(gone)}):
        history = run(rounds=1, **settings)
        assert history.points[1].tobytes() == expected.tobytes()
        assert history.outcomes[0].applied == tuple(sorted(asked))
        assert history.payload_bits.tolist() == [len(asked) * 4 * 64]
        assert history.wire_bits.tolist() == [len(asked) * 8 * (14 + 32)]


def test_participation_is_asked_once_a_round_with_its_number():
    seen = []
    run(rounds=3, participation=lambda k: seen.append(("asked", k)) or [k], lost=lambda k: [])
    assert seen == [("asked", 0), ("asked", 1), ("asked", 2)]


@pytest.mark.parametrize(
    "compressor", [fb.identity(), fb.sign(), fb.uniform(3), fb.top_k(0.5), fb.random_k(0.25)]
)
def test_bits_are_summed_over_clients(compressor):
    history = run(compressor=compressor)
    packet = compressor.encode(START, np.random.default_rng(0))
    assert history.payload_bits.tolist() == [3 * packet.payload_bits] * 6
    assert history.wire_bits.tolist() == [3 * packet.wire_bits] * 6
    assert history.payload_bits.dtype == history.wire_bits.dtype == np.int64


def test_keep_last():
    """Kills: a kept point that is not the last one."""
    full, last = run(), run(keep="last")
    assert last.points.shape == (1, 4) and last.points.tobytes() == full.points[-1:].tobytes()
    assert last.losses.tobytes() == full.losses.tobytes()
    assert run(rounds=0, keep="last").points.tobytes() == START.tobytes()


def test_no_round_at_all():
    history = run(rounds=0)
    assert history.points.tobytes() == START.tobytes() and history.losses.shape == (1,)
    assert history.batch_sizes == history.outcomes == [] and history.memories == [{}, {}, {}]
    assert history.payload_bits.shape == (0,) and history.stopped is None


def test_on_round_sees_every_state():
    seen = []
    history = run(on_round=lambda k, state, outcome: seen.append((k, state.round, outcome, state)))
    assert [(k, after) for k, after, *_ in seen] == [(k, k + 1) for k in range(6)]
    assert [outcome for _, _, outcome, _ in seen] == history.outcomes
    assert np.array([s.point for *_, s in seen]).tobytes() == history.points[1:].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", ["heavy_ball(0.1, 0.5)", "adam()", "adagrad_norm(0.1)"])
def test_the_dtype_is_the_callers(dtype, optimizer):
    """Kills: float64 that creeps in at the server, or in a client's memory."""
    problem = fb.LeastSquares(
        *(np.random.default_rng(0).standard_normal((9, 3)).astype(dtype), np.ones(9, dtype)), 2
    )
    history = fb.run(
        problem.objectives,
        fb.parse(optimizer, fb.Optimizer),
        np.ones(3, dtype),
        4,
        estimator=fb.local_steps(2, 0.1, 0.5, fb.clipped(1.0)),
        compressor=fb.uniform(4),
        feedback=fb.error_feedback(),
        weights="examples",
    )
    assert history.points.dtype == dtype and history.losses.dtype == np.float64
    assert not any(outcome.refused for outcome in history.outcomes)
    assert all(array.dtype == dtype for memory in history.memories for array in memory.values())
    item = np.dtype(dtype).itemsize
    assert history.wire_bits.tolist() == [2 * 8 * (14 + item + 1 + 2)] * 4
    assert len(np.unique(history.points, axis=0)) == 5


def test_the_seed_decides_and_nothing_else_does():
    """Kills: hidden state in objectives or settings, a seed that is not passed on."""
    settings = {"compressor": fb.dithered(2), "estimator": fb.minibatch(), "batch_size": 3}
    one, same, other = run(**settings, seed=1), run(**settings, seed=1), run(**settings, seed=2)
    assert one.points.tobytes() == same.points.tobytes() != other.points.tobytes()
    assert one.batch_sizes == [3] * 6
    assert [outcome.computed for outcome in one.outcomes] == [9] * 6
    assert START.tobytes() == np.linspace(-1, 2, 4).tobytes()


def test_memories_are_the_committed_ones():
    """The last reply of client 1 is lost. Kills: pending memories in the result."""
    settings = {"compressor": fb.top_k(0.25), "feedback": fb.error_feedback()}
    history = run(rounds=2, lost=lambda k: [1] if k else [], **settings)
    first, both = run(rounds=1, **settings), run(rounds=2, **settings)
    errors = [memory["feedback.error"].tobytes() for memory in history.memories]
    assert errors == [
        both.memories[0]["feedback.error"].tobytes(),
        first.memories[1]["feedback.error"].tobytes(),
        both.memories[2]["feedback.error"].tobytes(),
    ]


@pytest.mark.parametrize(
    ("goal", "measured", "sentence"),
    [
        ({"accuracy": 0.9}, {"accuracy": 0.9}, "accuracy 0.9 reached 0.9"),
        ({"accuracy": 0.9}, {"accuracy": 0.8999}, None),
        ({"loss": 0.5}, {"loss": 0.25}, "loss 0.25 reached 0.5"),
        ({"loss": 0.5}, {"loss": 0.5001}, None),
        ({"loss": -1}, {"loss": -2.0}, "loss -2 reached -1"),
        ({"gradient_norm": 0.1}, {"gradient_norm": 0.1}, "gradient_norm 0.1 reached 0.1"),
        ({"gradient_norm": 0.1}, {"gradient_norm": 0.2}, None),
        ({"uplink_bytes": 100}, {"uplink_bytes": 120}, "uplink_bytes 120 reached 100"),
        ({"uplink_bytes": 100}, {"uplink_bytes": 99}, None),
        ({"seconds": 5}, {"seconds": 6.5}, "seconds 6.5 reached 5"),
        ({"seconds": 5}, {"seconds": 4}, None),
        ({"samples": 100}, {"samples": 105}, "samples 105 reached 100"),
        ({"samples": 100}, {"samples": 99}, None),
        ({"accuracy": 0.9, "loss": 0.1}, {"accuracy": 0.5, "loss": 0.0}, "loss 0 reached 0.1"),
        ({"accuracy": 0.9}, {"accuracy": None, "loss": 0}, None),
        ({"loss": 0.5}, {"loss": math.nan}, None),
        ({"loss": 0.5}, {}, None),
        ({}, {"accuracy": 1, "loss": 0, "seconds": 1e9}, None),
    ],
)
def test_goals(goal, measured, sentence):
    """Kills: a goal compared the wrong way round, a NaN that is a success."""
    assert fb.until(**goal).reached(measured) == sentence


@pytest.mark.parametrize(
    ("goal", "sentence"),
    [
        ({"accuracy": 0}, "until: accuracy must be a number > 0 and <= 1, not 0"),
        ({"accuracy": 1.5}, "until: accuracy must be a number > 0 and <= 1, not 1.5"),
        ({"loss": math.nan}, "until: loss must be a number, not nan"),
        ({"loss": "low"}, "until: loss must be a number, not 'low'"),
        ({"gradient_norm": -1}, "until: gradient_norm must be a number >= 0, not -1"),
        ({"uplink_bytes": -1}, "until: uplink_bytes must be a number >= 0, not -1"),
        ({"samples": -1}, "until: samples must be a number >= 0, not -1"),
        ({"samples": "6M"}, "until: samples must be a number >= 0, not '6M'"),
        ({"seconds": math.inf}, "until: seconds must be a number >= 0, not inf"),
        ({"seconds": True}, "until: seconds must be a number >= 0, not True"),
    ],
)
def test_impossible_goals(goal, sentence):
    with pytest.raises(ValueError) as caught:
        fb.until(**goal)
    assert str(caught.value) == sentence


def test_a_run_stops_at_its_goal():
    """After the first round that reaches it. Kills: bytes of one round for those of all."""
    full = run(rounds=30)
    goal = (full.losses[7] + full.losses[6]) / 2
    history = run(rounds=30, stop=fb.until(loss=goal))
    assert history.points.tobytes() == full.points[:8].tobytes()
    assert history.stopped.startswith("loss ") and full.stopped is None
    per_round = 3 * (14 + 32)
    history = run(rounds=30, stop=fb.until(uplink_bytes=4 * per_round - 1))
    assert len(history.outcomes) == 4 and history.stopped.startswith("uplink_bytes 552 reached 551")
    norms = [outcome.gradient_norm for outcome in full.outcomes]
    history = run(rounds=30, stop=fb.until(gradient_norm=norms[5]))
    assert len(history.outcomes) == 6 and history.stopped.startswith("gradient_norm")
    silent = run(rounds=3, lost=lambda k: range(3), stop=fb.until(gradient_norm=1e9))
    assert silent.stopped is None and len(silent.outcomes) == 3  # nothing was measured


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"keep": "first"}, "run: keep must be one of 'all', 'last', not 'first'"),
        ({"rounds": -1}, "run: rounds must be a whole number >= 0, not -1"),
        ({"rounds": 2.0}, "run: rounds must be a whole number >= 0, not 2.0"),
        ({"optimizer": None}, "optimizer must be like gradient_descent(step_size=0.1), not None"),
        ({"feedback": fb.sign()}, "feedback must be like no_feedback(), not sign()"),
        ({"weights": "size"}, "one of 'uniform', 'examples', 'inverse_variance', not 'size'"),
        ({"batch_size": 4}, "has no meaning for exact()"),
        ({"decay": None}, "decay must be like cosine_decay(samples=100000), not None"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
    ],
)
def test_impossible_settings(settings, sentence):
    with pytest.raises(ValueError) as caught:
        run(**settings)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("start", [np.zeros(4, int), np.zeros((2, 2)), np.zeros(5)])
def test_impossible_starts(start):
    """Whole numbers would stay where they are, every report being refused for its dtype."""
    with pytest.raises(ValueError):
        run(start=start)


@pytest.mark.parametrize("asked", [[3], [-1]])
def test_unknown_clients(asked):
    """Kills: client −1 answered by the last one."""
    with pytest.raises(ValueError):
        run(participation=lambda k: asked)


def test_nobody_at_all():
    preset = fb.preset_radius(1.0, 0.1, 2.0)
    optimizer = fb.theory.tuned("gradient_descent", 1.0, 0.1).optimizer
    for settings in ({}, {"feedback": fb.differential(preset)}):
        with pytest.raises(ValueError, match="objectives must hold at least one client"):
            fb.run([], optimizer, START, 1, **settings)


def test_numpys_numbers_are_pythons():
    """The same bits and the same plans. Kills: a plan without a JSON."""
    numpys = {"seed": np.int64(7), "batch_size": np.int64(3)}
    pythons = {"seed": 7, "batch_size": 3}
    one, other = (run(estimator=fb.minibatch(), **each) for each in (numpys, pythons))
    assert one.points.tobytes() == other.points.tobytes()
    plans = [
        plan_for(Algorithm(DESCENT, fb.minibatch(), **each), ServerState(START), 0)
        for each in (numpys, pythons)
    ]
    assert plans[0].header() == plans[1].header()
