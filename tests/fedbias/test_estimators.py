"""What a client computes: by hand on two examples, in its limits, and on average."""

import math

import numpy as np
import pytest

import fedbias as fb
from fedbias.client import respond
from fedbias.estimators import clip
from fedbias.ledger import Ledger
from fedbias.objectives import capabilities
from fedbias.problems import LogisticLoss, Squares
from fedbias.rounds import Plan
from fedbias.turn import Turn

# ∇f = Aᵀ(Ax − b)/2 with A = diag(1, 2), b = (1, 2): at (7, 3) the residual is (6, 4), the
# gradient (3, 4) of length 5, the loss 13; the Hessian is diag(1/2, 2). All numbers are dyadic.
TWO = Squares(np.diag([1.0, 2.0]), np.array([1.0, 2.0]))
POINT = np.array([7.0, 3.0])
POINT.flags.writeable = False


class Recording(Squares):
    """Least squares that remembers which examples it was asked for."""

    def __init__(self, size, dim=2, seed=0):
        rng = np.random.default_rng(seed)
        super().__init__(rng.standard_normal((size, dim)), rng.standard_normal(size))
        object.__setattr__(self, "batches", [])

    def gradient(self, point, batch=None):
        self.batches.append(batch)
        return super().gradient(point, batch)


class Blind:
    """Only a loss, like a device that cannot back-propagate."""

    dim, size = 2, 1

    def loss(self, point, batch=None):
        return 0.0


class NoCurvature(Blind):
    def gradient(self, point, batch=None):
        return point


def turn(batch_size=None, *, round=0, client=0, seed=0, memory=None):
    return Turn(seed, round, client, batch_size, memory or {})


def estimate(estimator, objective=TWO, point=POINT, at=None):
    return estimator.estimate(objective, point, at or turn())


BY_HAND = {
    "exact": (fb.exact(), [3, 4], 2),
    "minibatch of everything": (fb.minibatch(), [3, 4], 2),
    "reshuffled everything": (fb.minibatch("reshuffle"), [3, 4], 2),
    "clipped": (fb.clipped(2.5), [1.5, 2], 2),
    "clipped at its length": (fb.clipped(5), [3, 4], 2),
    "not clipped": (fb.clipped(6), [3, 4], 2),
    "infinite clip": (fb.clipped(math.inf), [3, 4], 2),
    "normalised": (fb.normalised(), [3 / 5, 4 / 5], 2),
    "clipped twice": (fb.clipped(1.25, fb.clipped(2.5)), [0.75, 1], 2),
    # y = x − g/2 = (5.5, 1), ∇f(y) = (2.25, 0), times I − H/2 = diag(3/4, 0)
    "meta": (fb.meta(0.5), [1.6875, 0], 6),
    "meta without a step": (fb.meta(0), [3, 4], 6),
    "one local step": (fb.local_steps(1, 0.5), [1.5, 2], 2),
    # (7, 3) → (5.5, 1) → (4.375, 1)
    "two local steps": (fb.local_steps(2, 0.5), [2.625, 2], 4),
    # v = (3, 4), then (1.5, 2) + (2.25, 0): (5.5, 1) → (3.625, 0)
    "with momentum": (fb.local_steps(2, 0.5, 0.5), [3.375, 3], 4),
    # (7, 3) → clip (1.5, 2)/2 → (6.25, 2): residual (5.25, 2), gradient (2.625, 2)
    "clipped inside": (fb.local_steps(1, 0.5, 0, fb.clipped(2.5)), [0.75, 1], 2),
    "clipped outside": (fb.clipped(1.25, fb.local_steps(1, 0.5)), [0.75, 1], 2),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case):
    """Exactly. Kills: a sign, a factor, an order of steps, an inner estimator left out."""
    estimator, vector, examples = BY_HAND[case]
    at = turn()
    result = estimate(estimator, at=at)
    np.testing.assert_array_equal(result.vector, vector)
    assert result.loss == 13  # always at the plan's point
    assert at.examples == examples and POINT.tolist() == [7, 3]


def test_local_momentum_lives_on():
    """Kills: a velocity that starts afresh in every round, or is kept without momentum."""
    at = turn()
    estimate(fb.local_steps(2, 0.5, 0.5), at=at)
    (velocity,) = at.memory.values()
    np.testing.assert_array_equal(velocity, [3.75, 2])
    again = estimate(fb.local_steps(1, 0.5, 0.5), at=turn(memory=at.memory))
    np.testing.assert_array_equal(again.vector, [(3.75 / 2 + 3) / 2, (1 + 4) / 2])
    at = turn()
    estimate(fb.local_steps(2, 0.5), at=at)
    assert at.memory == {}


def test_meta_is_the_gradient_of_the_adapted_loss():
    """Against central differences of F(x) = f(x − α∇f(x)). Kills: first-order MAML."""
    rng, alpha, h = np.random.default_rng(0), 0.7, 1e-6
    objective = LogisticLoss(rng.standard_normal((30, 4)), rng.choice([-1.0, 1.0], 30), 0.1)

    def adapted(x):
        return objective.loss(x - alpha * objective.gradient(x))

    for _ in range(5):
        x = rng.standard_normal(4)
        slopes = [(adapted(x + h * e) - adapted(x - h * e)) / (2 * h) for e in np.eye(4)]
        computed = estimate(fb.meta(alpha), objective, x).vector
        np.testing.assert_allclose(computed, slopes, atol=1e-8)
        assert np.abs(computed - objective.gradient(x - alpha * objective.gradient(x))).max() > 1e-3


@pytest.mark.parametrize(
    "estimator",
    [fb.clipped(math.inf), fb.minibatch(), fb.minibatch("reshuffle"), fb.clipped(1e9)],
    ids=repr,
)
def test_limits_are_the_plain_gradient(estimator):
    """Infinite clip, full batch: bit for bit. Kills: a rescaling where nothing is clipped."""
    objective = fb.LeastSquares.random(5, 10, 0).objectives[0]
    point = np.random.default_rng(0).standard_normal(5)
    plain = estimate(fb.exact(), objective, point).vector
    assert estimate(estimator, objective, point).vector.tobytes() == plain.tobytes()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_local_steps_with_a_server_step_of_one_is_fedavg(momentum):
    """Bit for bit against a hand-written FedAvg. Kills: a pseudo-gradient divided by η or H."""
    problem, start = fb.LeastSquares.random(4, 10, 0, clients=3), np.ones(4)
    history = fb.run(
        problem.objectives,
        fb.gradient_descent(1.0),
        start,
        5,
        estimator=fb.local_steps(4, 0.1, momentum),
    )
    point, velocities = start, [np.zeros(4)] * 3
    for expected in history.points[1:]:
        models = []
        for client, objective in enumerate(problem.objectives):
            local = point
            for _ in range(4):
                velocities[client] = momentum * velocities[client] + objective.gradient(local)
                local = local - 0.1 * velocities[client]
            models.append(local)
        moved = point - sum(point - local for local in models) / 3
        np.testing.assert_allclose(moved, np.mean(models, axis=0), atol=1e-14)
        point = moved
        assert point.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (kind, size)
        for kind, power in ((np.float32, 30), (np.float64, 200))
        for size in (10.0**-power, 1.0, 10.0**power)
    ],
)
def test_clip_and_normalise_at_any_size(dtype, size):
    """Also where ‖g‖² is beyond the dtype: exploding gradients are what clipping is for."""
    slope = np.full(4, size, dtype)

    class Linear(Blind):
        def gradient(self, point, batch=None):
            return slope

    unit = estimate(fb.normalised(), Linear(), np.zeros(4, dtype)).vector
    clipped = clip(slope, 0.5 * size)
    assert unit.dtype == clipped.dtype == dtype
    np.testing.assert_allclose(unit, 0.5, rtol=1e-6)
    np.testing.assert_allclose(clipped, 0.25 * size, rtol=1e-6)


def test_normalised_zero_is_zero():
    """Kills: 0/0."""
    flat = Squares(np.eye(2), np.zeros(2))
    assert estimate(fb.normalised(), flat, np.zeros(2)).vector.tolist() == [0, 0]
    assert estimate(fb.clipped(1), flat, np.zeros(2)).vector.tolist() == [0, 0]


def test_replacement_batches_are_unbiased_with_variance_over_b():
    """10^4 rounds, b = 3 of 8: means and total variance within 5 sigma, false alarm < 10^−5.

    Kills: batches without replacement (variance 5/7 as large), one batch for all rounds.
    """
    objective, point = Recording(8), np.ones(2)
    rows = np.stack([objective.gradient(point, np.array([i])) for i in range(8)])
    draws = np.stack(
        [
            estimate(fb.minibatch(), objective, point, turn(3, round=round)).vector
            for round in range(10_000)
        ]
    )
    off, variance = draws - rows.mean(axis=0), rows.var(axis=0) / 3
    assert (np.abs(off.mean(axis=0)) < 5 * np.sqrt(variance / 1e4)).all()
    squares = np.sum(off**2, axis=1)
    assert abs(squares.mean() - variance.sum()) < 5 * squares.std() / 100 < 0.1 * variance.sum()


def test_replacement_batches_within_a_turn_differ():
    """Kills: a stream that starts again at every local step, or is one for all clients."""
    objective = Recording(1000)
    steps = fb.local_steps(3, 0.1)
    estimate(steps, objective, np.ones(2), turn(5))
    estimate(steps, objective, np.ones(2), turn(5, client=1))
    estimate(steps, objective, np.ones(2), turn(5, round=1))
    batches = [tuple(batch) for batch in objective.batches]
    assert len(set(batches)) == len(batches) == 9 and {len(batch) for batch in batches} == {5}
    estimate(steps, objective, np.ones(2), turn(5))
    assert [tuple(batch) for batch in objective.batches[9:]] == batches[:3]


def plan(estimator, round, acknowledged, batch_size, client=0):
    identity, nothing = fb.identity(), fb.no_feedback()
    return Plan(
        round, 0, client, acknowledged, estimator, batch_size, identity, nothing, np.ones(2)
    )


@pytest.mark.parametrize("estimator", ["minibatch('reshuffle')", "local_steps(2, 0.1, 0, {})"])
@pytest.mark.parametrize("lost", [set(), {0}, {1, 2, 5, 11}])
def test_reshuffling_visits_every_example_once_an_epoch(estimator, lost):
    """Across rounds of 3 of 7, and after lost replies. Kills: an epoch that starts every round,
    a position that moves although the reply was lost, one order for every epoch."""
    estimator = fb.parse(estimator.format("minibatch('reshuffle')"), fb.Estimator)
    objective, ledger, acknowledged, applied = Recording(7), Ledger(), -1, []
    for round in range(18):
        objective.batches.clear()
        asked = plan(estimator, round, acknowledged, 3)
        ledger = respond(objective, asked, ledger)[1]
        if round not in lost:
            acknowledged = round
            applied += np.concatenate(objective.batches).tolist()
    epochs = [applied[start : start + 7] for start in range(0, len(applied) - 6, 7)]
    assert len(epochs) >= 6
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    other = Recording(7)
    respond(other, plan(estimator, 0, -1, 3, client=1), Ledger())
    assert other.batches[0].tolist() != epochs[0][:3]


def test_a_batch_of_everything_reshuffled_is_the_full_gradient():
    objective = Recording(6)
    result = estimate(fb.minibatch("reshuffle"), objective, np.ones(2), turn(6))
    np.testing.assert_allclose(result.vector, objective.gradient(np.ones(2)), rtol=1e-14)


@pytest.mark.parametrize("order", ["replacement", "reshuffle"])
def test_a_batch_larger_than_the_data_repeats_examples(order):
    """A small client of an uneven split takes part. Kills: a refusal, a batch cut short."""
    objective = Recording(2)
    estimate(fb.minibatch(order), objective, np.ones(2), turn(5, client=4))
    (batch,) = objective.batches
    assert len(batch) == 5 and set(batch) == {0, 1}
    if order == "reshuffle":
        assert sorted(batch[:2]) == sorted(batch[2:4]) == [0, 1]


@pytest.mark.parametrize(
    ("objective", "estimator", "sentence"),
    [
        (Blind(), "exact()", "exact() needs gradient, which Blind does not offer"),
        (Blind(), "meta(inner_step_size=1)", "needs gradient and hvp, which Blind"),
        (NoCurvature(), "meta(inner_step_size=1)", "needs hvp, which NoCurvature"),
        (Blind(), "clipped(radius=1)", "clipped(radius=1) needs gradient, which Blind"),
        (
            NoCurvature(),
            "normalised(inner=meta(inner_step_size=1))",
            "normalised(inner=meta(inner_step_size=1)) needs hvp",
        ),
    ],
)
def test_what_a_client_cannot_compute(objective, estimator, sentence):
    """Kills: needs that a wrapper does not pass on."""
    with pytest.raises(fb.MissingCapability) as caught:
        respond(objective, plan(fb.parse(estimator, fb.Estimator), 0, -1, None), Ledger())
    assert sentence in str(caught.value)
    assert capabilities(TWO) == {"gradient", "directional", "hvp", "per_example_statistics"}
    assert capabilities(Blind()) == set()


def test_who_draws_batches():
    """Kills: draws_batches not passed on by a wrapper."""
    with_batches = ["minibatch()", "clipped(1, minibatch())", "local_steps(1, 1)", "meta(1)"]
    without = ["exact()", "clipped(1)", "normalised()", "local_steps(1, 1, 0, exact())"]
    assert all(fb.parse(text, fb.Estimator).draws_batches for text in with_batches)
    assert not any(fb.parse(text, fb.Estimator).draws_batches for text in without)


def test_one_pass_where_the_objective_offers_it():
    """Kills: a loss computed twice."""

    class OnePass(NoCurvature):
        def loss(self, point, batch=None):
            raise AssertionError("two passes")

        def loss_and_gradient(self, point, batch=None):
            return 2.5, 3 * point

    result = estimate(fb.exact(), OnePass(), np.ones(2))
    assert result.loss == 2.5 and result.vector.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fb.clipped(0), "clipped: radius must be a number > 0, not 0"),
        (lambda: fb.clipped(math.nan), "clipped: radius must be a number > 0, not nan"),
        (lambda: fb.clipped("1"), "clipped: radius must be a number > 0, not '1'"),
        (lambda: fb.clipped(1, "exact()"), "clipped: inner must be like exact(), not 'exact()'"),
        (lambda: fb.normalised(fb.identity()), "inner must be like exact(), not identity()"),
        (lambda: fb.meta(-0.1), "meta: inner_step_size must be a number >= 0, not -0.1"),
        (lambda: fb.meta(math.inf), "meta: inner_step_size must be a number >= 0, not inf"),
        (lambda: fb.local_steps(0, 1), "count must be a whole number >= 1, not 0"),
        (lambda: fb.local_steps(1.0, 1), "count must be a whole number >= 1, not 1.0"),
        (lambda: fb.local_steps(1, 0), "local_steps: step_size must be a number > 0, not 0"),
        (lambda: fb.local_steps(1, 1, 1), "momentum must be a number >= 0 and < 1, not 1"),
        (lambda: fb.minibatch("sorted"), "one of 'replacement', 'reshuffle', not 'sorted'"),
    ],
)
def test_impossible_settings(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert sentence in str(caught.value)
