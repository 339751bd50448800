"""One contract for every server step; each one by hand; four against torch."""

import math

import numpy as np
import pytest

import fedbias as fb

OPTIMIZERS = [
    fb.gradient_descent(1.0),
    fb.heavy_ball(1.0, 0.5),
    fb.heavy_ball(1.0, 1.0),
    fb.polyak(1.0, 0.5),
    fb.nesterov(1.0, 0.5),
    fb.adagrad(1.0),
    fb.adagrad_norm(1.0),
    fb.adagrad_norm(1.0, 0.25),
    fb.adam(1.0, 0.5, 0.5, 0.5),
]
each = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def frozen(arrays):
    """Read-only copies: whoever writes into them raises."""
    copies = {name: array.copy() for name, array in arrays.items()}
    for array in copies.values():
        array.flags.writeable = False
    return copies


def trajectory(optimizer, gradients, start=0.0, dtype=np.float64):
    """The points x_1, x_2, … for given gradients."""
    point, state, points = np.full(np.shape(gradients[0]), start, dtype), {}, []
    for gradient in gradients:
        point, state = optimizer.update(point, np.asarray(gradient, dtype), state)
        points.append(point)
    return points


@each
@each_dtype
def test_steps_are_pure(optimizer, dtype):
    """Kills: a step that writes into its input, a state with anything but arrays, a silent
    conversion to float64, a step that depends on what was not passed."""
    rng = np.random.default_rng(0)
    point, state = rng.standard_normal(5).astype(dtype), {}
    for _ in range(6):
        given = frozen({"point": point, "gradient": rng.standard_normal(5).astype(dtype)})
        before = frozen(state)
        kept = {name: array.copy() for name, array in before.items()}
        point, state = optimizer.update(given["point"], given["gradient"], before)
        again, same = optimizer.update(given["point"], given["gradient"], kept)
        assert again.tobytes() == point.tobytes()
        assert point.dtype == dtype and point.shape == (5,) and point is not given["point"]
        assert before.keys() == kept.keys() and state.keys() == same.keys()
        for name, array in state.items():
            assert type(array) is np.ndarray and array.ndim == 1
            assert array.tobytes() == same[name].tobytes()
            assert array.size != 5 or array.dtype == dtype
        assert all(np.array_equal(before[name], kept[name]) for name in before)


@each
@each_dtype
def test_steps_go_downhill(optimizer, dtype):
    """A quadratic with curvatures 1 and 1/4 is solved. Kills: the sign of the step."""
    curvature = np.array([1, 0.25], dtype)
    point, state = np.array([3, -2], dtype), {}
    for _ in range(400):
        point, state = optimizer.update(point, curvature * point, state)
    assert np.abs(point).max() < 1e-3


@each
@each_dtype
def test_zero_gradients_are_harmless(optimizer, dtype):
    """Also 0/0 before the first gradient. Kills: NaN from √0, movement out of nothing."""
    zero, one = np.zeros(3, dtype), np.array([1, 0, -1], dtype)
    points = trajectory(optimizer, [zero, zero, one, zero, one, zero], 2.0, dtype)
    assert points[0].tolist() == points[1].tolist() == [2, 2, 2]
    assert all(np.isfinite(point).all() for point in points)
    assert all(point[1] == 2 for point in points)
    assert points[2][0] < 2 < points[2][2]


def test_gradient_descent_by_hand():
    np.testing.assert_array_equal(trajectory(fb.gradient_descent(0.5), [2, 4, -2]), [-1, -3, -2])


def test_heavy_ball_by_hand():
    """γ = 1/2, β = 1/4; v = 8, then ¾·8 − ¼·4 = 5, then ¾·5 + ¼·16 = 7.75: dyadic, so exact.

    Kills: the sign of the momentum, β and 1 − β swapped, a damped first buffer.
    """
    points = trajectory(fb.heavy_ball(0.5, 0.25), [8, -4, 16])
    np.testing.assert_array_equal(points, [-4, -6.5, -10.375])
    state = fb.heavy_ball(0.5, 0.25).update(np.zeros(1), np.array([8.0]), {})[1]
    assert {name: array.tolist() for name, array in state.items()} == {"velocity": [8]}


def test_polyak_by_hand():
    """η = γ = 1/2: 0 − 1; −1 − 2 + ½(−1); −3.5 + 1 + ½(−2.5). Kills: momentum on the gradient."""
    points = trajectory(fb.polyak(0.5, 0.5), [2, 4, -2])
    np.testing.assert_array_equal(points, [-1, -3.5, -3.75])


def test_nesterov_by_hand():
    """η = γ = 1/2, y = −1, −3.5, −3.75. Kills: extrapolation from x instead of y."""
    points = trajectory(fb.nesterov(0.5, 0.5), [2, 4, -2])
    np.testing.assert_array_equal(points, [-1.5, -4.75, -3.875])


def test_adagrad_by_hand():
    """S = 9, 25 and 16, 16: both use the current gradient. Kills: S before the step, one S."""
    points = trajectory(fb.adagrad(0.5), [[3.0, -4.0], [4.0, 0.0]])
    np.testing.assert_array_equal(points[0], [-0.5, 0.5])
    np.testing.assert_allclose(points[1], [-0.9, 0.5], rtol=1e-15)


def test_adagrad_norm_by_hand():
    """S = 25, then 25 + 144. Kills: one S per coordinate, an S_0 that is ignored."""
    points = trajectory(fb.adagrad_norm(0.5), [[3.0, -4.0], [0.0, 12.0]])
    np.testing.assert_allclose(points[0], [-0.3, 0.4], rtol=1e-15)
    np.testing.assert_allclose(points[1], [-0.3, 0.4 - 6 / 13], rtol=1e-14)
    points = trajectory(fb.adagrad_norm(0.5, 144), [[3.0, -4.0]])
    np.testing.assert_allclose(points[0], [-1.5 / 13, 2 / 13], rtol=1e-15)


@pytest.mark.parametrize("initial", [0.0, 7.0])
def test_adagrad_norm_with_a_constant_gradient(initial):
    """Step k has length α/√(k + S_0/G²): paper C. Kills: a sum that is a mean."""
    gradient = np.array([1.0, 2.0, -2.0])  # G = 3
    points = [np.zeros(3), *trajectory(fb.adagrad_norm(0.7, initial), [gradient] * 50)]
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    expected = 0.7 / np.sqrt(np.arange(1, 51) + initial / 9)
    np.testing.assert_allclose(lengths, expected, rtol=1e-12)


def test_adagrad_norm_counts_in_double_precision():
    """100 gradients of 1 after one of 10^4, in float32. Kills: an S that stops growing."""
    state = fb.adagrad_norm(1.0).update(np.zeros(1, np.float32), np.float32([1e4]), {})[1]
    for _ in range(100):
        point, state = fb.adagrad_norm(1.0).update(np.zeros(1, np.float32), np.float32([1]), state)
    assert state["squares"].tolist() == [1e8 + 100] and point.dtype == np.float32


def test_adam_by_hand():
    """β₁ = β₂ = 1/2, g = 2, then −1. Corrected: m̂ = 2, 0; v̂ = 4, 2. Kills: no correction."""
    points = trajectory(fb.adam(0.5, 0.5, 0.5, 1e-300), [2, -1])
    np.testing.assert_allclose(points, [-0.5, -0.5], rtol=1e-15)
    points = trajectory(fb.adam(0.5, 0.5, 0.5, 2.0), [2, 1])  # m̂ = 2, 4/3; v̂ = 4, 2; ε = 2
    np.testing.assert_allclose(points, [-0.25, -0.25 - 2 / 3 / (math.sqrt(2) + 2)], rtol=1e-14)


@each_dtype
@pytest.mark.parametrize(
    "same", [fb.heavy_ball(0.3, 1), fb.polyak(0.3, 0), fb.nesterov(0.3, 0)], ids=repr
)
def test_without_momentum_all_are_gradient_descent(same, dtype):
    """Bit for bit. Kills: β = 1 that is not plain descent."""
    gradients = np.random.default_rng(0).standard_normal((20, 6))
    plain = trajectory(fb.gradient_descent(0.3), gradients, 1.0, dtype)
    points = trajectory(same, gradients, 1.0, dtype)
    assert np.array(points).tobytes() == np.array(plain).tobytes()


CURVATURE = np.random.default_rng(1).uniform(0.1, 1, 40)
SOLUTION = np.random.default_rng(2).standard_normal(40)


def both(ours, theirs, dtype, steps):
    """Our points and torch's on one quadratic, and the unit in the last place of the largest."""
    torch = pytest.importorskip("torch")
    curvature, solution = CURVATURE.astype(dtype), SOLUTION.astype(dtype)
    point, state, points, expected = np.zeros(40, dtype), {}, [], []
    tensor = torch.zeros(40, dtype=getattr(torch, np.dtype(dtype).name))
    optimizer = theirs(torch.optim, [tensor])
    for _ in range(steps):
        point, state = ours.update(point, curvature * (point - solution), state)
        tensor.grad = torch.from_numpy(curvature * (tensor.numpy() - solution))
        optimizer.step()
        points.append(point)
        expected.append(tensor.numpy().copy())
    units = np.spacing(np.abs(expected).max(axis=1, keepdims=True))
    assert units.dtype == point.dtype == dtype
    return np.array(points), np.array(expected), units


@each_dtype
@pytest.mark.parametrize("beta", [1.0, 0.5, 0.25, 0.1])
def test_heavy_ball_is_torch_sgd(beta, dtype):
    """Within 4 units in the last place of ‖x‖_∞ over 50 steps: torch fuses multiply-adds.

    Kills: dampening that differs, v_0 ≠ g_0.
    """
    ours, theirs, unit = both(
        fb.heavy_ball(0.3, beta),
        lambda optim, x: optim.SGD(x, lr=0.3, momentum=1 - beta, dampening=1 - beta),
        dtype,
        50,
    )
    assert (np.abs(ours - theirs) <= 4 * unit).all()


@each_dtype
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (fb.adagrad(0.3), lambda optim, x: optim.Adagrad(x, lr=0.3, eps=0)),
        (fb.adam(0.01), lambda optim, x: optim.Adam(x, lr=0.01)),
        (
            fb.adam(0.1, 0.5, 0.25, 0.125),
            lambda optim, x: optim.Adam(x, lr=0.1, betas=(0.5, 0.25), eps=0.125),
        ),
        (fb.polyak(0.3, 0.9), lambda optim, x: optim.SGD(x, lr=0.3, momentum=0.9)),
    ],
    ids=["adagrad", "adam", "adam with other settings", "polyak"],
)
def test_the_others_against_torch(ours, theirs, dtype):
    """100 steps within 40 units in the last place; 8 are seen. Kills: ε in the root, β₁ for β₂."""
    points, expected, unit = both(ours, theirs, dtype, 100)
    assert (np.abs(points - expected) <= 40 * unit).all()


@pytest.mark.parametrize("name", ["gradient_descent", "adagrad", "adagrad_norm", "adam"])
def test_numpy_settings_do_not_promote(name):
    """A float64 setting from np.linspace leaves a float32 model float32."""
    optimizer = getattr(fb, name)(np.float64(0.1))
    point, state = np.zeros(2, np.float32), {}
    for _ in range(2):
        point, state = optimizer.update(point, np.ones(2, np.float32), state)
    assert point.dtype == np.float32


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fb.gradient_descent(0), "gradient_descent: step_size must be a number > 0, not 0"),
        (lambda: fb.gradient_descent(math.inf), "step_size must be a number > 0, not inf"),
        (lambda: fb.heavy_ball(-1, 0.5), "heavy_ball: step_size must be a number > 0, not -1"),
        (lambda: fb.heavy_ball(1, 0), "heavy_ball: beta must be a number > 0 and <= 1, not 0"),
        (lambda: fb.heavy_ball(1, 1.1), "heavy_ball: beta must be a number > 0 and <= 1, not 1.1"),
        (lambda: fb.heavy_ball(1, True), "heavy_ball: beta must be a number > 0 and <= 1, not T"),
        (lambda: fb.polyak(1, 1), "polyak: momentum must be a number >= 0 and < 1, not 1"),
        (lambda: fb.polyak("1", 0), "polyak: step_size must be a number > 0, not '1'"),
        (
            lambda: fb.nesterov(1, -0.1),
            "nesterov: momentum must be a number >= 0 and < 1, not -0.1",
        ),
        (lambda: fb.nesterov(math.nan, 0), "nesterov: step_size must be a number > 0, not nan"),
        (lambda: fb.adagrad(None), "adagrad: step_size must be a number > 0, not None"),
        (lambda: fb.adagrad_norm(1, -1), "adagrad_norm: initial must be a number >= 0, not -1"),
        (lambda: fb.adam(beta1=1), "adam: beta1 must be a number >= 0 and < 1, not 1"),
        (lambda: fb.adam(beta2=-0.5), "adam: beta2 must be a number >= 0 and < 1, not -0.5"),
        (lambda: fb.adam(epsilon=0), "adam: epsilon must be a number > 0, not 0"),
    ],
)
def test_impossible_settings(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert sentence in str(caught.value)
