"""Show how far a run is: a live line in a terminal, a few plain lines in a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from .live import Live, terminal
from .runs import number
from .tables import human_accuracy, human_batch, human_bytes, human_count, human_loss, human_seconds

# In a file or a pipe: a line after so many seconds, and one at every tenth of the run.
_PAUSE = 5.0
_STEPS = 10
_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "train_loss": ("loss", human_loss),
    "test_loss": ("test loss", human_loss),
    "accuracy": ("accuracy", human_accuracy),
    "sharpness": ("λ̂", human_loss),
    "stability_limit": ("limit", human_loss),
    "batch_size": ("batch", human_batch),
    "total_uplink_bytes": ("uplink", human_bytes),
}
_MEASURING = "measuring λ̂"


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
        self._console = terminal(self._stream)
        self._live: Live | None = None
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

    def start(
        self,
        total_rounds: int,
        name: str,
        *,
        samples: float | None = None,
        batches: bool = False,
        measures: Callable[[int], bool] = lambda rounds: False,
    ) -> None:
        """Begin the next run.

        Parameters
        ----------
        samples : float, optional
            How many examples end the run, if the rounds do not.
        batches : bool
            Whether to show the batch size.
        measures : callable
            Whether the sharpness is measured after so many rounds.
        """
        self.finish()
        self._cell += 1
        self._title = f"[{self._cell}/{self._cells}] {name}" if self._cells > 1 else name
        self._total, self._samples, self._measures = max(1, total_rounds), samples, measures
        self._shown = [key for key in _SHOWN if batches or key != "batch_size"]
        self._record: Mapping[str, Any] = {}
        self._stopped: str | None = None
        self._first: tuple[float, float] | None = None
        self._values: dict[str, float] = {}
        self._began = self._clock()
        self._printed: tuple[int | None, float, float] = (None, 0.0, self._began)
        self._running = True
        if self._console:
            self._live = Live(self._console, self._title)

    def update(self, record: Mapping[str, Any], stopped: str | None = None) -> None:
        """Show the record of a round; a value that it lacks stays as it was.

        Parameters
        ----------
        stopped : str, optional
            The goal that ended the run with this round.
        """
        if not self._running:
            raise RuntimeError("update needs start first")
        self._record, self._stopped = record, stopped
        self._seen = number(record, "total_samples") or 0
        if self._first is None:
            self._first = (self._share(), self._clock())
        for key in self._shown:
            value = number(record, key)
            if value is not None:
                self._values[key] = value
        if self._live:
            done, left = self._done()[-1], self._measuring() or self._left()
            room = self._live.room(done, left)
            words = next((each for each in self._words() if len(each) <= room), "")
            self._live.show(self._share(), done, words, left)
        elif self._due():
            self._print(self._left() or self._measuring())

    def finish(self) -> None:
        """End the run, wherever it is, and leave one line about its last round."""
        if not self._running:
            return
        self._running = False
        if self._live:
            self._live.close()
            self._live = None
        if self._record and self._printed[0] != self._round():
            self._print()

    def _round(self) -> int:
        return int(self._record["round"])

    def _share(self, of: int = 1) -> float:
        """How much of the run is over, as a share of ``of``: by rounds, or by samples if more."""
        share = of * self._round() / self._total
        return max(share, of * self._seen / self._samples) if self._samples else share

    def _done(self) -> list[str]:
        """How far the run is, in rounds and, where they may end it, in samples; or why it ended."""
        if self._stopped:
            return [f"{self._round()}, {self._stopped}"]
        rounds = f"{self._round()}/{self._total}"
        if self._samples is None:
            return [rounds]
        return [rounds, f"samples {human_count(self._seen)}/{human_count(self._samples)}"]

    def _due(self) -> bool:
        printed, share, moment = self._printed
        if printed is None or self._stopped or self._share() >= 1:
            return True
        return self._share(_STEPS) // 1 > share // 1 or self._clock() - moment >= _PAUSE

    def _print(self, left: str = "") -> None:
        now = self._clock()
        self._printed = (self._round(), self._share(_STEPS), now)
        title = f"{self._title}: round {'  '.join(self._done())}"
        time, (words, *briefer) = human_seconds(now - self._began), self._words()
        lines = [(title, words, f"{time}{left and ', '}{left}"), (title, briefer[0], time)]
        lines += [(title, brief, "") for brief in (*briefer, "")]
        lines += [(f"{self._title}: round {self._round()}", "", "")]
        whole = ["  ".join(part for part in line if part) for line in lines]
        width = self._console.width if self._console else len(whole[0])
        fitting = (line for line in whole if len(line) <= width)
        print(next(fitting, whole[-1]), file=self._stream, flush=True)

    def _words(self) -> list[str]:
        """What was measured: all of it, and less and less."""
        known = [key for key in self._shown if key in self._values]
        if "accuracy" in known:
            known = [key for key in known if key != "test_loss"]
        spare = ["train_loss" if "accuracy" in known else "test_loss", "batch_size"]
        if "sharpness" in known:
            spare.insert(0, "stability_limit")
        else:  # a limit to nothing
            known = [key for key in known if key != "stability_limit"]
        lines = [known]
        for key in (*spare, "total_uplink_bytes", "sharpness"):
            lines.append([other for other in lines[-1] if other != key])
        return [
            "  ".join(f"{_SHOWN[key][0]} {_SHOWN[key][1](self._values[key])}" for key in line)
            for line in lines
        ]

    def _measuring(self) -> str:
        """What the next round begins with, where that may take long."""
        over = self._stopped or self._share() >= 1
        return _MEASURING if not over and self._measures(self._round()) else ""

    def _left(self) -> str:
        """Give the time left at the pace so far; a resumed run's earlier rounds do not count."""
        share = self._share()
        if self._first is None or self._stopped or share >= 1 or share <= self._first[0]:
            return ""
        seconds = (self._clock() - self._first[1]) * (1 - share) / (share - self._first[0])
        return f"{human_seconds(seconds)} left"
