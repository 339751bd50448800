"""Paper B as an experiment: contraction factors on both sides of the threshold, and ranges."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

import fedbias as fb
from fedbias import theory
from fedbias.compressors.nested import boundary_blocks
from tests.tools.quantized import Spy, endless, unquantized, walk

SEEDS = range(5)
each_dim = pytest.mark.parametrize("dim", [4, 16, 64])
each_method = pytest.mark.parametrize("method", theory.METHODS)


def measured(points):
    """The contraction per round over the later half, by a line through the logarithms."""
    late = points[len(points) // 2 :]
    distance = np.linalg.norm(late, axis=1)
    assert distance.min() > 1e-140 and distance.max() < 1e140  # no square leaves the floats
    return np.exp(np.polyfit(np.arange(len(late)), np.log(distance), 1)[0])


def quantized(case, feedback, bits, rounds):
    """The points of a run of which no vector was longer than its radius."""
    history = fb.run(
        *([case.objective], case.method.optimizer, case.start, rounds),
        compressor=fb.uniform(bits),
        feedback=feedback,
    )
    assert not any(outcome.saturated or outcome.refused for outcome in history.outcomes)
    assert (history.payload_bits == bits * case.start.size).all()
    return history.points


def covering(dim, bits):
    """The a of ``bits`` uniform bits."""
    return theory.cube_covering(dim) * 2.0**-bits


@each_dim
@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("gradient_descent", 0),  # a = 1 > σ = .818: the run stands still
        ("gradient_descent", 1),
        ("nesterov", 1),  # φ = 1.016 > σ = .827: it diverges
        ("nesterov", 2),
        ("polyak", 1),  # φ = .803 > σ = .520
        ("polyak", 2),
    ],
)
def test_the_contraction_is_the_theorems_for_every_seed(dim, method, extra):
    """max{σ, φ(a)} to 1 %, both ways, for each of five seeds; κ = 10, a = 2^−extra.

    The minimiser is 0, where double precision never ends a run. Kills: a schedule that is too
    wide (slower) or too narrow (saturated), a γ that is forgotten in c.
    """
    bits = extra + int(np.log2(dim)) // 2
    for seed in SEEDS:
        case = endless(method, dim, seed)
        expected = theory.contraction(case.method, covering(dim, bits))
        rounds = 100 if expected > 0.9 else 300 if (method, extra) == ("polyak", 2) else 220
        points = quantized(case, fb.differential(case.preset), bits, rounds)
        assert measured(points) == pytest.approx(expected, rel=0.01)
        below = covering(dim, bits) > 2 ** -theory.lossless_rate(case.method)
        assert below == (expected > case.method.rate)


@each_dim
def test_the_heavy_ball_follows_its_twin(dim):
    """Against the unquantized run, double root and all; above the threshold nothing is lost."""
    bits = 6 + int(np.log2(dim)) // 2
    for seed in SEEDS[:3]:
        case = endless("polyak", dim, seed)
        points = quantized(case, fb.differential(case.preset), bits, 240)
        twin = measured(unquantized(case, 240))
        assert twin > 1.003 * case.method.rate  # i·σ^i
        assert measured(points) == pytest.approx(twin, rel=0.01)


@each_dim
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_naive_contraction_where_errors_are_large(dim, bits):
    """σ + (1+σ)a to 1 % for every seed. Kills: a naive schedule that is not its own."""
    for seed in SEEDS:
        case = endless("gradient_descent", dim, seed)
        expected = theory.naive_contraction(case.method, covering(dim, bits))
        points = quantized(case, fb.no_feedback(case.preset), bits, 100)
        assert measured(points) == pytest.approx(expected, rel=0.01)


def test_where_errors_are_small_the_naive_run_still_loses():
    """R = 7: every point is within (σ + (1+σ)a)^i, and the run slower by more than 5 %."""
    case = endless("gradient_descent", 16)
    naive = quantized(case, fb.no_feedback(case.preset), 7, 220)
    differential = quantized(case, fb.differential(case.preset), 7, 220)
    most = theory.naive_contraction(case.method, covering(16, 7))
    assert (np.linalg.norm(naive, axis=1) <= most ** np.arange(221) * (1 + 1e-9)).all()
    assert measured(naive) > 1.05 * measured(differential)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_adaptive_ranges_close_most_of_the_gap(bits):
    """At 64 entries preset ranges diverge at R = 1 and 2, scales of their own do not (DQ)."""
    case = endless("gradient_descent", 64)
    points = quantized(case, fb.differential(), bits, 300)
    assert measured(points) < 0.9 and theory.contraction(case.method, covering(64, bits)) >= 1


class Watched(fb.lattice):
    """A lattice quantizer that counts the blocks whose closest point is no codeword."""

    @property
    def seen(self):
        return self.__dict__.setdefault("_seen", [])

    def encode(self, vector, rng=None, radius=None):
        self.seen.append(boundary_blocks(self, vector, radius))
        return super().encode(vector, rng, radius)


@pytest.mark.parametrize("dim", [16, 64])
@each_method
def test_e8_saves_one_bit(method, dim):
    """κ = 1.5: at full range, with ρ = √2·√(n/8), E8 contracts as scalars do with a bit more.

    Where σ < φ(a) < 1 and ln(φ(a)/σ) > .2, to 1 % for each; no closest point was off the code.
    Kills: a scale that is not the full range, a wrapped lattice point.
    """
    compared = 0
    for bits in range(2, 7):
        case = endless(method, dim, condition=1.5)
        expected = theory.contraction(case.method, covering(dim, bits))
        if not case.method.rate * np.exp(0.2) < expected < 1:
            continue
        compared += 1
        preset = replace(case.preset, covering=2**0.5 * (dim / 8) ** 0.5)
        code = Watched("E8", bits - 1, True)
        rounds = int(np.log(1e-60) / np.log(expected))
        scalar = quantized(case, fb.differential(case.preset), bits, rounds)
        history = fb.run(
            *([case.objective], case.method.optimizer, case.start, rounds),
            compressor=code,
            feedback=fb.differential(preset),
        )
        assert not any(outcome.saturated or outcome.refused for outcome in history.outcomes)
        assert len(code.seen) == rounds and sum(code.seen) == 0
        assert (history.payload_bits == (bits - 1) * dim).all()
        assert measured(history.points) == pytest.approx(expected, rel=0.01)
        assert measured(scalar) == pytest.approx(expected, rel=0.01)
    assert compared >= 1


SCHEDULES = {
    "differential": (fb.differential, theory.differential_radii, theory.METHODS),
    "memory": (
        lambda radius: fb.differential(radius, True),
        theory.memory_radii,
        theory.METHODS,
    ),
    "naive": (fb.no_feedback, theory.naive_radii, theory.METHODS[:1]),
    "error feedback": (fb.error_feedback, theory.error_feedback_radii, theory.METHODS[:1]),
    "ef21": (fb.ef21, theory.ef21_radii, theory.METHODS[:1]),
}
EVERY = [(name, method) for name, (_, _, methods) in SCHEDULES.items() for method in methods]


@pytest.mark.parametrize(("name", "method"), EVERY)
@pytest.mark.parametrize("bits", [1, 3, 5])
def test_nothing_is_longer_than_its_radius(name, method, bits):
    """‖u_i‖ ≤ r_i in every round, the r_i being the theory's; no scale and no bit more is sent.

    Kills: a schedule that drops a term, or another feedback's.
    """
    feedback, schedule, _ = SCHEDULES[name]
    largest = []
    for seed in SEEDS[:3]:
        case, spy = endless(method, 16, seed), Spy(bits)
        algorithm = case.algorithm(feedback(case.preset), spy)
        _, turns = walk(case.objective, algorithm, case.start, 60)
        radii = np.array([turn.plan.radius for turn in turns])
        known = case.preset.lipschitz, case.preset.distance, covering(16, bits)
        np.testing.assert_allclose(radii, list(islice(schedule(case.method, *known), 60)), 1e-12)
        shares = np.linalg.norm(spy.given, axis=1) / radii
        assert (shares <= 1).all() and not any(turn.report.saturated for turn in turns)
        largest.append(shares.max())
        for turn in turns:
            packet = turn.report.packet
            assert packet.scale is None and packet.payload_bits == 16 * bits
            assert len(bytes(packet)) == spy.wire_bytes(16, float, turn.plan.radius)
    assert max(largest) > 0.14  # at most seven times too wide; the next test has the tight ones


def test_the_radius_is_nearly_attained():
    """Along the steepest axis every u_i is within 5 % of r_i. Kills: a schedule that is wide."""
    case = endless("gradient_descent", 4)
    hessian = case.objective.features.T @ case.objective.features / case.objective.size
    steepest, spy = np.linalg.eigh(hessian)[1][:, -1], Spy(8)
    algorithm = case.algorithm(fb.differential(case.preset), spy)
    _, turns = walk(case.objective, algorithm, steepest, 100)
    shares = np.linalg.norm(spy.given, axis=1) / [turn.plan.radius for turn in turns]
    assert (shares > 0.95).all() and (shares <= 1).all()


def test_a_better_covering_shrinks_the_radii():
    """ρ = ½·√16 claimed beside the compressor's own. Kills: a covering that is ignored."""
    case = endless("gradient_descent", 16)
    claimed = replace(case.preset, covering=2.0)
    algorithm = case.algorithm(fb.differential(claimed), fb.uniform(3))
    _, turns = walk(case.objective, algorithm, case.start, 5)
    radii = theory.differential_radii(case.method, claimed.lipschitz, claimed.distance, 0.25)
    np.testing.assert_allclose([turn.plan.radius for turn in turns], list(islice(radii, 5)), 1e-12)


@each_method
def test_rounding_has_the_last_word_and_says_so(method):
    """Where the minimiser is not 0 the radii fall below what gradients are rounded by.

    Then vectors saturate, reports say so, and the points stay where they are.
    """
    problem = fb.LeastSquares.random(16, 10.0, 0)
    constants = problem.lipschitz, problem.strong_convexity
    start = problem.minimizer + np.full(16, 0.25)
    tuned = theory.tuned(method, *constants)
    history = fb.run(
        *(problem.objectives, tuned.optimizer, start, 500),
        compressor=fb.uniform(5),
        feedback=fb.differential(fb.preset_radius(*constants, 1 + 1e-9)),
    )
    distance = np.linalg.norm(history.points - problem.minimizer, axis=1)
    saturated = [k for k, outcome in enumerate(history.outcomes) if outcome.saturated]
    assert distance[: saturated[0]].min() < 1e-12 and len(saturated) > 50
    assert distance[saturated[0] :].max() < 1e-12


def test_a_schedule_that_leaves_the_range_of_floats_saturates():
    """a = 4 over 600 rounds: 4^600 is no float, and the 0·∞ behind it is no NaN."""
    case = endless("gradient_descent", 16)
    wide = replace(case.preset, covering=8.0)
    limit = np.finfo(float)
    radii = [
        wide.radius(theory.differential_radii, case.method.optimizer, 4.0, applied, case.start)
        for applied in (0, 1, 400, 600, 700)
    ]
    assert 1 <= radii[0] < radii[1] < radii[2] < radii[3] == radii[4] == limit.max
    tiny = wide.radius(theory.differential_radii, case.method.optimizer, 0.0, 9000, case.start)
    assert tiny == limit.tiny
