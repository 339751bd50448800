"""The Flower App: what ``flwr run .`` starts."""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from clients import client_app as make_client_app
from strategies import meet

from .cell import finish
from .output import Progress, RunFolder, absolute
from .settings import Settings, make_settings
from .training import APP_KEYS, objective_of, show, train

_LOG = logging.getLogger("flwr")
client_app = make_client_app(objective_of)
server_app = ServerApp()


def _sized(settings: Settings, grid: Grid) -> Settings:
    """The settings with as many clients as the federation has: its nodes know it, not the app."""
    count = meet(grid, settings.patience).partitions or settings.clients
    if count != settings.clients:
        _LOG.warning(
            "the federation has %s nodes, so clients = %s, not %s; for more in a "
            "simulation: --federation-config 'num-supernodes=%s'",
            *(count, count, settings.clients, settings.clients),
        )
    return make_settings(settings.model_dump() | {"clients": count}, "run config")


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Train with the run config's settings and leave the run's folder behind."""
    values = dict(context.run_config)
    name, runs = (str(values.pop(key, "")) for key in APP_KEYS)
    settings = _sized(make_settings(values, "run config"), grid)
    # A Flower daemon has another working directory than the user: relative paths mean nothing.
    root = absolute(Path(runs).expanduser()) if runs else Path.home() / "fedbias-runs"
    folder = RunFolder(root / (name or "flower"))
    print(f"run folder: {folder.path}", flush=True)
    with Progress() as progress:
        show(progress, settings, folder.path.name)
        strategy = train(settings, grid, folder, progress)
    finish(folder, ["flwr", "run", "."], strategy.stopped)
    print(f"report: {folder.report}", flush=True)
