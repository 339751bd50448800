"""Asking nodes who they are, and what to make of their answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbias.hello import Hello

from .exchange import NEVER_CAME

TELL = 10.0  # seconds of waiting between two notices
_LOOK = 0.2  # seconds between two looks for the first client
_AGAIN = 60.0  # seconds until a node is asked again: a process that ends takes its messages along
_LOG = logging.getLogger("flwr")


class Introductions:
    """The questions that are out, and the answers as they come; never waits."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[int, float]] = {}  # message → node, when

    def waiting(self) -> set[int]:
        """The nodes that have not answered."""
        return {node for node, _ in self._asked.values()}

    def ask(self, grid: Grid, nodes: Iterable[int]) -> None:
        """Ask these nodes, but for those that were asked a moment ago."""
        now = time.monotonic()
        lately = {node for node, when in self._asked.values() if now - when < _AGAIN}
        for node in sorted(set(nodes) - lately):
            question = Message(RecordDict({"fedbias": ConfigRecord()}), node, "query.hello")
            self._asked |= dict.fromkeys(grid.push_messages([question]), (node, now))

    def hear(self, grid: Grid) -> dict[int, Hello | str]:
        """Node → who it is, or why it does not say, for the answers that have come."""
        found: dict[int, Hello | str] = {}
        for reply in grid.pull_messages(list(self._asked)) if self._asked else ():
            node, _ = self._asked.pop(reply.metadata.reply_to_message_id)
            if (answer := introduction(reply)) is not None:
                found[node] = answer
        self.forget(found)
        return found

    def forget(self, nodes: Iterable[int]) -> None:
        """Wait no longer for these nodes."""
        gone = set(nodes)
        self._asked = {key: asked for key, asked in self._asked.items() if asked[0] not in gone}


def meet(grid: Grid, patience: float) -> Hello:
    """The first introduction that comes, whichever node's it is.

    Most often one question is enough; one node more is asked every second, so that a dead one that
    is still listed delays nobody.

    Raises
    ------
    ValueError
        If all the nodes that are there decline; the reason is the first one's.
    TimeoutError
        If none answers within ``patience`` seconds.
    """
    start, told, questions = time.monotonic(), TELL, Introductions()
    declined: dict[int, str] = {}  # node → why
    while True:
        online, waited = set(grid.get_node_ids()), time.monotonic() - start
        waiting = questions.waiting()
        new = sorted(online - waiting - set(declined))
        questions.ask(grid, (waiting & online).union(new[: max(0, 1 + int(waited) - len(waiting))]))
        for node, answer in questions.hear(grid).items():
            if isinstance(answer, Hello):
                return answer
            declined[node] = answer
        if declined and online <= set(declined):
            node, why = min(declined.items())
            raise ValueError(f"node {node} cannot take part: {why}")
        if waited >= patience:
            raise TimeoutError(f"no client came within {patience:g} s; start nodes")
        if waited >= told:
            told += TELL
            _LOG.warning("waiting: no client is there")
        time.sleep(_LOOK)


def introduction(reply: Message) -> Hello | str | None:
    """What a reply to a hello says; None if Flower could not deliver it."""
    if reply.has_error():
        return None if reply.error.code in NEVER_CAME else str(reply.error.reason)
    try:
        return Hello.from_record(reply.content.config_records["fedbias"])
    except KeyError:
        return "it does not speak fedbias: its ClientApp is not made by clients.client_app"
    except ValueError as reason:
        return str(reason)
