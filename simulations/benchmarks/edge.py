"""A client without torch beside one with it, in Flower's Deployment Runtime on this machine.

A small torch module is exported once. Then SuperNodes train it from two fresh environments: one has
the dependencies and the extra ``edge`` and no torch, the other the dependencies and torch. Flower
starts a process for every message, which imports all that it needs anew.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..data import digits
from ..edge import write_onnx_task
from ..models import mlp
from ..output import Run
from .environments import Environment
from .loopback import Loopback
from .measure import Finding

CLIENTS, ROUNDS = 2, 8
SETTINGS = {
    "clients": CLIENTS,
    "rounds": ROUNDS,
    "batch_size": 128,
    "compressor": "identity()",
    "feedback": "no_feedback()",
    "optimizer": "gradient_descent(step_size=1.0)",
    "model": "mlp(hidden=32)",
}
_ZEROTH = "two_point(directions=128, radius=0.001)"
_WITH_TORCH = "simulations.edge:torch_task"


@dataclass(frozen=True)
class Case:
    """A kind of client."""

    extra: str  # what is installed beside the dependencies
    task: str
    estimator: str


CASES = {
    "ONNX Runtime": Case("edge", "onnx", _ZEROTH),
    "torch": Case("torch", _WITH_TORCH, _ZEROTH),
    "torch, gradients": Case("torch", _WITH_TORCH, "minibatch()"),
}


def benchmark(repeats: int) -> Finding:
    """One row per kind of client; about a minute each per repeat, and some to install torch."""
    with tempfile.TemporaryDirectory(prefix="fedbias-edge-") as temporary:
        folder = Path(temporary)
        parameters, environments = write_task(folder / "task"), {}
        for extra in dict.fromkeys(case.extra for case in CASES.values()):
            _say(f"a fresh environment with the extra {extra}")
            environments[extra] = Environment.made(folder / extra, extra)
        if "ModuleNotFoundError" not in (said := environments["edge"].facts["torch"]):
            raise ValueError(f"torch is where it should not be: {said}")
        runs: dict[str, list[Answered]] = {name: [] for name in CASES}
        load = os.getloadavg()[0]
        for turn in range(repeats):
            for place, (name, case) in enumerate(CASES.items()):
                _say(f"{name}, {turn + 1} of {repeats}")
                work = folder / f"run-{turn}-{place}"
                scripts = environments[case.extra].scripts
                runs[name].append(answered(scripts, case, folder / "task", work))
    results = {
        name: {
            "estimator": case.estimator,
            "parameters": parameters,
            **environments[case.extra].facts,
            **summary(runs[name]),
        }
        for name, case in CASES.items()
    }
    return Finding(_lines(results), _notes(results, repeats, load), results)


def write_task(folder: Path) -> int:
    """The digits of every client, and a new network as a graph; the number of its parameters."""
    from torch.nn.functional import cross_entropy

    data = digits()
    parts = np.array_split(np.arange(len(data.train_y)), CLIENTS)
    shards = [(data.train_x[part], data.train_y[part]) for part in parts]
    model = mlp(hidden=32).build(data.shape, data.classes, seed=0)
    write_onnx_task(folder, model, cross_entropy, shards, (data.test_x, data.test_y))
    return sum(weight.numel() for weight in model.parameters())


@dataclass(frozen=True)
class Answered:
    """A run, and what each message took that a client answered: see :mod:`.probe`."""

    run: Run
    messages: Sequence[Mapping[str, float]]


def answered(scripts: Path, case: Case, task: Path, folder: Path) -> Answered:
    """Train the folder's task with this kind of client."""
    kind = {"task": case.task, "estimator": case.estimator, "data_root": str(task)}
    with Loopback(scripts, folder, CLIENTS) as federation:
        run = federation.run(SETTINGS | kind)
        return Answered(run, federation.messages())


def summary(runs: Sequence[Answered]) -> dict[str, Any]:
    """Medians over all the messages, and their range; the loss before and after.

    Raises
    ------
    ValueError
        If a reply is missing, or the loss did not fall.
    """
    messages = [message for each in runs for message in each.messages]
    replies = sum(sum(each.run.values("applied")) for each in runs)
    if replies != len(runs) * CLIENTS * ROUNDS:
        raise ValueError(f"only {replies} replies were applied")
    losses = [each.run.values("test_loss") for each in runs]
    if not all(loss[-1] < loss[0] for loss in losses):
        raise ValueError(f"the loss did not fall: {losses}")
    seconds = [message["seconds"] for message in messages]
    return {
        "messages": len(messages),
        "seconds": (median(seconds), min(seconds), max(seconds)),
        "processor": median(message["processor"] for message in messages),
        "memory": median(message["memory"] for message in messages),
        "most_memory": max(message["memory"] for message in messages),
        "reply_bytes": sum(sum(each.run.values("uplink_bytes")) for each in runs) / replies,
        "losses": losses[0],
    }


def _lines(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    lines = [
        ["client", "estimator", "torch", "installed", "memory", "time per message (range)"]
        + ["processor time", "bytes per reply", "test loss"]
    ]
    for name, found in results.items():
        middle, low, high = found["seconds"]
        lines.append(
            [name, found["estimator"], found["versions"].get("torch", "absent")]
            + [f"{found['installed'] / 2**20:.0f} MiB", f"{found['memory'] / 2**20:.0f} MiB"]
            + [f"{middle:.2f} s ({low:.2f} … {high:.2f})", f"{found['processor']:.2f} s"]
            + [f"{found['reply_bytes']:,.0f}"]
            + [f"{found['losses'][0]:.3f} → {found['losses'][-1]:.3f}"]
        )
    return lines


def _notes(results: Mapping[str, Mapping[str, Any]], repeats: int, load: float) -> list[str]:
    edge, torch, _ = results.values()
    apart = max(abs(a - b) for a, b in zip(edge["losses"], torch["losses"], strict=True))
    return [
        f"Digits, {SETTINGS['model']} with {edge['parameters']:,} parameters, {ROUNDS} rounds of "
        f"{CLIENTS} clients, batches of {SETTINGS['batch_size']}; runs of each kind: {repeats}, "
        f"messages: {edge['messages']}.",
        "Installed: all files of the environment's packages: the dependencies, and the extra "
        f"`edge` ({edge['packages']} packages) or `torch` ({torch['packages']}).",
        "Memory: the peak of a client's process, its median over the messages (at most "
        f"{edge['most_memory'] / 2**20:.0f} MiB without torch, {torch['most_memory'] / 2**20:.0f} "
        "MiB with it). Flower's own imports take "
        f"{edge['flower']['memory'] / 2**20:.0f} MiB of it.",
        "Time: from the start of the process to its end, imports included, of which Flower's own "
        f"take {edge['flower']['processor']:.2f} s of the processor time. The clients of a round "
        f"answer at the same time; before the runs the load was {load:.1f} on {os.cpu_count()} "
        "processors.",
        f"In the first environment `import torch` says: {edge['torch']}.",
        f"With {edge['estimator']} both draw the same directions: their test losses differ "
        f"by at most {apart:.1e} in any round.",
    ]


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
