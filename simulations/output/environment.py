"""Where a run took place, as far as it matters for the numbers."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def describe_environment(arguments: Sequence[str], duration: float) -> dict[str, Any]:
    """Say where a run took place: versions, machine, command line and seconds.

    Parameters
    ----------
    arguments : sequence of str
        The words after ``python -m simulations``.
    duration : float
        How many seconds the run took.
    """
    versions = {name: _version(name) for name in ("numpy", "flwr", "torch")}
    return {
        "python": platform.python_version(),
        **versions,
        "system": platform.system(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "command": shlex.join(["python", "-m", "simulations", *arguments]),
        "duration": round(duration, 3),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
