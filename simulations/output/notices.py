"""Flower's log where somebody watches: one plain line per warning, and not without end."""

from __future__ import annotations

import logging
import re
import sys

_MOST = 50


class Notices(logging.Handler):
    """Print warnings to what is the standard error stream at that moment.

    A live progress line takes that stream's place, and so puts the notices above itself; a handler
    that remembers the stream would write into the line.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print what was not said before, whatever the round; after many lines, one last."""
        said = record.getMessage()
        what = re.sub(r"^round \d+: ", "", said)
        if what in self._shown or len(self._shown) > _MOST:
            return
        self._shown.add(what)
        if len(self._shown) <= _MOST:
            print(f"{record.levelname.lower()}: {said}", file=sys.stderr)
        else:
            print("warning: more of them are in rounds.jsonl alone", file=sys.stderr)
