"""Reproductions: cells that are kept, resumed and checked; parallel momentum's table."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

import fedbias as fb
from simulations.__main__ import main
from simulations.comparison import chosen
from simulations.output import Progress
from simulations.reproductions import REPRODUCTIONS
from simulations.reproductions.base import Cell, Options, Reproduction
from simulations.reproductions.command import COMMITTED
from simulations.reproductions.momentum import cells as parallel_momentum
from simulations.reproductions.momentum.cells import cells, differences
from simulations.reproductions.momentum.tables import PAPER, Pair, notes, table
from simulations.reproductions.runner import check, compute, kept
from simulations.settings import SettingsError, make_settings


class Counting:
    """Cells that say how often they were computed."""

    def __init__(self):
        self.calls = []

    def cell(self, name, settings=None, fail=False):
        def work(folder, progress, resume):
            self.calls.append((name, resume))
            if fail:
                raise KeyboardInterrupt
            return {"value": len(self.calls)}

        return Cell(settings or {"rounds": 3, "pair": (1, 2)}, work)


@pytest.fixture
def counting():
    return Counting()


@pytest.fixture
def progress():
    return Progress(stream=io.StringIO())


# The runner ---------------------------------------------------------------------------------------


def test_patterns_choose_cells_in_the_papers_order(counting):
    """Kills: the order of the patterns; a cell twice."""
    all_cells = {name: counting.cell(name) for name in ("a-1", "b-1", "a-2")}
    assert list(chosen(all_cells, ["*-2", "a-*", "b-1"])) == ["a-1", "b-1", "a-2"]
    assert list(chosen(all_cells, ["b-1"])) == ["b-1"]
    with pytest.raises(SettingsError, match=r"^there is no cell 'c\*'; known: a-1, b-1, a-2$"):
        chosen(all_cells, ["a-1", "c*"])


def test_an_interrupted_reproduction_goes_on_cell_by_cell(tmp_path, counting, progress):
    """Kills: a finished cell computed again, an unfinished one taken for finished."""
    first = {"one": counting.cell("one"), "two": counting.cell("two", fail=True)}
    with pytest.raises(KeyboardInterrupt):
        compute(first, tmp_path, progress)
    again = {name: counting.cell(name) for name in ("one", "two")}
    results = compute(again, tmp_path, progress, resume=True)
    assert counting.calls == [("one", False), ("two", False), ("two", True)]
    assert [result["value"] for result in results.values()] == [1, 3]
    assert all(result["seconds"] >= 0 for result in results.values())


def test_without_resume_all_is_computed_again(tmp_path, counting, progress):
    """Kills: a stale result that looks fresh."""
    work = {"one": counting.cell("one")}
    compute(work, tmp_path, progress)
    assert compute(work, tmp_path, progress)["one"]["value"] == 2


def test_a_result_goes_before_it_is_computed_again(tmp_path, counting, progress):
    """Kills: --resume that takes the result of before an interrupted second attempt."""
    compute({"one": counting.cell("one")}, tmp_path, progress)
    with pytest.raises(KeyboardInterrupt):
        compute({"one": counting.cell("one", fail=True)}, tmp_path, progress)
    again = compute({"one": counting.cell("one")}, tmp_path, progress, resume=True)
    assert again["one"]["value"] == 3


def test_the_folder_holds_what_several_commands_computed(tmp_path, counting, progress):
    """Kills: a table of the last command's cells alone, or with a result of other settings."""
    cells = {name: counting.cell(name) for name in ("one", "two", "three")}
    compute({"two": cells["two"]}, tmp_path, progress)
    compute({"one": cells["one"]}, tmp_path, progress)
    compute({"three": counting.cell("three", {"rounds": 9})}, tmp_path, progress)
    assert list(kept(cells, tmp_path)) == ["one", "two"]


def test_a_setting_that_came_later_is_at_its_default(tmp_path, counting, progress):
    compute({"one": counting.cell("one", {"rounds": 3})}, tmp_path, progress)
    later = {"one": counting.cell("one", {"rounds": 3, "new": 0})}
    assert compute(later, tmp_path, progress, resume=True)["one"]["value"] == 1


def test_a_result_of_other_settings_is_refused(tmp_path, counting, progress):
    compute({"one": counting.cell("one")}, tmp_path, progress)
    other = {"one": counting.cell("one", {"rounds": 4, "pair": (1, 2)})}
    with pytest.raises(SettingsError, match=r"other settings \(rounds\).*another --name$"):
        compute(other, tmp_path, progress, resume=True)


def test_a_check_computes_the_small_cells_alone(counting, progress):
    """Kills: a check that compares nothing."""

    def made(options):
        assert options == Options(rounds=2)
        return {name: counting.cell(name) for name in ("small", "large")}

    reproduction = Reproduction(
        summary="",
        cells=made,
        usual=("*",),
        table=lambda results: [],
        notes=lambda results: [],
        draw=lambda results, path: None,
        checked=("small",),
        differences=lambda old, new: [] if old["value"] == new["value"] else ["another value"],
        check_options=Options(rounds=2),
    )
    assert check(reproduction, {"small": {"value": 1}}, progress) == []
    assert check(reproduction, {"small": {"value": 1}}, progress) == ["small: another value"]
    assert counting.calls == [("small", False)] * 2
    assert check(reproduction, {}, progress) == ["the committed result has no cell 'small'"]


# Parallel momentum --------------------------------------------------------------------------------


def test_the_cells_are_the_papers():
    """By the paper: 7 biases × 2 step sizes × 2 servers. Kills: a swapped β, a batch, feedback."""
    every = cells(Options())
    assert len(every) == 28
    common = {
        "task": "fashion-mnist", "clients": 100, "partition": "contiguous()", "rounds": 200,
        "batch_size": 0, "feedback": "no_feedback()", "model": "fcnn()", "weights": "uniform",
        "fraction": 1.0, "lost": 0.0, "cohort": False,
    }  # fmt: skip
    for cell in every.values():
        found = make_settings(cell.settings).model_dump()
        assert {key: found[key] for key in common} == common
    named = {
        "none-0.5-sgd": (fb.identity(), fb.exact(), fb.gradient_descent(0.5)),
        "top2-0.7-sgd": (fb.top_k(0.02), fb.exact(), fb.gradient_descent(0.7)),
        "top10-0.5-momentum": (fb.top_k(0.1), fb.exact(), fb.heavy_ball(0.5, 0.1)),
        "clip5-0.7-momentum": (fb.identity(), fb.clipped(5.0), fb.heavy_ball(0.7, 0.1)),
    }
    for name, expected in named.items():
        found = make_settings(every[name].settings).algorithm()
        assert (found.compressor, found.estimator, found.optimizer) == expected


def test_options_reach_the_cells():
    """Kills: a data root that makes a kept result invalid; an option that is ignored."""
    cell = cells(Options(task="mnist", data_root="/data", rounds=7))["none-0.5-sgd"]
    assert (cell.settings["task"], cell.settings["rounds"]) == ("mnist", 7)
    assert "data_root" not in cell.settings


def result(*losses, accuracy=0.8, bytes_=1_000_000):
    return {
        "train_loss": list(losses),
        "accuracy": [[0, 0.1], [len(losses), accuracy]],
        "uplink_bytes": bytes_,
        "task": "fashion-mnist",
        "seconds": 1.0,
    }


def ended(loss, **values):
    """A result of the paper's 200 rounds."""
    return result(*[2.0] * 199, loss, **values)


RESULTS = {
    "none-0.5-sgd": ended(0.5),
    "none-0.5-momentum": ended(0.4),  # as in the paper
    "top2-0.5-sgd": ended(0.3),
    "top2-0.5-momentum": ended(0.31),  # not so in the paper
    "clip2-0.5-sgd": ended(0.3),
    "clip2-0.5-momentum": ended(0.4),  # the paper's one cell in which SGD is lower
    "top5-0.7-sgd": ended(None, accuracy=0.1),
    "top5-0.7-momentum": ended(0.4),  # unstable in both
    "clip1-0.7-sgd": ended(0.4),
}


def test_the_table_compares_the_order_and_nothing_else():
    """Kills: an order the other way round; a diverged SGD that wins; MNIST's numbers as ours."""
    lines = table(RESULTS)
    assert lines[0][2] == "fashion-mnist: SGD" and lines[0][6] == "paper, MNIST: SGD"
    shown = {(line[0], line[1]): line for line in lines[1:]}
    expected = {
        ("no compression", "0.5"): ("momentum", "momentum", "yes"),
        ("Top-2 %", "0.5"): ("SGD", "momentum", "NO"),
        ("clip 2", "0.5"): ("SGD", "SGD", "yes"),
        ("Top-5 %", "0.7"): ("momentum", "momentum", "yes"),
        ("clip 1", "0.7"): ("-", "momentum", "-"),
    }
    assert {key: (line[4], line[8], line[9]) for key, line in shown.items()} == expected
    assert shown["Top-5 %", "0.7"][2:4] == ["diverged", "0.4 / 80.00 %"]
    assert shown["Top-5 %", "0.7"][6:8] == ["unstable", "0.094 / 96.7 %"]
    assert shown["clip 1", "0.7"][5] == "1.00 MB"


def test_other_rounds_than_the_papers_are_not_compared():
    """Kills: an order that is that of the first steps."""
    short = {f"none-0.5-{server}": result(2.0, 1.0) for server in ("sgd", "momentum")}
    assert table(short)[1][4] == "SGD" and table(short)[1][9] == "-"
    assert any("at the last round, 2, of one seed; " in s for s in notes(short))
    assert not any("Order" in s for s in notes(short))


def test_the_papers_numbers_are_the_papers():
    """Their sum, taken from the authors' table. Kills: a digit."""
    values = [number for both in PAPER.values() for pair in both if pair for number in pair]
    assert len(values) == 52 and sum(values) == pytest.approx(27.937, abs=1e-9)
    assert any("(paper: 11 of 12)" in s for s in notes(RESULTS))


def test_the_notes_count_and_name():
    """Kills: the uncompressed row counted; a disagreement that is not named."""
    sentences = notes(RESULTS)
    assert any("lower loss in 1 of 3 compressed or clipped cells" in s for s in sentences)
    assert "Order unlike the paper's: Top-2 % at γ = 0.5." in sentences
    assert not any("round 50" in s for s in notes({"clip1-0.7-sgd": ended(0.4)}))
    long = {f"top2-0.5-{server}": result(*[1.0] * 49, loss, 0.2) for server, loss in
            (("sgd", 0.6), ("momentum", 0.4))}  # fmt: skip
    assert any("at round 50: SGD 0.600, momentum 0.400 (" in s for s in notes(long))


def test_how_often_momentum_is_lower_lately():
    """The last 20 rounds: equal in 19, lower in 1. Kills: a last round that is luck."""
    said = next(
        s for s in notes(RESULTS) if s.startswith("SGD's loss swings; in so many of the la")
    )
    assert said.endswith(
        "no compression at γ = 0.5 1, Top-2 % at γ = 0.5 0, clip 2 at γ = 0.5 0, "
        "Top-5 % at γ = 0.7 1."
    )


def test_two_that_diverged_have_no_order():
    assert Pair("top5", 0.7, result(None), result(None)).lower is None


def test_what_differs_from_the_committed_losses():
    """A thousandth is allowed. Kills: a check of the first round alone, or of all the rounds."""
    committed = result(2.0, 1.0, 0.5)
    assert differences(committed, result(2.001, 1.0)) == []
    assert differences(committed, result(2.0, 1.01)) == [
        "train loss of round 2 is 1.01, committed is 1.0"
    ]
    assert len(differences(committed, result(None, 1.0))) == 1


# The command --------------------------------------------------------------------------------------

SHORT = ["parallel-momentum", "--task", "digits", "--rounds", "2", "--cells", "top2-0.5-*"]


def test_the_command_from_end_to_end(tmp_path, monkeypatch, capsys):
    """Table, picture and JSON twice; a second call with --resume computes nothing.

    Kills: a JSON without the cells, a table that is not that of the results.
    """
    monkeypatch.chdir(tmp_path)
    save = ["--save", "kept/short", "--name", "short"]
    assert main(["reproduce", *SHORT, *save]) == 0
    printed = capsys.readouterr().out
    assert "Top-2 %" in printed and "paper, MNIST" in printed
    saved = json.loads(Path("kept/short.json").read_text("utf-8"))
    assert list(saved["cells"]) == ["top2-0.5-sgd", "top2-0.5-momentum"]
    for cell in saved["cells"].values():
        assert len(cell["train_loss"]) == 2 and cell["applied"] == 200
    assert saved["environment"]["duration"] == pytest.approx(
        sum(cell["seconds"] for cell in saved["cells"].values()), abs=0.01
    )
    assert Path("kept/short.png").read_bytes()[:4] == b"\x89PNG"
    assert Path("runs/short/parallel-momentum.md").is_file()
    monkeypatch.setattr(parallel_momentum, "run_cell", lambda *a, **k: pytest.fail("computed"))
    assert main(["reproduce", *SHORT, *save, "--resume"]) == 0
    again = json.loads(Path("kept/short.json").read_text("utf-8"))
    assert again["cells"] == saved["cells"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["momentum"], "error: there is no reproduction 'momentum'; known: parallel-momentum"),
        (["parallel-momentum", "--cells", "top3"], "error: there is no cell 'top3'; known: none-0"),
        (
            ["biases", "--check", "--rounds", "5"],
            "error: --check decides by itself what to compute",
        ),
        (["biases", "--data-root", "x"], "error: biases has its own problems: leave --data-root"),
        (["parallel-momentum", "--rounds", "0"], "error: the options: rounds = 0: must be a whole"),
        (
            ["parallel-momentum", "--task", "mnist", "--data-root", "nowhere"],
            "error: mnist: expected train-images-idx3-ubyte, ",
        ),
    ],
)
def test_wrong_input_is_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(sentence) and errors.count("\n") == 1


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_what_is_committed_is_what_the_results_say(name):
    """The committed table and notes are those of the committed results.

    Kills: a table that was touched up, a result without its cells.
    """
    reproduction = REPRODUCTIONS[name]
    found = json.loads((COMMITTED / f"{name}.json").read_text("utf-8"))
    markdown = (COMMITTED / f"{name}.md").read_text("utf-8")
    for line in reproduction.table(found["cells"]):
        assert f"| {' | '.join(line)} |\n" in markdown
    for note in reproduction.notes(found["cells"]):
        assert f"- {note}\n" in markdown
    usual = chosen(reproduction.cells(Options()), reproduction.usual)
    assert set(usual) <= set(found["cells"]) and set(reproduction.checked) <= set(found["cells"])
    assert found["environment"]["command"].startswith(f"python -m simulations reproduce {name}")
    assert (COMMITTED / f"{name}.png").stat().st_size < 400_000


def test_a_check_finds_a_committed_result_that_is_wrong(monkeypatch, capsys, progress):
    """Kills: an exit code 0 whatever comes out."""
    wrong = {"top2-0.5-momentum": result(9.0, 9.0)}
    monkeypatch.setattr("simulations.reproductions.command.committed", lambda name: wrong)
    quick = replace(
        REPRODUCTIONS["parallel-momentum"], check_options=Options(task="digits", rounds=1)
    )
    monkeypatch.setitem(REPRODUCTIONS, "parallel-momentum", quick)
    assert main(["reproduce", "parallel-momentum", "--check"]) == 2
    assert "top2-0.5-momentum: train loss of round 1 is 2.3" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_the_committed_results_come_out_again(name, capsys):
    from simulations.data.datasets import DEBIAN

    if name == "parallel-momentum" and not (DEBIAN / "fashion-mnist").is_dir():
        pytest.skip("there is no Fashion-MNIST on this machine")
    assert main(["reproduce", name, "--check"]) == 0
    assert "as committed" in capsys.readouterr().out
