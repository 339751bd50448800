"""Flower's Deployment Runtime on this machine: a SuperLink and SuperNodes, a process each."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..output import Run, read_run
from ..output.toml import Setting, to_toml
from .environments import ROOT

DEADLINE = 600.0  # seconds until something that should happen counts as missing
_CLIENT = "flwr-clientapp"  # what a SuperNode starts for every message
_FOREIGN = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}  # of this process, not of theirs


class Loopback:
    """A federation whose processes all run in one Python environment, until the block's end.

    Parameters
    ----------
    scripts : Path
        Where the environment's commands are.
    folder : Path
        An empty one: Flower's home, the logs, and the runs' folders.
    clients : int
        Number of SuperNodes.
    """

    def __init__(self, scripts: Path, folder: Path, clients: int) -> None:
        self._scripts, self._folder, self._clients = scripts, folder, clients
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        with ExitStack() as stack:  # open together, or one port might be found twice
            sockets = [stack.enter_context(socket.socket()) for _ in range(1 + clients)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            self._ports = [one.getsockname()[1] for one in sockets]
        self._superlink = f"127.0.0.1:{self._ports[0]}"
        home, shims, self._log = folder / "home", folder / "shims", folder / "messages.jsonl"
        home.mkdir(parents=True)
        table: dict[str, Setting] = {"address": self._superlink, "insecure": True}
        (home / "config.toml").write_text(f"[superlink.loopback]\n{to_toml(table)}")
        _write_shim(shims / _CLIENT, scripts / _CLIENT, self._log)
        self._environment = {k: v for k, v in os.environ.items() if k not in _FOREIGN} | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": os.pathsep.join([str(shims), str(scripts), os.environ["PATH"]]),
        }

    def __enter__(self) -> Self:
        try:
            options = ("--port", str(self._ports[0]), "--disable-runtime-dependency-installation")
            self._start("superlink", "flower-superlink", "--insecure", *options)
            self._wait(self._listens, "the SuperLink listens")
            for client, port in enumerate(self._ports[1:]):
                config = f"partition-id={client} num-partitions={self._clients}"
                node = (
                    "--superlink",
                    self._superlink,
                    "--port",
                    str(port),
                    "--node-config",
                    config,
                )
                self._start(f"supernode-{client}", "flower-supernode", "--insecure", *node)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def run(self, values: Mapping[str, Any]) -> Run:
        """``flwr run`` with these settings, to its end (RuntimeError if that is not a good one)."""
        config = self._folder / "run.toml"
        config.write_text(to_toml({**values, "name": "run", "runs": str(self._folder)}))
        self._start("run", "flwr", "run", str(ROOT), "loopback", "--stream", "--run-config", config)
        self._wait(lambda: self._processes["run"].poll() is not None, "the run ends")
        if not (self._folder / "run" / "report.html").exists():
            raise RuntimeError(f"the run did not come to its end\n{self._said()}")
        return read_run(self._folder / "run")

    def messages(self) -> list[dict[str, float]]:
        """What every message took that a client has answered: see :mod:`.probe`."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def _start(self, name: str, command: str, *options: str | Path) -> None:
        with (self._folder / f"{name}.log").open("a") as log:
            self._processes[name] = subprocess.Popen(
                [self._scripts / command, *options],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _listens(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self._ports[0])) == 0

    def _wait(self, happened: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + DEADLINE
        while not happened():
            if time.monotonic() > end:
                raise RuntimeError(f"it never came that {what}\n{self._said()}")
            time.sleep(0.05)

    def _said(self) -> str:
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-2000:]}" for p in logs)

    def _end(self) -> None:
        """End every process, politely first."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            for group in {process.pid for process in self._processes.values()} | self._left():
                with suppress(ProcessLookupError):
                    os.killpg(group, how)
            for process in self._processes.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=15)

    def _left(self) -> set[int]:
        """The groups of the processes that still run in this Flower home, whoever started them."""
        mine, found = f"FLWR_HOME={self._environment['FLWR_HOME']}".encode(), set()
        for process in Path("/proc").glob("[0-9]*"):  # nothing where there is no /proc
            with suppress(OSError):
                if mine in (process / "environ").read_bytes().split(b"\0"):
                    found.add(os.getpgid(int(process.name)))
        return found


def _write_shim(path: Path, command: Path, log: Path) -> None:
    """A script that runs the command under the probe; it is found first on the path."""
    probe = Path(__file__).with_name("probe.py")
    words = shlex.join(map(str, (sys.executable, "-IS", probe, log, command)))
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
