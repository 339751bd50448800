"""Differential quantization: gradients are asked at the unquantized iterates, to rounding."""

import math
from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias import theory
from fedbias.algorithm import Algorithm
from fedbias.problems import Squares
from fedbias.turn import Turn
from tests.tools.quantized import Recorder, endless, unquantized, walk

each_method = pytest.mark.parametrize("method", theory.METHODS)
LINE = Squares(np.ones((1, 1)), np.zeros(1))  # f = x²/2
HALF = fb.uniform(1)  # of one entry: q = u/2 and e = −u/2


@pytest.mark.parametrize(
    ("optimizer", "asked", "compressed", "points"),
    [
        (fb.gradient_descent(0.5), [8, 4, 2], [8, 8, 6], [8, 6, 4, 2.5]),
        (fb.nesterov(0.5, 0.5), [8, 2, -0.5], [8, 8, 3.5], [8, 5, 1.5, -0.5625]),
        (fb.polyak(0.5, 0.5), [8, 4, 0], [8, 10, 5.5], [8, 6, 2.5, -0.625]),
    ],
    ids=["GD", "NAG", "HB"],
)
def test_three_rounds_by_hand(optimizer, asked, compressed, points):
    """All of it dyadic, and ``asked`` is what the method does without quantization.

    Kills: no shift, no compensation, a γ that is left out, e for c in nesterov's shift, e_{i−2}.
    """
    client = Recorder(LINE)
    algorithm = Algorithm(optimizer, compressor=HALF, feedback=fb.differential())
    states, turns = walk(client, algorithm, np.array([8.0]), 3)
    assert np.concatenate(client.asked).tolist() == asked
    assert [turn.compressed.item() for turn in turns] == compressed
    assert [turn.arrived.item() for turn in turns] == [u / 2 for u in compressed]
    assert [turn.error.item() for turn in turns] == [-u / 2 for u in compressed]
    assert [state.point.item() for state in states] == points
    exact = fb.run([LINE], optimizer, np.array([8.0]), 2)
    assert exact.points.ravel().tolist() == asked


def test_with_a_memory_by_hand():
    """u = ∇f(z) − c − h. Kills: an h that is not subtracted, not added, or moved by u."""
    client = Recorder(LINE)
    feedback = fb.differential(memory=True)
    algorithm = Algorithm(fb.gradient_descent(0.5), compressor=HALF, feedback=feedback)
    states, turns = walk(client, algorithm, np.array([8.0]), 3)
    assert np.concatenate(client.asked).tolist() == [8, 4, 2]
    assert [turn.compressed.item() for turn in turns] == [8, 4, -2]
    assert [turn.error.item() for turn in turns] == [-4, -2, 1]
    assert [turn.memory["feedback.gradient"].item() for turn in turns] == [4, 6, 5]
    assert [state.memories[0].item() for state in states[1:]] == [4, 6, 5]
    assert [state.point.item() for state in states] == [8, 6, 3, 0.5]


PRESETS = {
    "preset, 4 bits": (True, False, fb.uniform(4)),
    "preset, 8 bits": (True, False, fb.uniform(8)),
    "preset, memory": (True, True, fb.uniform(8)),
    "preset, dithered": (True, False, fb.dithered(8)),
    "adaptive": (False, False, fb.uniform(3)),
    "adaptive, memory": (False, True, fb.uniform(5)),
    "adaptive, top k": (False, False, fb.top_k(0.5)),
    "adaptive, lattice": (False, False, fb.lattice("E8", 4)),
}


@each_method
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_are_asked_at_the_unquantized_iterates(method, name, seed):
    """z_i to 1e-12 of ‖x_0‖, and x̂_i = z_i − ηs_i. Every round of 60, every feedback's ranges."""
    preset, memory, compressor = PRESETS[name]
    case = endless(method, 16, seed)
    feedback = fb.differential(case.preset if preset else None, memory)
    client = Recorder(case.objective)
    states, turns = walk(client, case.algorithm(feedback, compressor), case.start, 60)
    np.testing.assert_allclose(client.asked, unquantized(case, 59), rtol=0, atol=1e-12)
    eta, gamma = case.method.optimizer.step_size, case.method.momentum
    zero = np.zeros(16)
    errors = [zero, zero, *(turn.error for turn in turns)]
    largest = 0.0
    for state, z, last, earlier in zip(states, client.asked, errors[1:], errors, strict=False):
        shift = (1 + gamma) * last - gamma * earlier if method == "nesterov" else last
        np.testing.assert_allclose(state.point, z - eta * shift, rtol=0, atol=1e-12)
        largest = max(largest, np.abs(shift).max())
    assert largest > 1e-3  # there was something to undo
    assert not any(turn.report.saturated for turn in turns)


@pytest.mark.parametrize("method", ["gradient_descent", "nesterov"])
@pytest.mark.parametrize("preset", [True, False], ids=["preset", "adaptive"])
def test_where_the_loss_is_not_quadratic(method, preset):
    """Logistic regression, at its own constants. Kills: a shift that is right for lines alone."""
    problem = fb.Logistic.random(6, 40, 1, ridge=0.1)
    start = problem.minimizer + np.linspace(-1, 1, 6)
    constants = problem.lipschitz, problem.strong_convexity
    optimizer = theory.tuned(method, *constants).optimizer
    radius = fb.preset_radius(*constants, np.linalg.norm(start - problem.minimizer) * (1 + 1e-9))
    client = Recorder(problem.objectives[0])
    feedback = fb.differential(radius if preset else None)
    algorithm = Algorithm(optimizer, compressor=fb.uniform(6), feedback=feedback)
    _, turns = walk(client, algorithm, start, 80)
    exact = fb.run(problem.objectives, optimizer, start, 79).points
    np.testing.assert_allclose(client.asked, exact, rtol=0, atol=1e-12)
    assert not any(turn.report.saturated for turn in turns)


def test_what_is_lossless_leaves_no_trace():
    """Identity: e = 0 and the points are those of the plain run. Kills: a shift out of nothing."""
    case = endless("nesterov", 8)
    states, _ = walk(
        case.objective, case.algorithm(fb.differential(), fb.identity()), case.start, 9
    )
    plain = unquantized(case, 9)
    assert np.array([state.point for state in states]).tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    ("method", "memory", "expected"),
    [
        ("gradient_descent", False, {"feedback.error"}),
        ("nesterov", False, {"feedback.error", "feedback.earlier"}),
        ("polyak", False, {"feedback.error", "feedback.earlier"}),
        ("gradient_descent", True, {"feedback.error", "feedback.gradient"}),
        ("polyak", True, {"feedback.error", "feedback.earlier", "feedback.gradient"}),
    ],
)
def test_what_a_client_keeps(method, memory, expected):
    """Exactly that, and the server h alone. Kills: a vector that nobody reads."""
    case = endless(method, 8)
    algorithm = case.algorithm(fb.differential(memory=memory), fb.uniform(6))
    states, turns = walk(case.objective, algorithm, case.start, 5)
    assert set(turns[-1].memory) == expected
    assert set(states[-1].memories) == ({0} if memory else set())
    for before, turn in zip(turns, turns[1:], strict=False):
        if "feedback.earlier" in expected:
            earlier = turn.memory["feedback.earlier"]
            assert earlier.tobytes() == before.error.tobytes()


ADAPTIVE = Algorithm(fb.gradient_descent(0.1), feedback=fb.differential())


@pytest.mark.parametrize("optimizer", ["polyak(0.1, 0.5)", "nesterov(0.1, 0.5)"])
def test_the_steps_that_it_undoes(optimizer):
    step = fb.parse(optimizer, fb.Optimizer)
    assert replace(ADAPTIVE, optimizer=step).optimizer == step


@pytest.mark.parametrize(
    "optimizer", ["heavy_ball(0.1, 0.5)", "adagrad(0.1)", "adagrad_norm(0.1)", "adam()"]
)
@pytest.mark.parametrize("memory", [False, True])
def test_the_steps_that_it_cannot_undo(optimizer, memory):
    """Kills: a compensation for another recursion, silently."""
    with pytest.raises(ValueError) as caught:
        replace(
            ADAPTIVE,
            optimizer=fb.parse(optimizer, fb.Optimizer),
            feedback=fb.differential(memory=memory),
        )
    said = str(caught.value)
    assert "undoes what its errors did to gradient_descent, nesterov, polyak" in said
    assert "depends on more than the last two" in said and "ef21() or error_feedback()" in said


def test_a_plan_without_the_step():
    """One sentence instead of a compensation of nothing."""
    turn = Turn(0, 0, 0, None, {"feedback.error": np.ones(2)})
    with pytest.raises(ValueError, match="does not say what the server's step is"):
        fb.differential().query(np.zeros(2), turn)
    with pytest.raises(ValueError, match="does not say what the server's step is"):
        fb.differential().encode(np.ones(2), fb.uniform(2), turn)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fb.differential(memory=1), "differential: memory must be True or False, not 1"),
        (lambda: fb.differential(0.5), "differential: radius must be like None or preset_radius("),
        (lambda: fb.ef21(radius=1), "ef21: radius must be like None or preset_radius("),
        (lambda: fb.no_feedback("1"), "no_feedback: radius must be like None or preset_radius("),
        (lambda: fb.preset_radius(1, 2, 1), "preset_radius: lipschitz must be a number >= 2"),
        (lambda: fb.preset_radius(1, 0, 1), "preset_radius: strong_convexity must be a number > 0"),
        (lambda: fb.preset_radius(2, 1, 0), "preset_radius: distance must be a number > 0, not 0"),
        (lambda: fb.preset_radius(2, 1, math.inf), "preset_radius: distance must be a number > 0"),
        (lambda: fb.preset_radius(2, 1, 1, -1), "preset_radius: covering must be a number >= 0"),
    ],
)
def test_impossible_settings(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(sentence)
