"""MAML's loss in closed form, and what its batches do to the gradient, by enumeration."""

from itertools import product

import numpy as np
import pytest

import fedbias as fb
from fedbias.problems import FewShot, Squares
from fedbias.turn import Turn

ALPHA = 0.7
# Three examples in two dimensions, neither orthogonal nor of one length.
TASK = Squares(np.array([[1.0, 0.5], [-0.5, 2.0], [1.5, 1.0]]), np.array([1.0, -2.0, 0.5]))
POINT = np.array([0.3, -1.2])


class Given(Turn):
    """A turn with the batches that a test hands out."""

    def __init__(self, *batches):
        super().__init__(0, 0, 0, len(batches[0]))
        self.given = list(batches)

    def batch(self, size, order):
        assert order == "replacement"
        return self.given.pop(0)


class Recording(Squares):
    """Least squares that remembers what was asked on which examples."""

    def __init__(self):
        rng = np.random.default_rng(0)
        super().__init__(rng.standard_normal((1000, 2)), rng.standard_normal(1000))
        object.__setattr__(self, "asked", [])

    def gradient(self, point, batch=None):
        self.asked.append(("gradient", tuple(batch)))
        return super().gradient(point, batch)

    def hvp(self, point, vector, batch=None):
        self.asked.append(("hvp", tuple(batch)))
        return super().hvp(point, vector, batch)


def expectation(task, size):
    """E[ĝ] of meta over every pair of batches, all equally likely."""
    batches = [np.array(batch) for batch in product(range(task.size), repeat=size)]
    estimates = [
        fb.meta(ALPHA).estimate(task, POINT, Given(support, query)).vector
        for support, query in product(batches, repeat=2)
    ]
    return np.mean(estimates, axis=0)


def test_by_hand():
    """f = ½(x−2)² and ½(2x−2)², α = ½: F = ½(x/2−1)² and ½(2−2x)². Kills: (I−αH) once, or not."""
    tasks = [Squares(np.array([[1.0]]), np.array([2.0])), Squares(np.array([[2.0]]), np.array([2]))]
    problem = FewShot(tasks, 0.5)
    assert problem.lipschitz == problem.strong_convexity == (0.25 + 4) / 2
    assert problem.minimizer == pytest.approx([4.5 / 4.25], rel=1e-14)
    assert problem.loss(np.zeros(1)) == (0.5 + 2) / 2
    assert problem.gradient(np.zeros(1)).tolist() == [(-0.5 - 4) / 2]
    assert problem.minimum == problem.loss(problem.minimizer)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_gradient_the_constants_and_the_minimiser(alpha):
    """Against central differences (exact for a quadratic), against ``fb.meta``, against random
    points, and L and μ as quotients. Kills: another α inside than outside, a swapped L and μ."""
    problem, rng = FewShot.sines(4, 30, 1, alpha), np.random.default_rng(0)
    assert len(problem.objectives) == 4 and problem.minimizer.shape == (7,)
    assert {f.size for f in problem.objectives} == {30}
    assert np.linalg.norm(problem.gradient(problem.minimizer)) < 1e-12
    for _ in range(20):
        x, v = rng.standard_normal((2, 7))
        slope = problem.loss(x + v) - problem.loss(x - v)
        assert problem.gradient(x) @ v == pytest.approx(slope / 2, rel=1e-9, abs=1e-9)
        sent = [fb.meta(alpha).estimate(f, x, Turn(0, 0, 0, None)) for f in problem.objectives]
        mean = np.mean([one.vector for one in sent], axis=0)
        np.testing.assert_allclose(mean, problem.gradient(x), rtol=1e-12, atol=1e-12)
        gap = problem.loss(problem.minimizer + v) - problem.minimum
        quotient = 2 * gap / (v @ v)
        assert problem.strong_convexity <= quotient * (1 + 1e-9)
        assert quotient <= problem.lipschitz * (1 + 1e-9)
    spread = np.ptp([f.targets.max() for f in problem.objectives])
    assert spread > 0.1  # the tasks differ


def test_the_constants_are_attained():
    """Steepest descent from x* + v with γ = 1/L: the slowest direction keeps 1 − μ/L."""
    problem = FewShot.sines(3, 20, 0, 0.5)
    x = problem.minimizer + np.ones(7)
    for _ in range(2000):
        step = problem.gradient(x) / problem.lipschitz
        rate = 1 - np.linalg.norm(step) / np.linalg.norm(x - problem.minimizer)
        x = problem.minimizer + (x - step - problem.minimizer) / np.linalg.norm(step)
    assert rate == pytest.approx(1 - problem.strong_convexity / problem.lipschitz, rel=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 0.4])
@pytest.mark.parametrize("size", [1, 2])
def test_the_bias_of_batches_by_enumeration(size, ridge):
    """All 9 or 81 pairs of batches. Kills: one batch for both, a Hessian on the query or on all
    the data, a bias with another sign, α or b."""
    task = Squares(TASK.features, TASK.targets, ridge)
    problem = FewShot([task], ALPHA)
    bias = problem.bias(POINT, size)
    np.testing.assert_allclose(expectation(task, size), problem.gradient(POINT) + bias, rtol=1e-12)
    assert np.linalg.norm(bias) > 0.1 * np.linalg.norm(problem.gradient(POINT))
    np.testing.assert_allclose(problem.bias(POINT, 1), size * bias, rtol=1e-13)


def test_the_bias_of_several_tasks_is_their_mean_and_its_limits_are_zero():
    """Kills: a sum over the tasks; a bias without inner step, or of examples that are alike."""
    other = Squares(TASK.features[:2], TASK.targets[1:])
    one, two = (FewShot([task], ALPHA).bias(POINT, 3) for task in (TASK, other))
    np.testing.assert_allclose(
        FewShot([TASK, other], ALPHA).bias(POINT, 3), (one + two) / 2, rtol=1e-13
    )
    alike = Squares(TASK.features[[0, 0]], TASK.targets[[0, 0]])
    for problem in (FewShot([TASK], 0.0), FewShot([alike], ALPHA)):
        np.testing.assert_allclose(problem.bias(POINT, 1), 0, atol=1e-15)


def test_support_and_query_are_two_batches_of_one_stream():
    """Of the same size, new in every round, the Hessian on the support; 3b examples computed."""
    task, turn = Recording(), Turn(0, 0, 0, 5)
    result = fb.meta(ALPHA).estimate(task, POINT, turn)
    (_, support), (_, query), (what, curved) = task.asked
    assert what == "hvp" and curved == support != query and len(support) == len(query) == 5
    assert turn.examples == 15
    assert result.loss == task.loss(POINT, np.array(support))
    assert support == tuple(Turn(0, 0, 0, 5).batch(1000, "replacement"))
    task.asked.clear()
    fb.meta(ALPHA).estimate(task, POINT, Turn(0, 1, 0, 5))
    assert not {batch for _, batch in task.asked} & {support, query}


def test_a_federation_with_batches():
    """Same seed, same bits; it descends F, not f. Kills: a batch size that is refused."""
    problem = FewShot.sines(5, 40, 0, 0.5)
    one, two, full = (
        fb.run(
            problem.objectives,
            fb.gradient_descent(0.5 / problem.lipschitz),
            np.ones(7),
            60,
            estimator=fb.meta(0.5),
            batch_size=size,
        )
        for size in (5, 5, None)
    )
    assert one.points.tobytes() == two.points.tobytes() != full.points.tobytes()
    assert problem.loss(full.points[-1]) - problem.minimum < 1e-3
    plain = np.linalg.norm([f.gradient(full.points[-1]) for f in problem.objectives], axis=1)
    assert plain.max() > 0.1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FewShot([TASK], -1), "inner_step_size must be a number >= 0, not -1"),
        (lambda: FewShot.sines(0, 5, 0, 0.1), "tasks must be a whole number >= 1, not 0"),
        (lambda: FewShot.sines(1, 0, 0, 0.1), "examples must be a whole number >= 1, not 0"),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert sentence in str(caught.value)
