"""The edge of stability: what is run, what is read off the runs, what is said of them."""

import io
import math
from types import SimpleNamespace

import numpy as np
import pytest

import fedbias as fb
from simulations.__main__ import main
from simulations.data import digits
from simulations.output import Progress
from simulations.output.runs import Run
from simulations.reproductions.base import Options
from simulations.reproductions.command import committed
from simulations.reproductions.edge_of_stability import cells as reproduction
from simulations.reproductions.edge_of_stability import subset
from simulations.reproductions.edge_of_stability.cases import SEEDS, STEPS, cases
from simulations.reproductions.edge_of_stability.cells import cells, differences, result_of
from simulations.reproductions.edge_of_stability.draw import draw
from simulations.reproductions.edge_of_stability.measures import (
    accuracy,
    arrived,
    crossed,
    family,
    hovering,
    late_loss,
    late_pressure,
    late_sharpness,
    pressures,
    products_until,
    rises,
    seeds_of,
    sharpness_when,
    spread,
    trend,
)
from simulations.reproductions.edge_of_stability.notes import notes
from simulations.reproductions.edge_of_stability.tables import table
from simulations.reproductions.runner import compute
from simulations.settings import make_settings


@pytest.fixture
def progress():
    return Progress(stream=io.StringIO())


# What is run --------------------------------------------------------------------------------------


def test_the_cells_are_these():
    """Kills: a seed that is left out, a step size of another cell, β's limit taken for 2."""
    made = cells(Options())
    names = [f"{case}-{seed}" for case in cases() for seed in SEEDS]
    assert list(made) == [*names, "check-fixed", "check-steered"] and len(names) == 33
    for eta in STEPS:
        assert made[f"fixed-{eta}-1"].settings["optimizer"] == f"gradient_descent(step_size={eta})"
        assert made[f"fixed-{eta}-1"].settings["steering"] == ""
    one = made["c-1.9-2"].settings
    assert one["steering"].startswith("by_sharpness(c=1.9, ") and "largest=0.4" in one["steering"]
    assert (one["seed"], one["clients"], one["rounds"], one["batch_size"]) == (2, 10, 600, 0)
    assert one["estimator"] == "exact()" and "data_root" not in one
    assert made["unbounded-0"].settings["steering"] == "by_sharpness(c=1.9)"
    # β = ½: 2(2−β)/β = 6, and c is the same 95 % of it as 1.9 of 2.
    edge = make_settings({**made["momentum-c-0"].settings, "data_root": ""})
    assert edge.made("steering", fb.BySharpness).c == pytest.approx(5.7)
    assert edge.made("optimizer", fb.Optimizer).stability == 6
    assert made["sparse-0"].settings["feedback"] == "error_feedback()"
    assert made["check-steered"].settings["task"] == "digits"


def test_other_data_and_fewer_rounds(capsys):
    made = cells(Options(task="mnist", data_root="/data", rounds=40))
    assert made["fixed-0.1-0"].settings["task"].endswith(":mnist")
    assert made["fixed-0.1-0"].settings["rounds"] == 40
    assert main(["reproduce", "edge-of-stability", "--task", "digits"]) == 2
    assert capsys.readouterr().err == (
        "error: edge-of-stability is about --task fashion-mnist or mnist, not 'digits'\n"
    )


def test_a_thousand_examples_of_mean_zero(monkeypatch):
    """Kills: test data shifted by another number, examples that a seed does not choose, labels of
    other examples."""
    monkeypatch.setattr(subset, "image_data", lambda name, root: digits())
    values = {"clients": 10, "partition": "iid()", "model": "linear()"}
    tasks = [subset.mnist(make_settings(values | {"seed": seed})) for seed in (0, 1)]
    assert [tasks[0].objective(m).size for m in range(10)] == [100] * 10
    first, second = (subset._some(digits(), seed) for seed in (0, 1))
    assert first.train_x.shape == (1000, 1, 8, 8) and abs(first.train_x.mean()) < 1e-6
    shift = digits().test_x - first.test_x
    assert shift.min() == pytest.approx(shift.max(), abs=1e-6) and shift.min() > 0.2
    assert (first.train_y != second.train_y).mean() > 0.5
    known = {
        (row.tobytes(), int(y))
        for row, y in zip(np.round(16 * digits().train_x), digits().train_y, strict=True)
    }
    back = 16 * (first.train_x + shift.mean())
    np.testing.assert_allclose(back, np.round(back), atol=1e-4)  # the same shift
    back = np.round(back)
    assert {(row.tobytes(), int(y)) for row, y in zip(back, first.train_y, strict=True)} <= known


def test_a_steered_run_follows_what_it_measures(tmp_path, progress):
    """Kills: limits and steps of other rounds beside the sharpness, bytes of the wrong message."""
    made = cells(Options())["check-steered"]
    run = compute({"check-steered": made}, tmp_path, progress)["check-steered"]
    assert run["at"] == [0, 10, 20, 30] and len(run["train_loss"]) == 40
    for value, step, limit in zip(run["sharpness"], run["step"], run["limit"], strict=True):
        assert step <= min(0.4, 1.00001 / value) and limit == pytest.approx(2 / step, rel=1e-5)
        assert step >= min(0.4, 1 / value) / 1.1 * 0.99999
    assert min(run["step"]) < 0.35 and run["train_loss"][-1] < 0.7 * run["train_loss"][0]
    assert [k for k, _ in run["accuracy"]] == [0, 20, 40] and run["accuracy"][-1][1] > 0.5
    assert max(r / v for r, v in zip(run["residual"], run["sharpness"], strict=True)) < 0.01
    # A product is a vector of 3,466 float32 numbers each way, for each of the 10 clients.
    products = sum(run["products"]) * 10 * 2 * 4 * 3466
    assert products < run["measuring_bytes"] < 1.1 * products + 4 * 10 * 4 * 3466
    assert 1 < run["training_bytes"] / (40 * 10 * 2 * 4 * 3466) < 1.1
    found = differences(committed("edge-of-stability")["check-steered"], run)
    assert found == []


def test_a_run_is_read_by_hand():
    """Kills: measurements one round late, limits of the round before, a divergence that breaks."""
    rounds = [
        {"round": 0, "accuracy": 0.1},
        {"round": 1, "train_loss": 2.0, "sharpness": 3.0, "sharpness_residual": 0.01}
        | {"sharpness_products": 5, "sharpness_bytes": 70, "step_size": 0.5, "stability_limit": 4.0}
        | {"uplink_bytes": 10, "downlink_bytes": 20},
        {"round": 2, "train_loss": None, "non_finite": ["train_loss"], "step_size": 0.5}
        | {"stability_limit": 4.0, "uplink_bytes": 10, "downlink_bytes": 20, "accuracy": 0.3},
        {"round": 3, "train_loss": 1.0, "sharpness": 8.0, "sharpness_residual": 0.02}
        | {"sharpness_products": 7, "sharpness_bytes": 90, "step_size": 0.2, "stability_limit": 10}
        | {"uplink_bytes": 10, "downlink_bytes": 20},
    ]
    assert result_of(Run("run", {}, rounds, {"duration": 1.5})) == {
        "train_loss": [2.0, None, 1.0],
        "at": [0, 2],
        "sharpness": [3.0, 8.0],
        "residual": [0.01, 0.02],
        "limit": [4.0, 10.0],
        "step": [0.5, 0.2],
        "products": [5, 7],
        "measuring_bytes": 160,
        "accuracy": [[0, 0.1], [2, 0.3]],
        "training_bytes": 90,
        "seconds": 1.5,
    }


def test_a_check_compares_losses_and_sharpness():
    """Kills: a difference in the sharpness that nobody sees, no tolerance."""
    one = {"train_loss": [2.0, 1.0], "sharpness": [3.0]}
    assert differences(one, {"train_loss": [2.001, 1.0], "sharpness": [3.002]}) == []
    assert differences(one, {"train_loss": [2.0, 1.0], "sharpness": [3.2]}) == [
        "sharpness of round 0 is 3.2, committed is 3.0"
    ]
    assert differences(one, {"train_loss": [2.0, None], "sharpness": [3.0]}) == [
        "train loss of round 1 is None, committed is 1.0"
    ]


# What is read off the runs ------------------------------------------------------------------------


def run_of(case="fixed-0.1", seed=0, pace=1.0, sharpness=(1, 12, 24, 22, 10), limit=20.0, **other):
    """40 rounds, the loss falls from 2 by a fixed factor but for two rises; λ̂ every ten of them."""
    curve = [2.0 * math.exp(-0.06 * pace * k) for k in range(40)]
    curve[6], curve[30] = 2.1, curve[29] * 1.01
    limits = [limit] * len(sharpness) if isinstance(limit, float) else list(limit)
    return {
        "case": case, "task": "mnist", "seed": seed, "train_loss": curve,
        "at": [0, 10, 20, 30, 38], "sharpness": [float(x) for x in sharpness],
        "residual": [0.001 * x for x in sharpness], "limit": limits,
        "step": [2 / x for x in limits], "products": [20, 6, 7, 8, 9],
        "accuracy": [[0, 0.1], [20, 0.5], [40, 0.6 + 0.01 * seed]],
        "training_bytes": 2000, "measuring_bytes": 500, "seconds": 9.0,
    } | other  # fmt: skip


def test_one_run_s_numbers_by_hand():
    """Kills: a limit of the new step instead of the one that led there, products made later, a
    crossing that is not at or above 1."""
    run = run_of()
    assert arrived(run, 0.6) == 21 and arrived(run, 0.3) == 32 and arrived(run, 0.1) is None
    assert products_until(run, 0.6) == 20 + 6 + 7 and products_until(run, 0.1) is None
    assert sharpness_when(run, 0.6) == 22 and sharpness_when(run, 0.1) is None
    assert pressures(run) == [(10, 0.6), (20, 1.2), (30, 1.1), (38, 0.5)]
    assert crossed(run) == 20 and hovering(run) == [1.2, 1.1]  # 38 is after the lower target
    assert rises(run) == 2 / 39
    assert late_loss(run) == pytest.approx(math.exp(-0.06 * 35) + math.exp(-0.06 * 36))  # of 8
    assert late_sharpness(run) == 10 and late_pressure(run) == 0.5  # 38 alone is in the last fifth
    assert accuracy(run) == 60
    steered = run_of(limit=(2.0, 24.0, 48.0, 44.0, 20.0))
    assert pressures(steered) == [(10, 6.0), (20, 1.0), (30, 22 / 48), (38, 10 / 44)]
    assert crossed(steered) == 10
    flat = run_of(sharpness=(1, 2, 3, 4, 5))
    assert crossed(flat) is None and hovering(flat) == []
    lost = run_of(train_loss=[2.0, None, 1.0])
    assert late_loss(lost) == 1.0 and arrived(lost, 1.0) == 2 and rises(lost) == 0.5


def test_several_seeds_numbers_by_hand():
    """Kills: a trend of the means alone, seeds that are not paired, a missing seed that is left
    out of the mean."""
    value = SimpleNamespace
    seeds = [[value(x=x) for x in column] for column in ((1.0, 2.0, 3.0), (2.0, 3.0, 4.0))]

    def measure(run):
        return run.x

    assert spread(seeds[0], measure, ".1f") == "2.0 ± 1.0"
    assert spread(seeds[0][:1], measure, ".1f") == "1.0"
    assert spread([*seeds[0], value(x=None)], measure, ".1f") == "-"
    assert spread([*seeds[0], value(x=math.inf)], measure, ".1f") == "-"
    assert trend({"a": seeds[0], "b": seeds[1]}, measure) == "rises with every seed"
    assert trend({"b": seeds[1], "a": seeds[0]}, measure) == "falls with every seed"
    other = [value(x=x) for x in (2.0, 3.0, 2.0)]  # the mean rises, the last seed falls
    assert trend({"a": seeds[0], "c": other}, measure) == (
        "rises throughout with 2, falls throughout with 1 of 3 seeds"
    )
    assert trend({"a": seeds[0], "d": [*other[:2], value(x=None)]}, measure) == ""
    assert trend({"a": seeds[0]}, measure) == ""


# What is said -------------------------------------------------------------------------------------


def results(**other):
    """Runs of all the ways on two seeds; the larger c, the faster and the sharper."""
    found = {}
    for name, case in cases().items():
        for seed in (0, 1):
            if case.family == "steered":
                c = float(name.removeprefix("c-"))
                changed = {"pace": c, "sharpness": [c * x for x in (1, 3, 5, 7, 9)]}
                changed["limit"] = [2 / c * x for x in changed["sharpness"]]
            else:
                changed = {"sharpness": [(1 + seed / 10) * x for x in (1, 12, 24, 22, 18)]}
            found[f"{name}-{seed}"] = run_of(name, seed, **changed | other.get(name, {}))
    return found


def test_the_edge_is_told_whichever_way_it_falls():
    """Kills: a limit that is said to be reached, seeds that did not cross counted as if."""
    said = notes(results(**{"fixed-0.05": {"sharpness": (1, 2, 3, 4, 6)}}))
    assert (
        "η = 0.05: λ̂ starts at 0.05 of the limit and has not reached it: 0.30 ± 0.00 of it at "
        "the end."
    ) in said
    assert (
        "η = 0.1: λ̂ starts at 0.05 of the limit, first seen above it in round 20 ± 0 (2 of 2 "
        "seeds); from there until the loss is 0.3 (or the end) it is 1.21 of it on average (1.10 "
        "to 1.32), at the end of the run 0.95 ± 0.06. The train loss rises in 5% of the rounds."
    ) in said
    mixed = results()
    mixed["fixed-0.1-1"] = run_of("fixed-0.1", 1, sharpness=(1, 2, 3, 4, 5))
    assert any("above it in round 20 (1 of 2 seeds)" in note for note in notes(mixed))


def test_what_c_does_is_told_by_the_results():
    """Kills: an order of c that is not that of the numbers."""
    said = next(note for note in notes(results()) if note.startswith("As c grows"))
    assert said.startswith("As c grows (η = 0.5/λ̂, η = 1/λ̂, η = 1.9/λ̂): rounds to a train loss ")
    assert "of 0.6 - → 21 → 11; λ̂ there" in said  # the slowest never comes there: no trend
    assert "λ̂ at the end 4.5 → 9.0 → 17.1 (rises with every seed)" in said
    assert "test accuracy 60.50 % → 60.50 % → 60.50 % (rises throughout with 0" in said
    best = [note for note in notes(results()) if note.startswith("The ")]
    assert "is 0.238 with η = 0.05" in best[0] and "with η = 1.9/λ̂ (λ̂ at the end 17.1" in best[0]
    assert len(best) == 2


def test_who_is_faster_and_flatter_at_once():
    """Kills: one seed taken for all, either of the two taken for both."""
    said = next(note for note in notes(results()) if note.startswith("Sooner"))
    fixed = ", ".join(f"η = {eta}" for eta in STEPS)
    assert f": none of {fixed} than one of η = 0.5/λ̂, η = 1/λ̂, η = 1.9/λ̂; " in said
    assert said.endswith(f"; η = 1.9/λ̂ than {fixed}.")
    one = results(**{"c-1.9": {"sharpness": (1, 20, 30, 30, 30)}})  # sooner, and sharper
    one["c-1.9-0"] = run_of("c-1.9", 0, 1.9, (1, 12, 20, 20, 20))  # but for a seed
    said = next(note for note in notes(one) if note.startswith("Sooner"))
    assert said.endswith(f"; none of η = 0.5/λ̂, η = 1/λ̂, η = 1.9/λ̂ than one of {fixed}.")


def test_measurements_of_another_eigenvalue_are_told():
    """Kills: c = 1.9's rough curves counted, a dip that is none."""
    said = " ".join(notes(results(**{"c-1.9": {"sharpness": (1, 9, 2, 9, 9)}})))
    assert "smoothly: 20; more than a tenth below both neighbours" in said
    assert "taken for the largest: 0." in said
    said = " ".join(notes(results(**{"c-1.0": {"sharpness": (1, 9, 8, 9, 9)}})))
    assert "taken for the largest: 2." in said


def test_what_was_tried_beside_is_compared_with_its_own_kind():
    """Kills: the two confused, another case beside it."""
    changed = results(unbounded={"sharpness": (1, 50, 60, 70, 80), "limit": 100.0})
    said = " ".join(notes(changed))
    assert (
        "Without an upper bound on η, otherwise 0.4, the first ones are 0.02 ± 0.00 and λ̂ comes to "
        "0.5 ± 0.0 of its limit by the second measurement: λ̂ at the end 80.0 ± 0.0 instead of "
        "17.1 ± 0.0"
    ) in said
    assert "over its limit 0.80 ± 0.00 instead of 1.22 ± 0.00" in said
    assert "With compressed gradients: λ̂ at the end 18.9 ± 1.3 instead of 9.0 ± 0.0" in said
    assert "took 500 B per run beside 2.00 kB for training, × 0.25." in said


def test_runs_too_short_to_measure_again_say_nothing_of_it():
    """Four rounds, one reading. Kills: `-` in a sentence, an edge nobody could have come to."""
    once = {"at": [0], "sharpness": [1.0], "residual": [0.001], "products": [6], "limit": [100.0]}
    once |= {"step": [0.02], "train_loss": [2.0, 1.9, 1.8, 1.7]}
    said = notes({name: run | once for name, run in results().items()})
    assert not [note for note in said if " - " in note or "- of it" in note]
    assert not [note for note in said if "Measurements with" in note or "Sooner" in note]
    assert "the limit and has not" not in " ".join(said) and "Without an" not in " ".join(said)
    assert [note for note in said if note.startswith("As c grows")] and len(said) == 7


def test_the_table_by_hand():
    """Kills: columns that are exchanged, seeds of another case."""
    head, *lines = table(results())
    rows = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    assert len(rows) == 11 and list(rows)[0] == "η = 0.05"
    row = rows["η = 0.1"]
    assert row["rounds to loss 0.6"] == "21 ± 0" and row["rounds to loss 0.3"] == "32 ± 0"
    assert row["products to 0.6"] == "33 ± 0" and row["products to 0.3"] == "41 ± 0"
    assert row["λ̂ at 0.6"] == "23.1 ± 1.6" and row["λ̂ at 0.3"] == "18.9 ± 1.3"
    assert row["first λ̂ ≥ limit"] == "20 ± 0" and row["λ̂ at the end"] == "18.9 ± 1.3"
    assert row["λ̂ / limit at the end"] == "0.95 ± 0.06"
    assert row["test accuracy, %"] == "60.50 ± 0.71" and row["measuring λ̂"] == "500 B"
    assert row["training"] == "2.00 kB" and row["train loss at the end"] == "0.238 ± 0.000"
    assert rows["η = 0.5/λ̂"]["rounds to loss 0.6"] == "-"
    part = {name: run for name, run in results().items() if name != "c-1.0-1"}
    assert len(table(part)) == 12 and len(notes(part)) == len(notes(results()))
    few = {"fixed-0.1-0": run_of()} | {"check-fixed": run_of("check-fixed")}
    assert len(table(few)) == 2 and list(seeds_of(few)) == ["fixed-0.1"] and len(notes(few)) == 3
    assert notes({}) == [] and family({}, "fixed") == {}


def test_a_picture_of_whatever_there_is(tmp_path):
    for number, found in enumerate((results(), {"c-1.0-0": run_of("c-1.0")}, {})):
        draw(found, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes()[:4] == b"\x89PNG"


# What came out ------------------------------------------------------------------------------------


def test_the_sharpness_rises_to_the_edge_and_stays_about_it():
    """Of the committed results, two-sided: λ̂ starts far below 2/η and hovers about it.

    Kills: results of runs that never came to the edge."""
    found = committed("edge-of-stability")
    for eta, least, most in ((0.1, 1.0, 1.25), (0.2, 1.15, 1.3), (0.4, 1.45, 1.65)):
        for seed in SEEDS:
            run = found[f"fixed-{eta}-{seed}"]
            assert run["sharpness"][0] < 0.2 * run["limit"][0]
            assert least < np.mean(hovering(run)) < most
    for c in (0.5, 1.0, 1.9):
        for seed in SEEDS:
            run = found[f"c-{c}-{seed}"]
            steps, values = np.array(run["step"]), np.array(run["sharpness"])
            assert (steps * values <= c * (1 + 1e-5)).all()
            assert (steps >= np.minimum(0.4, c / values) / 1.1 * (1 - 1e-5)).all()


def test_the_reproduction_is_the_registered_one():
    assert reproduction.REPRODUCTION.checked == ("check-fixed", "check-steered")
