"""Flat minima: the runs against the loop and by hand, what is told apart, what is said of it."""

import copy
import io
import json
import math

import numpy as np
import pytest

import fedbias as fb
from simulations.__main__ import main
from simulations.output import Progress
from simulations.reproductions.base import Options
from simulations.reproductions.command import committed
from simulations.reproductions.flat_minima import runs as measured
from simulations.reproductions.flat_minima.cases import CLIENTS, GRIDS, STARTS
from simulations.reproductions.flat_minima.cells import REPRODUCTION, Setup, cells, differences
from simulations.reproductions.flat_minima.draw import draw, flow_path
from simulations.reproductions.flat_minima.notes import notes
from simulations.reproductions.flat_minima.runs import (
    descent,
    endless,
    federated,
    looped,
    measure,
    recursion_error,
)
from simulations.reproductions.flat_minima.tables import table
from simulations.reproductions.runner import check, compute

NEAR = STARTS["near"].vector


@pytest.fixture
def progress():
    return Progress(stream=io.StringIO())


# A run --------------------------------------------------------------------------------------------


def test_flower_s_points_are_the_loop_s():
    """d = 1 and 10, to the bit, and not those of one client, which rounds otherwise.

    Kills: a federation of one client, points that are not Flower's."""
    for name in ("near", "wide"):
        start = STARTS[name].vector
        problem = fb.ShallowLinear(1.0, start.size // 2, CLIENTS)
        flower = federated(problem, fb.gradient_descent(0.3), start, 12)
        loop = fb.run(problem.objectives, fb.gradient_descent(0.3), start, 12).points
        np.testing.assert_array_equal(flower, loop)
        np.testing.assert_array_equal(looped(problem, fb.gradient_descent(0.3), start, 12), loop)
        assert len(np.unique(flower, axis=0)) == 13
        one = fb.ShallowLinear(1.0, start.size // 2).objectives
        alone = fb.run(one, fb.gradient_descent(0.3), start, 12).points
        np.testing.assert_allclose(flower, alone, atol=1e-14)
        assert (flower != alone).any()


def test_a_measured_run():
    """The first table's η·λ_GF = 1: nine steps. Kills: a step size of another λ, spare rounds
    that are one client's."""
    flow = math.hypot(1.8**2 - 0.2**2, 2)
    run = measure(NEAR, 1.0 / flow, 100, drawn=True)
    assert run["steps"][1] == 9 == run["rounds"] and run["federated_steps"][1] == 9
    assert run["identical"] is True and run["compared"] == 9 + 5 + 1
    assert run["flow"] == pytest.approx(flow) and f"{run['norm_square']:.4f}" == "3.6949"
    assert run["product"] == pytest.approx(run["norm_square"], abs=1e-12)
    assert run["identity"] < 1e-14 and 0 < run["apart"] < 1e-13
    assert run["rate"][0] == pytest.approx(run["rate"][1], abs=1e-6)
    assert len(run["points"]) == 10 and run["points"][0] == [1.8, 0.2]
    assert "points" not in measure(NEAR, 0.4, 3)
    json.dumps(run, allow_nan=False)


def test_identical_is_measured(monkeypatch):
    """One bit of one point makes the difference. Kills: a fact that is only said."""

    def off(problem, optimizer, start, rounds):
        points = federated(problem, optimizer, start, rounds)
        points[-1, 0] = np.nextafter(points[-1, 0], 9)
        return points

    monkeypatch.setattr(measured, "federated", off)
    assert measure(NEAR, 0.4, 3)["identical"] is False


def test_what_a_descent_comes_to_by_hand():
    """ε = −.5, .25 and 0 exactly: Q_0 = 3.75, η = 2. Kills: a move without its step size, the
    last residual in the product, a rate that is read too early."""
    points = np.array([[2.0, 0.25], [1.25, 1.0], [1.0, 1.0]])
    told = descent(points, 2.0)
    assert told["rounds"] == 2 and told["steps"] == [2, 2] and told["norm_square"] == 2
    assert told["flow"] == math.hypot(4 - 0.0625, 2) and told["move"] == 1
    assert told["product"] == math.hypot((4 - 0.0625) * 0 * 0.75, 2)
    assert told["bounded"] is True and told["rate"] is None
    assert told["sharpness"][1] == pytest.approx(2)
    other = descent(points, 3.0)
    assert other["bounded"] is False and other["move"] == 1.5
    assert descent(points[:2], 2.0)["steps"] == [None, None]


def test_the_recursion_notices_another_step():
    """Kills: an error that is always small."""
    objectives = fb.ShallowLinear(1.0, 1).objectives
    own = fb.run(objectives, fb.gradient_descent(0.4), NEAR, 20).points
    assert recursion_error(own, 0.4) < 1e-15
    assert recursion_error(own, 0.4 + 1e-6) > 1e-8
    heavy = fb.run(objectives, fb.heavy_ball(0.4, 0.9), NEAR, 20).points
    assert recursion_error(heavy, 0.4) > 1e-3


def test_a_run_without_an_end():
    """At η·2 > 2. Kills: the last residual for the least, an entry for the largest one."""
    told = endless(NEAR, 3.8 / math.hypot(3.2, 2), 300)
    assert told["rounds"] == 300 and 1 < told["largest"] < 2 and 1e-5 < told["least"] < 0.1
    quick = endless(NEAR, 0.4, 100)
    assert quick["least"] < 1e-14 and 1.8 < quick["largest"] < 1.9


def test_a_run_that_diverges():
    """It ends where an entry is above 100, in Flower as in the loop. Kills: a run that ends the
    command, an error of rounding far away that is taken for one of the recursion."""
    told = measure(NEAR, 1.5, 100)
    assert told["diverged"] is True and told["steps"] == [None, None] and told["identical"] is True
    assert 1 < told["rounds"] < 20 and told["compared"] == told["rounds"] + 1
    assert told["norm_square"] > 100**2 and told["identity"] < 1e-9
    json.dumps(told, allow_nan=False)
    assert measure(NEAR, 0.4, 3)["diverged"] is False


@pytest.mark.parametrize("start", [(1.8, 0.2), (2.9, -2.5), (3.0, 2.0), (0.5, 0.1)])
def test_the_flow_s_path(start):
    """a² − b² stays and ab = 1 is its end. Kills: a path to another hyperbola, or away."""
    path = flow_path(np.array(start))
    np.testing.assert_allclose(path[0], start, rtol=1e-12)
    kept = path[:, 0] ** 2 - path[:, 1] ** 2
    np.testing.assert_allclose(kept, start[0] ** 2 - start[1] ** 2, rtol=1e-9)
    assert path[-1].prod() == pytest.approx(1, rel=1e-9)
    assert (np.diff(np.abs(path.prod(axis=1) - 1)) < 0).all()


# What is said -------------------------------------------------------------------------------------


def run(multiple, steps, norm_square, **other):
    return {
        **{"multiple": multiple, "step_size": multiple / 4, "rounds": 99, "flow": 4.0},
        **{"steps": [steps, steps], "norm_square": norm_square, "product": norm_square + 1e-14},
        **{"sharpness": [5.0, norm_square], "move": 0.5, "bounded": True, "rate": [0.5, 0.5]},
        **{"identical": True, "compared": 100, "federated_steps": [steps, steps]},
        "diverged": False,
        **{"apart": 1e-15, "identity": 1e-16},
        **other,
    }


def results(*runs, start="near"):
    return {start: {"start": start, "runs": list(runs)}}


def test_the_table_by_hand():
    """Kills: runs that are neither expected nor shown; what never converges with a λ_∞."""
    lines = table(
        results(
            run(0.2, 144, 3.76412),
            run(0.3, 90, 3.7),
            run(3.6, 319, 2.0, bounded=False, move=1.5, federated_steps=[300, 320]),
            run(3.8, None, 1.9, identical=False, rate=None),
        )
    )
    gone = table(results(run(3.6, None, 1e5, diverged=True, rate=None)))[1]
    assert gone[2] == "diverges" and gone[3] == "-"
    assert len(lines) == 4 and {len(line) for line in lines} == {12}
    assert lines[1] == [
        *("(1.8, .2)", "0.2", "3.76412", "1e-14", "3.7641", "144 / 144", "144", "144 / 144"),
        *("yes, 100 points", "0.500000", "0.500000", "0.5"),
    ]
    assert lines[2][7] == "300 / 320" and lines[2][-1] == "1.5 > √2"
    assert lines[3][2:6] == ["none", "-", "none", "never / never"]
    assert lines[3][6] == "never" and lines[3][8] == "NO, 100 points" and lines[3][9] == "-"
    far = table(results(run(0.2, 123, 16.118), start="far"))[1]
    assert far[6] == "123 / 144" and far[4] == "16.118"


def test_the_notes_compare_with_what_was_expected():
    """Both ways. Kills: a tolerance below 1.9, digits that are not looked at."""
    good = results(run(0.2, 144, 3.76412), run(2.0, 71, 3.07351))
    assert notes(good)[0] == (
        "2 runs of one client against the values expected: all steps and all printed digits of "
        "λ_∞ are the same."
    )
    said = notes(results(run(0.2, 145, 3.7643), run(2.0, 73, 3.07351), run(2.4, 50, 2.3402)))[0]
    assert "at 0.2 takes 145 steps, not 144 (NOT within ± 0)" in said
    assert "at 0.2 ends at λ_∞ = 3.7643, not 3.7641" in said
    assert "at 2 takes 73 steps, not 71 (within ± 2)" in said
    assert "at 2.4 takes 50 steps, not 47 (NOT within ± 2)" in said
    assert "at 3.8 takes 9 steps, not None (NOT" in notes(results(run(3.8, 9, 2.0)))[0]


def test_the_notes_count_what_flower_did():
    """Kills: a sentence that does not look."""
    every = run(0.2, 9, 3.7), run(2.4, 9, 2.4, federated_steps=[9, 10], apart=0.5)
    said = notes(results(*every))[1]
    assert "in 2 of 2 runs, 200 points" in said and "by more than 1e-15 up to" in said
    assert "by more than 0.5 beyond" in said
    assert said.endswith("in 1 of 2 runs, and otherwise 9 / 10 for 9 / 9 ((1.8, .2) at 2.4).")
    wild = run(3, None, 1e5, diverged=True, apart=9.0, rate=None)
    said = notes(results(every[0], run(1.9, 9, 3.2, identical=False, apart=1e-3), wild))[1]
    assert "in 2 of 3 runs, 200 points" in said and "by more than 0.001 up to" in said
    assert "by more than 0 beyond" in said and said.endswith("in 3 of 3 runs.")


def test_the_trade_off_is_said_either_way():
    """Kills: a monotone trade-off that is not there, or one beyond 2."""
    between = [run(1.2, 10, 3.9), run(1.9, 20, 3.5), run(2.0, 30, 3.0)]
    said = notes(results(*between, run(2.4, 15, 2.5), run(2.8, 40, 2.0)))[3]
    assert "in (1, 2] is monotone: steps do not fall, λ_∞ does not rise, to 3.0000. The" in said
    assert "The fewest steps, 10, are at 1.2, where ηλ_∞ = 1.170. From 2 on steps fall, to" in said
    assert said.endswith("to 15 at 2.4, and λ_∞ does not rise.")
    between[1]["steps"] = [31, 31]
    between[2]["norm_square"] = 3.6
    said = notes(results(*between, run(2.4, 35, 3.7)))[3]
    fewer = run(1.1, 40, 4.0), run(1.15, 35, 3.95)
    assert "fall from 1.1 to 1.2 (40 → 10), from 1.9 to 2 (31 → 30), λ" in " ".join(
        notes(results(*fewer, *between, run(2.4, 35, 3.7)))
    )
    assert (
        "is NOT monotone: steps fall from 1.9 to 2 (31 → 30), λ_∞ rises from 1.9 to 2 (3.5 → 3.6), "
        "to 3.6000. The"
    ) in said
    assert said.endswith(
        "From 2 on there are never fewer steps again and λ_∞ rises from 2 to 2.4 (3.6 → 3.7)."
    )
    assert "where Q = 0" not in said
    short = [each | {"flow": 1.7} for each in (*between, run(2.4, 35, 3.7))]
    told = " ".join(notes(results(*short, start="wide")))
    assert "(η|ε_0| = 1 at 1.002, where Q = 0 after a step)" in told


def test_flatter_than_the_flow_or_not():
    """Kills: a promise where there is none, a run above λ_GF that is not counted."""
    loose = {"bounded": False, "move": 1.9}
    said = " ".join(notes(results(run(1.2, 9, 1.0), run(2.4, 9, 3.0, **loose), run(3, 9, 5.0))))
    assert "λ_∞ ≤ λ_GF in 1 of 2 runs, down to 0.250 of it (the norm to 0.500)" in said
    assert "Where η|ε| > √2 somewhere, in 1 of 1: the" in said
    sharp = results(run(0.6, 9, 7.0, **loose), start="opposed")
    assert "λ_∞ = 7.000 and λ_GF = 4.000. Without the condition" in " ".join(notes(sharp))
    flat = results(run(0.6, 9, 3.0, **loose), start="opposed")
    assert "Without the condition" not in " ".join(notes(flat))


def test_what_does_not_converge():
    """Kills: a repelling minimum where η·2|Φ| < 2, a long run that is not told."""
    gone = {"rate": None}
    slow = run(3.7, 9, 2.0)
    slow["steps"] = [9, None]
    known = results(
        *(run(2.4, 9, 2.3), run(3.2, None, 2, **gone), slow, run(4.4, None, 2, **gone)),
        run(6, None, 1e5, diverged=True, **gone),
    )
    known["endless"] = {"start": "near", "multiple": 3.8, "rounds": 200_000}
    known["endless"] |= {"step_size": 1.0, "least": 0.0123, "largest": 1.5}
    said = " ".join(notes(known))
    assert "From (1.8, .2) runs diverge at 6." in said and "4.4, 6" not in said
    assert (
        "99 steps do not get to |ε| < 1e-12 at 4.4, where η·2|Φ| > 2 and every minimum rep" in said
    )
    assert "; at 3.2, though the flattest minimum attracts." in said
    assert "get to |ε| < 1e-12 but not to 1e-14 at 3.7: rounding" in said
    assert said.endswith(
        "at 3.8, 200,000 steps: no entry exceeds 1.500, |ε| is never below 1.2e-02."
    )


def test_results_that_are_not_all_there(tmp_path):
    """Kills: a picture or a sentence that needs every cell."""
    path = tmp_path / "some.png"
    lost = results(run(3.8, None, 2, rate=None))
    drawn = results(run(1.2, 9, 3.0, points=[[1.8, 0.2], [1.0, 1.0]]))
    for some in ({}, lost, drawn, lost | {"wide": drawn["near"]}):
        assert table(some)[0][0] == "start"
        json.dumps(list(notes(some)))
    for some in ({}, drawn):
        draw(some, path)
        assert path.read_bytes()[:4] == b"\x89PNG"
    assert notes({}) == []


# The cells ----------------------------------------------------------------------------------------


def test_the_cells_say_what_decides_them():
    """Kills: settings that JSON changes; cells that are alike."""
    every = cells(Options())
    assert set(REPRODUCTION.checked) < set(every) and set(GRIDS) < set(every)
    assert len({json.dumps(made.settings) for made in every.values()}) == len(every) == 7
    for made in every.values():
        assert json.loads(json.dumps(made.settings)) == made.settings
    assert every["endless"].settings["rounds"] == 200_000
    fewer = cells(Options(rounds=30))
    assert fewer["endless"].settings["rounds"] == fewer["near"].settings["rounds"] == 30
    for name in GRIDS:
        wanted = STARTS[name].expected
        assert set(wanted) <= set(every[name].settings["multiples"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", "digits"], "error: flat-minima has its own problem: leave --task out\n"),
        (["--data-root", "x"], "error: flat-minima has its own problem: leave --data-root out\n"),
        (["--rounds", "19"], "error: --rounds must be at least 20 here, not 19\n"),
    ],
)
def test_what_it_refuses(arguments, sentence, capsys):
    assert main(["reproduce", "flat-minima", *arguments]) == 2
    assert capsys.readouterr().err == sentence


def test_a_cell_from_end_to_end_and_resumed(tmp_path, progress, monkeypatch):
    """Kills: a step size of another start, a cell that is computed twice."""
    setup = Setup("near", (1.0, 2.4), 60)
    told = compute({"one": setup.cell()}, tmp_path, progress)["one"]
    assert [run["steps"][1] for run in told["runs"]] == [9, 47]
    assert [run["multiple"] for run in told["runs"]] == [1.0, 2.4]
    monkeypatch.setattr(Setup, "compute", lambda *a: pytest.fail("computed"))
    again = compute({"one": setup.cell()}, tmp_path, progress, resume=True)["one"]
    assert again == json.loads(json.dumps(told))


def test_a_cell_that_diverges_and_goes_on(tmp_path, progress):
    """Kills: a run far away, whose gradients are not finite, that ends the cell."""
    told = compute({"one": Setup("wide", (5.0, 1.0), 60).cell()}, tmp_path, progress)["one"]
    assert [run["diverged"] for run in told["runs"]] == [True, False]
    assert told["runs"][1]["steps"][1] is not None


def test_what_differs():
    """Kills: an absolute tolerance, a run that got there and did not, bits that nobody compares."""
    old = {"runs": [run(0.2, 144, 3.76412), run(3.8, None, 1.9)]}
    close = copy.deepcopy(old)
    close["runs"][0] |= {"steps": [146, 142], "norm_square": 3.76412 * (1 + 1e-10)}
    assert differences(old, close) == []
    far = copy.deepcopy(old)
    far["runs"][0] |= {"steps": [147, 144], "norm_square": 3.76413, "identical": False}
    far["runs"][1]["steps"] = [12, None]
    assert differences(old, far) == [
        "steps at η·λ_GF = 0.2 are [147, 144], committed are [144, 144]",
        "λ_∞ at η·λ_GF = 0.2 is 3.76413, committed is 3.76412",
        "Flower's points at η·λ_GF = 0.2 are not those of the loop",
        "steps at η·λ_GF = 3.8 are [12, None], committed are [None, None]",
    ]


def test_the_committed_result_comes_out_again(progress):
    """``--check``, all of it."""
    assert check(REPRODUCTION, committed("flat-minima"), progress) == []


def test_what_is_committed_agrees_with_what_was_expected():
    """Kills: a committed result of which a run was not Flower's, or not the expected one."""
    whole = committed("flat-minima")
    assert all(run["identical"] for cell in whole.values() for run in cell.get("runs", ()))
    said = notes(whole)
    assert said[0].startswith("15 runs of one client against the values expected: all steps")
