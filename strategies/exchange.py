"""Messages out, replies in: a poll of our own, since Flower's sleeps seconds between pulls."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

NEVER_CAME = (3, 4, 5)  # Flower's codes: message, reply or node unavailable
_SHORTEST, _LONGEST = 0.002, 0.5  # seconds between two pulls


def exchange(grid: Grid, messages: Iterable[Message], timeout: float) -> Iterator[Message]:
    """Send messages and yield the replies as they arrive, until all came or time is up.

    Parameters
    ----------
    timeout : float
        Seconds; what has not come by then counts as lost, and is ignored if it comes later.
    """
    waiting = set(grid.push_messages(list(messages)))  # which Flower goes through twice
    end, pause = time.monotonic() + timeout, _SHORTEST
    while waiting:
        replies = list(grid.pull_messages(waiting))
        for reply in replies:
            waiting.discard(reply.metadata.reply_to_message_id)
            yield reply
        if not waiting or time.monotonic() >= end:
            return
        pause = _SHORTEST if replies else min(_LONGEST, pause * 1.5)
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
