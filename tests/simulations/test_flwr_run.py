"""``flwr run .`` from the root: Flower's runtime gives the same bits as the inline engine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from simulations.cell import run_cell
from simulations.output import read_run
from simulations.output.toml import to_toml
from simulations.settings import make_settings, read_preset

ROOT = Path(__file__).parents[2]
FLWR = Path(sys.executable).parent / "flwr"


@pytest.fixture
def flower(tmp_path):
    """Flower's environment in a folder of its own; what it leaves running is ended."""
    home = tmp_path / "flwr-home"
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}",
    }
    yield environment
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"FLWR_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if ours:
            os.kill(int(process.name), signal.SIGTERM)


# A preset as a file, and options as they are typed: a rule where the table has a number.
PRESET = {
    "rounds": 4,
    "clients": 2,
    "lost": 0.2,
    "estimator": "minibatch()",
    "sharpness": "lanczos(every=2, steps=6)",
    "steering": "by_sharpness(c=0.5)",
}
RULE = {
    "rounds": 9,
    "clients": 2,
    "estimator": "minibatch()",
    "batch_size": "norm_test(eta=0.5, maximum=64)",
    "decay": "cosine_decay(samples=400)",
    "optimizer": "adagrad(step_size=0.05)",
    "stop": "until(samples=300)",
}


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the daemon to end through /proc")
@pytest.mark.parametrize("given", ["file", "options"])
def test_flowers_runtime_equals_the_inline_engine(given, tmp_path, flower):
    """Kills: an app that cannot be bundled, a run config that differs from the presets' keys, a
    client that takes another share of the data than its partition-id says, a rule that Flower
    takes for a number, products asked otherwise, or steps that do not follow them.
    """
    if not FLWR.exists():
        pytest.skip("flwr's command is not beside this Python")
    preset = read_preset(ROOT / "simulations/presets/digits.toml")
    values = preset | (PRESET if given == "file" else RULE)
    config = values | {"name": "e2e", "runs": str(tmp_path)}
    (tmp_path / "preset.toml").write_text(to_toml(config))
    options = " ".join(line.replace(" = ", "=", 1) for line in to_toml(config).splitlines())
    done = subprocess.run(
        [FLWR, "run", str(ROOT), "--stream", "--run-config"]
        + [str(tmp_path / "preset.toml") if given == "file" else options],
        env=flower,
        capture_output=True,
        text=True,
        timeout=300,
    )
    folder = tmp_path / "e2e"
    assert done.returncode == 0 and (folder / "report.html").exists(), done.stdout + done.stderr

    run_cell(make_settings(values), tmp_path / "inline")
    flown, inline = (load_file(tmp_path / name / "model.safetensors") for name in ("e2e", "inline"))
    assert flown.keys() == inline.keys()
    assert all(np.array_equal(flown[name], inline[name]) for name in flown)
    sizes = [read_run(tmp_path / name).values("batch_size") for name in ("e2e", "inline")]
    measured = [read_run(tmp_path / name).values("sharpness") for name in ("e2e", "inline")]
    assert measured[0] == measured[1] and len(measured[0]) == (2 if given == "file" else 0)
    assert sizes[0] == sizes[1] and (len(set(sizes[0])) > 1) == (given == "options")
