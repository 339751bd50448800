"""Differential quantization: how contraction and bits are measured, and what is said of them."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias import theory
from fedbias.compressors.nested import boundary_blocks
from simulations.__main__ import main
from simulations.output import Progress
from simulations.reproductions.base import Options
from simulations.reproductions.command import committed
from simulations.reproductions.differential import digits
from simulations.reproductions.differential.cells import REPRODUCTION, cells, differences
from simulations.reproductions.differential.draw import draw
from simulations.reproductions.differential.notes import Agreement, notes
from simulations.reproductions.differential.runs import (
    ACCURACY,
    EARLY,
    EXTREME,
    bits_sent,
    contraction,
    measure,
    problem_of,
    rounds_for,
    stopping_round,
    summary,
)
from simulations.reproductions.differential.tables import least_rate, rows, table
from simulations.reproductions.differential.ways import Watched, block_covering, coded
from simulations.reproductions.runner import check, compute


@pytest.fixture
def progress():
    return Progress(stream=io.StringIO())


# Contraction --------------------------------------------------------------------------------------


def test_the_contraction_of_a_geometric_sequence():
    """A transient in the first half does not count. Kills: a window from the start."""
    path = 3.0 * 0.5 ** np.arange(41)
    assert contraction(path) == pytest.approx(0.5, rel=1e-12)
    path[:20] = 3.0  # a slow start: the middle is 20
    assert contraction(path) == pytest.approx(0.5, rel=1e-12)
    path[20] *= 4
    assert contraction(path) == pytest.approx(0.5 / 4 ** (1 / 20), rel=1e-12)


@pytest.mark.parametrize("rate", [0.1, 10.0])
def test_what_is_out_of_range_is_not_measured(rate):
    """Kills: an end in the zeros, or the overflow, behind the last good distance."""
    path = np.concatenate([rate ** np.arange(100.0), [0.0, math.inf, 7.0]])
    assert contraction(path) == pytest.approx(rate, rel=1e-12)
    long = np.concatenate([rate ** np.arange(119.0), [EXTREME * 1e9, 1 / EXTREME / 1e9]])
    assert contraction(long) == pytest.approx(rate, rel=1e-12)


def test_too_short_a_run_has_no_contraction():
    assert contraction([1.0, 0.5, 0.25, 0.125]) is None
    assert contraction([1.0] * (2 * EARLY + 1)) == 1.0


def test_how_many_rounds_stay_in_range():
    """1e120 at a rate of 0.1 or 10 is 120 rounds. Kills: an overflow of what diverges."""
    assert rounds_for(0.1000001, 500) == rounds_for(9.99999, 500) == 120
    assert rounds_for(0.99, 500) == rounds_for(None, 500) == rounds_for(1.0, 500) == 500
    assert rounds_for(1e-30, 500) == 2 * EARLY


def test_the_problem_is_the_random_one_moved():
    """Kills: a start that is not as far away; constants of another problem."""
    moved, start = problem_of(16, 10.0, 3)
    original = fb.LeastSquares.random(16, 10.0, 3)
    assert not moved.minimizer.any() and moved.minimum == 0
    assert moved.lipschitz / moved.strong_convexity == pytest.approx(10, rel=1e-9)
    gap = original.loss(np.zeros(16)) - original.minimum
    assert moved.loss(start) == pytest.approx(gap, rel=1e-9)


# What travels -------------------------------------------------------------------------------------


def test_the_ways_to_send():
    """Theory beside each. Kills: naive theory for DQ, a preset range where a scale is sent."""
    tuned, start = theory.tuned("gradient_descent", 1.0, 0.1), np.ones(16)

    def way(name, bits=4):
        return coded(name, bits, 1.0, 0.1, start)

    sigma = 9 / 11
    assert way("none").theory(tuned) == pytest.approx(sigma)
    assert way("scalar", 2).theory(tuned) == pytest.approx(1.0)  # a = 4·2^(−2)
    assert way("e8", 1).theory(tuned) == pytest.approx(1.0)
    assert way("safe", 2).theory(tuned) == pytest.approx(max(sigma, 2 / 0.75 / 4))
    assert way("naive").theory(tuned) == pytest.approx(sigma + (1 + sigma) / 4)
    for name in ("own", "naive-own"):
        assert way(name).theory(tuned) is None and way(name).feedback.radius is None
    assert way("e8").feedback == fb.differential(fb.preset_radius(1.0, 0.1, 4.0, 2.0))
    assert way("naive").feedback == fb.no_feedback(fb.preset_radius(1.0, 0.1, 4.0))
    assert way("e8").compressor.inner.full_range and not way("safe").compressor.inner.full_range


def test_the_covering_of_blocks():
    assert block_covering(16) == 2 and block_covering(65) == pytest.approx(math.sqrt(17))
    with pytest.raises(ValueError, match="not 18 entries"):
        block_covering(18)


def test_boundary_blocks_are_counted():
    """On the sphere and well inside it. Kills: a count that stays 0, or that starts anew."""
    points = np.random.default_rng(0).standard_normal((500, 8))
    points /= np.linalg.norm(points, axis=1)[:, None]
    lattice = fb.lattice("E8", 2, full_range=True)
    watched, sphere = Watched(lattice), points.reshape(-1)
    packet = watched.encode(sphere, radius=1.0)
    assert packet == lattice.encode(sphere, radius=1.0)
    assert watched.boundary == boundary_blocks(lattice, sphere, 1.0) > 0
    watched.encode(sphere, radius=1.0)
    watched.encode(sphere / 4, radius=1.0)
    assert watched.boundary == 2 * boundary_blocks(lattice, sphere, 1.0)
    assert watched.guarantee(16) == lattice.guarantee(16)


# Until the server stops ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["e8", "own"])
def test_rounds_and_bits_are_those_of_a_run_that_stops(way):
    """Kills: a round too few, the bits of the whole run, a scale that costs nothing."""
    measured = measure("gd", way, 4, 16, 1.5, 0, 60)
    problem, start = problem_of(16, 1.5, 0)
    lipschitz, convexity = problem.lipschitz, problem.strong_convexity
    code = coded(way, 4, lipschitz, convexity, start)
    run = fb.run(
        problem.objectives,
        theory.tuned("gradient_descent", lipschitz, convexity).optimizer,
        start,
        60,
        compressor=code.compressor,
        feedback=code.feedback,
        stop=fb.until(loss=ACCURACY * problem.loss(start)),
    )
    assert run.stopped and measured.rounds == len(run.outcomes) < 10
    assert measured.bits == measured.rounds * (4 + (4 if way == "own" else 0))
    assert bits_sent(run, measured.rounds, way) == measured.bits
    assert measured.saturated == 0 and measured.early < 1e-2


def test_the_first_round_at_the_goal():
    """Kills: a strict comparison, the start counted, the last instead of the first."""
    losses = np.array([1.0, 4.0, 1.0, 3.0, 0.5])
    assert stopping_round(losses, 1.0) == 2 and stopping_round(losses, 0.75) == 4
    assert stopping_round(losses, 0.4) is None


def test_the_least_rate_within_a_delay():
    """Kills: the largest R, a run that never got there, a strict comparison."""
    runs = [{"R": R, "rounds": k} for R, k in ((1, None), (2, 30), (3, 15), (4, 10), (5, 10))]
    assert [least_rate(runs, k) for k in (9, 10, 15, 29, 30)] == [None, 4, 3, 3, 2]


def test_the_mean_over_seeds():
    """Kills: a mean over the seeds that got there; an arithmetic mean of factors."""
    one = measure("gd", "scalar", 5, 16, 1.5, 0, 20)
    runs = [replace(one, contraction=0.1, rounds=4, bits=8.0, saturated=1), one]
    runs[1] = replace(one, contraction=0.4, rounds=6, bits=12.0, saturated=2)
    found = summary(runs)
    assert found["contraction"] == [0.2, 0.1, 0.4] and found["early"] == pytest.approx(one.early)
    assert (found["rounds"], found["bits"], found["saturated"]) == (5, 10, 3)
    never = summary([runs[0], replace(one, rounds=None, bits=None)])
    assert never["rounds"] is None and never["bits"] is None


# Digits -------------------------------------------------------------------------------------------


def test_the_iterates_on_digits_are_the_unquantized_ones():
    """Kills: x̂ compared instead of z; a stop by another goal."""
    found = digits.measure("hb", "e8", 8, 300)
    assert found["deviation"] < 1e-10 and found["saturated"] == 0
    problem = digits.problem_of(digits.CLASS)
    run, recorded = digits.settled(digits.CLASS, "hb", "e8", 8, 300)
    gaps = run.losses - problem.minimum
    assert found["rounds"] == len(run.outcomes) == len(recorded.points) < 150
    assert gaps[-1] <= ACCURACY * gaps[0] < gaps[-2]
    assert found["bits"] == 8 * found["rounds"]
    assert max(np.abs(run.points[1] - recorded.points[1])) > 1e-6  # x̂ is another point
    known = digits.constants()
    assert known["kappa"] == pytest.approx(known["lipschitz"] / digits.RIDGE, rel=1e-9)
    assert known["distance"] < known["distance_bound"]
    assert found["accuracy"] == pytest.approx(known["best_accuracy"], abs=0.01)


# The cells ----------------------------------------------------------------------------------------


def test_the_cells_say_what_decides_them():
    """Kills: two cells of one name; settings that JSON changes."""
    every = cells(Options())
    assert set(REPRODUCTION.checked) < set(every)
    spelled = {json.dumps(cell.settings) for cell in every.values()}
    assert len(spelled) == len(every) == 3 * 3 * 4 + 3 * 2 + 1 + 3 * 3 + 3 * 5 + 1 + 1
    for cell in every.values():
        assert json.loads(json.dumps(cell.settings)) == cell.settings
    naive = [name for name in every if "-naive-" in name and "own" not in name]
    assert naive == ["gd-naive-1.5", "gd-naive-10", "gd-naive-100"]
    assert every["nag-e8-1.5-n64"].settings["n"] == 64
    assert every["gd-scalar-100"].settings["rounds"] == 450
    assert cells(Options(rounds=30))["gd-scalar-100"].settings["rounds"] == 30


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", "mnist"], "differential-quantization has its own problems: leave --task out"),
        (["--data-root", "x"], "differential-quantization has its own problems: leave --data-root"),
        (["--rounds", "9"], "--rounds must be at least 10 here, not 9"),
    ],
)
def test_what_it_refuses(arguments, sentence, capsys):
    assert main(["reproduce", "differential-quantization", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


def test_a_cell_from_end_to_end(tmp_path, progress):
    """Kills: seeds that are one; an R that is another."""
    work = {"hb-scalar-1.5": cells(Options(rounds=40))["hb-scalar-1.5"]}
    result = compute(work, tmp_path, progress)["hb-scalar-1.5"]
    assert [result[key] for key in ("method", "way", "n", "rounds")] == ["hb", "scalar", 16, 40]
    assert [run["R"] for run in result["runs"]] == list(range(1, 9))
    third = result["runs"][2]
    mean, low, high = third["contraction"]
    assert low < mean < high and mean == pytest.approx(third["theory"], rel=0.05)
    json.dumps(result, allow_nan=False)


def test_the_committed_result_comes_out_again(progress):
    """The first rounds of two cells, to a millionth."""
    quick = replace(
        REPRODUCTION,
        check_options=Options(rounds=12),
        checked=("gd-scalar-1.5", "digits-nag-e8"),
    )
    assert check(quick, committed("differential-quantization"), progress) == []


def test_what_differs():
    """Kills: a contraction over other rounds that is compared; a tolerance that is absolute."""
    run = {"R": 3, "early": 1e-9, "rounds": 8, "bits": 24.0, "contraction": [0.5, 0.4, 0.6]}
    old = {"rounds": 200, "runs": [run]}
    assert differences(old, {"rounds": 200, "runs": [run | {"contraction": [0.504, 0, 0]}]}) == []
    other = run | {"rounds": 9, "contraction": [0.51, 0.4, 0.6]}
    assert differences(old, {"rounds": 20, "runs": [other]}) == []
    assert differences(old, {"rounds": 200, "runs": [other]}) == [
        "rounds at R = 3 is 9, committed is 8",
        "contraction at R = 3 is 0.51, committed is 0.5",
    ]
    assert len(differences(old, {"rounds": 20, "runs": [run | {"early": 1.01e-9}]})) == 1
    assert len(differences(old, {"rounds": 200, "runs": [run | {"contraction": None}]})) == 1
    assert len(differences({**old, "runs": []}, {"rounds": 20, "runs": [run]})) == 1


# What is said -------------------------------------------------------------------------------------

SIGMA = 0.2


def cell(way, factor=1.0, method="gd", kappa=1.5, n=16, **other):
    """A result whose contractions are ``factor`` times max{σ, a}; E8 saves one bit."""
    runs = []
    for R in (64,) if way == "none" else range(1, 9):
        a = math.sqrt(n) * 2.0 ** -(R + (way == "e8"))
        rate = factor * (SIGMA if way == "none" else max(SIGMA, a))
        runs.append(
            {
                "R": R,
                "theory": SIGMA if way == "none" else max(SIGMA, a),
                "contraction": [rate, rate, rate],
                "rounds": 10 if a < 0.1 else 20 if rate < 1 else None,
                "bits": R * (10.0 if a < 0.1 else 20.0) if rate < 1 else None,
                "saturated": 0,
                "boundary": 0,
            }
        )
    known = {"problem": "squares", "method": method, "way": way, "n": n, "kappa": kappa}
    return known | {"sigma": SIGMA, "rounds": 200, "runs": runs} | other


def said(results, beginning):
    return next((note for note in notes(results) if note.startswith(beginning)), "")


def test_agreement_says_so_only_where_there_is_some():
    agreement = Agreement()
    assert str(agreement) == "nothing to compare"
    agreement.add(1.005, 1.0, "one")
    assert str(agreement) == "all 1 within 1 %; the farthest is +0.5 %, one"
    agreement.add(0.97, 1.0, "two")
    assert str(agreement) == "NOT all: 1 of 2 within 1 %; the farthest is -3 %, two"


def test_the_notes_follow_the_results():
    """Both ways. Kills: agreement that is claimed whatever was measured."""
    good = {f"gd-{way}-1.5": cell(way) for way in ("none", "scalar", "e8")}
    bad = good | {"gd-scalar-1.5": cell("scalar", 1.02)}
    assert said(good, "Scalar DQ against φ(a)").startswith(
        "Scalar DQ against φ(a), where φ(a) > σ: all 4 within 1 %"
    )
    assert "NOT all: 0 of 4 within 1 %; the farthest is +2 %" in said(bad, "Scalar DQ against φ")
    assert "against σ: all 4" in said(good, "Scalar DQ-GD")
    assert "against σ: NOT all: 0 of 4" in said(bad, "Scalar DQ-GD")
    assert ": all 2 within 1 %" in said(good, "E8 with 1 bit")  # a = .5 and .25
    assert "as bits, GD: 1.000 to 1.000" in said(good, "E8 with 1 bit")
    assert "NOT all: 0 of 2" in said(bad, "E8 with 1 bit")
    assert said(good, "No contraction is below the converse") and not said(good, "NOT so")
    low = good | {"gd-scalar-1.5": cell("scalar", 0.1)}
    assert said(low, "NOT so: a contraction is below the converse's 2^(−R)")


def test_saturation_and_boundaries_are_named():
    """Kills: a count of the quantizers without preset ranges; a boundary block kept silent."""
    results = {"gd-scalar-1.5": cell("scalar"), "gd-e8-1.5": cell("e8"), "gd-own-1.5": cell("own")}
    assert "preset range: 0." in said(results, "Vectors") and "runs: none." in said(results, "Vec")
    for result in results.values():
        result["runs"][1]["saturated"] = 3
    results["gd-e8-1.5"]["runs"][1]["boundary"] = 5
    assert "preset range: 6." in said(results, "Vectors")
    assert "in all least-squares runs: 5 in gd-e8-1.5 at R = 2." in said(results, "Vectors")
    assert said(results, "E8 with 1 bit").endswith("is no codeword: 5.")


def test_who_needs_fewer_bits():
    """Kills: a winner that is not one; naive NAG with preset ranges."""
    results = {f"gd-{way}-1.5": cell(way) for way in ("none", "scalar", "e8", "naive")}
    best = {row.way: row.cheapest["bits"] for row in rows(results)}
    assert best["scalar"] == best["naive"] == 60 and best["e8"] == 40
    assert "E8 needs 0.67 to 0.67 times" in said(results, "At the cheapest R")
    assert said(results, "Naive quantization") == "Naive quantization, likewise: GD κ = 1.5: 1.00."
    for run in results["gd-naive-1.5"]["runs"]:
        run["bits"] = None if run["bits"] is None else run["bits"] / 2
    assert said(results, "Naive quantization").endswith("than preset DQ here: GD κ = 1.5.")


def test_the_table():
    """Kills: the theory of another R; a delay of other rounds; n = 64 and own scales as rows."""
    results = {f"gd-{way}-1.5": cell(way) for way in ("none", "scalar", "e8", "own")}
    results["gd-e8-1.5-n64"] = cell("e8", n=64)
    head, scalar, e8 = table(results)
    assert (scalar[0], scalar[2], e8[2]) == ("GD", "DQ, scalar", "DQ, E8")
    assert scalar[3:7] == ["4.32", "0.2000 (0.2000)", "1.0000 (1.0000)", "0.5000 (0.5000)"]
    assert e8[3] == "3.32" and e8[5] == "0.5000 (0.5000)"
    assert scalar[head.index("at R =")] == "3" and e8[head.index("at R =")] == "2"
    assert scalar[-2:] == ["6", "6"] and e8[-2:] == ["5", "5"]


def test_a_picture_of_a_few_cells(tmp_path):
    """Kills: a panel that fails where a cell is missing or nothing got there."""
    draw({f"gd-{way}-10": cell(way, kappa=10.0) for way in ("none", "e8")}, tmp_path / "few.png")
    assert (tmp_path / "few.png").read_bytes()[:4] == b"\x89PNG"
