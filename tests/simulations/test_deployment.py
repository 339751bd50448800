"""Flower's Deployment Runtime: one SuperLink and two SuperNodes, each in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import fedbias as fb
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.server import ServerState, apply, plan_for
from simulations.output.toml import to_toml
from simulations.settings import make_settings
from simulations.tasks import make_task

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent  # where flwr's commands are, beside this Python
DEADLINE = 300.0  # seconds until something that should happen counts as missing
VALUES = {
    "task": "least-squares",
    "dim": 12,
    "clients": 2,
    "estimator": "local_steps(2, 0.1, momentum=0.5, inner=minibatch('reshuffle'))",
    "batch_size": 5,
    "compressor": "top_k(fraction=0.25)",
    "feedback": "error_feedback()",
    "optimizer": "heavy_ball(step_size=0.4, beta=0.3)",
    "seed": 3,
}


class Federation:
    """Flower's processes on loopback, each the leader of a group of its own."""

    def __init__(self, folder):
        self.folder, self.processes = folder, {}
        with ExitStack() as stack:  # open together, or one port might be found twice
            sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            self.ports = [one.getsockname()[1] for one in sockets]
        home = folder / "flwr-home"
        home.mkdir()
        table = {"address": f"127.0.0.1:{self.ports[0]}", "insecure": True}
        (home / "config.toml").write_text(f"[superlink.loopback]\n{to_toml(table)}")
        self.environment = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, name, command, *options):
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [BIN / command, *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def superlink(self):
        port = str(self.ports[0])
        no_installing = "--disable-runtime-dependency-installation"
        self.start("superlink", "flower-superlink", "--insecure", "--port", port, no_installing)
        self.wait(lambda: listens(self.ports[0]), "the SuperLink listens")

    def supernode(self, client):
        port, superlink = (str(self.ports[1 + client]), f"127.0.0.1:{self.ports[0]}")
        config = f"partition-id={client} num-partitions=2"
        options = ("--superlink", superlink, "--port", port, "--node-config", config)
        self.start(f"supernode-{client}", "flower-supernode", "--insecure", *options)

    def submit(self, values):
        """``flwr run . loopback --stream``; the run's folder."""
        config = self.folder / "run.toml"
        config.write_text(to_toml(values | {"name": "deployed", "runs": str(self.folder)}))
        self.start("run", "flwr", "run", ROOT, "loopback", "--stream", "--run-config", config)
        return self.folder / "deployed"

    def kill(self, name):
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()

    def wait(self, happened, what):
        end = time.monotonic() + DEADLINE
        while not happened():
            assert time.monotonic() < end, f"it never came that {what}\n{self.said()}"
            time.sleep(0.05)

    def ended(self, folder):
        """Wait for the run's end; its records, once it is known to have gone well."""
        self.wait(lambda: self.processes["run"].poll() is not None, "the run ends")
        assert (folder / "report.html").exists(), self.said()
        return records(folder)

    def said(self):
        return "\n".join(
            f"== {p.name}\n{p.read_text(errors='replace')}" for p in self.folder.glob("*.log")
        )

    def close(self):
        """End every process, politely first."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            groups = [process.pid for process in self.processes.values()]
            for group in {*groups, *self.left()}:
                with suppress(ProcessLookupError):
                    os.killpg(group, how)
            for process in self.processes.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=15)
        self.wait(lambda: not self.left(), "no process is left")
        assert not any(listens(port) for port in self.ports)

    def left(self):
        """The groups of the processes that still run in this FLWR_HOME, whoever started them."""
        mine, found = f"FLWR_HOME={self.environment['FLWR_HOME']}".encode(), set()
        for process in Path("/proc").glob("[0-9]*"):  # nothing where there is no /proc
            with suppress(OSError):
                if mine in (process / "environ").read_bytes().split(b"\0"):
                    found.add(os.getpgid(int(process.name)))
        return found


@pytest.fixture
def federation(tmp_path):
    """A SuperLink; neither it nor what is started beside it runs or listens afterwards."""
    one = Federation(tmp_path)
    try:
        one.superlink()
        yield one
    finally:
        one.close()


def listens(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def records(folder):
    """The rounds written so far."""
    file = folder / "rounds.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_a_deployed_run_equals_the_loop(federation):
    """Every bit of every round, and of a reading. Kills: an app that needs Flower's simulation,
    data that is not chosen by --node-config, a memory, or the point that products are asked at,
    that does not outlast the process that answered one message.
    """
    federation.supernode(0)
    federation.supernode(1)
    values = VALUES | {"rounds": 3, "sharpness": "lanczos(every=3, steps=2)"}
    folder = federation.submit(values)
    settings = make_settings(values)
    a, problem = settings.algorithm(), make_task(settings).problem
    history = fb.run(
        *(problem.objectives, a.optimizer, make_task(settings).initial()["point"], 3),
        estimator=a.estimator,
        compressor=a.compressor,
        feedback=a.feedback,
        batch_size=a.batch_size,
        sharpness=a.sharpness,
        seed=a.seed,
    )
    found = federation.ended(folder)
    (reading,) = history.readings
    assert (found[1]["sharpness"], found[1]["sharpness_residual"]) == (
        *(reading.value, reading.residual),
    )
    # Three products of 12 numbers for two clients, and the point once for each.
    assert 8 * 12 * (2 * 3 * 2 + 2) < found[1]["sharpness_bytes"] < 8 * 12 * (2 * 3 * 2 + 2) + 2000
    point = load_file(folder / "model.safetensors")["point"]
    assert point.tobytes() == history.points[-1].tobytes()
    gaps = [problem.loss(point) - problem.minimum for point in history.points]
    assert [record["test_loss"] for record in found] == gaps
    assert [record["train_loss"] for record in found[1:]] == [o.loss for o in history.outcomes]
    assert [8 * record["uplink_bytes"] for record in found[1:]] == list(history.wire_bits)
    assert [(r["applied"], r["lost"], r["forgotten"]) for r in found[1:]] == [(2, 0, 0)] * 3


def replay(settings, rounds, remembers):
    """The core's x_K without the rounds that nothing was applied in.

    In the round that says ``forgotten`` client 1 has an empty memory, unless it ``remembers``.
    """
    algorithm, task = settings.algorithm(), make_task(settings)
    state, ledgers = ServerState(task.initial()["point"]), [Ledger(), Ledger()]
    for record in rounds:
        reports = []
        if record["forgotten"] and not remembers:
            ledgers[1] = Ledger()
        for client in range(record["applied"]):
            plan = plan_for(algorithm, state, client)
            report, ledgers[client] = respond(task.objective(client), plan, ledgers[client])
            reports.append(report)
        state, outcome = apply(algorithm, state, reports)
        assert outcome.forgotten == ((1,) if record["forgotten"] and not remembers else ())
    return state.point


@pytest.mark.slow  # Flower gives a dead node up after a minute
def test_a_node_that_dies_comes_back_without_its_memory(federation):
    """Killed after round 1 and started anew, where a round needs both clients: the one that waits
    for the dead node ends when Flower gives it up, and the run's every bit is that of the run
    without that round, in which client 1 forgot. Kills: a run that hangs on a dead node, a new node
    that is a stranger, a memory that moves though nothing was applied, a loss that nobody notices.
    """
    values = VALUES | {"rounds": 4, "minimum_replies": 2}
    folder = federation.submit(values)
    federation.supernode(0)
    federation.wait(folder.exists, "client 0 is met")
    federation.supernode(1)  # not before: Flower gives a node up a minute after it was heard last
    federation.wait(lambda: len(records(folder)) >= 2, "round 1 is over")
    federation.kill("supernode-1")
    federation.supernode(1)
    rounds = federation.ended(folder)[1:]
    what = [(r["applied"], r["lost"], r["forgotten"], r["refused"]) for r in rounds]
    assert (0, 1, 0, 0) in what, federation.said()
    away = what.index((0, 1, 0, 0))  # round 2, or 3 if client 1 was faster than its end
    both, back = [(2, 0, 0, 0)], [(2, 0, 1, 0)]
    assert away >= 1 and what == [*both * away, (0, 1, 0, 0), *back, *both * (2 - away)]
    assert f"round {away + 2}: client 1 had lost its memory" in federation.said()

    point, settings = load_file(folder / "model.safetensors")["point"], make_settings(values)
    assert point.tobytes() == replay(settings, rounds, remembers=False).tobytes()
    assert point.tobytes() != replay(settings, rounds, remembers=True).tobytes()
