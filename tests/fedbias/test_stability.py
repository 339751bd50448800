"""How large a step may be on a quadratic: limits by hand, by the recursion itself, and by runs."""

import math

import numpy as np
import pytest

import fedbias as fb
from fedbias.problems import Squares
from fedbias.theory import quadratic_radius

BETAS = (0.05, 0.2, 0.5, 0.9, 1.0)
MOMENTA = (0.0, 0.3, 0.6, 0.9)
LINEAR = [
    fb.gradient_descent(0.3),
    *(fb.heavy_ball(0.3, beta) for beta in BETAS),
    *(fb.polyak(0.3, momentum) for momentum in MOMENTA),
    *(fb.nesterov(0.3, momentum) for momentum in MOMENTA),
]
NOT_LINEAR = [fb.adagrad(0.1), fb.adagrad_norm(0.1), fb.adam()]
each = pytest.mark.parametrize("optimizer", LINEAR, ids=repr)


@each
def test_the_limit_is_where_the_recursion_has_radius_one(optimizer):
    """Two-sided, from the optimizer's own update. Kills: a limit of another momentum, a step that
    is not the one that the limit is of.
    """
    limit = optimizer.stability
    assert quadratic_radius(optimizer, limit) == pytest.approx(1, abs=1e-9)
    assert quadratic_radius(optimizer, limit * (1 - 1e-3)) < 1 - 1e-5
    assert quadratic_radius(optimizer, limit * (1 + 1e-3)) > 1 + 1e-5
    inside = np.linspace(0.01, 0.99, 50) * limit
    assert max(quadratic_radius(optimizer, product) for product in inside) < 1
    assert min(quadratic_radius(optimizer, product) for product in (-0.01, 2 * limit)) > 1


@pytest.mark.parametrize(
    ("optimizer", "limit"),
    [
        (fb.gradient_descent(0.7), 2),
        (fb.heavy_ball(0.7, 1.0), 2),
        (fb.heavy_ball(0.7, 0.5), 6),
        (fb.heavy_ball(0.7, 0.1), 38),
        (fb.polyak(0.7, 0.0), 2),
        (fb.polyak(0.7, 0.5), 3),
        (fb.nesterov(0.7, 0.0), 2),
        (fb.nesterov(0.7, 0.5), 1.5),
    ],
    ids=repr,
)
def test_limits_by_hand(optimizer, limit):
    """2; 2(2−β)/β; 2(1+γ); 2(1+γ)/(1+2γ). Kills: a damped buffer taken for an undamped one."""
    assert optimizer.stability == pytest.approx(limit, rel=1e-15)


@pytest.mark.parametrize("product", [0.1, 0.9, 1.0, 1.7, 2.6])
def test_the_radius_by_hand(product):
    """|1 − ηλ| of plain steps; of momentum the larger root of z² − tr z + det = 0. Kills: a matrix
    with rows for columns, a curvature that is not divided by the step size.
    """
    assert quadratic_radius(fb.gradient_descent(0.3), product) == pytest.approx(abs(1 - product))
    trace, root = 2 - 0.25 - 0.25 * product, 1 - 0.25  # heavy_ball, β = 1/4: det = 1 − β
    roots = np.roots([1, -trace, root])
    found = quadratic_radius(fb.heavy_ball(5.0, 0.25), product)
    assert found == pytest.approx(np.abs(roots).max(), rel=1e-7)
    if trace**2 < 4 * root:
        assert found == pytest.approx(math.sqrt(root))


@each
def test_the_iterates_go_at_that_rate(optimizer):
    """400 steps on λx²/2, λ = 4/5 and 6/5 of the limit. Kills: a rate of another recursion."""
    for share in (0.8, 1.2):
        product = share * optimizer.stability
        point, state, lengths = np.ones(1), {}, []
        for _ in range(400):
            gradient = product / optimizer.step_size * point
            point, state = optimizer.update(point, gradient, state)
            lengths.append(abs(point[0]))
        if lengths[-1] == 0:  # plain steps end exactly
            continue
        rate = (max(lengths[-20:]) / max(lengths[80:100])) ** (1 / 300)
        assert rate == pytest.approx(quadratic_radius(optimizer, product), rel=5e-3)


@pytest.mark.parametrize("optimizer", NOT_LINEAR, ids=lambda o: o.name)
def test_adaptive_steps_have_no_limit(optimizer):
    """Kills: a number for what is not linear."""
    assert optimizer.stability is None
    with pytest.raises(
        ValueError, match="does not step linearly: use gradient_descent, heavy_ball"
    ):
        quadratic_radius(optimizer, 1.0)
    measured, rule = fb.lanczos(), fb.by_sharpness(1.0)
    with pytest.raises(ValueError, match=r"knows no limit for .*: use gradient_descent, heavy_bal"):
        run(optimizer, sharpness=measured, steering=rule)
    history = run(optimizer, 2, sharpness=measured)  # measured all the same
    assert all(math.isnan(outcome.stability_limit) for outcome in history.outcomes)
    assert len(history.readings) == 1


@pytest.mark.parametrize(
    "estimator",
    [
        fb.local_steps(1, 0.1),
        fb.normalised(),
        fb.meta(0.1),
        fb.clipped(1.0, fb.normalised()),
        fb.by_capability(gradient=fb.local_steps(2, 0.1), loss=fb.two_point(2, 1e-3)),
    ],
    ids=repr,
)
def test_what_is_no_gradient_has_no_limit(estimator):
    """A step along what is no estimate of ∇f: its size times λ is no ηλ. Kills: the limit of plain
    steps in the record of five local ones, a rule that sizes these.
    """
    settings = {"estimator": estimator, "sharpness": fb.lanczos()}
    history = run(fb.gradient_descent(0.1), 2, **settings)
    assert all(math.isnan(outcome.stability_limit) for outcome in history.outcomes)
    assert len(history.readings) == 1
    with pytest.raises(
        ValueError, match=r"by_sharpness\(c=1.0\) sizes steps along gradients, and "
    ):
        run(fb.gradient_descent(0.1), 2, steering=fb.by_sharpness(1.0), **settings)


@pytest.mark.parametrize(
    "estimator",
    [
        fb.exact(),
        fb.minibatch(),
        fb.clipped(1.0),
        fb.two_point(2, 1e-3),
        fb.forward_gradient(2),
        fb.by_capability(gradient=fb.clipped(2.0), loss=fb.two_point(2, 1e-3)),
    ],
    ids=repr,
)
def test_a_biased_gradient_is_one(estimator):
    """Kills: a refusal of everything but exact()."""
    steered = {"sharpness": fb.lanczos(), "steering": fb.by_sharpness(0.1)}
    history = run(fb.gradient_descent(0.1), 2, estimator=estimator, **steered)
    assert history.outcomes[0].stability_limit == 2 / history.outcomes[0].step_size


# Runs on a quadratic ------------------------------------------------------------------------------

CURVATURES = np.array([8.0, 3.0, 1.0, 0.5])
BOWL = Squares(np.diag(np.sqrt(4 * CURVATURES)), np.zeros(4))


def run(optimizer, rounds=200, c=None, **settings):
    if c is not None:
        exact = fb.lanczos(every=100, tolerance=0)  # in four dimensions
        settings = {"sharpness": exact, "steering": fb.by_sharpness(c)} | settings
    return fb.run([BOWL], optimizer, np.ones(4), rounds, **settings)


@each
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_steered_run_converges_up_to_the_limit(optimizer, share):
    """Momentum beyond ηλ = 2 as well. Kills: 2 for every optimizer, half of the limit's steps."""
    c = share * optimizer.stability
    history = run(optimizer, 300, c)
    sizes = [outcome.step_size for outcome in history.outcomes]
    limits = [outcome.stability_limit for outcome in history.outcomes]
    np.testing.assert_allclose(sizes, c / 8, rtol=1e-12)
    np.testing.assert_allclose(limits, optimizer.stability * 8 / c, rtol=1e-12)
    assert history.losses[-1] < 1e-4 * history.losses[0]


@each
@pytest.mark.parametrize("share", [1.0, 1.1])
def test_a_rule_at_or_beyond_the_limit_is_refused(optimizer, share):
    """Such a constant step diverges, unless it is at the limit. Kills: ≤ for <, no check."""
    c = share * optimizer.stability
    with pytest.raises(ValueError, match="by_sharpness: c must be > 0 and < .* stops being stable"):
        run(optimizer, c=c)
    if share > 1:
        constant = type(optimizer)(**{**vars(optimizer), "step_size": c / 8})
        assert run(constant, 100).losses[-1] > 1e3


def test_plain_steps_at_the_edge_by_hand():
    """ηλ = 1.9: the sharp direction shrinks by exactly 0.9 and changes sign; ηλ = 2.1, unmeasured:
    it grows by 1.1. Kills: a c that is scaled.
    """
    calm = run(fb.gradient_descent(1e-3), 60, 1.9).points[:, 0]
    np.testing.assert_allclose(calm[1:] / calm[:-1], -0.9, rtol=1e-12)
    wild = run(fb.gradient_descent(2.1 / 8), 60).points[:, 0]
    np.testing.assert_allclose(wild[1:] / wild[:-1], -1.1, rtol=1e-12)


def test_momentum_between_two_and_its_own_limit():
    """β = 1/2, 2 < c = 5.5 < 6 converges where plain steps of this size diverge."""
    assert run(fb.heavy_ball(1e-3, 0.5), 400, 5.5).losses[-1] < 1e-8
    assert run(fb.gradient_descent(5.5 / 8), 40).losses[-1] > 1e8
