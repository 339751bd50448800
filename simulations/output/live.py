"""The live line of a terminal, where rich is installed and there is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich import progress as rich_progress
    from rich.console import Console

_WIDE = 115  # columns that all words and both times need
_BAR, _ELAPSED = 10, 8  # columns: what a bar must have to be one, and the time so far


class Live:
    """One line that is drawn again and again, and gone when it is closed."""

    def __init__(self, console: Console, title: str) -> None:
        room = console.width // 4
        self._console = console
        self._title = title if len(title) <= room else f"{title[: room - 1]}…"
        self._bar = _bar(console)
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=1.0, done="", words="", left="")

    def room(self, *others: str) -> int:
        """How many columns are left beside the title, the bar and these texts."""
        taken = len(self._title) + _BAR + sum(len(other) + 1 for other in others) + 2
        return self._console.width - taken - (0 if _narrow(self._console) else _ELAPSED)

    def show(self, share: float, done: str, words: str, left: str) -> None:
        """Draw the line for what is done, as a share of 1 and in words."""
        self._bar.update(self._task, completed=share, done=done, words=words, left=left)

    def close(self) -> None:
        """Erase the line."""
        self._bar.stop()


def terminal(stream: TextIO) -> Console | None:
    """The console of a stream that somebody watches; None for files, pipes and dumb terminals."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(file=stream)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def _narrow(console: Console) -> bool:
    return console.width < _WIDE


def _bar(console: Console) -> rich_progress.Progress:
    from rich import progress

    elapsed = [] if _narrow(console) else [progress.TimeElapsedColumn()]
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False, style="bold"),
        progress.BarColumn(bar_width=None),
        progress.TextColumn("{task.fields[done]}", markup=False, style="progress.download"),
        progress.TextColumn("{task.fields[words]}", markup=False),
        *elapsed,
        progress.TextColumn("{task.fields[left]}", markup=False, style="dim"),
        console=console,
        expand=True,
        transient=True,
        refresh_per_second=4,
    )
