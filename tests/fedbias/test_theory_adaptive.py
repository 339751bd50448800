"""The bound for AdaGrad-Norm under the norm test: by hand, its proof, its slack, its condition."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest

import fedbias as fb
from fedbias import theory
from fedbias.problems import GemanMcClure, noisy
from fedbias.vectors import squared_norm
from tests.tools.adaptive_runs import LARGEST, PROBLEM, START, follow

KNOWN = {
    "gap": 3.0,
    "gradient_square": 5.0,
    "lipschitz": 2.0,
    "step_size": 0.5,
    "initial": 7.0,
    "eta": 0.8,
}
SAFE = 100.0  # an S_0 that is well above (Lα)², where the bound is not too loose


def bound(eta, step_size, initial, problem=PROBLEM, start=START):
    """C for a run of a problem whose minimum is 0."""
    return theory.adagrad_norm_bound(
        gap=problem.loss(start),
        gradient_square=squared_norm(problem.gradient(start)),
        lipschitz=problem.lipschitz,
        step_size=step_size,
        initial=initial,
        eta=eta,
    )


@pytest.mark.parametrize(
    ("eta", "initial", "gap", "value"),
    [
        # L = α = 1, ‖∇f‖² = 2. p = 2Δ/2 + (2 + 6)/4 = e² − 3 and q = 1, so y = e²
        (0, 4, math.e**2 - 5, 8 * math.e**2 * (math.e**2 - 1)),
        # c = 2: p = 4Δ/4 + 4(2 + 10)/16 = e² − 3 and q = 1
        (1, 16, math.e**2 - 6, 16 * math.e**2 * (math.e**2 - 1)),
    ],
)
def test_by_hand(eta, initial, gap, value):
    """Where y = e². Kills: any other constant, a c that is not squared."""
    given = {"lipschitz": 1, "step_size": 1, "gradient_square": 2}
    found = theory.adagrad_norm_bound(gap=gap, eta=eta, initial=initial, **given)
    assert found == pytest.approx(value, rel=1e-13)


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 30.0, 1e4])
def test_it_is_the_largest_solution_of_the_proofs_inequalities(scale):
    """A and Y by bisection from steps 4 and 5 as they stand there; C = AY.

    Kills: the smaller solution, Newton steps that end early.
    """
    given = KNOWN | {"step_size": KNOWN["step_size"] * scale}
    gap, square, lipschitz, alpha, initial, eta = given.values()
    c, root = 1 + eta**2, math.sqrt(initial)

    def most(y):
        fixed = 4 * gap / alpha
        fixed += 2 * c / root * (square + 2 * (1 + 2 * c) * (lipschitz * alpha) ** 2)
        return fixed + 4 * lipschitz * alpha * math.log(y / root)

    low, high = root, 1e60
    for _ in range(500):
        middle = math.sqrt(low * high)
        possible = middle <= root + c / 2 * most(middle)
        low, high = (middle, high) if possible else (low, middle)
    assert theory.adagrad_norm_bound(**given) == pytest.approx(most(low) * low, rel=1e-9)


@pytest.mark.parametrize("scale", [0.01, 3.0, 1e5])
def test_units_do_not_matter(scale):
    """f → λf with S_0 → λ²S_0 is the same run, and so is x → λx with α → λα. Exponents alone."""
    plain = theory.adagrad_norm_bound(**KNOWN)
    powers = {"gap": 1, "gradient_square": 2, "lipschitz": 1, "initial": 2}
    louder = {name: value * scale ** powers.get(name, 0) for name, value in KNOWN.items()}
    assert theory.adagrad_norm_bound(**louder) == pytest.approx(scale**2 * plain, rel=1e-12)
    powers = {"gradient_square": -2, "lipschitz": -2, "step_size": 1, "initial": -2}
    wider = {name: value * scale ** powers.get(name, 0) for name, value in KNOWN.items()}
    assert theory.adagrad_norm_bound(**wider) == pytest.approx(plain / scale**2, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gap", -1e-9),
        ("gradient_square", -1.0),
        ("lipschitz", 0.0),
        ("step_size", 0.0),
        ("initial", 0.0),
        ("eta", -0.1),
        ("eta", math.nan),
    ],
)
def test_constants_that_cannot_be(name, value):
    """Kills: S_0 = 0, for which the proof divides by zero."""
    with pytest.raises(ValueError, match=f"adagrad_norm_bound: {name} must be"):
        theory.adagrad_norm_bound(**KNOWN | {name: value})


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("step_size", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("initial", [0.05, 1.0, 50.0])
@pytest.mark.parametrize("across", [False, True])
def test_the_proofs_inequalities_with_exact_expectations(eta, step_size, initial, across):
    """g = ∇f ± η‖∇f‖u, with u along ∇f or across it: all the 2^12 paths, so E is exact.

    The condition holds with equality. Steps 4, 5 and 6, and the bound, for every K ≤ 12.
    """
    problem = GemanMcClure(np.array([1.0, 0.3]))
    paths = np.array(list(itertools.product((-1.0, 1.0), repeat=12)))
    x, total = np.full((len(paths), 2), 1.5), np.full(len(paths), initial)
    start, c, root, slip = x[0].copy(), 1 + eta**2, math.sqrt(initial), 2 * step_size
    fixed = 4 * problem.loss(start) / step_size
    square = squared_norm(problem.gradient(start))
    fixed += 2 * c / root * (square + 2 * (1 + 2 * c) * slip**2)
    weighted = squares = np.zeros(len(paths))
    for signs in paths.T:
        slopes = problem.gradient(x)
        lengths = np.sum(slopes**2, axis=1)
        squares, weighted = squares + lengths, weighted + lengths / np.sqrt(total)
        noise = slopes @ np.array([[0.0, 1.0], [-1.0, 0.0]]) if across else slopes
        seen = slopes + eta * signs[:, None] * noise
        total = total + np.sum(seen**2, axis=1)
        x = x - step_size * seen / np.sqrt(total)[:, None]
        spent, last = np.mean(weighted), np.mean(np.sqrt(total))
        assert spent <= fixed + 4 * slip * math.log(last / root)
        assert last <= root + c * spent / 2
        reached = np.mean(np.sqrt(squares)) ** 2
        assert reached <= spent * last * (1 + 1e-12)
        assert reached <= bound(eta, step_size, initial, problem, start)


def test_a_factor_four_is_lost_where_steps_are_short():
    """S_0 → ∞: steps of α/√S_0 make Σ‖∇f‖² = Δ√S_0/α, and C is four times that.

    Kills: a bound that holds because it says nothing.
    """
    problem, start = GemanMcClure(np.ones(1)), np.ones(1)
    shares = []
    for initial in (1e4, 1e6):
        optimizer, point, state, total = fb.adagrad_norm(1.0, initial), start, {}, 0.0
        for _ in range(int(10 * initial**0.5)):
            gradient = problem.gradient(point)
            total += squared_norm(gradient)
            point, state = optimizer.update(point, gradient, state)
        assert squared_norm(problem.gradient(point)) < 1e-12
        shares.append(total / bound(0.0, 1.0, initial, problem, start))
    assert 0.19 < shares[0] < shares[1] < 0.25 < 1.03 * shares[1]


@dataclass(frozen=True)
class Sufficient(noisy):
    """Just as many examples as the norm test's condition asks for, from the exact gradient."""

    eta: float = 0.5

    def estimate(self, objective, point, turn):
        allowed = self.eta**2 * squared_norm(objective.gradient(point))
        turn.batch_size = math.ceil(self.sigma**2 * point.size / allowed)
        return super().estimate(objective, point, turn)


@pytest.mark.parametrize(
    ("step_size", "eta", "least", "rounds"),
    [
        (0.3, 0.5, 0.1, 600),
        (0.3, 0.9, 0.05, 600),
        (1.0, 0.5, 0.01, 600),
        (1.0, 0.9, 0.005, 600),
        (3.0, 0.5, 1e-4, 600),
        pytest.param(1.0, 0.5, 0.01, 20_000, marks=pytest.mark.slow),
        pytest.param(3.0, 0.5, 1e-4, 20_000, marks=pytest.mark.slow),
    ],
)
def test_the_bound_holds_where_its_condition_does(step_size, eta, least, rounds):
    """Sizes from the exact norm test: Σ‖∇f‖² ≤ C for each of three seeds, which is more than C
    promises for a single one; and ``least`` of C is reached.

    Where (Lα)² is beside S_0 = 100, C is loose: it grows as (Lα)⁴/S_0. Kills: a smaller C.
    """
    limit = bound(eta, step_size, SAFE)
    for seed in range(3):
        oracle = Sufficient(30.0, eta)
        run = follow(None, step_size, rounds, estimator=oracle, initial=SAFE, seed=seed)
        ratios = run.noise_ratios(30.0)
        assert (ratios <= eta * (1 + 1e-12)).all() and (ratios > 0.99 * eta).all()
        share = run.squares.sum() / limit
        assert least <= share <= 1


@pytest.mark.parametrize(
    ("step_size", "rounds"), [(0.3, 3000), pytest.param(1.0, 20_000, marks=pytest.mark.slow)]
)
def test_constant_batches_leave_the_bound_behind(step_size, rounds):
    """(1/K)Σ‖∇f‖² > 2C/K for the same S_0 and a large K, so C tells the two apart.

    Kills: a C that no run could exceed.
    """
    limit = bound(0.5, step_size, SAFE)
    for seed in range(2):
        oracle = noisy(16.0)
        run = follow(
            fb.constant_batch(2), step_size, rounds, estimator=oracle, initial=SAFE, seed=seed
        )
        total = np.cumsum(run.squares)
        assert total[-1] > 2 * limit > 10 * total[10]


@pytest.mark.parametrize("eta", [0.5, 0.9])
def test_what_the_norm_tests_estimates_are_worth(eta):
    """Its runs exceed η in some rounds, and stay below C for the largest ratio that they met.

    The theorem is about a ratio that is known beforehand, so this is an experiment.
    """
    for seed in range(3):
        rule = fb.norm_test(eta, LARGEST, 8)
        run = follow(rule, 0.3, 1000, estimator=noisy(0.5), initial=SAFE, seed=seed)
        ratios = run.noise_ratios(0.5)
        share = run.squares.sum() / bound(ratios.max(), 0.3, SAFE)
        assert 0 < np.mean(ratios > eta) < 0.2 and ratios.max() < 3 * eta
        assert 0.01 < share <= 1
