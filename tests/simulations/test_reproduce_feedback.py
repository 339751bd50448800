"""Which feedback to recommend: the rule, what is measured of a run, and what is said of it."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from simulations.__main__ import main
from simulations.output import Progress
from simulations.reproductions.base import Options
from simulations.reproductions.command import committed
from simulations.reproductions.feedback import cells as reproduction
from simulations.reproductions.feedback.cases import (
    FEEDBACKS,
    SEEDS,
    SETTINGS,
    heterogeneity,
    problem_of,
    step_of,
)
from simulations.reproductions.feedback.cells import (
    REPRODUCTION,
    cells,
    curve,
    differences,
    summary,
)
from simulations.reproductions.feedback.draw import draw
from simulations.reproductions.feedback.notes import notes
from simulations.reproductions.feedback.rule import chosen, divergent
from simulations.reproductions.feedback.runs import TINY, Trace, end, follow, reached, stays
from simulations.reproductions.feedback.tables import entry, number, table
from simulations.reproductions.runner import check, compute


@pytest.fixture
def progress():
    return Progress(stream=io.StringIO())


# The problems -------------------------------------------------------------------------------------


def test_the_clients_differ_and_one_alone_does_not():
    """Kills: clients that share their minimiser, constants of one client."""
    for name, least in (("squares", 0.5), ("digits", 0.2)):
        problem = problem_of(name, 0)
        assert np.linalg.norm(problem.gradient(problem.minimizer)) < 1e-10
        assert heterogeneity(problem) > least
        mean = np.mean([f.gradient(0 * problem.minimizer) for f in problem.objectives], axis=0)
        assert problem.gradient(0 * problem.minimizer) == pytest.approx(mean)
    assert heterogeneity(problem_of("alone", 0)) < 1e-12
    by_hand = math.sqrt(
        sum(np.sum(f.gradient(problem.minimizer) ** 2) for f in problem.objectives)
        / sum(np.sum(f.gradient(0 * problem.minimizer) ** 2) for f in problem.objectives)
    )
    assert heterogeneity(problem) == pytest.approx(by_hand)


def test_every_client_has_one_digit_or_nearly():
    """Kills: examples that are not sorted; the digit of another seed."""
    shares = [float(np.mean(f.labels > 0)) for f in problem_of("digits", 3).objectives]
    assert int(np.argmax(shares)) == 3 and shares[3] > 0.9
    assert sum(share > 0 for share in shares) <= 2
    problem = problem_of("digits", 3)
    assert problem.lipschitz / problem.strong_convexity == pytest.approx(20, rel=1e-3)


def test_the_steps():
    problem = problem_of("squares", 0)
    whole = 2 / (problem.lipschitz + problem.strong_convexity)
    assert step_of(problem, "1").step_size == pytest.approx(whole)
    assert step_of(problem, "1/4").step_size == pytest.approx(whole / 4)
    assert isinstance(step_of(problem, "nesterov"), fb.nesterov)


def test_who_is_asked_and_what_is_lost():
    """Kills: the same clients in every round, losses without a chance of their own."""
    half = SETTINGS["half-lossy"]
    asked = [half.asked(10, 0, round) for round in range(50)]
    assert {len(clients) for clients in asked} == {5} and len(set(map(tuple, asked))) > 10
    gone = np.mean([len(half.missing(10, 0, round)) for round in range(200)])
    assert gone == pytest.approx(2, abs=0.3)
    assert SETTINGS["full"].asked(8, 0, 3) == list(range(8))
    assert SETTINGS["full"].missing(8, 0, 3) == []


# A run --------------------------------------------------------------------------------------------


def test_a_floor_or_not():
    """Kills: a slope over all the rounds, which a fast start hides; a swing taken for descent."""
    falling = 0.9 ** np.arange(151)
    floor = np.maximum(0.8 ** np.arange(151), 1e-3)
    swinging = floor * (1 + 0.5 * np.sin(np.arange(151)))
    assert not stays(falling) and stays(floor) and stays(swinging)
    assert not stays(np.append(floor, TINY))  # it is there
    assert end(floor) == 1e-3 and end(np.append(floor, TINY)) == TINY
    spike = np.ones(151)
    spike[-1] = 50
    assert end(spike) == 1
    assert reached(np.array([1, 2e-6, 1e-6, 1e-7])) == 2 and reached(floor) is None


def test_a_run_is_the_loop_s(progress):
    """Kills: another x_0, seed or round; gaps that are not relative."""
    problem, setting = problem_of("squares", 1), SETTINGS["half-lossy"]
    trace = follow(
        problem, step_of(problem, "1/4"), fb.uniform(3), fb.error_feedback(), setting, 24, 1
    )
    history = fb.run(
        *(problem.objectives, step_of(problem, "1/4"), np.zeros(16), 24),
        compressor=fb.uniform(3),
        feedback=fb.error_feedback(),
        participation=lambda k: fb.sample_clients(1, k, range(8), 4),
        lost=lambda k: fb.lost(1, k, range(8), 0.2),
        seed=1,
    )
    gaps = (history.losses - problem.minimum) / (history.losses[0] - problem.minimum)
    np.testing.assert_allclose(trace.gaps, gaps, rtol=1e-9)
    assert trace.early == pytest.approx(gaps[20], rel=1e-9)
    assert trace.wire_bits == round(np.mean(history.wire_bits))


def test_a_run_that_diverges_and_one_that_is_there():
    """Kills: a divergence that ends the command, or passes for a floor."""
    problem = problem_of("alone", 0)
    setting, exact = SETTINGS["full"], (fb.identity(), fb.no_feedback())
    wild = follow(problem, fb.gradient_descent(50.0), *exact, setting, 40, 0)
    assert wild == Trace(None)
    quiet = follow(problem, fb.gradient_descent(1e-9), *exact, setting, 3, 0)
    assert quiet.gaps is not None and quiet.early is None
    quick = follow(problem, step_of(problem, "1"), *exact, setting, 200, 0)
    assert quick.gaps[-1] == TINY and len(quick.gaps) < 200


def test_a_summary_by_hand():
    """Kills: an arithmetic mean, a run that diverged counted as a gap, rounds of those that get
    there alone."""
    low, high = np.geomspace(1, 1e-8, 31), np.geomspace(1, 1e-4, 31)
    both = summary([Trace(low, 100, 0.25), Trace(high, 80, 0.5)])
    assert both["gap"] == pytest.approx(
        [math.sqrt(end(low) * end(high)), end(low), end(high)], rel=1e-3
    )
    assert both["reached"] is None and both["diverged"] == 0 and both["floor"] is False
    assert both["early"] == 0.25 and both["wire_bits"] == 100
    assert summary([Trace(low), Trace(low)])["reached"] == 23
    gone = summary([Trace(None), Trace(high, 80)])
    assert gone["diverged"] == 1 and gone["gap"][1] == gone["gap"][2] == pytest.approx(
        end(high), 1e-3
    )
    assert summary([Trace(None)])["gap"] is None and curve([Trace(low), Trace(None)]) is None
    shorter = curve([Trace(np.array([1.0, 1e-10])), Trace(np.array([1.0] * 5 + [1e-8]))])
    assert shorter == pytest.approx([1, 1e-9])


# The rule -----------------------------------------------------------------------------------------


def run(gap, diverged=0, reached=None, floor=False):
    kept = None if gap is None else [gap, gap, gap]
    ends = {"diverged": diverged, "gap": kept, "reached": reached, "floor": floor}
    return {**ends, "early": gap, "wire_bits": 700}


def cell(gaps, bits=2, setting="full", problem="squares", compressor="uniform", **other):
    """``gaps``: feedback → (tuned, quarter), None for one that diverges."""
    runs = {
        name: {
            share: run(gap, 5 if gap is None else 0, other.get("reached"))
            for share, gap in zip(("1", "1/4"), gaps.get(name, (1e-2, 1e-2)), strict=True)
        }
        for name in FEEDBACKS
    }
    return {
        **{"problem": problem, "compressor": compressor, "bits": bits, "setting": setting},
        **{"rounds": 150, "heterogeneity": 0.5, "runs": runs},
    }


def test_the_rule_takes_the_lowest_gap():
    """Kills: the highest, an arithmetic mean, a winner that is in the list first."""
    results = {
        "a": cell({"EF21": (1e-8, 1e-3), "differential": (1e-3, 1e-3)}),
        "b": cell({"EF21": (1e-4, 1e-3), "differential": (2e-5, 1e-3)}, setting="half"),
    }
    choice = chosen(results)
    assert (choice.feedback, choice.share) == ("EF21", "1")
    assert choice.gap == pytest.approx(1e-6) and choice.rounds == math.inf
    part = chosen(results, settings=("half",))
    assert (part.feedback, part.gap) == ("differential", pytest.approx(2e-5))


def test_the_rule_refuses_what_diverges_once():
    """Kills: one divergence forgiven; a quarter of the step that is not looked at."""
    results = {
        "a": cell({"EF21": (1e-9, 1e-4), "with memory": (1e-9, 1e-3)}),
        "b": cell({"EF21": (None, 1e-4), "with memory": (1e-9, 1e-3)}, 4, "half"),
        "c": cell({"with memory": (None, 1e-3)}, 3, "half", "digits"),
    }
    choice = chosen(results)
    assert (choice.feedback, choice.share) == ("EF21", "1/4")
    assert chosen(results, shares=("1",)).feedback == "none"
    assert chosen(results, settings=("full",)).feedback == "EF21"
    everything = {"a": cell(dict.fromkeys(FEEDBACKS, (None, None)))}
    assert chosen(everything) is None and chosen({}) is None
    assert divergent(results, "EF21", "1") == ["b"] and divergent(results, "EF21", "nesterov") == []


def test_the_rule_looks_at_two_to_four_bits_of_clients_that_differ():
    """Kills: one bit, E8 or one client that decides."""
    results = {
        "a": cell({"EF21": (1e-9, 1e-9)}),
        "one bit": cell({"EF21": (None, None)}, bits=1),
        "lattice": cell({"EF21": (None, None)}, compressor="e8"),
        "alone": cell({"EF21": (None, None), "differential": (1e-5, 1e-5)}, problem="alone"),
    }
    assert chosen(results).feedback == "EF21"
    assert chosen(results, problems=("alone",)).feedback == "differential"


def test_of_equal_gaps_the_fastest():
    """Kills: the order of the list among those that all got there."""
    results = {"a": cell({"EF21": (1e-10, 1e-2), "differential": (1e-10, 1e-2)}, reached=30.0)}
    assert chosen(results).feedback == "EF21"
    results["a"]["runs"]["EF21"]["1"]["reached"] = 50.0
    assert chosen(results).feedback == "differential"


# What is said -------------------------------------------------------------------------------------


def test_the_table_by_hand():
    """Kills: a floor that is not marked, runs that diverge and pass for the others' mean."""
    results = {"a": cell({"EF21": (1.4e-8, None)}, 3, "half-lossy", "digits")}
    results["a"]["runs"]["none"]["1"] |= {"floor": True}
    line = table(results)[1]
    assert line[:4] == ["digits, 10 clients", "half, 20 % loss", "uniform, 3 bit", "700"]
    assert line[4] == "1e-2 f / 1e-2" and line[6] == "1e-8 / diverges"
    assert entry(run(1e-3, diverged=2)) == "diverges in 2"
    assert number(6.4e-4) == "6e-4" and number(0.96) == "1e0"


def test_the_notes_recommend_what_the_rule_chose():
    """Both ways. Kills: a recommendation that does not follow from the results."""
    one = {"a": cell({"EF21": (1e-8, 1e-3)}), "b": cell({"EF21": (1e-8, 1e-3)}, setting="half")}
    said = " ".join(notes(one))
    assert "differential_quantization defaults to feedback=ef21(): over" in said
    assert "EF21 at the tuned step, gap 1e-8. At the tuned step alone it would be EF21" in said
    other = {
        "a": cell({"with memory": (1e-9, 1e-6), "EF21": (None, 1e-5)}),
        "b": cell({"with memory": (None, 1e-6), "EF21": (1e-3, 1e-5)}, setting="half"),
    }
    said = " ".join(notes(other))
    assert "defaults to feedback=differential(memory=True): over" in said
    assert "with memory at a quarter of the tuned step, gap 1e-6." in said
    assert "nothing lost, the same rule: with memory at the tuned step, gap 1e-9." in said
    assert "some are silent, the same rule: with memory at a quarter" in said
    assert "step, of 2 cells: with none in 0; error feedback in 0; EF21 in 1 (a); diff" in said
    none = " ".join(notes({"a": cell(dict.fromkeys(FEEDBACKS, (None, None)), bits=3)}))
    assert "has no feedback to default to" in none and "every feedback diverges" in none


def test_the_notes_on_nesterov_lattices_and_floors():
    results = {"squares-uniform-2-full": cell({}), "squares-e8-2-full": cell({}, compressor="e8")}
    for name in FEEDBACKS:
        results["squares-uniform-2-full"]["runs"][name]["nesterov"] = run(None, 5)
    results["squares-uniform-2-full"]["runs"]["EF21"]["nesterov"] = run(1e-5)
    results["squares-uniform-2-full"]["runs"]["none"]["1"]["floor"] = True
    results["squares-e8-2-full"]["runs"]["none"]["1"] = run(None, 5)
    said = " ".join(notes(results))
    assert "EF21 (1e-5), differential (diverges in 1 of 1)" in said
    assert "none (1e-2; diverges in 1 of 2) against (1e-2), error" in said
    assert "otherwise: none 1 of 2 and 0 of 0, error feedback 0 of 2" in said


def test_the_notes_name_what_is_as_good_and_what_one_bit_leaves():
    """Kills: a tie that is told as a victory, another setting's bit."""
    gaps = {name: (1e-3, 1e-3) for name in FEEDBACKS}
    best = gaps | {"EF21": (1e-10, 1e-3), "differential": (1e-10, 1e-3), "none": (1e-10, 1e-3)}
    results = {"a": cell(best, problem="alone", reached=30.0)}
    results["a"]["runs"]["differential"]["1"]["reached"] = 20.0
    results["b"] = cell({"EF21": (None, 1e-3)}, bits=1, problem="alone")
    results["c"] = cell({"EF21": (1e-7, 1e-3)}, bits=1, problem="alone", setting="full-lossy")
    said = " ".join(notes(results))
    assert "differential at the tuned step, gap 1e-10, the fastest; as low are none and EF" in said
    assert "nothing lost: least squares, 1 client: none 1e-2, error feedback 1e-2, EF21 div" in said
    assert "EF21 1e-7" not in said


def test_results_that_are_not_all_there(tmp_path):
    """Kills: a picture or a sentence that needs every cell."""
    path = tmp_path / "some.png"
    results = {"squares-uniform-2-full": cell({"EF21": (1e-8, None)})}
    assert len(table(results)) == 2 and "1 client" not in " ".join(notes(results))
    draw(results, path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert notes({}) and len(table({})) == 1


# The cells ----------------------------------------------------------------------------------------


def test_the_cells_say_what_decides_them():
    """Kills: settings that JSON changes; cells that are alike."""
    every = cells(Options())
    assert set(REPRODUCTION.checked) < set(every)
    assert len({json.dumps(made.settings) for made in every.values()}) == len(every) == 44
    for made in every.values():
        assert json.loads(json.dumps(made.settings)) == made.settings
    settings = every["squares-e8-2-half-lossy"].settings
    assert settings["compressor"].startswith("lattice(kind='E8', bits=2")
    assert (settings["participation"], settings["loss"]) == (0.5, 0.2)
    assert "nesterov" not in settings["ways"]
    assert "nesterov" in every["squares-uniform-2-full"].settings["ways"]
    assert cells(Options(rounds=30))["alone-uniform-1-full"].settings["rounds"] == 30
    assert cells(Options(rounds=10**6))["alone-uniform-1-full"].settings["rounds"] == 150


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data-root", "x"], "error: feedback has its own problems: leave --data-root out\n"),
        (["--task", "digits"], "error: feedback has its own problems: leave --task out\n"),
        (["--rounds", "19"], "error: --rounds must be at least 20 here, not 19\n"),
    ],
)
def test_what_it_refuses(arguments, sentence, capsys):
    assert main(["reproduce", "feedback", *arguments]) == 2
    assert capsys.readouterr().err == sentence


def test_a_cell_from_end_to_end_and_resumed(tmp_path, progress, monkeypatch):
    """Kills: one seed for all, a cell that is computed twice."""
    name = "alone-uniform-2-full-lossy"
    work = {name: cells(Options(rounds=20))[name]}
    result = compute(work, tmp_path, progress)[name]
    ends = []
    for seed in SEEDS:
        problem = problem_of("alone", seed)
        step = step_of(problem, "1/4")
        trace = follow(problem, step, fb.uniform(2), fb.ef21(), SETTINGS["full-lossy"], 20, seed)
        ends.append(end(trace.gaps))
    told = result["runs"]["EF21"]["1/4"]["gap"]
    assert told[1:] == pytest.approx([min(ends), max(ends)], rel=1e-3)
    assert told[0] == pytest.approx(math.exp(np.mean(np.log(ends))), rel=1e-3)
    assert len(result["runs"]["EF21"]["1/4"]["curve"]) == 5
    json.dumps(result, allow_nan=False)
    monkeypatch.setattr(reproduction, "follow", lambda *a, **k: pytest.fail("computed"))
    assert compute(work, tmp_path, progress, resume=True)[name] == result


def test_the_committed_result_comes_out_again(progress):
    """Twenty rounds of one cell, to a millionth; ``--check`` does so for more."""
    quick = replace(REPRODUCTION, checked=("alone-uniform-2-full",))
    assert check(quick, committed("feedback"), progress) == []


def test_what_differs():
    """Kills: an absolute tolerance, one side's divergence that is not noticed."""
    old = {"runs": {"none": {"1": {"early": 1e-5}, "1/4": {"early": None}}}}
    close = {"runs": {"none": {"1": {"early": 1e-5 * (1 + 1e-7)}, "1/4": {"early": None}}}}
    assert differences(old, close) == []
    far = {"runs": {"none": {"1": {"early": 1.01e-5}, "1/4": {"early": 0.5}}}}
    assert differences(old, far) == [
        "none, 1: gap of round 20 is 1.01e-05, committed is 1e-05",
        "none, 1/4: gap of round 20 is 0.5, committed is None",
    ]
