"""Batch sizes at equal samples: the cells, what is measured of a run, and what is said of it."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from simulations.__main__ import main
from simulations.output import Progress, Run
from simulations.reproductions.adadagrad import cells as reproduction
from simulations.reproductions.adadagrad import runs as measuring
from simulations.reproductions.adadagrad.cells import REPRODUCTION, cells, differences
from simulations.reproductions.adadagrad.draw import draw
from simulations.reproductions.adadagrad.notes import notes
from simulations.reproductions.adadagrad.probes import CODES, PLAIN, TESTS, follow, together
from simulations.reproductions.adadagrad.runs import EARLY, POINTS, binned, steps, summary
from simulations.reproductions.adadagrad.softmax import Softmax, ends, problems
from simulations.reproductions.adadagrad.steps import STEPS, best
from simulations.reproductions.adadagrad.tables import comparisons, probes, spread, table, times
from simulations.reproductions.adadagrad.verdicts import against, order, verdict
from simulations.reproductions.adadagrad.ways import BUDGETS, GRIDS, WAYS, Budget, average, rules
from simulations.reproductions.base import Options
from simulations.reproductions.command import committed
from simulations.reproductions.runner import check, compute
from simulations.settings import make_settings


@pytest.fixture
def progress():
    return Progress(stream=io.StringIO())


# What is measured ---------------------------------------------------------------------------------


def test_where_sizes_change():
    """Two changes in one part of the samples: the later. Kills: sizes that end at the first."""
    assert steps([0, 100, 200, 300], [8, 8, 16, 32]) == [(0, 8), (200, 16), (300, 32)]
    assert steps([0, 1000, 1001, 4000], [2, 4, 6, 6]) == [(0, 2), (1001, 6)]
    assert steps([0.0], [8]) == [(0, 8)]
    many = steps(list(range(1000)), list(range(1000)))
    assert many[0] == (0, 0) and many[-1] == (999, 999) and len(many) <= POINTS


def test_losses_are_means_over_equal_parts():
    """Kills: the last loss of a part for its mean, a part that holds nothing."""
    curve = binned([10 * k for k in range(1, 81)], [float(k % 2) for k in range(1, 81)])
    assert len(curve) == POINTS
    assert curve[1] == (25.0, 0.5)  # the rounds that end at 20 and at 30
    assert binned([500, 1000], [3.0, 1.0]) == [(500, 3), (1000, 1)]


def test_a_run_by_hand():
    """Kills: downlink of the last round alone, the average of the sizes for that of the samples."""
    rounds = [{"round": 0, "total_samples": 0, "total_uplink_bytes": 0, "downlink_bytes": 0}]
    for k, (size, samples) in enumerate(((8, 32), (8, 64), (16, 128), (32, 240)), start=1):
        rounds.append(
            {"round": k, "batch_size": size, "train_loss": 2.0 / k, "total_samples": samples}
            | {"total_uplink_bytes": 100 * k, "downlink_bytes": 70, "seconds": 0.5 * k}
        )
    found = summary(Run("x", {"batch_size": "constant_batch(size=8)"}, rounds))
    assert (found["rounds"], found["samples"], found["average"]) == (4, 240, 15.0)
    assert (found["uplink_bytes"], found["downlink_bytes"], found["seconds"]) == (400, 280, 2.0)
    assert found["sizes"] == [[0, 8], [64, 16], [128, 32]]
    assert found["early"] == [[8, 2.0], [8, 1.0], [16, 0.666667], [32, 0.5]]
    assert average(240, 4) == 15 and average(240, 4, clients=10) == 6


def test_scores_are_the_tasks_own():
    """The start on all the data. Kills: test and train exchanged, a mean over clients."""
    from simulations.tasks import make_task

    settings = make_settings({"model": "cnn()", "clients": 3, "partition": "dirichlet(alpha=0.2)"})
    task = make_task(settings)
    found = measuring.scores(settings, task.initial())
    tested = task.evaluate(task.initial())
    assert found["test_loss"] == pytest.approx(tested["loss"], rel=1e-4)
    assert found["test_accuracy"] == pytest.approx(tested["accuracy"])
    point = np.concatenate([array.ravel() for array in task.initial().values()])
    own = [task.objective(client) for client in range(3)]
    mean = sum(f.size * f.metrics(point)["loss"] for f in own) / sum(f.size for f in own)
    assert found["train_loss"] == pytest.approx(mean, rel=1e-4)


# The ways -----------------------------------------------------------------------------------------


def test_the_sizes_of_the_ways():
    """Kills: a stage-wise way that arrives late, an adaptive one with other limits."""
    budget = Budget(samples=8000, steps=1000, small=8)
    known = rules(budget)
    assert budget.large == 128 and [*known, "average"] == list(WAYS)
    assert (known["small"].size, known["large"].size) == (8, 128)
    test = known["adaptive"]
    assert (test.eta, test.initial, test.maximum) == (0.5, 8, 128)
    reached = [
        known["stage-wise"].following(8, fb.batching.Evidence([], 1.0, samples))
        for samples in (0, 999, 1000, 2000, 3000, 4000, 8000)
    ]
    assert reached == [8, 8, 16, 32, 64, 128, 128]


def test_every_way_has_the_same_conditions():
    """Kills: a way with a step, a seed or a number of samples of its own."""
    cell = cells(Options())["digits-cnn-adagrad_norm-2"].settings
    assert (cell["task"], cell["model"], cell["seed"]) == ("digits", "cnn()", 2)
    assert cell["optimizer"] == f"adagrad_norm(step_size={STEPS['digits', 'cnn', 'adagrad_norm']})"
    assert cell["stop"] == f"until(samples={BUDGETS['digits', 'cnn'].samples})"
    assert (cell["partition"], cell["clients"]) == ("iid()", 4)
    assert list(cell["batch_size"]) == list(WAYS)
    assert (cell["compressor"], cell["weights"]) == ("identity()", "uniform")


def test_all_the_ways_end_at_equal_samples(tmp_path, progress, monkeypatch):
    """A tenth of an epoch. Kills: equal rounds for equal samples, an average of another run."""
    tiny = {key: Budget(640, 320, 4) for key in BUDGETS}
    monkeypatch.setattr("simulations.reproductions.adadagrad.ways.BUDGETS", tiny)
    name = "digits-linear-adagrad-1"
    work = {name: cells(Options())[name]}
    result = compute(work, tmp_path, progress)[name]
    runs = result["runs"]
    for run in runs.values():
        last = 4 * run["sizes"][-1][1]
        assert 640 <= run["samples"] < 640 + last
        assert run["average"] == pytest.approx(run["samples"] / (4 * run["rounds"]), rel=1e-3)
    assert [runs[way]["rounds"] for way in ("small", "large")] == [40, 3]
    assert runs["average"]["batch_size"] == (
        f"constant_batch(size={round(runs['adaptive']['average'])})"
    )
    assert result["seconds"] == pytest.approx(sum(r["seconds"] for r in runs.values()), abs=0.1)
    json.dumps(result, allow_nan=False)
    monkeypatch.setattr(reproduction, "measured", lambda *a: pytest.fail("computed"))
    assert compute(work, tmp_path, progress, resume=True)[name] == result


def test_the_steps_are_those_of_the_committed_cells():
    """Kills: a step size that no committed cell has chosen."""
    found = committed("adadagrad")
    for (task, model, optimizer), step_size in STEPS.items():
        result = found[f"steps-{task}-{model}-{optimizer}"]
        assert best(result) == step_size
        assert [float(step) for step in result["losses"]] == list(GRIDS[model, optimizer])
        assert result["samples"] == BUDGETS[task, model].steps
        assert found[f"{task}-{model}-{optimizer}-0"]["step_size"] == step_size


# The probes ---------------------------------------------------------------------------------------


def small(seed=0):
    rng = np.random.default_rng(seed)
    return Softmax(rng.standard_normal((6, 3)), np.array([0, 1, 2, 9, 1, 0])), rng.standard_normal(
        30
    )


def test_the_softmax_gradient_is_that_of_its_loss():
    """Central differences. Kills: a label off by one, a sum for a mean."""
    problem, point = small()
    batch = np.array([1, 3, 3])
    by_differences = [
        (problem.loss(point + 1e-6 * e, batch) - problem.loss(point - 1e-6 * e, batch)) / 2e-6
        for e in np.eye(30)
    ]
    assert problem.gradient(point, batch) == pytest.approx(by_differences, abs=1e-8)
    assert problem.loss(np.zeros(30)) == pytest.approx(math.log(10))
    assert problem.accuracy(np.zeros(30)) == pytest.approx(2 / 6)  # a tie goes to the first class


def test_the_softmax_statistics_are_those_of_its_examples():
    """Kills: ddof = 0, a gradient of all the data kept for that of the batch."""
    problem, point = small()
    batch = np.array([0, 2, 3, 5])
    each = np.stack([problem.gradient(point, np.array([i])) for i in batch])
    found = problem.per_example_statistics(point, batch, "variances")
    assert found.gradient == pytest.approx(each.mean(axis=0))
    assert problem.given is found.gradient
    assert found.variances == pytest.approx(each.var(axis=0, ddof=1))
    assert found.trace == pytest.approx(each.var(axis=0, ddof=1).sum())
    along = problem.per_example_statistics(point, batch, "along").along
    assert along == pytest.approx((each @ found.gradient).var(ddof=1))


def test_label_sorted_clients_have_one_digit():
    """Kills: a partition that is not the cell's."""
    apart = [np.unique(client.labels).size for client in problems("natural()", 10, 0)]
    mixed = [np.unique(client.labels).size for client in problems("iid()", 10, 0)]
    assert apart == [1] * 10 and min(mixed) > 5
    assert ends(np.zeros(650))["test_loss"] == pytest.approx(math.log(10), abs=1e-5)


class Whole(Softmax):
    """Its every batch is all the data."""

    def gradient(self, point, batch=None):
        return super().gradient(point)

    def per_example_statistics(self, point, batch=None, what="trace"):
        return super().per_example_statistics(point, None, what)


def test_ratios_are_those_of_the_decoded_mean():
    """Two clients; of their mean all entries are kept, or the largest one of each.

    Kills: a ratio of norms, of the clients' own vectors, or upside down.
    """
    clients = [Whole(each.features, each.labels) for each in (small(1)[0], small(2)[0])]
    rule = fb.norm_test(0.5, maximum=4, initial=4)
    start = [client.gradient(np.zeros(30)) for client in clients]
    sent = [np.where(np.abs(g) == np.abs(g).max(), g, 0) for g in start]
    ratio = np.sum(np.add(*sent) ** 2) / np.sum(np.add(*start) ** 2)
    _, ratios = follow(clients, rule, (fb.top_k(1 / 30), fb.no_feedback()), 1, 0)
    assert ratios == pytest.approx([ratio]) and ratio < 0.9
    _, ratios = follow(clients, rule, CODES[PLAIN], 3, 0)
    assert ratios == pytest.approx([1.0] * 3)


def test_seeds_are_put_side_by_side():
    """Kills: a curve of the last seed."""
    runs = [{"rounds": k, "sizes": [[0, k]], "early": [[k, 1.0]]} for k in (3, 5)]
    assert together(runs) == {"rounds": [3, 5], "sizes": [[0, 3]], "early": [[3, 1.0]]}


def test_every_test_and_compressor_has_the_same_range():
    """Kills: a test that starts or ends elsewhere, and only looks faster."""
    assert len({(rule.initial, rule.maximum) for rule in TESTS.values()}) == 1
    names = {type(rule).name for rule in TESTS.values()}
    assert names == {
        *("norm_test", "local_norm_test", "inner_product_test"),
        *("augmented_test", "coordinate_test", "cross_client_test"),
    }
    assert list(CODES)[0] == PLAIN and len({repr(code) for code in CODES.values()}) == len(CODES)


# What is said -------------------------------------------------------------------------------------


def run(rounds=100, loss=0.5, accuracy=0.9, train=0.95, sizes=((0, 8), (500, 16)), **other):
    return {
        **{"rounds": rounds, "samples": 1000, "average": 1000 / (4 * rounds), "seconds": 2.0},
        **{"uplink_bytes": 10_000 * rounds, "downlink_bytes": 10_000 * rounds},
        **{
            "train_loss": loss,
            "train_accuracy": train,
            "test_loss": loss,
            "test_accuracy": accuracy,
        },
        **{"sizes": [list(pair) for pair in sizes], "losses": [[500, 1.0], [1000, loss]]},
        **other,
    }


def comparison(seed, **ways):
    usual = {
        "small": run(400, 0.4, sizes=((0, 8),)),
        "large": run(25, 0.8, sizes=((0, 128),)),
        "stage-wise": run(60),
        "adaptive": run(50),
        "average": run(50, sizes=((0, 5),)),
    }
    return {
        **{"task": "digits", "model": "cnn", "optimizer": "adagrad", "seed": seed},
        **{"step_size": 0.1, "budget": 1000, "runs": usual | ways, "seconds": 10.0},
    }


def probe(place, **ways):
    def seeds(first):
        curves = {"sizes": first["sizes"], "early": [[8, 1.0]]}
        numbers = {"full": 300, "wire_bits": 8000, "ratios": [0.5, 1.0, 2.0]} | first
        dropped = ("sizes", "losses", "seconds", "uplink_bytes", "downlink_bytes")
        return {k: [v, v] for k, v in numbers.items() if k not in dropped} | curves

    return {
        **{"partition": place, "samples": 1000, "maximum": 128, "seconds": 1.0},
        "runs": {way: seeds(first) for way, first in ways.items()},
    }


def test_a_row_by_hand():
    """Means and standard deviations by hand: 48, 52 → 50 ± 2.83. Kills: ddof = 0, seeds apart."""
    results = {
        "a-0": comparison(0, adaptive=run(48, 0.4, 0.90, 0.96)),
        "a-1": comparison(1, adaptive=run(52, 0.6, 0.92, 0.95)),
    }
    lines = table(results)
    assert len(lines) == 1 + len(WAYS)
    row = dict(zip(lines[0], lines[4], strict=True))
    assert (row["experiment"], row["batch size"]) == ("digits, CNN, AdaGrad", "adaptive")
    assert (row["rounds"], row["samples"]) == ("50 ± 3", "1,000")
    assert row["train loss"] == "0.5000 ± 0.1414"
    assert row["test accuracy"] == "91.00 ± 1.41 %"
    assert row["train − test accuracy"] == "4.50 ± 2.12 %"
    assert (row["time"], row["uplink"], row["besides"]) == ("2 ± 0 s", "500 kB", "-")
    assert spread([1.5], "{:.1f}".format) == "1.5"


def test_rows_of_the_probes():
    """Kills: a maximum that was never reached and looks reached; a mean of the ratios."""
    late = run(sizes=((0, 4), (300, 128)))
    results = {
        "tests-sorted": probe("sorted", norm_test=run(full=None), cross_client_test=late),
        "compression-iid": probe("iid", **{"Top-2 %": run(ratios=[0.1, 0.2, 9.0])}),
    }
    lines = {line[1]: line for line in table(results)[1:]}
    assert lines["norm_test"][-1] == "never at the maximum"
    assert lines["cross_client_test"][-1] == "maximum after 300 samples"
    assert lines["Top-2 %"][-1] == "‖ĝ‖² × 0.2 (0.1 to 9)"
    assert times([run(ratios=[1, 552.4, 780.0])]) == "× 552 (1 to 780)"
    assert lines["Top-2 %"][0] == "compression, digits, logistic, iid"
    assert lines["Top-2 %"][9:12] == ["-", "1.00 kB", "-"]


def test_adaptive_against_another_way_falls_either_way():
    """Kills: a victory whatever the numbers, a mean where the seeds disagree."""
    better, worse = run(50, 0.3, 0.95, 0.96), run(50, 0.7, 0.85, 0.96)
    won = comparisons({"a": comparison(0, adaptive=better), "b": comparison(1, adaptive=better)})
    said = against(won, "average")
    assert "rounds × 1 (1 to 1), uplink × 1 (1 to 1), time × 1 (1 to 1)" in said
    assert "train loss 1 / 0 / 0" in said and "test error 1 / 0 / 0" in said
    lost = comparisons({"a": comparison(0, adaptive=worse), "b": comparison(1, adaptive=worse)})
    assert "train loss 0 / 1 / 0" in against(lost, "average")
    assert "gap of the accuracies 0 / 1 / 0" in against(lost, "average")
    split = comparisons({"a": comparison(0, adaptive=better), "b": comparison(1, adaptive=worse)})
    assert "train loss 0 / 0 / 1" in against(split, "average")
    assert "rounds × 0.12 (0.12 to 0.12)" in against(split, "small")
    assert against(split, "another") == "" and order([run()], [run()], lambda r: r["rounds"]) == 0


def test_the_verdict_falls_either_way():
    """Kills: a word that does not follow from the counts."""
    words = {0.3: "more often than", 0.5: "as often as", 0.7: "less often than"}
    for loss, word in words.items():
        found = comparisons({"a": comparison(0, adaptive=run(50, loss))})
        (said,) = verdict(found)
        assert said.endswith(f"of 1 experiments: the growth itself helps {word} it hurts.")
        assert "take × 0.12 (0.12 to 0.12) the rounds" in said
    assert verdict([]) == []


def test_the_notes_name_the_lowest_and_when_b_was_large():
    """Kills: the highest for the lowest, a share of another run's samples."""
    grown = run(50, 0.3, sizes=((0, 8), (250, 64), (400, 128)))
    said = notes({"a": comparison(0, adaptive=grown)})
    assert (
        "Lowest train loss on average: adaptive in 1 of 1 (digits, CNN, AdaGrad: adaptive)." in said
    )
    assert any(s.endswith("if never: digits, CNN, AdaGrad: 40 % (average b 5).") for s in said)
    never = notes({"a": comparison(0)})
    assert (
        "Lowest train loss on average: adaptive in 0 of 1 (digits, CNN, AdaGrad: small)." in never
    )
    assert any(s.endswith("digits, CNN, AdaGrad: 100 % (average b 5).") for s in never)


def test_the_notes_say_which_step_was_chosen():
    losses = {"0.1": 0.5, "0.3": 0.25, "1": 0.75}
    steps = {"task": "digits", "model": "linear", "optimizer": "adagrad_norm", "samples": 1000}
    said = notes({"steps-x": steps | {"losses": losses}})
    expected = "AdaGrad-Norm 0.3 after 1,000 samples (0.1: 0.5, 0.3: 0.25, 1: 0.75)."
    assert any(s.endswith(expected) for s in said)
    assert best({"losses": losses}) == 0.3


def test_results_that_are_not_all_there(tmp_path):
    """Kills: a picture or a sentence that needs every cell."""
    path = tmp_path / "some.png"
    ways = dict.fromkeys(TESTS, run())
    results = {
        "digits-cnn-adagrad-0": comparison(0),
        "tests-iid": probe("iid", **ways),
        "compression-sorted": probe("sorted", **dict.fromkeys(CODES, run())),
    }
    draw(results, path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    for some in (results, {}, dict([next(iter(results.items()))])):
        assert len(notes(some)) >= len(some) and table(some)
    assert len(probes(results, "tests")) == 1


# The cells ----------------------------------------------------------------------------------------


def test_the_cells_say_what_decides_them():
    """Kills: settings that JSON changes; cells that are alike; a data root that decides."""
    every = cells(Options(data_root="/data"))
    assert set(REPRODUCTION.checked) < set(every) and len(every) == 8 + 24 + 3 + 2
    assert len({json.dumps(made.settings) for made in every.values()}) == len(every)
    for made in every.values():
        assert json.loads(json.dumps(made.settings)) == made.settings
        assert "data_root" not in made.settings
    assert every["tests-sorted"].settings["partition"] == "natural()"
    other = cells(Options(task="mnist", rounds=30))
    assert other["mnist-cnn-adagrad-0"].settings["task"] == "mnist"
    assert other["mnist-cnn-adagrad-0"].settings["rounds"] == 30
    assert not any("fashion" in name for name in other) and "digits-cnn-adagrad-0" in other
    assert cells(Options(rounds=10**6))["digits-cnn-adagrad-0"].settings["rounds"] == 900


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rounds", "19"], "error: --rounds must be at least 20 here, not 19\n"),
        (
            ["--task", "digits"],
            "error: adadagrad has digits anyway, and beside it --task fashion-mnist or mnist, "
            "not 'digits'\n",
        ),
    ],
)
def test_what_it_refuses(arguments, sentence, capsys):
    assert main(["reproduce", "adadagrad", *arguments]) == 2
    assert capsys.readouterr().err == sentence


def test_the_committed_result_comes_out_again(progress):
    """The first rounds of one cell; ``--check`` does so for more."""
    quick = replace(REPRODUCTION, checked=("digits-linear-adagrad-0",))
    assert check(quick, committed("adadagrad"), progress) == []


def test_the_committed_comparisons_are_at_equal_samples():
    """Kills: a committed way that saw more than its budget and one round."""
    for each in comparisons(committed("adadagrad")):
        for way, runs in each.runs.items():
            for found in runs:
                allowed = 4 * found["sizes"][-1][1]
                assert len(runs) == 3 and math.isfinite(found["train_loss"])
                assert found["samples"] - allowed < min(r["samples"] for r in each.runs["small"])
                assert way != "average" or len(found["sizes"]) == 1


def test_what_differs():
    """A loss to a thousandth, a size to a fiftieth. Kills: the average way compared, no sizes."""
    old = {"runs": {way: {"early": [[100, 2.0], [100, 1.0]]} for way in WAYS}}
    close = {"runs": {way: {"early": [[101, 2.001], [100, 1.0]]} for way in WAYS}}
    close["runs"]["average"] = {"early": [[7, 9.0], [7, 9.0]]}
    assert differences(old, close) == []
    far = {"runs": {"adaptive": {"early": [[100, 2.0], [103, 1.0]]}}}
    assert differences(old, far) == [
        "adaptive: size and loss of round 2 are [103, 1.0], committed is [100, 1.0]"
    ]
    far = {"runs": {"small": {"early": [[100, 2.01], [100, 1.0]]}}}
    assert len(differences(old, far)) == 1 and EARLY == 20
