"""``bench edge``: what is measured, of whom, and what the committed run says."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fedbias as fb
from simulations.__main__ import main
from simulations.benchmarks import edge, environments, loopback, probe
from simulations.data import digits
from simulations.output import Run

KEPT = Path(__file__).parents[2] / "simulations/results/edge.json"
MIB = 2**20


def run_of(losses, reply):
    """A run in which both clients' replies were applied in every round but the first."""
    records = [
        {"round": k, "applied": 2 * (k > 0), "uplink_bytes": 2 * reply * (k > 0), "test_loss": loss}
        for k, loss in enumerate(losses)
    ]
    return Run("run", {}, records)


@pytest.fixture
def faked(monkeypatch, tmp_path):
    """Environments and runs that nobody made: their numbers tell which they are."""
    asked = []

    def made(folder, extra):
        torch = {"edge": "ModuleNotFoundError: No module named 'torch'", "torch": "2.0"}
        versions = {"torch": "2.0"} if extra == "torch" else {}
        size = {"edge": 10 * MIB, "torch": 700 * MIB}[extra]
        facts = {"installed": size, "packages": 5, "versions": versions, "torch": torch[extra]}
        flower = {"seconds": 8.0, "processor": 7.0, "memory": 3 * MIB}
        return environments.Environment(folder, facts | {"flower": flower})

    def answered(scripts, case, task, folder):
        asked.append((scripts.parent.name, case))
        assert (task / "model.onnx").exists() and not folder.exists()
        extra = 4.0 * (case.extra == "torch")
        messages = [
            {"seconds": seconds + extra, "processor": seconds / 2, "memory": (50 + k) * MIB}
            for k, seconds in enumerate((1.0, 2.0, 9.0))
        ]
        return edge.Answered(run_of([2.0, 1.5, 1.0 + extra / 100], 538), messages)

    def written(folder, model, loss, shards, test):
        folder.mkdir()
        (folder / "model.onnx").touch()
        assert sum(len(inputs) for inputs, _ in shards) == len(digits().train_y)
        assert [len(labels) for _, labels in (*shards, test)] == [719, 718, 360]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(edge, "write_onnx_task", written)
    monkeypatch.setattr(edge.Environment, "made", made)
    monkeypatch.setattr(edge, "answered", answered)
    monkeypatch.setattr(edge, "ROUNDS", 2)
    return asked


def test_the_edge_benchmark(faked, capsys):
    """Three kinds in turns, each in its own environment. Kills: one kind's numbers for another's, a
    mean for a median, all of one kind first, an environment for every run.
    """
    assert main(["bench", "edge", "--repeats", "2", "--save", "kept"]) == 0
    kinds = list(edge.CASES.values())
    assert faked == [(case.extra, case) for case in kinds] * 2
    kept = json.loads(Path("kept.json").read_text("utf-8"))["cells"]
    assert list(kept) == list(edge.CASES)
    for name, case in edge.CASES.items():
        found, torch = kept[name], 4 * (case.extra == "torch")
        assert (found["parameters"], found["estimator"]) == (2410, case.estimator)
        assert found["seconds"] == [2 + torch, 1 + torch, 9 + torch] and found["messages"] == 6
        assert (found["processor"], found["memory"], found["most_memory"]) == (
            1,
            51 * MIB,
            52 * MIB,
        )
        assert found["reply_bytes"] == 538 and found["losses"] == [2, 1.5, 1 + torch / 100]
    table = Path("kept.md").read_text("utf-8")
    zeroth = "two_point(directions=128, radius=0.001)"
    row = f"| ONNX Runtime | {zeroth} | absent | 10 MiB | 51 MiB | 2.00 s (1.00 … 9.00) | 1.00 s |"
    assert f"{row} 538 | 2.000 → 1.000 |" in table
    assert "| torch, gradients | minibatch() | 2.0 | 700 MiB | 51 MiB | 6.00 s (5.00" in table
    assert "differ by at most 4.0e-02 in any round" in table
    assert "own imports take 3 MiB" in table and "Flower's own take 7.00 s" in table
    assert "a fresh environment with the extra edge" in capsys.readouterr().err


def test_torch_where_it_should_not_be(faked, monkeypatch, capsys):
    """Kills: a comparison of two environments that both have torch."""
    made = edge.Environment.made
    monkeypatch.setattr(edge.Environment, "made", lambda folder, extra: made(folder, "torch"))
    assert main(["bench", "edge", "--repeats", "1"]) == 2
    assert capsys.readouterr().err.endswith("error: torch is where it should not be: 2.0\n")


@pytest.mark.parametrize(
    ("losses", "says"),
    [([2.0, 1.0], "only 2.0 replies were applied"), ([2.0, 1.0, 2.5], "the loss did not fall")],
)
def test_a_run_that_shows_nothing(losses, says, monkeypatch):
    """Kills: times of clients that were refused, a model that learnt nothing."""
    monkeypatch.setattr(edge, "ROUNDS", 2)
    with pytest.raises(ValueError, match=says):
        edge.summary([edge.Answered(run_of(losses, 9), [])])


def test_the_probe(tmp_path):
    """A process that holds 256 MiB and computes for 0.2 s, and one that fails at once.

    Kills: another unit, the probe's own memory, an exit code that gets lost, a line that is
    overwritten, the wall's time for the processor's.
    """
    program = (
        "import time; held = bytearray(2**28); end = time.process_time() + .2\n"
        "while time.process_time() < end: pass\n"
        "time.sleep(.3)"
    )
    log, command = tmp_path / "log", (sys.executable, "-IS", probe.__file__)
    for words, code in ((program, 0), ("raise SystemExit(3)", 3)):
        done = subprocess.run([*command, log, sys.executable, "-c", words])
        assert done.returncode == code
    long, short = (json.loads(line) for line in log.read_text().splitlines())
    assert 2**28 < long["memory"] < 2**29 and short["memory"] < 2**27
    assert long["processor"] >= 0.2 and long["seconds"] >= long["processor"] + 0.25


def test_an_environment_has_what_was_asked_for(tmp_path, monkeypatch):
    """Of a project with one dependency, and an extra besides. Kills: an extra that is left out,
    packages of this environment in the new one, files that are counted twice.
    """

    def wheel(name, size):
        path, info = tmp_path / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"{name}.txt", "x" * size)
            file.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            )
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            file.writestr(f"{info}/RECORD", "")
        return f"{name} @ {path.as_uri()}"

    project = {
        "dependencies": [wheel("needed", 2**20)],
        "optional-dependencies": {"edge": [wheel("onnxruntime", 2**19)], "torch": []},
    }
    lines = [f"dependencies = {project['dependencies']}", "[project.optional-dependencies]"]
    lines += [f"{name} = {wanted}" for name, wanted in project["optional-dependencies"].items()]
    (tmp_path / "pyproject.toml").write_text("[project]\n" + "\n".join(lines))
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "_FLOWER", ("-c", "pass"))
    found = environments.Environment.made(tmp_path / "edge", "edge")
    assert (found.facts["packages"], found.facts["versions"]) == (2, {"onnxruntime": "1.0"})
    assert found.facts["torch"] == "ModuleNotFoundError: No module named 'torch'"
    assert 0 <= found.facts["installed"] - 2**20 - 2**19 < 10_000
    assert 2**22 < found.facts["flower"]["memory"] < 2**25 and (found.scripts / "python").exists()
    assert environments.Environment.made(tmp_path / "torch", "torch").facts["packages"] == 1


@pytest.mark.slow  # Flower polls every few seconds
def test_a_federation_on_loopback(tmp_path, monkeypatch):
    """Two rounds of this environment's ONNX clients equal the loop's, and every message is noted.

    Kills: a probe that is not found before Flower's command, processes that stay, a client without
    the task's data.
    """
    monkeypatch.setattr(edge, "SETTINGS", edge.SETTINGS | {"rounds": 2})
    edge.write_task(tmp_path / "task")
    scripts, ended = Path(sys.executable).parent, []
    end = loopback.Loopback._end
    monkeypatch.setattr(
        loopback.Loopback, "_end", lambda self: (end(self), ended.append(self._left()))
    )
    case = edge.CASES["ONNX Runtime"]
    found = edge.answered(scripts, case, tmp_path / "task", tmp_path / "run")
    assert ended == [set()]
    assert found.run.values("applied") == [0, 2, 2]
    replies = [each for each in found.messages if each["memory"] > 2**25]
    assert len(replies) == len(found.messages) >= 6  # two are introductions at least
    losses = found.run.values("test_loss")
    assert losses[2] < losses[1] < losses[0]
    reply = fb.two_point(128, 0.001)
    assert found.run.values("uplink_bytes")[1:] == [2 * (26 + 4 * reply.directions)] * 2


def test_the_committed_run():
    """What README says of it. Kills: a result of other code, or of a machine with torch alone."""
    kept = json.loads(KEPT.read_text("utf-8"))
    without, beside, gradients = kept["cells"].values()
    assert without["torch"] == "ModuleNotFoundError: No module named 'torch'"
    assert "torch" not in without["versions"] and "torch" in beside["versions"]
    for found in (without, beside, gradients):
        assert found["parameters"] == 2410 and found["losses"][-1] < found["losses"][0]
    packet = fb.identity().wire_bytes(2410, "float32")
    assert [f["reply_bytes"] for f in (without, beside, gradients)] == [538, 538, packet]
    assert without["installed"] < beside["installed"] / 3
    assert without["memory"] < beside["memory"] / 2
    assert without["processor"] < beside["processor"]
    off = [abs(a - b) for a, b in zip(without["losses"], beside["losses"], strict=True)]
    assert max(off) < 1e-2
