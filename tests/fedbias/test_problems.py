"""Objectives against finite differences, eigenvalues and each other."""

from dataclasses import dataclass

import numpy as np
import pytest

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.client import prefetched, respond
from fedbias.ledger import Ledger
from fedbias.objectives import client_metrics
from fedbias.problems import LogisticLoss, Squares
from fedbias.problems.linear import mean_hessian
from fedbias.server import plan_for
from fedbias.state import ServerState

ROWS = np.random.default_rng(0).standard_normal((12, 4))
VALUES = np.random.default_rng(1).standard_normal(12)
OBJECTIVES = {
    "squares": Squares(ROWS, VALUES),
    "squares with a ridge": Squares(ROWS, VALUES, 0.3),
    "logistic": LogisticLoss(ROWS, np.sign(VALUES)),
    "logistic with a ridge": LogisticLoss(ROWS, np.sign(VALUES), 0.3),
}


@pytest.fixture
def rng():
    return np.random.default_rng(2)


each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
BATCHES = [None, np.array([3]), np.array([0, 5, 5, 11])]  # repeated examples count twice


@each_objective
@pytest.mark.parametrize("batch", BATCHES, ids=["all", "one", "repeated"])
def test_derivatives_against_central_differences(objective, batch, rng):
    """Error O(h²) = 10^−10. Kills: a missing 1/n, ridge, label or factor in any derivative."""
    h = 1e-5
    for _ in range(3):
        x, v = rng.standard_normal((2, 4))
        slope = (objective.loss(x + h * v, batch) - objective.loss(x - h * v, batch)) / (2 * h)
        assert abs(objective.gradient(x, batch) @ v - slope) < 1e-8
        bend = (objective.gradient(x + h * v, batch) - objective.gradient(x - h * v, batch)) / 2 / h
        np.testing.assert_allclose(objective.hvp(x, v, batch), bend, atol=1e-8)


def test_values_by_hand():
    """Squares: ½·((3−1)² + (4−2)²)/2 + ½·25; logistic: log 2 at 0, and no overflow far away."""
    squares = Squares(np.eye(2), np.array([1.0, 2.0]), 1.0)
    assert squares.loss(np.array([3.0, 4.0])) == 2 + 12.5
    assert squares.gradient(np.array([3.0, 4.0])).tolist() == [1 + 3, 1 + 4]
    assert (squares.dim, squares.size) == (2, 2)
    assert squares.loss(np.array([3.0, 4.0]), np.array([1, 1])) == 2 + 12.5
    assert squares.loss(np.array([3.0, 6.0]), np.array([1])) == 8 + 22.5
    logistic = LogisticLoss(np.array([[1.0], [2.0]]), np.array([1.0, -1.0]))
    assert logistic.loss(np.zeros(1)) == pytest.approx(np.log(2), rel=1e-15)
    assert logistic.gradient(np.zeros(1)).tolist() == [(-1 + 2) / 4]
    assert logistic.loss(np.array([1e4])) == 1e4  # (0 + 2·10^4)/2
    assert logistic.gradient(np.array([1e4])).tolist() == [1]
    assert logistic.metrics(np.array([1.0])) == {"loss": logistic.loss(np.ones(1)), "accuracy": 0.5}
    assert logistic.metrics(np.zeros(1))["accuracy"] == 0  # on the line is on neither side
    assert client_metrics(logistic, np.ones(1)) == logistic.metrics(np.ones(1))
    assert client_metrics(squares, np.zeros(2)) == {"loss": squares.loss(np.zeros(2))}


@each_objective
def test_float32_stays_float32(objective):
    """Kills: a silent conversion, by which a float32 report would be refused."""
    fields = [value.astype(np.float32) for value in list(vars(objective).values())[:2]]
    single = type(objective)(*fields, objective.ridge)
    point = np.ones(4, np.float32)
    for vector in (single.gradient(point), single.hvp(point, point), single.gradient(point, [0])):
        assert vector.dtype == np.float32
    assert type(single.loss(point)) is float
    np.testing.assert_allclose(single.gradient(point), objective.gradient(np.ones(4)), rtol=1e-4)


PROBLEMS = {
    "least squares": fb.LeastSquares.random(6, 25.0, 1),
    "least squares, 5 clients": fb.LeastSquares.random(6, 25.0, 1, clients=5),
    "uneven shares": fb.LeastSquares(ROWS, VALUES, clients=5),
    "logistic": fb.Logistic.random(6, 50, 2),
    "logistic, 3 clients": fb.Logistic.random(6, 50, 2, ridge=0.1, clients=3),
}
each_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


@each_problem
def test_the_minimiser_has_no_gradient(problem, rng):
    """Of the UNIFORM mean over clients. Kills: a mean over examples, a Newton that stops early."""
    mean = np.mean([f.gradient(problem.minimizer) for f in problem.objectives], axis=0)
    assert np.linalg.norm(mean) < 1e-12
    losses = [f.loss(problem.minimizer) for f in problem.objectives]
    assert problem.minimum == problem.loss(problem.minimizer) == pytest.approx(np.mean(losses))
    for _ in range(20):
        assert (
            problem.loss(problem.minimizer + 0.1 * rng.standard_normal(len(mean))) > problem.minimum
        )


@each_problem
def test_lipschitz_and_strong_convexity_are_eigenvalues(problem, rng):
    """Exact for least squares; for the logistic loss L at 0 and μ below all. Two-sided."""
    dim = problem.minimizer.size
    at_zero = np.linalg.eigvalsh(mean_hessian(problem.objectives, np.zeros(dim)))
    assert problem.lipschitz == pytest.approx(at_zero[-1], rel=1e-12)
    quadratic = isinstance(problem, fb.LeastSquares)
    for scale in (0.0, 1.0, 1000.0):
        x = scale * rng.standard_normal(dim)
        spectrum = np.linalg.eigvalsh(mean_hessian(problem.objectives, x))
        assert problem.strong_convexity <= spectrum[0] * (1 + 1e-10)
        assert spectrum[-1] <= problem.lipschitz * (1 + 1e-10)
        assert not quadratic or problem.strong_convexity == pytest.approx(spectrum[0], rel=1e-10)
    far = np.linalg.eigvalsh(mean_hessian(problem.objectives, 1e6 * rng.standard_normal(dim)))
    assert quadratic or far[0] == pytest.approx(problem.strong_convexity, rel=1e-6)


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e6])
@pytest.mark.parametrize(("dim", "clients"), [(2, 1), (5, 4), (20, 3)])
def test_the_condition_number_is_exact(condition, dim, clients):
    """L = 1, μ = 1/κ, logarithmically even between. Kills: a spectrum that is squared."""
    problem = fb.LeastSquares.random(dim, condition, 3, clients)
    assert problem.lipschitz == pytest.approx(1, rel=1e-9)
    assert problem.lipschitz / problem.strong_convexity == pytest.approx(condition, rel=1e-7)
    spectrum = np.linalg.eigvalsh(mean_hessian(problem.objectives, np.zeros(dim)))
    ratios = spectrum[1:] / spectrum[:-1]
    np.testing.assert_allclose(ratios, condition ** (1 / (dim - 1)), rtol=1e-7)
    assert [f.size for f in problem.objectives] == [2 * dim] * clients
    assert problem.minimum > 0


def test_one_dimension_and_seeds():
    assert fb.LeastSquares.random(1, 7.0, 0).lipschitz == pytest.approx(1)
    one, same, other = (fb.LeastSquares.random(3, 5, seed) for seed in (0, 0, 1))
    assert one.minimizer.tobytes() == same.minimizer.tobytes()
    assert one.minimizer.tobytes() != other.minimizer.tobytes()
    one, same, other = (fb.Logistic.random(3, 40, seed) for seed in (2, 2, 3))
    assert one.minimizer.tobytes() == same.minimizer.tobytes() != other.minimizer.tobytes()


@pytest.mark.parametrize(
    ("dim", "examples", "ridge", "clients"),
    [(4, 30, 0.1, 1), (4, 30, 0.01, 3), (8, 100, 0.01, 4), (20, 400, 0.001, 5)],
)
def test_newton_converges_for_every_seed(dim, examples, ridge, clients):
    """Rounding in the loss near the minimum must not stop it."""
    for seed in range(25):
        problem = fb.Logistic.random(dim, examples, seed, ridge, clients)
        assert np.linalg.norm(problem.gradient(problem.minimizer)) < 1e-11


def test_shares_are_contiguous_and_nearly_equal():
    """13 over 4: 4, 3, 3, 3, in order. Kills: a remainder that is dropped."""
    rows = np.arange(26.0).reshape(13, 2)
    problem = fb.LeastSquares(rows, np.arange(13.0), clients=4)
    assert [f.size for f in problem.objectives] == [4, 3, 3, 3]
    np.testing.assert_array_equal(np.concatenate([f.features for f in problem.objectives]), rows)
    assert [f.size for f in fb.LeastSquares(rows, np.arange(13.0), 13).objectives] == [1] * 13
    assert len(fb.LeastSquares(rows, np.arange(13.0)).objectives) == 1
    assert len(fb.Logistic(rows, np.ones(13), 0.1).objectives) == 1


@pytest.mark.parametrize("ridge", [0.0, 0.7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_cohort_agrees_client_by_client(ridge, dtype, rng):
    """To 10^−12 (10^−5 in float32). Kills: a transposed product, a forgotten ridge."""
    clients = [
        Squares(
            rng.standard_normal((7, 5)).astype(dtype), rng.standard_normal(7).astype(dtype), ridge
        )
        for _ in range(6)
    ]
    point = rng.standard_normal(5).astype(dtype)
    losses, gradients = Squares.cohort(clients).losses_and_gradients(point)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    assert gradients.shape == (6, 5) and gradients.dtype == dtype and losses.shape == (6,)
    for client, loss, gradient in zip(clients, losses, gradients, strict=True):
        np.testing.assert_allclose(gradient, client.gradient(point), tolerance, tolerance)
        assert loss == pytest.approx(client.loss(point), rel=tolerance)


def test_no_cohort_of_unequal_clients():
    alike, larger = Squares(ROWS, VALUES), Squares(ROWS[:5], VALUES[:5])
    assert Squares.cohort([alike, larger]) is None
    assert Squares.cohort([alike, Squares(ROWS, VALUES, 0.1)]) is None
    assert Squares.cohort([alike, alike]) is not None
    assert Squares.cohort([alike]).losses_and_gradients(np.ones(4))[1].shape == (1, 4)


@dataclass
class Own:
    """Somebody's objective: a plain dataclass, which Python makes unhashable."""

    slope: np.ndarray
    dim: int = 4
    size: int = 8

    def loss(self, point, batch=None):
        return float(self.slope @ point)

    def gradient(self, point, batch=None):
        return self.slope


def test_prefetching_leaves_others_objectives_alone():
    """No cohort of their own, or of another kind than the first. Kills: a need for hash or ==."""
    plan = plan_for(Algorithm(fb.adam()), ServerState(np.ones(4)), 0)
    own = Own(np.ones(4))
    for clients in ([own], [own, own], [Squares(ROWS, VALUES), own]):
        together = prefetched(clients, plan)
        assert [type(one) for one in together] == [type(one) for one in clients]


@pytest.mark.parametrize(
    ("estimator", "batch_size", "used"),
    [
        ("exact()", None, True),
        ("local_steps(3, 0.1, 0.5)", None, True),
        ("meta(0.1)", None, True),
        ("clipped(0.1)", None, True),
        ("minibatch()", 3, False),
    ],
)
def test_prefetched_reports_are_those_of_each_client(estimator, batch_size, used):
    """To rounding. Kills: an answer for one point that is given at another one."""
    problem = fb.LeastSquares.random(4, 10, 0, clients=3)
    algorithm = Algorithm(
        fb.adam(), fb.parse(estimator, fb.Estimator), batch_size=batch_size, seed=1
    )
    state = ServerState(np.ones(4))
    together = prefetched(problem.objectives, plan_for(algorithm, state, 0))
    assert [one is other for one, other in zip(together, problem.objectives, strict=True)] == [
        *[not used] * 3
    ]
    for client in range(3):
        plan = plan_for(algorithm, state, client)
        report, _ = respond(together[client], plan, Ledger())
        expected, _ = respond(problem.objectives[client], plan, Ledger())
        np.testing.assert_allclose(fb.decode(report.packet), fb.decode(expected.packet), 1e-12)
        assert report.loss == pytest.approx(expected.loss, rel=1e-12)
        assert report.computed == expected.computed and report.examples == expected.examples


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fb.LeastSquares(ROWS, VALUES, 13), "12 examples cannot be split over 13 clients"),
        (lambda: fb.LeastSquares(ROWS, VALUES, 0), "12 examples cannot be split over 0 clients"),
        (lambda: fb.LeastSquares.random(0, 10, 0), "dim must be a whole number >= 1, not 0"),
        (lambda: fb.LeastSquares.random(2, 0.5, 0), "condition must be a number >= 1, not 0.5"),
        (lambda: fb.LeastSquares.random(2, 2, 0, 0), "clients must be a whole number >= 1, not 0"),
        (lambda: fb.Logistic(ROWS, VALUES, 0.1), "labels must be -1 or +1"),
        (lambda: fb.Logistic(ROWS, np.sign(VALUES), 0), "ridge must be a number > 0, not 0"),
        (lambda: fb.Logistic(ROWS, np.sign(VALUES), 0.1, 13), "cannot be split over 13 clients"),
        (lambda: fb.Logistic.random(2, 3, 0, clients=4), "examples must be a whole number >= 4"),
        (lambda: fb.Logistic.random(2.5, 3, 0), "dim must be a whole number >= 1, not 2.5"),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert sentence in str(caught.value)
