"""sdist → wheel → a clean environment outside the checkout: what a user installs works there."""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLED_AS = {
    "fedbias": "fedbias",
    "strategies": "fedbias/strategies",
    "clients": "fedbias/clients",
}
LEAVE = (".git", ".venv", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")

PROGRAM = """
import importlib.metadata, importlib.util, sys
import numpy as np
import fedbias as fb, fedbias.clients, fedbias.strategies

for module in (fb, fedbias.strategies, fedbias.clients):
    assert module.__file__.startswith(sys.prefix), module.__file__
for name in ("strategies", "clients", "simulations"):
    assert importlib.util.find_spec(name) is None, f"{name} is a top-level name"
assert importlib.metadata.version("fedbias") == fb.__version__ == VERSION

problem = fb.LeastSquares.random(4, 10.0, 0)
history = fb.run(problem.objectives, fb.gradient_descent(0.1), np.zeros(4), rounds=3)
assert history.losses[-1] < history.losses[0]
assert fedbias.strategies.FedBias(optimizer=fb.gradient_descent(0.1)) is not None
"""


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    tree = shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(*LEAVE))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "..", cwd=tree)
    (built,) = folder.glob("*.whl")
    return built


def test_no_file_is_forgotten(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        f"{installed}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in INSTALLED_AS.items()
        for file in (ROOT / folder).rglob("*")
        if file.suffix == ".py" or file.name == "py.typed"
    }
    assert packed == sources


def test_the_wheel_works_in_a_clean_environment(wheel, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index")
    run(*pip, "--no-deps", str(wheel), cwd=tmp_path)
    (site_packages,) = tmp_path.glob("env/lib/python*/site-packages")
    third_parties = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (site_packages / "third_parties.pth").write_text("\n".join(third_parties))

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    program = f"VERSION = {project['version']!r}\n{PROGRAM}"
    run(python, "-I", "-c", program, cwd=tmp_path)
