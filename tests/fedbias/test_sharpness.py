"""The sharpness of the mean of many clients' losses, and the step size that follows it."""

import math
from itertools import combinations

import numpy as np
import pytest

import fedbias as fb
from clients import NumpyObjective
from fedbias.algorithm import Algorithm
from fedbias.problems import Squares
from fedbias.problems.linear import mean_hessian
from fedbias.randomness import SERVER, Purpose
from fedbias.sharpness import HvpQuery, take_reading
from tests.tools.surveys import SIZES, Followed, curved, dense_hessian, logistic

OBJECTIVES = logistic(*SIZES)
DIM = OBJECTIVES[0].dim
START = np.linspace(-1, 1, DIM)
STEP = fb.gradient_descent(0.5)
WHOLE = fb.lanczos(every=3, steps=50, tolerance=0)  # every eigenvalue of DIM


def run(objectives=OBJECTIVES, optimizer=STEP, rounds=8, start=START, **settings):
    return fb.run(objectives, optimizer, start, rounds, **({"sharpness": WHOLE} | settings))


def top(matrix):
    return np.linalg.eigvalsh(matrix)[-1]


# Federated is centralized -------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_a_reading_is_the_top_of_the_mean_hessian(weights):
    """To 1e-10, at x_k before the step. Kills: the point after it, weights of another mean, the
    mean of the clients' own sharpnesses.
    """
    history = run(weights=weights)
    assert [reading.round for reading in history.readings] == [0, 3, 6]
    assert history.unmeasured == {}
    share = [float(size) for size in SIZES] if weights == "examples" else None
    for reading in history.readings:
        hessian = dense_hessian(OBJECTIVES, history.points[reading.round], share)
        assert reading.value == pytest.approx(top(hessian), rel=1e-10)
        assert reading.residual <= 1e-10
        assert (reading.clients, reading.products, reading.spread) == (5, DIM + 1, 0.0)
    values = [reading.value for reading in history.readings]
    assert len(set(values)) == 3
    own = [top(mean_hessian([f], history.points[0])) for f in OBJECTIVES]
    assert values[0] < np.mean(own) * 0.9


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_it_is_the_same_lanczos_on_the_mean(steps):
    """As many steps from the same start on the dense mean, to 1e-10. Kills: another start, another
    recursion for many clients.
    """
    history = run(sharpness=fb.lanczos(2, steps, tolerance=0), seed=5)
    for reading in history.readings:
        hessian = dense_hessian(OBJECTIVES, history.points[reading.round])
        begin = [5, reading.round, SERVER, int(Purpose.LANCZOS)]
        central = fb.top_eigenpair(lambda v, h=hessian: h @ v, DIM, steps, begin)
        assert reading.value == pytest.approx(central.value, rel=1e-10)
        assert reading.residual == pytest.approx(central.residual, rel=1e-8, abs=1e-12)
        assert reading.products == central.products == steps + 1


def test_over_many_clients_it_is_that_of_their_data_together():
    """Rows of one least squares, split evenly and unevenly. Kills: a mean with other weights."""
    problem = fb.LeastSquares.random(12, 50.0, seed=1, clients=4)
    shares = problem.objectives
    rows, targets = (
        np.concatenate([getattr(f, name) for f in shares]) for name in ("features", "targets")
    )
    together = Squares(rows, targets)
    settings = {"start": np.ones(12), "rounds": 1, "sharpness": fb.lanczos(steps=6, tolerance=0)}
    one = run([together], **settings).readings[0]
    assert run(shares, **settings).readings[0].value == pytest.approx(one.value, rel=1e-10)
    uneven = [
        Squares(rows[part], targets[part]) for part in (slice(7), slice(7, 30), slice(30, 96))
    ]
    by_size = run(uneven, weights="examples", **settings).readings[0]
    assert by_size.value == pytest.approx(one.value, rel=1e-10)
    alike = run(uneven, **settings).readings[0]
    assert abs(alike.value - one.value) > 1e-3
    exact = run([together], **settings | {"sharpness": WHOLE}).readings[0]
    assert exact.value == pytest.approx(problem.lipschitz, rel=1e-10)


@pytest.mark.parametrize("dim", [1, 3])
def test_two_linear_layers_have_the_papers_sharpness(dim):
    """Along a descent over three clients, none of whose Hessians is that of the mean. Kills: the
    Hessian of one of them, one of a quadratic that stays.
    """
    problem = fb.ShallowLinear(1.0, dim, clients=3)
    start = np.concatenate([np.full(dim, 1.8), np.linspace(0.2, 0.4, dim)]) / math.sqrt(dim)
    setting = fb.lanczos(every=1, steps=2 * dim, tolerance=0)
    history = run(problem.objectives, fb.gradient_descent(0.1), 40, start, sharpness=setting)
    for reading in history.readings:
        exact = fb.theory.shallow_sharpness(history.points[reading.round], 1.0)
        assert reading.value == pytest.approx(exact, rel=1e-10)
    values = [reading.value for reading in history.readings]
    assert max(values) > 1.02 * min(values)


def test_measuring_does_not_touch_the_training():
    """Kills: a measurement that draws from the clients' streams, or moves the point."""
    settings = {"estimator": fb.minibatch(), "batch_size": 4, "seed": 3}
    plain = run(sharpness=None, **settings)
    watched = run(sharpness=fb.lanczos(every=1, fraction=0.4), **settings)
    assert watched.points.tobytes() == plain.points.tobytes()
    assert plain.readings == [] and len(watched.readings) == 8


def test_a_tolerance_saves_products():
    """What it promises is an eigenvalue that near; which one it is, it does not. Kills: a tolerance
    that does not reach Lanczos, a residual that is not of the reading.
    """
    history = run(sharpness=fb.lanczos(every=4, tolerance=0.2))
    for reading in history.readings:
        values = np.linalg.eigvalsh(mean_hessian(OBJECTIVES, history.points[reading.round]))
        assert 2 < reading.products < DIM + 1
        assert np.abs(values - reading.value).min() <= reading.residual <= 0.2 * reading.value
        assert 0 < reading.value <= values[-1] * (1 + 1e-12)


def test_single_precision_stays_so():
    """Kills: products that become float64 on the way."""
    clients = [
        Squares(f.features.astype(np.float32), f.labels.astype(np.float32)) for f in OBJECTIVES
    ]
    followed = [Followed(client) for client in clients]
    reading = run(followed, start=START.astype(np.float32), rounds=1).readings[0]
    kinds = {array.dtype for client in followed for arrays in client.products for array in arrays}
    assert kinds == {np.dtype(np.float32)}
    exact = top(mean_hessian(clients, START.astype(np.float32)).astype(float))
    assert reading.value == pytest.approx(exact, rel=1e-5) and type(reading.value) is float


# A sample of the clients --------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_the_spread_of_a_sample_by_hand(weights):
    """Three of five; s_m = ⟨v, H_m·v⟩ at the last product. Uniform, it is the textbook's
    √((1 − n/N)·s²/n). Kills: 1 − n/N left out or n/N in its place, n for n − 1, weights left out.
    """
    followed = [Followed(objective) for objective in OBJECTIVES]
    setting = fb.lanczos(steps=4, tolerance=0, fraction=0.6)
    reading = run(followed, rounds=1, sharpness=setting, weights=weights, seed=1).readings[0]
    asked = [m for m, client in enumerate(followed) if client.products]
    assert len(asked) == reading.clients == 3
    last = [followed[m].products[-1] for m in asked]
    slopes = np.array([vector @ product for _, vector, product in last])
    w = np.array([SIZES[m] if weights == "examples" else 1.0 for m in asked])
    value = w @ slopes / w.sum()
    assert reading.value == pytest.approx(value, rel=1e-12)
    if weights == "uniform":
        by_hand = math.sqrt((1 - 3 / 5) * np.var(slopes, ddof=1) / 3)
    else:
        by_hand = math.sqrt((1 - 3 / 5) * 3 / 2 * np.sum((w * (slopes - value)) ** 2)) / w.sum()
    assert reading.spread == pytest.approx(by_hand, rel=1e-12) and by_hand > 0.001


@pytest.mark.parametrize(
    ("fraction", "clients"),
    [(0.01, 1), (0.2, 1), (0.3, 2), (0.5, 2), (0.6, 3), (0.7, 4), (0.9, 4), (0.91, 5), (1, 5)],
)
def test_how_many_are_measured(fraction, clients):
    """As ``fraction`` of the training: rounded, halves to even numbers, at least one. None for one
    of several, 0 for all. Kills: a fraction of nobody; a spread that one client is said to have.
    """
    followed = [Followed(objective) for objective in OBJECTIVES]
    reading = run(followed, rounds=1, sharpness=fb.lanczos(fraction=fraction)).readings[0]
    assert reading.clients == clients == sum(bool(client.products) for client in followed)
    assert all(len(client.products) in (0, reading.products) for client in followed)
    if clients in (1, 5):
        assert reading.spread == (None if clients == 1 else 0.0)
    else:
        assert reading.spread > 0


def test_one_client_alone_is_everyone():
    """Kills: None for a federation of one."""
    assert run(OBJECTIVES[:1], rounds=1).readings[0].spread == 0.0


def test_the_spread_is_unbiased_over_all_samples():
    """In one dimension v is ±1, and λ̂ is the mean of the sample's curvatures: the mean of spread²
    over all 20 samples of three of six is exactly the variance of λ̂. And all samples are drawn
    equally often: χ²(19) < 43.8 with 99.9 % confidence, over 600 seeds. Kills: a factor of the
    spread; a sample that prefers somebody.
    """
    curvatures = [0.5, 1, 1, 3, 7, 8.5]
    clients, found, drawn = curved(*curvatures), {}, {}
    setting, weights = fb.lanczos(fraction=0.5), dict.fromkeys(range(6), 1.0)
    for seed in range(600):
        asked = []

        def ask(queries, asked=asked):
            asked[:] = [query.client for query in queries]
            return [clients[q.client].hvp(np.ones(1), q.vector) for q in queries]

        reading = take_reading(setting, seed, 0, np.ones(1), weights, 6, ask)
        drawn[tuple(asked)] = drawn.get(tuple(asked), 0) + 1
        found[tuple(asked)] = reading
    assert set(found) == set(combinations(range(6), 3))
    for sample, reading in found.items():
        assert reading.value == pytest.approx(np.mean([curvatures[m] for m in sample]), rel=1e-14)
    values, squares = zip(*((r.value, r.spread**2) for r in found.values()), strict=True)
    assert np.mean(values) == pytest.approx(np.mean(curvatures), rel=1e-13)
    assert np.mean(squares) == pytest.approx(np.var(values), rel=1e-12)
    assert sum((count - 30) ** 2 / 30 for count in drawn.values()) < 43.8


def test_the_top_of_a_sample_leans_upwards():
    """E λ_max(mean of a sample) ≥ λ_max(mean), over all ten samples of two of five. Kills: nothing
    in the code; it is what the documentation says.
    """
    point = START
    samples = [
        top(mean_hessian([OBJECTIVES[m] for m in pair], point))
        for pair in combinations(range(5), 2)
    ]
    assert np.mean(samples) > top(mean_hessian(OBJECTIVES, point)) * 1.02


def test_each_measurement_draws_its_own_sample_and_start():
    """Kills: a sample that stays, or is that of the training."""
    followed = [Followed(objective) for objective in OBJECTIVES]
    asked, starts = [], []

    def note(round, state, outcome):
        asked.append(tuple(m for m, client in enumerate(followed) if client.products))
        starts.append(
            next(client.products[0][1].tobytes() for client in followed if client.products)
        )
        for client in followed:
            client.products.clear()

    setting = fb.lanczos(every=1, steps=2, fraction=0.4)
    run(followed, sharpness=setting, rounds=12, on_round=note, keep="last")
    assert {len(sample) for sample in asked} == {2} and len(set(asked)) > 4
    assert len(set(starts)) == 12
    trained = [tuple(fb.sample_clients(0, k, range(5), 2)) for k in range(12)]
    assert sum(one == other for one, other in zip(asked, trained, strict=True)) < 6


# What goes wrong ----------------------------------------------------------------------------------


def bad(objective, change, at=1):
    """The client whose product of this number is changed."""
    count = 0

    def hvp(point, vector, batch=None):
        nonlocal count
        count += 1
        return change(objective.hvp(point, vector)) if count == at else objective.hvp(point, vector)

    return NumpyObjective(
        objective.loss, objective.gradient, hvp, dim=objective.dim, size=objective.size
    )


def raising(product):
    raise ValueError("no memory left")


BAD = {
    "an error": (raising, "client 2: no memory left"),
    "NaN": (lambda p: p * np.nan, "client 2: 7 of 7 entries are NaN or infinite"),
    "one infinite entry": (
        lambda p: np.append(p[:-1], np.inf),
        "client 2: 1 of 7 entries are NaN or",
    ),
    "too short": (
        lambda p: p[:-1],
        "client 2: hvp gives float64 of shape (6,), not float64 of (7,)",
    ),
    "one number": (
        lambda p: p[:1],
        "client 2: hvp gives float64 of shape (1,), not float64 of (7,)",
    ),
    "another dtype": (np.float32, "client 2: hvp gives float32 of shape (7,), not float64 of (7,)"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("at", [1, 3, DIM + 1])
def test_a_client_that_fails_while_it_is_measured(kind, at):
    """Training is the same as ever, the next reading too. Kills: an end of the run, an eigenvalue
    of a broken operator, numpy's broadcasting.
    """
    change, sentence = BAD[kind]
    clients = [*OBJECTIVES[:2], bad(OBJECTIVES[2], change, at), *OBJECTIVES[3:]]
    history, usual = run(clients), run()
    assert list(history.unmeasured) == [0] and history.unmeasured[0].startswith(sentence)
    assert history.readings == usual.readings[1:]
    assert history.points.tobytes() == usual.points.tobytes()


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (ValueError("no memory left"), "no memory left"),
        (ImportError("no torch"), "no torch"),
        (None, "AttributeError: 'list' object has no attribute 'shape'"),
    ],
    ids=["RuntimeError", "ZeroDivisionError", "ValueError", "ImportError", "a list"],
)
def test_whatever_an_objective_raises(reason, sentence):
    """In the words that come through messages too (tests/strategies); training goes on. Kills: a
    run that ends with what was only to be measured.
    """

    def change(product):
        if reason is None:
            return product.tolist()
        raise reason

    clients = [*OBJECTIVES[:2], bad(OBJECTIVES[2], change, 2), *OBJECTIVES[3:]]
    history, usual = run(clients), run()
    assert history.unmeasured == {0: f"client 2: {sentence}"}
    assert history.points.tobytes() == usual.points.tobytes()


@pytest.mark.parametrize("at", [1, DIM + 2, DIM + 5, 2 * DIM + 3])
def test_steps_go_on_with_the_last_size(at):
    """The one of the optimizer before the first reading. Kills: a step size that is forgotten."""
    clients = [*OBJECTIVES[:2], bad(OBJECTIVES[2], raising, at), *OBJECTIVES[3:]]
    history = run(clients, steering=fb.by_sharpness(1.0, hysteresis=0))
    (gone,) = history.unmeasured
    assert gone == 3 * ((at - 1) // (DIM + 1))
    sizes, now = [], 0.5
    known = {reading.round: reading.value for reading in history.readings}
    for k in range(8):
        now = 1 / known[k] if k in known else now
        sizes.append(now)
    assert [outcome.step_size for outcome in history.outcomes] == sizes
    assert len(set(sizes)) == 3 - (gone > 0)


def test_clients_without_products_are_left_out():
    """The mean is that of the others, and says how many; they are no random sample, and how far
    the rest is from them nobody knows. Kills: a mean that counts them, a spread of 0.
    """
    blind = NumpyObjective(OBJECTIVES[1].loss, OBJECTIVES[1].gradient, dim=DIM, size=SIZES[1])
    history = run([OBJECTIVES[0], blind, *OBJECTIVES[2:]], rounds=1)
    others = [OBJECTIVES[m] for m in (0, 2, 3, 4)]
    assert history.readings[0].value == pytest.approx(top(mean_hessian(others, START)), rel=1e-10)
    assert (history.readings[0].clients, history.readings[0].spread) == (4, None)
    part = fb.lanczos(fraction=0.5)
    sampled = run([OBJECTIVES[0], blind, *OBJECTIVES[2:]], rounds=1, sharpness=part).readings[0]
    assert (sampled.clients, sampled.spread) == (2, None)


def test_nobody_has_products():
    """Kills: a run that ends, an empty mean; steps that are said to follow what nobody measures."""
    blind = [NumpyObjective(f.loss, f.gradient, dim=DIM, size=f.size) for f in OBJECTIVES]
    history = run(blind)
    assert history.readings == []
    assert set(history.unmeasured.values()) == {
        "no client is there that offers Hessian-vector products (hvp)"
    }
    assert list(history.unmeasured) == [0, 3, 6]
    assert history.points.tobytes() == run(sharpness=None).points.tobytes()
    with pytest.raises(
        ValueError, match=r"^run: by_sharpness\(c=1.0\) needs clients with Hessian-"
    ):
        run(blind, steering=fb.by_sharpness(1.0))
    assert run([*blind[1:], OBJECTIVES[0]], steering=fb.by_sharpness(1.0), rounds=1).readings


def test_a_point_where_the_mean_overflows():
    """Each product is finite, their sum is not. Kills: a warning, a reading of ∞."""
    clients = curved(1.5e308, 1.5e308)
    history = run(clients, start=np.zeros(1), rounds=1)
    assert history.unmeasured == {
        0: "a Hessian-vector product is not finite: the run diverges there"
    }


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("last", [False, True])
def test_products_beyond_the_range(steps, last):
    """±1.7e308 in 1000 entries, at the first product or at the residual's: every entry is a number.
    Kills: a warning of numpy's, a run that ends, a step size of 0.
    """
    huge = np.where(np.arange(1000) % 3 == 0, 1.7e308, -1.7e308)
    clients = [Squares(np.ones((1, 1000)), np.zeros(1), 1.0) for _ in range(3)]
    wide = bad(clients[1], lambda product: huge, steps + 1 if last else 1)
    settings = {
        "optimizer": fb.gradient_descent(1e-4),
        "start": np.ones(1000),
        "rounds": 4,
        "sharpness": fb.lanczos(every=2, steps=steps, tolerance=0),
        "steering": fb.by_sharpness(1.0),
    }
    history = run([clients[0], wide, clients[2]], **settings)
    assert history.unmeasured == {
        0: "the Hessian-vector products are beyond the range of their numbers"
    }
    assert [reading.round for reading in history.readings] == [2]
    sizes = [outcome.step_size for outcome in history.outcomes]
    assert sizes[:2] == [1e-4] * 2 and sizes[2] > 9e-4  # λ ≤ 1001, λ̂ after few steps is less


def test_the_spread_of_huge_products():
    """Curvatures of 1e200 and 3e200, whose squares overflow; two of four have √((1 − 2/4)·s²/2).
    Kills: an OverflowError, which ends the run; a spread of ∞.
    """
    setting = fb.lanczos(fraction=0.5)
    small = fb.gradient_descent(1e-300)
    clients = curved(1e200, 3e200, 1e200, 3e200)
    found = {}
    for seed in range(20):
        reading = run(clients, small, 1, np.ones(1), sharpness=setting, seed=seed).readings[0]
        found[float(f"{reading.value:.9g}")] = reading.spread
    by_hand = {1e200: 0.0, 2e200: 1e200 / math.sqrt(2), 3e200: 0.0}
    assert found == pytest.approx(by_hand, rel=1e-9, abs=1e186)
    apart, said = curved(1.7e308, -1.7e308, 0.0, 0.0), set()
    for seed in range(20):
        history = run(apart, small, 1, np.zeros(1), sharpness=setting, seed=seed)
        said |= set(history.unmeasured.values())
        assert all(math.isfinite(reading.spread) for reading in history.readings)
    assert said == {"the Hessian-vector products are beyond the range of their numbers"}


@pytest.mark.parametrize(("curvature", "value"), [(0.0, 0.0), (-3.0, -3.0)])
def test_where_nothing_is_sharp(curvature, value):
    """A zero Hessian and a concave loss: a reading, and the last step size. Kills: a step of ∞, a
    negative one.
    """
    clients = curved(curvature, curvature)
    history = run(clients, start=np.ones(1), rounds=4, steering=fb.by_sharpness(1.0))
    assert [reading.value for reading in history.readings] == [value, value]
    assert [outcome.step_size for outcome in history.outcomes] == [0.5] * 4


def test_a_query_names_what_is_asked():
    """Kills: a query of another round, seed or point."""
    seen = []

    def ask(queries):
        seen.extend(queries)
        return [query.vector for query in queries]

    take_reading(fb.lanczos(steps=2), 9, 4, START, {3: 1.0, 1: 2.0}, 2, ask)
    assert [(q.client, q.round, q.seed, q.point) for q in seen[:2]] == [
        (1, 4, 9, None),
        (3, 4, 9, None),
    ]
    assert all(q.check == HvpQuery(1, 4, 9, START, seen[0].check, START).check for q in seen)
    assert len({q.check for q in seen}) == 1


# The rule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "sharpness", "after"),
    [
        (None, 4, 0.5),  # the first one: c/λ̂
        (0.5, 5, 0.4),  # falls at once
        (0.5, 4 + 1e-9, 2 / (4 + 1e-9)),  # however little
        (0.5, 4, 0.5),
        (0.5, 3.9, 0.5),  # 0.5128 is within a tenth
        (0.5, 2 / 0.55, 0.5),  # just a tenth
        (0.5, 3.6, 2 / 3.6),  # 0.5556 is more
        (0.5, 0.0, 0.5),
        (0.5, -7.0, 0.5),
        (0.5, math.nan, 0.5),
        (None, -7.0, None),
        (None, 0.0, None),
        (0.5, 1e-320, 0.5),  # c/λ̂ overflows: as good as 0
        (None, 1e-320, None),
    ],
)
def test_the_rule_by_hand(now, sharpness, after):
    """c = 2, a tenth of hysteresis. Kills: a fall that waits, a rise that does not, 0 and −λ̂."""
    assert fb.by_sharpness(2.0, hysteresis=0.1).step_size(now, sharpness) == after


@pytest.mark.parametrize(
    ("now", "sharpness", "after"),
    [
        (None, 1.0, 0.5), (None, 1e3, 0.01), (0.3, 1e3, 0.01), (0.3, 1e-320, 0.5),
        (0.01, 2e3, 0.01), (0.48, 1.0, 0.48), (0.3, 1.0, 0.5), (0.5, 4.0, 0.25), (0.3, -1.0, 0.3),
    ],
)  # fmt: skip
def test_the_bounds_by_hand(now, sharpness, after):
    """c = 1, in [0.01, 0.5]. Kills: bounds that change places, a bound left out."""
    rule = fb.by_sharpness(1.0, smallest=0.01, largest=0.5)
    assert rule.step_size(now, sharpness) == after


def test_without_hysteresis_it_follows_both_ways():
    rule = fb.by_sharpness(1.0, hysteresis=0)
    assert rule.step_size(0.5, 1.99) == 1 / 1.99 and rule.step_size(0.5, 2.0) == 0.5


def test_the_steps_follow_the_readings():
    """By hand from the readings, over a run whose sharpness falls; the first steps too. Kills: a
    size that is one measurement late, a hysteresis against the reading instead of the size.
    """
    history = run(
        rounds=60,
        start=np.zeros(DIM),
        sharpness=fb.lanczos(2, 50, 0),
        steering=fb.by_sharpness(0.2, hysteresis=0.01),
    )
    known, now, sizes = {r.round: r.value for r in history.readings}, None, []
    for k in range(60):
        if k in known:
            wanted = 0.2 / known[k]
            if now is None or wanted < now or wanted > 1.01 * now:
                now = wanted
        sizes.append(now)
    assert [outcome.step_size for outcome in history.outcomes] == sizes
    assert 2 < len(set(sizes)) < len(known) / 2
    gradients = [np.mean([f.gradient(x) for f in OBJECTIVES], axis=0) for x in history.points]
    steps = history.points[:-1] - np.array(sizes)[:, None] * np.array(gradients[:-1])
    np.testing.assert_allclose(history.points[1:], steps, rtol=1e-12, atol=1e-14)


def test_it_falls_at_once_where_the_loss_gets_sharper():
    """f(x) = x⁴/4 from both sides: η = c/(3x²). Kills: a hysteresis of falls."""

    def quartic(scale):
        return NumpyObjective(
            lambda x, b: float(scale * x[0] ** 4 / 4),
            lambda x, b: -scale * x**3,  # uphill: the sharpness grows
            lambda x, v, b: scale * 3 * x**2 * v,
            dim=1,
            size=1,
        )

    history = run(
        *([quartic(0.5), quartic(1.5)], STEP, 6, np.ones(1)),
        sharpness=fb.lanczos(every=1),
        steering=fb.by_sharpness(0.3, hysteresis=5),
    )
    points = history.points[:-1, 0]
    sizes = [outcome.step_size for outcome in history.outcomes]
    np.testing.assert_allclose(sizes, 0.1 / points**2, rtol=1e-12)
    np.testing.assert_allclose(history.points[1:, 0], 1.1 * points, rtol=1e-12)


@pytest.mark.parametrize(
    ("compressor", "feedback", "bound"),
    [
        (fb.top_k(0.3), fb.error_feedback(), 2e-3),  # its floor: the clients differ
        (fb.top_k(0.3), fb.ef21(), 1e-8),
        (fb.uniform(bits=4), fb.error_feedback(), 3e-5),
    ],
    ids=["top_k, error_feedback", "top_k, ef21", "uniform, error_feedback"],
)
def test_compressed_steps_of_that_size(compressor, feedback, bound):
    """Logistic losses with c = 0.5, from where they are flat: the step size falls by more than half
    as they are trained. As near to the minimum as that, behind the uncompressed run and ahead of
    one without feedback. Kills: a step size that compression does not get, feedback lost where the
    sizes change.
    """
    best = np.zeros(DIM)
    for _ in range(20):  # Newton's steps
        slope = np.mean([f.gradient(best) for f in OBJECTIVES], axis=0)
        best = best - np.linalg.solve(mean_hessian(OBJECTIVES, best), slope)
    assert np.linalg.norm(slope) < 1e-15
    minimum = np.mean([f.loss(best) for f in OBJECTIVES])
    limit = 0.5 / top(mean_hessian(OBJECTIVES, best))

    def gap(**changes):
        common = {"sharpness": fb.lanczos(every=10), "steering": fb.by_sharpness(0.5)}
        history = run(rounds=150, start=np.linspace(-3, 3, DIM), **common, **changes)
        sizes = [outcome.step_size for outcome in history.outcomes]
        assert sizes[0] > 3 and sizes[-1] == pytest.approx(limit, rel=0.11) and sizes[-1] < 1.6
        return history.losses[-1] - minimum

    plain, compressed = gap(), gap(compressor=compressor, feedback=feedback)
    assert plain <= compressed < bound
    assert gap(compressor=compressor) > 3 * compressed


def test_batches_do_not_make_it_less():
    """Mini-batches train, all the data are measured. Kills: a product on a batch."""
    history = run(estimator=fb.minibatch(), batch_size=3, rounds=1, sharpness=WHOLE)
    exact = top(mean_hessian(OBJECTIVES, START))
    assert history.readings[0].value == pytest.approx(exact, rel=1e-10)


# Settings -----------------------------------------------------------------------------------------

LANCZOS, RULE = fb.lanczos(), fb.by_sharpness(1.0)
PRESET = fb.preset_radius(1, 0.5, 1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sharpness": None}, "by_sharpness(c=1.0) needs the sharpness to be measured: sharpness="),
        (
            {"decay": fb.cosine_decay(100)},
            "by_sharpness(c=1.0) and cosine_decay(samples=100) both set the step size: use one ",
        ),
        (
            {"feedback": fb.differential(), "compressor": fb.uniform(4)},
            "differential() counts on a constant step size, which by_sharpness(c=1.0) is not: ",
        ),
        (
            {
                "optimizer": fb.gradient_descent(4 / 3),
                "feedback": fb.error_feedback(radius=PRESET),
                "compressor": fb.uniform(4),
            },
            f"error_feedback(radius={PRESET!r}) counts on a constant step size, which by_sh",
        ),
        (
            {"optimizer": fb.adam()},
            "by_sharpness(c=1.0) knows no limit for adam(): use gradient_de",
        ),
        (
            {"steering": fb.by_sharpness(2.0)},
            "by_sharpness: c must be > 0 and < 2, where gradient_descent(step_size=0.5) stops "
            "being stable, not 2",
        ),
        (
            {"optimizer": fb.heavy_ball(0.1, 0.5), "steering": fb.by_sharpness(6)},
            "by_sharpness: c must be > 0 and < 6, where heavy_ball(step_size=0.1, beta=0.5) stop",
        ),
        ({"sharpness": 0}, "lanczos: every must be a whole number >= 1, not 0"),
        (
            {"sharpness": True},
            "algorithm: sharpness must be a whole number of rounds, None, or an ",
        ),
        ({"sharpness": "lanczos()"}, "algorithm: sharpness must be a whole number of rounds, None"),
        ({"sharpness": fb.lanczos}, "algorithm: sharpness must be a whole number of rounds, None"),
        ({"steering": 1.5}, "algorithm: steering must be like by_sharpness(c=1.0), not 1.5"),
    ],
)
def test_what_does_not_fit_together_is_refused(settings, sentence):
    """Kills: a rule that fights another one, or that nothing feeds."""
    whole = {"optimizer": STEP, "sharpness": LANCZOS, "steering": RULE} | settings
    with pytest.raises(ValueError) as caught:
        Algorithm(**whole)
    assert str(caught.value).startswith(sentence)


def test_a_number_is_every_so_many_rounds():
    """Kills: a number that is steps, or a share."""
    assert Algorithm(STEP, sharpness=4).measuring == fb.lanczos(every=4)
    assert Algorithm(STEP, sharpness=np.int64(4)).measuring == fb.lanczos(every=4)
    assert Algorithm(STEP, sharpness=LANCZOS).measuring is LANCZOS
    assert Algorithm(STEP).measuring is None
    problem = fb.LeastSquares.random(3, 2, 0, clients=2)
    history = fb.run(problem.objectives, STEP, np.zeros(3), 5, sharpness=2)
    assert [reading.round for reading in history.readings] == [0, 2, 4]


@pytest.mark.parametrize(
    ("make", "values", "sentence"),
    [
        (fb.lanczos, {"every": 0}, "lanczos: every must be a whole number >= 1, not 0"),
        (fb.lanczos, {"every": 1.5}, "lanczos: every must be a whole number >= 1, not 1.5"),
        (fb.lanczos, {"steps": 0}, "lanczos: steps must be a whole number >= 1, not 0"),
        (fb.lanczos, {"tolerance": -1}, "lanczos: tolerance must be a number >= 0 and < 1, not -1"),
        (fb.lanczos, {"tolerance": 1}, "lanczos: tolerance must be a number >= 0 and < 1, not 1"),
        (fb.lanczos, {"fraction": 0}, "lanczos: fraction must be a number > 0 and <= 1, not 0"),
        (fb.lanczos, {"fraction": 1.1}, "lanczos: fraction must be a number > 0 and <= 1, not 1.1"),
        (fb.by_sharpness, {"c": 0}, "by_sharpness: c must be a number > 0, not 0"),
        (fb.by_sharpness, {"c": math.inf}, "by_sharpness: c must be a number > 0, not inf"),
        (fb.by_sharpness, {"c": True}, "by_sharpness: c must be a number > 0, not True"),
        (
            fb.by_sharpness,
            {"hysteresis": -0.1},
            "by_sharpness: hysteresis must be a number >= 0, not",
        ),
        (fb.by_sharpness, {"smallest": 0}, "by_sharpness: smallest must be a number > 0, not 0"),
        (
            fb.by_sharpness,
            {"largest": 1e-7},
            "by_sharpness: largest must be a number >= 1e-06, not 1",
        ),
        (
            fb.by_sharpness,
            {"largest": math.nan},
            "by_sharpness: largest must be a number >= 1e-06, n",
        ),
        (
            fb.by_sharpness,
            {"largest": "1"},
            "by_sharpness: largest must be a number >= 1e-06, not '1",
        ),
    ],
)
def test_a_setting_out_of_range(make, values, sentence):
    """Kills: a bound that is dropped or moved."""
    whole = values if make is fb.lanczos else {"c": 1.0} | values
    with pytest.raises(ValueError) as caught:
        make(**whole)
    assert str(caught.value).startswith(sentence)


def test_the_bounds_may_be_one_number():
    """Which is then the step size. Kills: < for ≤."""
    assert fb.by_sharpness(1.0, smallest=0.5, largest=0.5).step_size(None, 7.0) == 0.5


def test_when_it_is_due():
    """Kills: the first round left out, a round too late."""
    assert [k for k in range(10) if fb.lanczos(every=4).due(k)] == [0, 4, 8]
    assert all(fb.lanczos(every=1).due(k) for k in range(3))
