"""Differential quantization over Flower's messages: the loop's trajectory, bit for bit."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

import fedbias as fb
from fedbias.theory import tuned
from simulations import InlineGrid, LossyGrid
from strategies import FedBias, differential_quantization
from tests.tools.federation import Watched, app_of, named, slopes, train

PROBLEM = fb.LeastSquares.random(12, 10.0, seed=4)
L, MU = PROBLEM.lipschitz, PROBLEM.strong_convexity
ZERO = np.zeros(12)
PRESET = fb.preset_radius(L, MU, float(np.linalg.norm(PROBLEM.minimizer)))
METHODS = ["gradient_descent", "nesterov", "polyak"]


def lost_in(grid, probability=0.2, seed=3):
    return LossyGrid(grid, lambda k, client: bool(fb.lost(seed, k, [client], probability)))


def one(clients=1):
    return Watched(app_of(PROBLEM.objectives * clients), clients)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("radius", [None, PRESET])
def test_it_is_the_loop(method, radius):
    """Points, bits and saturation. Kills: a shift or a radius that does not reach the client."""
    optimizer, feedback = tuned(method, L, MU).optimizer, fb.differential(radius)
    run = train(differential_quantization(optimizer, fb.uniform(6), feedback), one(), ZERO, 30)
    loop = fb.run(
        PROBLEM.objectives, optimizer, ZERO, 30, compressor=fb.uniform(6), feedback=feedback
    )
    assert run.points.tobytes() == loop.points.tobytes()
    assert [8 * r.uplink_bytes for r in run.records[1:]] == loop.wire_bits.tolist()
    assert [r.saturated for r in run.records] == [0] * 31
    assert np.linalg.norm(run.points[-1] - PROBLEM.minimizer) < 0.05 * PRESET.distance


def test_a_preset_packet_holds_its_codes_and_no_scale():
    """12 entries of 6 bits are 9 bytes, beside 10 of header, 1 of width and 4 of checksum."""
    optimizer = tuned("nesterov", L, MU).optimizer
    preset, own = fb.differential(PRESET), fb.differential()
    sizes = [
        train(differential_quantization(optimizer, fb.uniform(6), f), one(), ZERO, 2)
        .records[1]
        .uplink_bytes
        for f in (preset, own)
    ]
    assert sizes == [10 + 1 + 9 + 4, 10 + 1 + 9 + 4 + 8]


@pytest.mark.parametrize("method", METHODS)
def test_lost_replies_only_delay(method):
    """One client, a fifth of its replies lost: the same points, later, and no saturation.

    Kills: a schedule by round, an error that is committed although its reply was lost.
    """
    optimizer, feedback = tuned(method, L, MU).optimizer, fb.differential(PRESET)
    strategy = differential_quantization(optimizer, fb.uniform(6), feedback)
    run = train(strategy, lost_in(one()), ZERO, 60)
    calm = fb.run(
        PROBLEM.objectives, optimizer, ZERO, 60, compressor=fb.uniform(6), feedback=feedback
    )
    applied = sum(r.applied for r in run.records)
    assert 35 < applied < 58 and sum(r.saturated for r in run.records) == 0
    moved = run.points[[0, *(k for k, r in enumerate(run.records) if r.applied)]]
    assert moved.tobytes() == calm.points[: applied + 1].tobytes()


@pytest.mark.parametrize("known", [1, 2, 3])
def test_identical_clients_move_together_or_not_at_all(known):
    """Three of them, a fifth of the replies lost: a round counts if all three came.

    However many there were to wait for at first.

    Kills: a client that falls behind the others' schedule.
    """
    optimizer, feedback = tuned("nesterov", L, MU).optimizer, fb.differential(PRESET)
    strategy = differential_quantization(optimizer, fb.uniform(6), feedback, minimum_clients=known)
    run = train(strategy, lost_in(one(3)), ZERO, 40)
    calm = fb.run(
        PROBLEM.objectives, optimizer, ZERO, 40, compressor=fb.uniform(6), feedback=feedback
    )
    applied = [k for k, r in enumerate(run.records) if r.applied]
    assert 10 < len(applied) < 35 and sum(r.saturated for r in run.records) == 0
    np.testing.assert_allclose(  # the mean of three equal vectors rounds
        run.points[[0, *applied]], calm.points[: len(applied) + 1], atol=1e-13
    )


def test_a_preset_radius_among_clients_that_differ():
    """Kills: a schedule that goes on where it means nothing."""
    optimizer = tuned("gradient_descent", L, MU).optimizer
    mixed = fb.LeastSquares.random(12, 10.0, seed=4, clients=3)
    for settings in ({"minimum_clients": 3}, {"minimum_clients": 3, "weights": "examples"}):
        strategy = differential_quantization(
            optimizer, fb.uniform(6), fb.differential(PRESET), **settings
        )
        with pytest.raises(ValueError, match="the clients' reports differ.*radius=None"):
            train(strategy, InlineGrid(app_of(mixed.objectives), 3), ZERO, 3)
    with pytest.raises(ValueError, match="fraction=1, or radius=None"):
        differential_quantization(optimizer, fb.uniform(6), fb.differential(PRESET), fraction=0.5)


def test_a_wrong_constant_is_counted_and_told(warned):
    """D a tenth of the distance. Kills: saturation that nobody hears of."""
    preset = fb.preset_radius(L, MU, PRESET.distance / 10)
    optimizer = tuned("gradient_descent", L, MU).optimizer
    strategy = differential_quantization(optimizer, fb.uniform(6), fb.differential(preset))
    run = train(strategy, one(), ZERO, 3)
    assert run.records[1].saturated == 1
    assert any(w.startswith("round 1: client 0 exceeds the preset radius: L") for w in warned())


def test_too_few_bits_are_told_at_the_start(warned):
    """E8 at three bits is lossless for NAG in 8 dimensions and grows in 64. Kills: silence."""
    told = "the preset ranges never shrink with lattice(kind='E8', bits=3) at 64 entries: "
    for dim, grows in ((8, False), (64, True)):
        problem = fb.LeastSquares.random(dim, 10.0, seed=4)
        known = problem.lipschitz, problem.strong_convexity
        preset = fb.preset_radius(*known, float(np.linalg.norm(problem.minimizer)))
        strategy = differential_quantization(
            tuned("nesterov", *known).optimizer, fb.lattice("E8", 3), fb.differential(preset)
        )
        train(strategy, InlineGrid(app_of(problem.objectives), 1), np.zeros(dim), 2)
        assert any(warning.startswith(told) for warning in warned()) == grows


def test_the_losses_are_the_models():
    """Where the model stands still, its loss does, though the gradients move on.

    Kills: a loss at the point where the gradient was taken, which is the uncompressed run's.
    """
    optimizer, feedback = tuned("nesterov", L, MU).optimizer, fb.differential(PRESET)
    run = train(differential_quantization(optimizer, fb.uniform(1), feedback), one(), ZERO, 30)
    expected = [PROBLEM.loss(point) for point in run.points[:-1]]
    assert [record.train_loss for record in run.records[1:]] == expected
    assert expected[-1] > expected[0]


def test_a_gradient_norm_that_says_nothing():
    """The first packets may decode to 0. Kills: a run that stops at once, and well."""
    stop = fb.until(gradient_norm=1e-3)
    optimizer, feedback = tuned("nesterov", L, MU).optimizer, fb.differential(PRESET)
    with pytest.raises(ValueError, match="with a preset radius may"):
        differential_quantization(optimizer, fb.uniform(4), feedback, stop=stop)
    with pytest.raises(ValueError, match="with a preset radius may"):
        fb.run(PROBLEM.objectives, optimizer, ZERO, 9, feedback=feedback, stop=stop)
    with pytest.raises(ValueError, match="feedback must be like no_feedback"):
        differential_quantization(optimizer, fb.uniform(4), fb.sign(), stop=stop)


def test_a_client_that_lost_its_memory_starts_its_schedule_again():
    """Round 4 of 8 finds an empty context. Kills: a server that goes on along the old schedule."""
    optimizer = tuned("gradient_descent", L, MU).optimizer
    strategy = differential_quantization(optimizer, fb.uniform(6), fb.differential(PRESET))
    grid = one()

    def forget(record, checkpoint):
        if record.round == 4:
            grid.contexts[1].state.clear()

    strategy.start(grid, named(ZERO), 8, on_round=forget)
    radii = [
        json.loads(message.content["fedbias"]["header"])["radius"]
        for message, _ in grid.sent
        if message.metadata.message_type == "train"
    ]
    assert radii[5] == radii[0] > radii[4] > radii[3] / 2 and radii[6] == radii[1]
    assert strategy.state.counts == {0: 3}


def test_ef21_counts_those_that_are_away():
    """Gradients 9, 2 and 1, exact packets, two clients' replies never come: h = (9, –, –).

    The step goes along (9 + 0 + 0)/3. Kills: the mean over those that answered.
    """
    strategy = FedBias(fb.gradient_descent(0.5), feedback=fb.ef21(), minimum_clients=3)
    clients = app_of(slopes([9.0], [2.0], [1.0]))
    grid = LossyGrid(InlineGrid(clients, 3), lambda k, client: client > 0)
    run = train(strategy, grid, np.zeros(1), 3)
    assert run.points.ravel().tolist() == [0, -1.5, -3, -4.5]
    assert strategy.state.memories.keys() == {0}


def test_only_what_it_can_undo():
    """Kills: differential feedback under a step that makes more of an error than it knows."""
    for optimizer in (fb.heavy_ball(0.1, 0.5), fb.adam(), fb.adagrad(0.1), fb.adagrad_norm(0.1)):
        with pytest.raises(ValueError, match="undoes what its errors did.*use ef21"):
            differential_quantization(optimizer, fb.uniform(4), fb.differential())


def test_the_default_is_what_was_measured():
    """Kills: a default that the committed comparison of feedbacks does not recommend."""
    strategy = differential_quantization(fb.heavy_ball(0.1, 0.5), fb.uniform(4))
    assert strategy.algorithm.feedback == fb.ef21()
    made = Path(__file__).parents[2] / "simulations/results/feedback.md"
    sentence = "strategies.differential_quantization defaults to feedback=ef21()"
    assert sentence in made.read_text(encoding="utf-8")
    assert "reproduce feedback" in inspect.getdoc(differential_quantization)
