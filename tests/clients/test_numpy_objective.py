"""Objectives from plain functions: a capability is a function that was given."""

import numpy as np
import pytest

import fedbias as fb
from clients import NumpyObjective
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.objectives import capabilities
from fedbias.problems import LogisticLoss, Squares

SQUARES = Squares(np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), np.array([1.0, 2.0, 0.0]))


def made(*names, **changes):
    functions = {
        "gradient": lambda x, batch: SQUARES.gradient(x, batch),
        "hvp": lambda x, v, batch: SQUARES.hvp(x, v, batch),
    }
    chosen = {name: functions[name] for name in names} | {"dim": 2, "size": 3} | changes
    return NumpyObjective(lambda x, batch: np.float32(SQUARES.loss(x, batch)), **chosen)


@pytest.mark.parametrize("names", [(), ("gradient",), ("hvp",), ("gradient", "hvp")])
def test_capabilities_are_the_functions_given(names):
    """Kills: a method that is always there and fails when it is called."""
    objective = made(*names)
    assert isinstance(objective, fb.Objective) and capabilities(objective) == set(names)
    assert (objective.dim, objective.size) == (2, 3)
    for name in {"gradient", "hvp"} - set(names):
        assert not hasattr(objective, name)


def test_the_functions_get_the_batch():
    """Kills: a batch left out, point and vector swapped, a loss that is a numpy scalar."""
    objective, x, v = made("gradient", "hvp"), np.array([1.0, -1.0]), np.array([0.5, 2.0])
    batch = np.array([1, 1, 2])
    assert type(objective.loss(x)) is float
    # residuals at (1, −1) are 0, −4 and 0
    assert objective.loss(x) == np.float32(8 / 3) and objective.loss(x, batch) == np.float32(16 / 3)
    assert objective.gradient(x).tolist() == [0, -8 / 3]
    assert objective.gradient(x, batch).tolist() == [0, -16 / 3]
    assert objective.gradient(x, batch=batch).tolist() == [0, -16 / 3]
    np.testing.assert_allclose(objective.hvp(x, v), [3 / 3, 10.5 / 3], rtol=1e-15)
    np.testing.assert_allclose(objective.hvp(x, v, batch), [2.5 / 3, 18.5 / 3], rtol=1e-15)


def test_it_answers_plans_as_the_closed_form_does():
    """Kills: a capability that estimators do not find."""
    plan = fb.Plan(
        *(0, 3, 0, -1, fb.meta(0.1), None, fb.half(), fb.no_feedback(), np.array([0.5, 0.25]))
    )
    ours, _ = respond(made("gradient", "hvp"), plan, Ledger())
    theirs, _ = respond(SQUARES, plan, Ledger())
    assert bytes(ours.packet) == bytes(theirs.packet) and ours.computed == 9
    with pytest.raises(fb.MissingCapability, match="meta.* needs hvp, which NumpyObjective"):
        respond(made("gradient"), plan, Ledger())


@pytest.mark.parametrize("field", ["dim", "size"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, None, "3"])
def test_impossible_sizes(field, value):
    """Kills: a check that is dropped."""
    with pytest.raises(ValueError, match=f"NumpyObjective: {field} must be a whole number >= 1"):
        made(**{field: value})


def test_linear_and_logistic_models():
    """Kills: a ridge that is not passed on, the one model instead of the other."""
    rows, signs = SQUARES.features, np.array([1.0, -1.0, 1.0])
    linear = NumpyObjective.linear(rows, SQUARES.targets, ridge=0.5)
    assert isinstance(linear, Squares) and linear.ridge == 0.5
    # ½·16/3 + ½·0.5·2
    assert linear.loss(np.array([1.0, -1.0])) == pytest.approx(8 / 3 + 0.5, rel=1e-15)
    logistic = NumpyObjective.logistic(rows, signs, ridge=2.0)
    assert isinstance(logistic, LogisticLoss) and logistic.ridge == 2
    assert logistic.loss(np.zeros(2)) == pytest.approx(np.log(2), rel=1e-15)
    assert NumpyObjective.linear(rows, signs).ridge == 0
    assert NumpyObjective.logistic(rows, signs).ridge == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["linear", "logistic"])
@pytest.mark.parametrize("what", ["trace", "along", "variances"])
def test_the_models_know_how_their_gradients_spread(kind, what, dtype):
    """In closed form, against the gradients one by one. Kills: a model without the capability, a
    ridge that spreads or is left out of ⟨g_i, ḡ⟩.
    """
    rng = np.random.default_rng(4)
    rows, signs = rng.standard_normal((9, 3)), rng.choice([-1.0, 1.0], 9)
    point, batch = np.array([0.5, -1.0, 2.0]), np.array([8, 2, 2, 5])
    exact = getattr(NumpyObjective, kind)(rows, signs, ridge=0.7)
    objective = getattr(NumpyObjective, kind)(rows.astype(dtype), signs.astype(dtype), ridge=0.7)
    assert "per_example_statistics" in capabilities(objective)
    found = objective.per_example_statistics(point.astype(dtype), batch, what)
    gradients = np.stack([exact.gradient(point, np.array([i])) for i in batch])
    mean, spread = gradients.mean(axis=0), gradients.var(axis=0, ddof=1)
    tolerance = {np.float32: 1e-5, np.float64: 1e-12}[dtype]
    np.testing.assert_allclose(found.gradient, mean, rtol=tolerance)
    assert found.gradient.dtype == dtype
    assert found.trace == pytest.approx(spread.sum(), rel=tolerance)
    if what == "along":
        assert found.along == pytest.approx(np.var(gradients @ mean, ddof=1), rel=tolerance)
    if what == "variances":
        np.testing.assert_allclose(found.variances, spread, rtol=tolerance)


def test_plain_functions_do_not_know_how_their_gradients_spread():
    """A test that measures is refused in a sentence. Kills: an AttributeError."""
    objective = made("gradient")
    assert not hasattr(objective, "per_example_statistics")
    with pytest.raises(ValueError, match="norm_test.* needs per_example_statistics, which Numpy"):
        fb.run(
            *([objective], fb.gradient_descent(0.1), np.zeros(2), 1),
            estimator=fb.minibatch(),
            batch_size=fb.norm_test(eta=0.5, maximum=3),
        )
