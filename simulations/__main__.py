"""``python -m simulations``: run, compare, reproduce, bench, report."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .parser import COMPARISONS, PRESETS, names, parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; mistakes end with one sentence and a non-zero exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    _show_warnings()
    try:
        _VERBS[options.verb](options, given)
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "simulations", *(a for a in given if a != "--resume")])
        goes_on = f"; {again} --resume goes on" if hasattr(options, "resume") else ""
        print(f"interrupted{goes_on}", file=sys.stderr, flush=True)
        if getattr(options, "engine", "") == "ray":
            os._exit(130)  # the server's thread would go on waiting for replies
        return 130
    except (ValueError, ImportError, OSError, MemoryError) as mistake:
        print(f"error: {_sentence(mistake)}", file=sys.stderr)
        return 2
    return 0


def _sentence(mistake: Exception) -> str:
    if isinstance(mistake, OSError) and mistake.filename:
        return f"cannot use {Path(mistake.filename).absolute()}: {mistake.strerror}"
    return str(mistake) or "there is not enough memory for this"


def _show_warnings() -> None:
    """Flower's log as plain lines, its warnings alone, above the progress line and not in it."""
    from .output import Notices

    logger = logging.getLogger("flwr")
    logger.handlers = [Notices()]
    logger.setLevel(logging.WARNING)


def _run(options: argparse.Namespace, given: Sequence[str]) -> None:
    from .cell import run_cell
    from .output import Progress, comparison_table, print_table
    from .settings import make_settings, read_preset

    path = _file(options.preset, PRESETS)
    overrides = _overrides(options)
    values, where = {**read_preset(path), **overrides}, path.name + (" + options" * bool(overrides))
    folder = _folder(options, path.stem)
    with Progress() as progress:
        run = run_cell(
            make_settings(values, where),
            folder,
            engine=options.engine,
            progress=progress,
            arguments=given,
            resume=options.resume,
        )
    print_table(comparison_table([run]))
    if "stopped" in run.environment:
        print(f"stopped early: {run.environment['stopped']}")
    print(f"report: {(folder / 'report.html').resolve()}")


def _compare(options: argparse.Namespace, given: Sequence[str]) -> None:
    from .comparison import chosen, compare, read_cells
    from .output import comparison_table, describe_environment, print_table, save_result
    from .settings import SettingsError

    if options.seeds < 1:
        raise SettingsError(f"--seeds must be at least 1, not {options.seeds}")
    path = _file(options.comparison, COMPARISONS)
    cells = chosen(read_cells(path, _overrides(options)), options.cells or ["*"])
    runs, report = compare(
        cells,
        _folder(options, f"compare-{path.stem}"),
        seeds=options.seeds,
        engine=options.engine,
        arguments=given,
        resume=options.resume,
    )
    print_table(comparison_table(runs))
    print(f"report: {report}")
    if options.save:
        # The cells' own time: a resumed comparison takes none to put together.
        seconds = options.seeds * sum(float(run.environment["duration"]) for run in runs)
        environment = describe_environment(given, seconds)
        for kept in save_result(runs, options.save, environment):
            print(f"saved: {kept}")


def _report(options: argparse.Namespace, given: Sequence[str]) -> None:
    from .output import comparison_table, print_table, read_run, write_picture, write_report

    runs = [read_run(folder) for folder in options.folders]
    print_table(comparison_table(runs))
    print(f"report: {write_report(runs, options.output)}")
    if options.picture:
        print(f"picture: {write_picture(runs, options.picture)}")


def _reproduce(options: argparse.Namespace, given: Sequence[str]) -> None:
    from .reproductions import Options
    from .reproductions.command import check_committed, reproduce
    from .settings import SettingsError

    root = options.data_root and str(options.data_root.expanduser().resolve())
    chosen = Options(options.task, root, options.rounds)
    if options.check:
        given_too = ("cells", "task", "rounds", "name", "resume", "save")
        if several := [f"--{name}" for name in given_too if getattr(options, name)]:
            raise SettingsError(
                f"--check decides by itself what to compute: leave out {several[0]}"
            )
        check_committed(options.reproduction, chosen)
        return
    reproduce(
        options.reproduction,
        chosen,
        _folder(options, options.reproduction),
        patterns=options.cells or (),
        resume=options.resume,
        save=options.save,
        arguments=given,
    )


def _bench(options: argparse.Namespace, given: Sequence[str]) -> None:
    from .benchmarks import BENCHMARKS
    from .output import describe_environment, print_lines, save_finding
    from .settings import SettingsError

    if options.repeats < 1:
        raise SettingsError(f"--repeats must be at least 1, not {options.repeats}")
    began = time.monotonic()
    found = BENCHMARKS[options.benchmark](options.repeats)
    print_lines(found.lines)
    print(*found.notes, sep="\n")
    if options.save:
        environment = describe_environment(given, time.monotonic() - began)
        for kept in save_finding(
            options.save, environment, found.lines, found.notes, found.results
        ):
            print(f"saved: {kept}")


_VERBS = {
    "run": _run,
    "compare": _compare,
    "reproduce": _reproduce,
    "bench": _bench,
    "report": _report,
}


def _folder(options: argparse.Namespace, usual: str) -> Path:
    from .settings import SettingsError

    name = usual if options.name is None else options.name
    if name in ("", ".", "..") or Path(name).name != name:
        raise SettingsError(f"--name must be the name of one folder below --runs, not {name!r}")
    return Path(options.runs) / name


def _file(given: str, folder: Path) -> Path:
    from .settings import SettingsError

    for path in (Path(given), folder / f"{given}.toml"):
        if path.is_file():
            return path.resolve()
    known = names(folder).removesuffix(" [digits]")
    raise SettingsError(f"there is no {folder.name[:-1]} {given!r}; known: {known}")


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    given = {
        name.removeprefix("setting_"): value
        for name, value in vars(options).items()
        if name.startswith("setting_") and value is not None
    }
    if given.get("data_root"):
        given["data_root"] = str(Path(given["data_root"]).expanduser().resolve())
    return given


if __name__ == "__main__":
    sys.exit(main())
