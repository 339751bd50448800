"""Show how far a run is: a live line in a terminal, a few plain lines in a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from .runs import number
from .tables import human_accuracy, human_bytes, human_loss, human_seconds

if TYPE_CHECKING:
    from rich import progress as rich_progress
    from rich.console import Console

# In a file or a pipe: a line after so many seconds, and one at every tenth of the rounds.
_PAUSE = 5.0
_STEPS = 10
# In a terminal: the columns that all words and both times need.
_WIDE = 115
_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "train_loss": ("loss", human_loss),
    "accuracy": ("accuracy", human_accuracy),
    "total_uplink_bytes": ("uplink", human_bytes),
}


class Progress:
    """Follow one run, or the cells of a comparison one after the other.

    Parameters
    ----------
    cells : int
        How many runs there will be; with more than one, every line says which one it is.
    stream : file, optional
        Where to write; the standard error stream otherwise.
    clock : callable
        The seconds since some moment.

    Examples
    --------
    >>> with Progress() as progress:
    ...     progress.start(total_rounds=40, name="digits")
    ...     progress.update(record)  # after every round
    ...     progress.finish()
    """

    def __init__(
        self,
        cells: int = 1,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cells = cells
        self._cell = 0
        self._stream = stream or sys.stderr
        self._clock = clock
        self._console = _terminal(self._stream)
        self._live: rich_progress.Progress | None = None
        self._running = False

    def __enter__(self) -> Self:
        """Give the progress itself; the first line comes with `start`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the run that is shown, also when it was interrupted."""
        self.finish()

    def start(self, total_rounds: int, name: str) -> None:
        """Begin the next run."""
        self.finish()
        self._cell += 1
        self._title = f"[{self._cell}/{self._cells}] {name}" if self._cells > 1 else name
        self._total = total_rounds
        self._round: int | None = None
        self._first: tuple[int, float] | None = None
        self._values: dict[str, float] = {}
        self._began = self._clock()
        self._printed: tuple[int | None, float] = (None, self._began)
        self._running = True
        if self._console:
            self._live = _live(self._console)
            self._live.start()
            room = self._console.width // 4
            fits = len(self._title) <= room
            short = self._title if fits else f"{self._title[: room - 1]}…"
            self._live.add_task(short, total=total_rounds, words="", left="")

    def update(self, record: Mapping[str, Any]) -> None:
        """Show the record of a round; a value that it lacks stays as it was."""
        if not self._running:
            raise RuntimeError("update needs start first")
        self._round = int(record["round"])
        if self._first is None:
            self._first = (self._round, self._clock())
        for key in _SHOWN:
            value = number(record, key)
            if value is not None:
                self._values[key] = value
        if self._live:
            words, (task,) = self._words(brief=_narrow(self._live.console)), self._live.task_ids
            self._live.update(task, completed=self._round, words=words, left=self._left())
        elif self._due():
            self._print(self._left())

    def finish(self) -> None:
        """End the run, wherever it is, and leave one line about its last round."""
        if not self._running:
            return
        self._running = False
        if self._live:
            self._live.stop()
            self._live = None
        if self._round is not None and self._printed[0] != self._round:
            self._print()

    def _due(self) -> bool:
        printed, moment = self._printed
        if printed is None or self._round is None:
            return True
        step = max(1, self._total) / _STEPS
        crossed = self._round // step > printed // step
        return crossed or self._round >= self._total or self._clock() - moment >= _PAUSE

    def _print(self, left: str = "") -> None:
        now = self._clock()
        self._printed = (self._round, now)
        title = f"{self._title}: round {self._round}/{self._total}"
        brief, time = self._words(brief=True), human_seconds(now - self._began)
        full = f"{title}  {self._words()}  {time}{left and ', '}{left}"
        lines = [full, f"{title}  {brief}  {time}", f"{title}  {brief}"]
        width = self._console.width if self._console else len(full)
        fitting = (line for line in lines if len(line) <= width)
        print(next(fitting, lines[-1]), file=self._stream, flush=True)

    def _words(self, *, brief: bool = False) -> str:
        known = [key for key in _SHOWN if key in self._values]
        if brief and "accuracy" in known and "train_loss" in known:
            known.remove("train_loss")
        return "  ".join(f"{_SHOWN[key][0]} {_SHOWN[key][1](self._values[key])}" for key in known)

    def _left(self) -> str:
        """Give the time left at the pace so far; a resumed run's earlier rounds do not count."""
        if self._first is None or self._round is None or self._round >= self._total:
            return ""
        rounds, seconds = self._round - self._first[0], self._clock() - self._first[1]
        if rounds <= 0:
            return ""
        return f"{human_seconds((self._total - self._round) * seconds / rounds)} left"


def _terminal(stream: TextIO) -> Console | None:
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(file=stream)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def _narrow(console: Console) -> bool:
    return console.width < _WIDE


def _live(console: Console) -> rich_progress.Progress:
    from rich import progress

    elapsed = [] if _narrow(console) else [progress.TimeElapsedColumn()]
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False, style="bold"),
        progress.BarColumn(bar_width=None),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[words]}", markup=False),
        *elapsed,
        progress.TextColumn("{task.fields[left]}", markup=False, style="dim"),
        console=console,
        expand=True,
        transient=True,
        refresh_per_second=4,
    )
