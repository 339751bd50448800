"""``python -m simulations``: run, compare, reproduce, report."""

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

PRESETS = Path(__file__).parent / "presets"
COMPARISONS = Path(__file__).parent / "comparisons"


def parser() -> argparse.ArgumentParser:
    """The command line; every setting is an option."""
    from .cell import ENGINES

    main = argparse.ArgumentParser(
        prog="python -m simulations",
        description="Train with biased gradients, and see what compression costs.",
        epilog="`python -m simulations VERB --help` lists the options of a verb.",
    )
    verbs = main.add_subparsers(dest="verb", required=True, metavar="VERB")
    run = _add_verb(verbs, "run", "one run from a preset and options", "[PRESET]")
    run.add_argument("preset", nargs="?", default="digits", metavar="PRESET", help=_names(PRESETS))
    compare = _add_verb(verbs, "compare", "several runs side by side", "[COMPARISON]")
    compare.add_argument(
        "comparison", nargs="?", default="digits", metavar="COMPARISON", help=_names(COMPARISONS)
    )
    for verb in (run, compare):
        verb.add_argument("--engine", choices=ENGINES, default="inline", help="where clients run")
        verb.add_argument("--name", help="folder below --runs [the preset's name]")
        verb.add_argument("--runs", default="runs", help="where run folders are kept [runs]")
        verb.add_argument("--resume", action="store_true", help="go on where it was interrupted")
        _add_settings(
            verb.add_argument_group(
                "settings", "They win over the file's. In brackets: what holds if neither says it."
            )
        )
    compare.add_argument("--seeds", type=int, default=1, help="runs per cell, averaged [1]")
    compare.add_argument("--save", type=Path, help="also keep table, picture and JSON as SAVE.*")
    _add_reproduce(verbs)
    report = _add_verb(verbs, "report", "one report over finished or running runs", "FOLDER…")
    report.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run")
    report.add_argument(
        "--output", type=Path, default=Path("report.html"), help="its file [report.html]"
    )
    report.add_argument("--picture", type=Path, help="also a PNG")
    return main


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
        print(f"interrupted; {again} --resume goes on", file=sys.stderr, flush=True)
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
    from .comparison import compare, read_cells
    from .output import comparison_table, describe_environment, print_table, save_result
    from .settings import SettingsError

    if options.seeds < 1:
        raise SettingsError(f"--seeds must be at least 1, not {options.seeds}")
    path, began = _file(options.comparison, COMPARISONS), time.monotonic()
    cells = read_cells(path, _overrides(options))
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
        environment = describe_environment(given, time.monotonic() - began)
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

    root = options.data_root and str(options.data_root.expanduser().resolve())
    chosen = Options(options.task, root, options.rounds)
    if options.check:
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


_VERBS = {"run": _run, "compare": _compare, "reproduce": _reproduce, "report": _report}


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
    known = _names(folder).removesuffix(" [digits]")
    raise SettingsError(f"there is no {folder.name[:-1]} {given!r}; known: {known}")


def _add_reproduce(verbs: Any) -> None:
    from .reproductions import REPRODUCTIONS

    verb = _add_verb(verbs, "reproduce", "a paper's experiment", "REPRODUCTION")
    listed = "; ".join(f"{name}: {each.summary}" for name, each in REPRODUCTIONS.items())
    verb.add_argument("reproduction", metavar="REPRODUCTION", help=listed.replace("%", "%%"))
    verb.add_argument(
        "--cells", nargs="+", metavar="CELL", help="names or patterns, such as 'top2-*'"
    )
    verb.add_argument("--task", help="other data of the same shape, such as mnist")
    verb.add_argument("--data-root", type=Path, help="folder with the data's files")
    verb.add_argument("--rounds", type=int, help="fewer than the paper's, to try")
    verb.add_argument("--check", action="store_true", help="compute a small cell again and compare "
                      "it with the committed result")  # fmt: skip
    verb.add_argument("--name", help="folder below --runs [the reproduction's name]")
    verb.add_argument("--runs", default="runs", help="where folders are kept [runs]")
    verb.add_argument("--resume", action="store_true", help="keep the cells that are there")
    verb.add_argument("--save", type=Path, help="also keep table, picture and JSON as SAVE.*")


def _add_verb(verbs: Any, name: str, words: str, place: str) -> Any:
    usage = f"python -m simulations {name} [options] {place}"
    return verbs.add_parser(name, usage=usage, help=words, description=words.capitalize() + ".")


def _names(folder: Path) -> str:
    known = ", ".join(sorted(path.stem for path in folder.glob("*.toml")))
    return f"{known}, or a file [digits]"


def _add_settings(group: Any) -> None:
    from .settings import SPELLED, Settings, parser_type, signatures

    for name, field in Settings.model_fields.items():
        spelled = f": {', '.join(signatures(name).values())}" if name in SPELLED else ""
        default = str(field.default).lower() if field.annotation is bool else str(field.default)
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"setting_{name}",
            type=parser_type(name),
            metavar="X",
            help=f"{field.description}{spelled}{default and f' [{default}]'}".replace("%", "%%"),
        )


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
