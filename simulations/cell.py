"""One run from its settings to its folder, on the engine of choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flwr.serverapp import Grid

from .engines import InlineGrid, run_on_ray
from .output import Progress, Run, RunFolder, describe_environment, read_run, write_report
from .settings import Settings
from .tasks import make_task
from .training import check_same_settings, client_app_for, show, train

ENGINES = ("inline", "ray")


def run_cell(
    settings: Settings,
    path: Path,
    *,
    title: str | None = None,
    engine: str = "inline",
    progress: Progress | None = None,
    arguments: Sequence[str] = (),
    resume: bool = False,
) -> Run:
    """Run to the end and return what the folder then holds.

    Parameters
    ----------
    path : Path
        The run's folder; an earlier run in it is overwritten unless ``resume`` is given.
    title : str, optional
        How progress calls it; the folder's name by default.
    engine : {"inline", "ray"}
    arguments : sequence of str
        The command line, for the record.
    resume : bool
        Go on from the folder's checkpoint; a finished run is returned as it is.
    """
    make_task(settings)  # wrong settings and missing data end here, before anything is written
    folder = RunFolder(path)
    if resume and folder.environment.exists():
        check_same_settings(settings, folder)
        before = read_run(folder.path)
        if "stopped" in before.environment or _rounds(before) >= settings.rounds:
            return before
    if progress:
        show(progress, settings, title or folder.path.name)
    app = client_app_for(settings)
    stopped: list[str | None] = []
    if engine == "ray":

        def serve(grid: Grid) -> None:
            stopped.append(train(settings, grid, folder, progress, resume=resume).stopped)

        # A client on a GPU has it to itself while it computes.
        run_on_ray(serve, app, settings.clients, gpus=float(settings.device != "cpu"))
    else:
        inline = InlineGrid(app, settings.clients, cohort=settings.cohort)
        done = train(settings, inline, folder, progress, contexts=inline.contexts, resume=resume)
        stopped.append(done.stopped)
    if progress:
        progress.finish()
    return finish(folder, arguments, stopped[0])


def finish(folder: RunFolder, arguments: Sequence[str], stopped: str | None) -> Run:
    """Write where the run took place, and its report."""
    seconds = read_run(folder.path).values("seconds")
    environment = describe_environment(arguments, seconds[-1] if seconds else 0.0)
    if stopped:
        environment["stopped"] = stopped
    folder.write_environment(environment)
    run = read_run(folder.path)
    write_report([run], folder.report)
    return run


def _rounds(run: Run) -> int:
    rounds = run.values("round")
    return int(rounds[-1]) if rounds else 0
