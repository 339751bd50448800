"""Preset radii: for one client or identical ones, advancing with what was applied, else refused."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

import fedbias as fb
from fedbias import theory
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.problems import Squares
from fedbias.rounds import Report
from fedbias.schedule import check_identical, counted, grows
from fedbias.server import apply, plan_for
from fedbias.state import ServerState
from tests.tools.quantized import endless

each_method = pytest.mark.parametrize("method", theory.METHODS)
CASE = endless("gradient_descent", 8)
ALGORITHM = CASE.algorithm(fb.differential(CASE.preset), fb.uniform(4))
FEEDBACKS = {
    "naive": fb.no_feedback,
    "error feedback": fb.error_feedback,
    "ef21": fb.ef21,
    "differential": fb.differential,
    "memory": lambda radius: fb.differential(radius, True),
}
each_feedback = pytest.mark.parametrize("name", FEEDBACKS)


def run(case, clients=1, rounds=60, feedback=fb.differential, compressor=fb.uniform(5), **settings):
    history = fb.run(
        *([case.objective] * clients, case.method.optimizer, case.start, rounds),
        feedback=feedback(case.preset),
        compressor=compressor,
        **settings,
    )
    assert not any(outcome.refused for outcome in history.outcomes)
    return history


def bytes_of(points):
    return [point.tobytes() for point in points]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": fb.gradient_descent(0.5)},
        {"optimizer": replace(CASE.method.optimizer, step_size=1.001 * 20 / 11)},
        {"optimizer": fb.nesterov(1.0, 0.5)},
        {"optimizer": fb.polyak(1.0, 0.5)},
        {"estimator": fb.minibatch()},
        {"estimator": fb.minibatch("reshuffle"), "batch_size": 4},
        {"estimator": fb.clipped(1.0)},
        {"estimator": fb.local_steps(2, 0.1)},
        {"compressor": fb.top_k(0.5)},
        {"compressor": fb.sign()},
        {"compressor": fb.random_k(0.5)},
        {"compressor": fb.half()},
    ],
    ids=str,
)
def test_what_has_no_schedule(changes):
    """Before the first round, in a sentence with the way out. Kills: a bound that does not hold."""
    with pytest.raises(ValueError) as caught:
        replace(ALGORITHM, **changes)
    assert "radius=None" in str(caught.value)


@each_feedback
@pytest.mark.parametrize("method", ["nesterov", "polyak", "heavy_ball"])
def test_steps_whose_schedule_is_not_known(name, method):
    """Only the differential schedules know momentum; nobody knows parallel momentum."""
    optimizer = fb.heavy_ball(0.1, 0.5)
    if method != "heavy_ball":
        optimizer = theory.tuned(method, 1.0, 0.1).optimizer
    feedback = FEEDBACKS[name](fb.preset_radius(1.0, 0.1, 1.0))
    settings = {"compressor": fb.uniform(4), "feedback": feedback}
    if name in ("differential", "memory") and method != "heavy_ball":
        assert Algorithm(optimizer, **settings).optimizer is optimizer
        return
    with pytest.raises(ValueError) as caught:
        Algorithm(optimizer, **settings)
    assert name in ("differential", "memory") or "radius=None" in str(caught.value)


def test_what_loses_nothing_has_one():
    """The identity knows no radius in its packets, and its a is 0."""
    history = run(CASE, compressor=fb.identity())
    assert (
        history.points.tobytes()
        == run(
            CASE, feedback=lambda radius: fb.no_feedback(), compressor=fb.identity()
        ).points.tobytes()
    )
    assert not any(outcome.saturated for outcome in history.outcomes)


def test_parameters_to_twelve_digits():
    """Rounding is no other step size; a millionth is, after some hundred rounds."""
    near = fb.gradient_descent(CASE.method.optimizer.step_size * (1 + 1e-14))
    assert replace(ALGORITHM, optimizer=near).optimizer is near
    with pytest.raises(ValueError, match="is the schedule of gradient_descent"):
        replace(ALGORITHM, optimizer=fb.gradient_descent(near.step_size * (1 + 1e-7)))


def test_different_clients():
    """Their packets differ, and the bound on one is none on the other."""
    problem = fb.LeastSquares.random(8, 10, 0, clients=2)
    with pytest.raises(ValueError, match="the clients' reports differ.*radius=None"):
        fb.run(
            *(problem.objectives, CASE.method.optimizer, np.ones(8), 5),
            feedback=fb.differential(CASE.preset),
            compressor=fb.uniform(4),
        )
    for compressor in (fb.dithered(4), fb.rotated(fb.uniform(4))):  # alike but for their draws
        with pytest.raises(ValueError, match="draws other numbers for each client.*radius=None"):
            run(CASE, 2, compressor=compressor)


def test_different_clients_whose_codes_agree():
    """Hessians I and I/2 at one bit: the codes agree for a while, the losses never do."""
    clients = [Squares(np.eye(4) * scale, np.zeros(4)) for scale in (2.0, 2**0.5)]
    optimizer = theory.tuned("gradient_descent", 1, 0.5).optimizer
    preset = fb.preset_radius(1, 0.5, 2)
    with pytest.raises(ValueError, match="the clients' reports differ"):
        fb.run(
            *(clients, optimizer, np.ones(4), 3),
            feedback=fb.differential(preset),
            compressor=fb.uniform(1),
        )


def test_a_reason_for_each_difference():
    """Who came late, and who lost its memory, is told apart. Kills: a sentence for all."""
    reports = [
        Report(3, client, fb.uniform(4).encode(np.full(8, 1.0 + client)), 5, 1.0, 5)
        for client in range(2)
    ]
    applied = dict(enumerate(reports))
    with pytest.raises(ValueError, match="not all the clients took part from the start"):
        check_identical(ALGORITHM, {0: 3}, applied)
    applied[1] = replace(reports[1], lost_memory=True)
    with pytest.raises(ValueError, match="client 1 lost its memory"):
        check_identical(ALGORITHM, {0: 3, 1: 3}, applied)
    assert check_identical(ALGORITHM, {0: 3}, {0: reports[0]}) is None


def test_who_kept_nothing_lost_nothing():
    """Kills: naive quantization that begins anew for a memory it never had."""
    report = Report(3, 0, fb.uniform(4).encode(np.ones(8)), 5, 1.0, 5, lost_memory=True)
    naive = replace(ALGORITHM, feedback=fb.no_feedback(CASE.preset))
    assert counted(naive, {0: 3, 1: 2}, {0: report}) == {0: 4, 1: 2}
    assert counted(ALGORITHM, {0: 3, 1: 2}, {0: report}) == {0: 0, 1: 2}


@pytest.mark.parametrize(("bits", "grown"), [(1, True), (2, False), (3, False), (6, False)])
def test_whether_the_ranges_grow(bits, grown):
    """GD, n = 4: a = 2·2^−R is 1 or more at one bit alone; also where they leave the floats."""
    method = theory.tuned("gradient_descent", 1, 0.1)
    feedback = fb.differential(fb.preset_radius(1, 0.1, 2))
    for dtype in (np.float32, np.float64):
        algorithm = Algorithm(method.optimizer, compressor=fb.uniform(bits), feedback=feedback)
        assert grows(algorithm, np.zeros(4, dtype)) == grown
        wide = replace(algorithm, compressor=fb.uniform(4))
        assert grows(wide, np.zeros(10_000, dtype))
    assert not grows(replace(algorithm, feedback=fb.differential()), np.zeros(4))


@pytest.mark.parametrize("asked", [[0], []])
def test_a_choice_of_clients(asked):
    """All of them, or one that is alone and may be left out. Kills: a bound on who was away."""
    with pytest.raises(ValueError, match="asks all the clients in every round: radius=None"):
        run(CASE, 2, participation=lambda k: [0, 1] if k < 3 else asked)
    everyone = run(CASE, 2, 9, participation=lambda k: [1, 0])
    assert everyone.points.tobytes() == run(CASE, 2, 9).points.tobytes()
    sparse = run(CASE, 1, 9, participation=lambda k: [0] if k % 3 else [])
    assert len(set(bytes_of(sparse.points))) == 1 + 6


@each_feedback
@pytest.mark.parametrize("clients", [2, 3, 4])
def test_identical_clients_are_one(name, clients):
    """Points bit for bit, and every client's memory; of three to rounding, for (q + q + q)/3 may
    not be q. Kills: a schedule of all reports together."""
    feedback = FEEDBACKS[name]
    one, many = (run(CASE, count, feedback=feedback) for count in (1, clients))
    assert len(set(bytes_of(one.points))) == 61
    assert many.payload_bits.tolist() == (clients * one.payload_bits).tolist()
    assert len(many.memories) == clients
    assert not any(outcome.saturated for outcome in many.outcomes)
    if clients == 3:
        np.testing.assert_allclose(many.points[:20], one.points[:20], rtol=0, atol=1e-12)
        return
    assert many.points.tobytes() == one.points.tobytes()
    for memory in many.memories:
        assert {k: v.tobytes() for k, v in memory.items()} == {
            k: v.tobytes() for k, v in one.memories[0].items()
        }


@each_method
def test_identical_clients_of_whom_some_are_lost(method):
    """20 % of the replies: a round that lacks one is not applied, the others are one client's.

    Kills: minimum_replies = 1 for a preset run, a memory committed though its round was not.
    """
    case = endless(method, 8)
    lossy = run(case, 2, 60, lost=lambda k: fb.lost(5, k, range(2), 0.2))
    gaps = [bool(fb.lost(5, k, range(2), 0.2)) for k in range(60)]
    assert [not outcome.applied for outcome in lossy.outcomes] == gaps and 10 < sum(gaps) < 40
    still = [(a == b).all() for a, b in zip(lossy.points, lossy.points[1:], strict=False)]
    assert still == gaps
    kept = [point for point, gap in zip(lossy.points[1:], gaps, strict=True) if not gap]
    one = run(case, 1, len(kept))
    assert bytes_of(kept) == bytes_of(one.points[1:])
    assert not any(outcome.saturated for outcome in lossy.outcomes)


SCHEDULED = [(name, "gradient_descent") for name in FEEDBACKS]
SCHEDULED += [
    (name, method) for name in ("differential", "memory") for method in theory.METHODS[1:]
]


@pytest.mark.parametrize(("name", "method"), SCHEDULED)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_schedule_counts_what_was_applied(name, method, seed):
    """One client, 200 rounds, 20 % of its replies lost: no saturation, and the distinct points
    are those of the run without losses, bit for bit.

    Kills: a schedule by round, by report, or by plan.
    """
    case, bits = endless(method, 8), {"compressor": fb.uniform(8)}
    gone = [bool(fb.lost(seed, k, [0], 0.2)) for k in range(200)]
    lossy = run(case, 1, 200, FEEDBACKS[name], lost=lambda k: [0] if gone[k] else [], **bits)
    assert not any(outcome.saturated for outcome in lossy.outcomes) and 20 < sum(gone) < 60
    kept = [lossy.points[0]]
    kept += [point for point, lost in zip(lossy.points[1:], gone, strict=True) if not lost]
    plain = run(case, 1, len(kept) - 1, FEEDBACKS[name], **bits)
    assert bytes_of(kept) == bytes_of(plain.points)


def test_random_rounding_and_lost_replies():
    """Dithered: other draws in other rounds, but never longer than the radius."""
    lossy = run(CASE, 1, 200, compressor=fb.dithered(8), lost=lambda k: fb.lost(1, k, [0], 0.2))
    assert not any(outcome.saturated for outcome in lossy.outcomes)
    assert np.linalg.norm(lossy.points[-1]) < 0.85**150


@each_method
def test_a_wrong_constant_saturates_and_is_counted(method):
    """A distance that is ten times too small. Kills: a saturation that nobody hears of."""
    case, steepest = endless(method, 8), np.linalg.svd(CASE.objective.features)[2][0]
    small = replace(case.preset, distance=0.1)
    for preset in (case.preset, small):
        history = fb.run(
            *([case.objective] * 2, case.method.optimizer, steepest, 12),
            feedback=fb.differential(preset),
            compressor=fb.uniform(6),
        )
        counted = [outcome.saturated for outcome in history.outcomes]
        assert counted[0] == ((0, 1) if preset is small else ()) and set(counted) <= {(), (0, 1)}
        assert any(counted) == (preset is small)


def test_a_saturated_report_says_so_by_itself():
    """u = 2.4 against radii of 2.4·(1 ± 10⁻³). Kills: ≥ for >, a length by the largest entry."""
    client = Squares(np.eye(2) * np.sqrt(2), np.zeros(2))  # f = ‖x‖²/2
    for factor, expected in ((1 + 1e-3, False), (1.0, False), (1 - 1e-3, True)):
        plan = fb.Plan(
            *(0, 0, 0, -1, fb.exact(), None, fb.uniform(4), fb.no_feedback()),
            point=np.array([1.44, -1.92]),
            radius=2.4 * factor,
        )
        report, _ = respond(client, plan, Ledger())
        assert report.saturated is expected


def test_radii_in_the_plan_and_after_a_lost_memory():
    """r_0, r_1, r_2; a client that forgot begins again. Kills: a count that is never reset."""
    expected = list(
        islice(
            theory.differential_radii(
                CASE.method, CASE.preset.lipschitz, CASE.preset.distance, np.sqrt(8) / 16
            ),
            4,
        )
    )
    state, ledger, radii = ServerState(CASE.start), Ledger(), []
    for fate in ("ok", "ok", "lost", "ok", "forgot", "ok", "ok"):
        plan = plan_for(ALGORITHM, state, 0)
        radii.append(plan.radius)
        report, ledger = respond(CASE.objective, plan, Ledger() if fate == "forgot" else ledger)
        state, outcome = apply(ALGORITHM, state, [] if fate == "lost" else [report])
        assert outcome.forgotten == ((0,) if fate == "forgot" else ())
    places = [0, 1, 2, 2, 3, 0, 1]
    np.testing.assert_allclose(radii, [expected[place] for place in places], rtol=1e-12)
    assert state.counts == {0: 2}
    assert plan_for(CASE.algorithm(fb.differential(), fb.uniform(4)), state, 0).radius is None


def test_a_packet_with_a_scale_is_refused():
    """And one without, where no radius is known. Kills: a decoder that takes whatever comes."""
    for mine, theirs, reason in (
        (fb.differential(CASE.preset), fb.differential(), "carries its own scale"),
        (fb.differential(), fb.differential(CASE.preset), "encoded for a preset radius"),
    ):
        algorithm, other = (CASE.algorithm(f, fb.uniform(4)) for f in (mine, theirs))
        state = ServerState(CASE.start)
        report, _ = respond(CASE.objective, plan_for(other, state, 0), Ledger())
        _, outcome = apply(algorithm, state, [report])
        assert outcome.applied == () and reason in outcome.refused[0]


def test_the_same_in_single_precision():
    """float32 to the last round: points stay float32, and the run contracts until it rounds."""
    features = CASE.objective.features.astype(np.float32)
    client = Squares(features, np.zeros(len(features), np.float32))
    preset = fb.preset_radius(1.001, 0.0999, 1.001)
    history = fb.run(
        *([client], theory.tuned("gradient_descent", 1.001, 0.0999).optimizer),
        *(CASE.start.astype(np.float32), 60),
        feedback=fb.differential(preset),
        compressor=fb.uniform(6),
    )
    assert history.points.dtype == np.float32 and not history.outcomes[-1].refused
    assert not any(outcome.saturated for outcome in history.outcomes)
    assert np.linalg.norm(history.points[-1]) < 1e-4
