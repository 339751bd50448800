"""Fresh Python environments with the project's dependencies, and what they weigh."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import probe

ROOT = Path(__file__).parents[2]
_SHOWN = ("flwr", "numpy", "onnxruntime", "torch")
_INSTALLED = """
import importlib.metadata, json
print(json.dumps({d.name.lower(): d.version for d in importlib.metadata.distributions()}))
"""
_FLOWER = ("-I", "-c", "import flwr.supernode.cli")  # what every client's process begins with


@dataclass(frozen=True)
class Environment:
    """A Python environment, and what was in it when it was new.

    Attributes
    ----------
    folder : Path
    facts : dict
        ``installed`` bytes, number of ``packages``, ``versions`` of some, what ``import torch``
        says there, and what a process takes that imports ``flower`` alone: see :mod:`.probe`.
    """

    folder: Path
    facts: Mapping[str, Any]

    @property
    def scripts(self) -> Path:
        """Where its commands are."""
        return self.folder / "bin"

    @classmethod
    def made(cls, folder: Path, extra: str) -> Environment:
        """The project's dependencies and one extra, by pip as it is set up here."""
        venv.create(folder, symlinks=True)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
        python = folder / "bin" / "python"
        pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--quiet", "install")
        subprocess.run([*pip, *wanted], check=True)
        versions = json.loads(_said(python, _INSTALLED).stdout)
        torch = _said(python, "import torch; print(torch.__version__)")
        files = [file for file in folder.glob("lib/python*/site-packages/**/*") if file.is_file()]
        facts = {
            "installed": sum(file.stat().st_size for file in files),
            "packages": len(versions),
            "versions": {name: versions[name] for name in _SHOWN if name in versions},
            "torch": (torch.stdout or torch.stderr).strip().splitlines()[-1],
            "flower": _probed(folder / "flower.jsonl", python, *_FLOWER),
        }
        return cls(folder, facts)


def _said(python: Path, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-I", "-c", program], capture_output=True, text=True)


def _probed(log: Path, *command: str | Path) -> dict[str, float]:
    """What a command takes: see :mod:`.probe`."""
    subprocess.run([sys.executable, Path(probe.__file__), log, *command], check=True)
    found: dict[str, float] = json.loads(log.read_text())
    return found
