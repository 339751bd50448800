"""The command line: what it leaves behind, how it goes on, and how it says no."""

import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from simulations import make_settings, training
from simulations.__main__ import main, parser
from simulations.output import RunFolder, read_run
from simulations.settings import Settings

ROOT = Path(__file__).parents[2]
# A run in which everything that a checkpoint must hold is at work: memories on the clients, a
# buffer on the server, sampled clients, lost replies.
BUSY = [
    "run", "--clients=5", "--rounds=6", "--fraction=0.8", "--lost=0.2", "--batch-size=8",
    "--model=linear()", "--compressor=top_k(fraction=0.05)", "--feedback=error_feedback()",
    "--estimator=local_steps(2, 0.2, momentum=0.5, inner=minibatch('reshuffle'))",
    "--optimizer=heavy_ball(step_size=1.0, beta=0.5)", "--partition=iid()",
]  # fmt: skip
TINY = ["run", "least-squares", "--dim=3", "--clients=2", "--rounds=2"]
COMPARISON = """
task = "least-squares"
dim = 3
clients = 2
rounds = 2

[cells."Plain"]

[cells."Top-50 %"]
compressor = "top_k(fraction=0.5)"
"""


@pytest.fixture(autouse=True)
def flowers_log(monkeypatch):
    """Main() replaces the handlers of Flower's log; they come back."""
    logger = logging.getLogger("flwr")
    monkeypatch.setattr(logger, "handlers", logger.handlers)
    monkeypatch.setattr(logger, "level", logger.level)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command in a folder of its own; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(list(map(str, arguments)))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refusal(call):
    """Run a command that must fail; gives its one sentence."""

    def run(*arguments):
        code, out, err = call(*arguments)
        assert code == 2 and out == ""
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
        assert "Traceback" not in err and "Errno" not in err
        return err.removeprefix("error: ").rstrip("\n")

    return run


def content(folder):
    """What a run came to, bit for bit, without the time that it took."""
    rounds = [
        {key: value for key, value in json.loads(line).items() if key != "seconds"}
        for line in (folder / "rounds.jsonl").read_text("utf-8").splitlines()
    ]
    settings = (folder / "settings.toml").read_bytes()
    return rounds, (folder / "model.safetensors").read_bytes(), settings


# What a run leaves behind -----------------------------------------------------------------------


def test_a_run_leaves_its_folder_behind(call, tmp_path):
    """Kills: a file that is missing, empty, or of another run; a relative path printed."""
    code, out, err = call(*BUSY, "--name=all")
    folder = tmp_path / "runs" / "all"
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.safetensors",
        "environment.json",
        "model.safetensors",
        "report.html",
        "rounds.jsonl",
        "settings.toml",
    ]
    assert out.splitlines()[-1] == f"report: {folder / 'report.html'}"
    assert err.splitlines()[-1].startswith("all: round 6/6  loss ")

    settings = make_settings(tomllib.loads((folder / "settings.toml").read_text("utf-8")))
    assert (settings.clients, settings.lost, settings.cohort) == (5, 0.2, False)
    assert settings.compressor == "top_k(fraction=0.05)" and settings.task == "digits"
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in rounds] == list(range(7))
    assert all(record["applied"] + record["lost"] == 4 for record in rounds[1:])  # 0.8 · 5
    total = sum(record["uplink_bytes"] for record in rounds)
    assert rounds[-1]["total_uplink_bytes"] == total > 0
    model = load_file(folder / "model.safetensors")
    assert sorted(array.shape for array in model.values()) == [(10,), (10, 64)]
    assert {array.dtype.name for array in model.values()} == {"float32"}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["command"].startswith("python -m simulations run --clients=5 ")
    page = (folder / "report.html").read_text("utf-8")
    assert "<svg" in page and "top_k(fraction=0.05)" in page and "<script" not in page


def test_a_run_of_its_own_settings_file_is_the_same_run(call, tmp_path):
    """Kills: a setting that the file lacks, so that its default comes back."""
    assert call(*TINY, "--seed=3", "--compressor=sign()", "--name=one")[0] == 0
    assert call("run", tmp_path / "runs/one/settings.toml", "--name=two")[0] == 0
    assert content(tmp_path / "runs/one") == content(tmp_path / "runs/two")


def test_every_setting_is_an_option_and_its_help_prints(capsys):
    """Kills: a setting that the command line cannot change; a bare % in a help text."""
    for verb in ("run", "compare"):
        with pytest.raises(SystemExit) as left:
            main([verb, "--help"])
        text = capsys.readouterr().out
        assert left.value.code == 0
        assert {f"--{key.replace('_', '-')} X" for key in Settings.model_fields} <= set(
            re.findall(r"--[a-z-]+ X", text)
        )
        assert "top_k(fraction)" in text and "clipped(radius," in text
        assert text.startswith(f"usage: python -m simulations {verb} [options] [")
    given = parser().parse_args(["run", "--cohort=true", "--dim=7", "--fraction=0.5", "--seed=-1"])
    assert (given.setting_cohort, given.setting_dim, given.setting_fraction) == (True, 7, 0.5)
    assert given.setting_seed == -1 and given.setting_rounds is None


def test_options_win_over_the_preset(call, tmp_path):
    """Kills: the preset over the options."""
    (tmp_path / "mine.toml").write_text('task = "logistic"\nrounds = 9\nclients = 2\ndim = 3\n')
    assert call("run", "mine.toml", "--rounds=1")[0] == 0
    settings = read_run(tmp_path / "runs" / "mine").settings
    assert (settings["task"], settings["rounds"], settings["dim"]) == ("logistic", 1, 3)


def test_a_relative_data_root_is_kept_as_an_absolute_one(call, tmp_path):
    """Kills: a settings.toml that means other files in another folder."""
    call(*TINY, "--data-root=data", "--name=x")
    assert read_run(tmp_path / "runs/x").settings["data_root"] == str(tmp_path / "data")


def test_a_run_that_reached_its_goal_says_so(call, tmp_path):
    """Kills: an early end that looks like a whole run."""
    code, out, _ = call(*TINY, "--rounds=50", "--stop=until(uplink_bytes=1)")
    assert code == 0 and "stopped early: uplink_bytes " in out
    assert len(read_run(tmp_path / "runs/least-squares").rounds) == 2


def test_a_rule_is_seen_at_work(call, tmp_path):
    """Kills: sizes and samples in rounds.jsonl alone; a last line that looks unfinished."""
    rule = "--batch-size=norm_test(eta=0.5, maximum=6)"
    least = ["run", "least-squares", "--estimator=minibatch()", "--rounds=900", "--name=x"]
    code, out, err = call(*least, rule, "--stop=until(samples=4000)")
    rounds = read_run(tmp_path / "runs/x").rounds
    last, seen = rounds[-1]["round"], rounds[-1]["total_samples"]
    assert code == 0 and 4000 <= seen < 4060 and last < 200  # at most 10 clients' 6 examples more
    assert err.splitlines()[-1].startswith(f"x: round {last}, samples {seen} reached 4000  loss ")
    assert "  batch 6  " in err and "/900  samples " in err
    headings, line = (re.split(" {2,}", text) for text in out.splitlines()[:2])
    shown = dict(zip(headings, line, strict=True))
    average = sum(record["batch_size"] for record in rounds[1:]) / last
    assert shown["average batch"] == f"{average:.1f}".removesuffix(".0")
    assert shown["samples"] == f"{seen / 1000:.2f}k"
    assert "Batch size against samples" in (tmp_path / "runs/x/report.html").read_text("utf-8")


def test_compare_runs_every_cell_into_one_report(call, tmp_path):
    """Kills: cells in one folder; a report or table that lacks one; a relative path printed."""
    (tmp_path / "two.toml").write_text(COMPARISON)
    code, out, err = call("compare", "two.toml", "--rounds=3")
    folder = tmp_path / "runs" / "compare-two"
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "Plain",
        "Top-50-percent",
        "report.html",
    ]
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["run", "Plain", "Top-50 %"]
    assert lines[-1] == f"report: {folder / 'report.html'}"
    assert "[2/2] Top-50 %: round 3/3" in err
    page = (folder / "report.html").read_text("utf-8")
    assert "Plain" in page and "Top-50 %" in page
    assert len(read_run(folder / "Plain").rounds) == 4


def test_report_over_finished_runs(call, tmp_path):
    """Kills: a report that needs the runs' own command; a relative path printed."""
    for name in ("a", "b"):
        call(*TINY, f"--name={name}")
    code, out, _ = call("report", "runs/a", "runs/b", "--output=both.html", "--picture=both.png")
    assert code == 0
    assert out.splitlines()[-2:] == [
        f"report: {tmp_path / 'both.html'}",
        f"picture: {tmp_path / 'both.png'}",
    ]
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_flowers_warnings_are_plain_lines_and_not_without_end(call):
    """Every reply overflows: warnings by the dozen, colours and all, if nobody stops them.

    Kills: Flower's own handler, which writes into the live line; a warning per client and round.
    """
    big = "--optimizer=gradient_descent(step_size=1e38)"
    code, _, err = call("run", "--clients=3", "--model=linear()", "--rounds=9", big)
    lines = [line for line in err.splitlines() if not line.startswith("digits: ")]
    assert code == 0 and all(line.startswith("warning: ") for line in lines)
    assert 1 < len(lines) == len({line.split(": ", 2)[2] for line in lines}) <= 51
    assert "\x1b" not in err and "INFO" not in err


# Going on ---------------------------------------------------------------------------------------


class Interrupted:
    """Raise KeyboardInterrupt instead of doing something for the n-th time."""

    def __init__(self, monkeypatch, owner, name, turn):
        self.left, self.real = turn, getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: self(*args))

    def __call__(self, *args):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.real(*args)


@pytest.mark.parametrize(
    ("owner", "name", "turn"),
    [
        (RunFolder, "append", 5),  # before the line of round 4 is written
        (training, "save_checkpoint", 4),  # behind the line of round 3, before its checkpoint
        (RunFolder, "write_model", 1),  # when all the rounds are over
    ],
)
def test_an_interrupted_run_goes_on_bit_for_bit(call, tmp_path, monkeypatch, owner, name, turn):
    """Kills: a memory, a buffer, the server's round or a byte count missing in the checkpoint;
    lines of rounds that are done again left in the file.
    """
    assert call(*BUSY, "--name=whole")[0] == 0
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)  # a checkpoint after every round
    with monkeypatch.context() as patch:
        Interrupted(patch, owner, name, turn)
        code, out, err = call(*BUSY, "--name=cut")
    assert (code, out) == (130, "")
    assert "interrupted; python -m simulations run " in err and err.endswith(" --resume goes on\n")
    assert not (tmp_path / "runs/cut/model.safetensors").exists()
    code, _, err = call(*BUSY, "--name=cut", "--resume")
    assert code == 0 and "round 1/6" not in err
    assert content(tmp_path / "runs/cut") == content(tmp_path / "runs/whole")


def test_an_interrupted_comparison_goes_on(call, tmp_path, monkeypatch):
    """Kills: finished cells run again; the cell that was cut started anew."""
    (tmp_path / "two.toml").write_text(COMPARISON)
    with monkeypatch.context() as patch:
        Interrupted(patch, RunFolder, "append", 5)  # the second cell's first round
        assert call("compare", "two.toml")[0] == 130
    folder = tmp_path / "runs" / "compare-two"
    first = (folder / "Plain" / "rounds.jsonl").read_bytes()
    code, out, err = call("compare", "two.toml", "--resume")
    assert code == 0 and "Plain" not in err and "Top-50 %: round 2/2" in err
    assert (folder / "Plain" / "rounds.jsonl").read_bytes() == first  # seconds and all
    assert "Plain" in out and len(read_run(folder / "Top-50-percent").rounds) == 3


def test_more_rounds_continue_a_finished_run(call, tmp_path):
    """Kills: a finished run that cannot be made longer, or starts again."""
    call(*BUSY, "--name=whole")
    call(*BUSY, "--rounds=3", "--name=longer")
    code, _, err = call(*BUSY, "--name=longer", "--resume")
    assert code == 0 and "round 1/6" not in err
    assert content(tmp_path / "runs/longer") == content(tmp_path / "runs/whole")


@pytest.mark.parametrize("early", ["", "--stop=until(uplink_bytes=1)"])
def test_a_finished_run_is_not_run_again(call, tmp_path, early):
    """Kills: --resume that trains once more, also where a goal ended the run."""
    command = [*TINY, "--rounds=5", *early.split()]
    call(*command)
    folder = tmp_path / "runs/least-squares"
    before = (folder / "rounds.jsonl").read_bytes()
    code, out, err = call(*command, "--resume")
    assert code == 0 and err == "" and "report: " in out
    assert (folder / "rounds.jsonl").read_bytes() == before


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_resuming_with_other_settings_is_refused(refusal, call, tmp_path, rounds):
    """Kills: two runs mixed in one folder; the old run shown for the new settings; a refusal that
    already truncated the rounds.
    """
    call(*TINY)
    before = content(tmp_path / "runs/least-squares")
    changed = [f"--rounds={rounds}", "--seed=1", "--compressor=sign()"]
    assert refusal(*TINY, *changed, "--resume") == (
        f"{tmp_path / 'runs/least-squares'} was run with other settings (compressor, seed): "
        "give the same ones to resume, or another --name"
    )
    assert content(tmp_path / "runs/least-squares") == before


def test_without_resume_a_run_starts_anew(call, tmp_path):
    """Kills: rounds appended to those of an earlier run."""
    call(*TINY)
    call(*TINY, "--seed=1")
    run = read_run(tmp_path / "runs/least-squares")
    assert len(run.rounds) == 3 and run.settings["seed"] == 1


# Saying no --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "digit"], r"there is no preset 'digit'; known: .*digits, .*, or a file$"),
        (["compare", "nope"], r"there is no comparison 'nope'; known: digits.*, or a file$"),
        (["run", "--rounds=ten"], r"digits.toml \+ options: rounds = 'ten': must be a whole num"),
        (["run", "--cohort=yes"], r"digits.toml \+ options: cohort = 'yes': must be true or fal"),
        (["run", "--fraction=2"], r".*: fraction = 2.0: must be a number > 0 and <= 1$"),
        (["run", "--compressor=uniform(bits=0)"], r".*: bits must be a whole number >= 1 and <= "),
        (["run", "--compressor=topk(0.1)"], r".*there is no such compressor; did you mean top_k"),
        (["run", "--optimizer=sign()"], r".*there is no such optimizer \(allowed: adagrad"),
        (["run", "--estimator=exact()"], r".*batch_size = 32 has no meaning for exact\(\)"),
        (["run", "--batch-size=-3"], r".*: batch_size = -3: must be a whole number >= 0, or "),
        (["run", "--batch-size=2.5"], r".*: batch_size = '2.5': there is no such batch_size \(all"),
        (["run", "--batch-size=normtest()"], r".*: there is no such batch_size; did you mean no"),
        (["run", "--batch-size=norm_test(0.5, 9)"], r".*: norm_test measures the examples of a p"),
        (["run", "--batch-size=local_norm_test(0.5, 2, 4)"], r".*: maximum must be a whole num"),
        (["run", "--decay=0.5"], r".*: decay = '0.5': there is no such decay \(allowed: cosine"),
        (["run", "--stop=until(sample=9)"], r".*: until takes \(accuracy, .*, samples\), not 'sam"),
        (["run", "--device=gpu"], r".*: device = 'gpu': must be cpu, cuda, mps or xpu"),
        (["run", "--device=cuda:99", "--patience=0"], r"device = 'cuda:99' cannot be used: "),
        (["run", "--minimum-replies=11"], r".*must be at most the number of clients, 10"),
        (["run", "--clients=2000"], r"2000 clients cannot share 1437 examples"),
        (["run", "--task=imagenet"], r"task = 'imagenet': there is none; known: digits, "),
        (["run", "--task=nowhere:make"], r".*cannot be imported: No module named 'nowhere'$"),
        (["run", "--task=mnist", "--data-root=none"], r"mnist: expected train-images.*none/mnist"),
        (["run", "--partition=natural()", "--clients=11"], r"natural\(\) "),
        (["run", "--name=../elsewhere"], "--name must be the name of one folder below --runs"),
        (["compare", "--name=."], "--name must be the name of one folder below --runs"),
        (["compare", "--compressor=zip()"], r"digits.toml, cell 'FedAvg' \+ options: compressor "),
        (["compare", "--seeds=0"], r"--seeds must be at least 1, not 0$"),
        (["report", "nothing"], r".*/nothing is not the folder of a run: it has no settings.toml$"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)  # fmt: skip
def test_a_wrong_argument_ends_with_one_sentence(refusal, tmp_path, arguments, says):
    """Kills: a traceback, exit code 0, or a folder for a run that never was."""
    assert re.match(says, refusal(*arguments))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("verb", "text", "says"),
    [
        ("run", "rounds = = 3", r".*/f.toml is not TOML: "),
        ("run", "rouns = 3", r"f.toml: there is no setting 'rouns'; did you mean 'rounds'\?$"),
        ("run", "rounds = 3.5", r"f.toml: rounds = 3.5: must be a whole number >= 1$"),
        ("run", COMPARISON, r"f.toml: there is no setting 'cells'; a file with cells is for `comp"),
        ("compare", "rounds = 3", r".*/f.toml has no cells: a comparison needs tables like"),
        ("compare", "[cells]", r".*/f.toml has no cells"),
        ("compare", "[cells]\nrounds = 3", r".*/f.toml has no cells"),
        ("compare", "[cells.a]\nround = 1", r"f.toml, cell 'a': there is no setting 'round'; did "),
        ("compare", "[cells.'a b']\n[cells.a-B]", r"f.toml: rename 'a-B': its folder is that of '"),
    ],
)
def test_a_wrong_file_ends_with_one_sentence(refusal, tmp_path, verb, text, says):
    """Kills: a traceback of tomllib, a report over no runs, two cells in one folder."""
    (tmp_path / "f.toml").write_text(text)
    assert re.match(says, refusal(verb, "f.toml"))
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_named(refusal, tmp_path):
    """Kills: «[Errno 20]», or nothing but a reason."""
    (tmp_path / "file").write_text("")
    says = f"cannot use {tmp_path / 'file' / 'least-squares'}: Not a directory"
    assert refusal(*TINY, "--runs=file") == says


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(refusal, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    says = f"cannot use {tmp_path / 'closed' / 'least-squares'}: Permission denied"
    assert refusal(*TINY, "--runs=closed") == says


def test_report_on_a_comparison_names_the_runs_below(refusal, call, tmp_path):
    """Kills: a user who must guess which folders were meant."""
    (tmp_path / "two.toml").write_text(COMPARISON)
    call("compare", "two.toml")
    says = refusal("report", "runs/compare-two")
    assert says.endswith("it has no settings.toml; those below it do: Plain, Top-50-percent")


@pytest.mark.parametrize(
    ("name", "text"),
    [("settings.toml", "seed = "), ("environment.json", "{"), ("rounds.jsonl", "7\n{}\n")],
)
def test_report_on_a_damaged_folder_names_the_file(refusal, call, tmp_path, name, text):
    """Kills: tomllib's and json's words alone, which name no file."""
    call(*TINY)
    damaged = tmp_path / "runs/least-squares" / name
    damaged.write_text(text)
    assert refusal("report", "runs/least-squares").startswith(str(damaged))


def test_an_extra_that_is_missing_is_named(refusal, monkeypatch):
    """Kills: a traceback in an environment without torchvision."""
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert re.match(
        r"this network needs torchvision: install fedbias with the extra `vision`",
        refusal("run", "--model=resnet18()", "--rounds=1"),
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--bits=3"], "unrecognized arguments: --bits=3"),
        (["run", "--engine=spark"], "invalid choice: 'spark' (choose from "),
        (["run", "--rounds"], "argument --rounds: expected one argument"),
        (["report"], "the following arguments are required: FOLDER"),
        ([], "the following arguments are required: VERB"),
    ],
)
def test_an_unknown_option_ends_with_a_line_of_usage_and_a_sentence(capsys, arguments, says):
    """Kills: a screen full of options above the one line that matters."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    usage, error = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and usage.startswith("usage: ") and says in error


def test_the_process_exits_with_the_code_and_without_a_traceback(tmp_path):
    """Kills: `main()` without `sys.exit`."""
    done = subprocess.run(
        [sys.executable, "-m", "simulations", "run", "--rounds=0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: digits.toml + options: rounds = 0: must be a whole number >= 1\n"
    )


def test_some_cells_of_a_comparison(call, tmp_path):
    """Kills: a pattern that is ignored."""
    (tmp_path / "two.toml").write_text(COMPARISON)
    code, _, _ = call("compare", "two.toml", "--cells", "Top-*")
    folders = sorted(path.name for path in (tmp_path / "runs" / "compare-two").iterdir())
    assert code == 0 and folders == ["Top-50-percent", "report.html"]
    code, _, err = call("compare", "two.toml", "--cells", "Top-5")
    assert (code, err) == (2, "error: there is no cell 'Top-5'; known: Plain, Top-50 %\n")


def test_a_saved_result_says_how_long_its_cells_took(call, tmp_path):
    """Also when it was put together from finished cells. Kills: the second that --resume took."""
    (tmp_path / "two.toml").write_text(COMPARISON)
    line = ("compare", "two.toml", "--seeds=2", "--save=kept")
    call(*line)
    seconds = [
        json.loads(path.read_text("utf-8"))["duration"]
        for path in sorted((tmp_path / "runs").rglob("environment.json"))
    ]
    assert len(seconds) == 4
    call(*line, "--resume")
    kept = json.loads((tmp_path / "kept.json").read_text("utf-8"))["environment"]
    assert kept["duration"] == pytest.approx(sum(seconds), abs=0.01)
