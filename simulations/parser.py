"""The options of the command line; every setting is one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

PRESETS = Path(__file__).parent / "presets"
COMPARISONS = Path(__file__).parent / "comparisons"


def parser() -> argparse.ArgumentParser:
    """The command line; every setting is an option."""
    from .benchmarks import BENCHMARKS
    from .cell import ENGINES

    main = argparse.ArgumentParser(
        prog="python -m simulations",
        description="Train with biased gradients, and see what compression costs.",
        epilog="`python -m simulations VERB --help` lists the options of a verb.",
    )
    verbs = main.add_subparsers(dest="verb", required=True, metavar="VERB")
    run = _add_verb(verbs, "run", "one run from a preset and options", "[PRESET]")
    run.add_argument("preset", nargs="?", default="digits", metavar="PRESET", help=names(PRESETS))
    compare = _add_verb(verbs, "compare", "several runs side by side", "[COMPARISON]")
    compare.add_argument(
        "comparison", nargs="?", default="digits", metavar="COMPARISON", help=names(COMPARISONS)
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
    _add_cells(compare)
    compare.add_argument("--seeds", type=int, default=1, help="runs per cell, averaged [1]")
    compare.add_argument("--save", type=Path, help="also keep table, picture and JSON as SAVE.*")
    _add_reproduce(verbs)
    bench = _add_verb(verbs, "bench", "what things cost, as ratios in one run", "BENCHMARK")
    bench.add_argument(
        "benchmark",
        choices=sorted(BENCHMARKS),
        help="clients computed together; clients without torch; what quantizers lose; what "
        "batch-size tests cost",
    )
    bench.add_argument("--repeats", type=int, default=5, help="turns to time [5]")
    bench.add_argument("--save", type=Path, help="also keep table and JSON as SAVE.*")
    report = _add_verb(verbs, "report", "one report over finished or running runs", "FOLDER…")
    report.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run")
    report.add_argument(
        "--output", type=Path, default=Path("report.html"), help="its file [report.html]"
    )
    report.add_argument("--picture", type=Path, help="also a PNG")
    return main


def names(folder: Path) -> str:
    """The TOML files of a folder, as help and errors list them."""
    known = ", ".join(sorted(path.stem for path in folder.glob("*.toml")))
    return f"{known}, or a file [digits]"


def _add_reproduce(verbs: Any) -> None:
    from .reproductions import REPRODUCTIONS

    verb = _add_verb(verbs, "reproduce", "a paper's experiment", "REPRODUCTION")
    listed = "; ".join(f"{name}: {each.summary}" for name, each in REPRODUCTIONS.items())
    verb.add_argument("reproduction", metavar="REPRODUCTION", help=listed.replace("%", "%%"))
    _add_cells(verb)
    verb.add_argument("--task", help="other data of the same shape, such as mnist")
    verb.add_argument("--data-root", type=Path, help="folder with the data's files")
    verb.add_argument("--rounds", type=int, help="fewer than the paper's, to try")
    verb.add_argument("--check", action="store_true", help="compute a small cell again and compare "
                      "it with the committed result")  # fmt: skip
    verb.add_argument("--name", help="folder below --runs [the reproduction's name]")
    verb.add_argument("--runs", default="runs", help="where folders are kept [runs]")
    verb.add_argument("--resume", action="store_true", help="go on where it was interrupted")
    verb.add_argument("--save", type=Path, help="also keep table, picture and JSON as SAVE.*")


def _add_cells(verb: Any) -> None:
    verb.add_argument("--cells", nargs="+", metavar="CELL", help="names, or patterns such as '*5'")


def _add_verb(verbs: Any, name: str, words: str, place: str) -> Any:
    usage = f"python -m simulations {name} [options] {place}"
    return verbs.add_parser(name, usage=usage, help=words, description=words.capitalize() + ".")


def _add_settings(group: Any) -> None:
    from .sentences import SPELLED, signatures
    from .settings import Settings, parser_type

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
