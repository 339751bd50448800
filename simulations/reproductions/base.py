"""What a reproduction is: cells that can be computed one by one, and what they come to together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..output import Progress
from ..settings import SettingsError

Result = dict[str, Any]  # plain values, as JSON has them
Results = Mapping[str, Result]  # by the names of the cells


@dataclass(frozen=True)
class Options:
    """What the command line may say about a reproduction; None is the paper's own.

    Attributes
    ----------
    task, data_root : str or None
        Other data of the same shape.
    rounds : int or None
        Fewer, to try.
    """

    task: str | None = None
    data_root: str | None = None
    rounds: int | None = None

    def check_own(self, why: str, least: int) -> None:
        """Refuse other data, saying why there is none, and fewer rounds (SettingsError)."""
        for name in ("task", "data_root"):
            if getattr(self, name) is not None:
                raise SettingsError(f"{why}: leave --{name.replace('_', '-')} out")
        if self.rounds is not None and self.rounds < least:
            raise SettingsError(f"--rounds must be at least {least} here, not {self.rounds}")


@dataclass(frozen=True)
class Cell:
    """One entry of a paper's table.

    Attributes
    ----------
    settings : mapping
        All that decides the result, as plain values: a kept result is valid for these alone.
    compute : callable
        (folder, progress, resume) → result.
    """

    settings: Mapping[str, Any]
    compute: Callable[[Path, Progress, bool], Result]


@dataclass(frozen=True)
class Reproduction:
    """A paper's experiment.

    Attributes
    ----------
    summary : str
        For the help of the command line.
    cells : callable
        Options → all the cells by name.
    usual : tuple of str
        Patterns of the cells that are computed unless others are asked for.
    table : callable
        Results → rows of text, headings first.
    notes : callable
        Results → sentences: what agrees with the paper, and what does not.
    draw : callable
        (results, path) → a PNG.
    checked : tuple of str
        The small cells that ``--check`` computes again.
    differences : callable
        (committed, again) → sentences on what differs between two results of one cell.
    check_options : Options
        How much of them.
    """

    summary: str
    cells: Callable[[Options], dict[str, Cell]]
    usual: tuple[str, ...]
    table: Callable[[Results], list[list[str]]]
    notes: Callable[[Results], Sequence[str]]
    draw: Callable[[Results, Path], None]
    checked: tuple[str, ...]
    differences: Callable[[Result, Result], Sequence[str]]
    check_options: Options = Options()
