"""Flower's own Simulation Runtime: clients in Ray's worker processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp


def run_on_ray(
    serve: Callable[[Grid], None], client_app: ClientApp, clients: int, *, gpus: float = 0.0
) -> None:
    """Let ``serve`` talk to ``clients`` virtual nodes (ImportError without Ray).

    Parameters
    ----------
    gpus : float
        Share of a GPU per client.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ImportError(
            "the ray engine needs Ray: pip install 'fedbias[simulation]', or use --engine inline"
        ) from None
    from flwr.simulation import run_simulation

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray asks for
    server_app, failures = ServerApp(), []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            serve(grid)
        except Exception as failure:  # Flower would wrap it; the caller wants the reason itself
            failures.append(failure)

    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its notices of deprecation and progress
    try:
        run_simulation(
            server_app,
            client_app,
            clients,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": gpus}},
        )
    finally:
        logger.setLevel(level)
    if failures:
        raise failures[0]
