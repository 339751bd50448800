"""Flower's log where somebody watches: one plain line per warning, and not without end."""

from __future__ import annotations

import logging
import sys

_MOST = 10


class Notices(logging.Handler):
    """Print warnings to what is the standard error stream at that moment.

    A live progress line takes that stream's place, and so puts the notices above itself; a handler
    that remembers the stream would write into the line.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, and after many of them one last."""
        self._shown += 1
        if self._shown <= _MOST:
            print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)
        elif self._shown == _MOST + 1:
            print("warning: more of them are not shown; rounds.jsonl counts them", file=sys.stderr)
