"""Who is there: node ids → clients that introduced themselves."""

from __future__ import annotations

import logging
import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbias.hello import Hello
from fedbias.randomness import fingerprint

from .exchange import NEVER_CAME, exchange

_TELL_AFTER, _TELL_EVERY = 5.0, 10.0  # seconds of waiting between two notices
_LOG = logging.getLogger("flwr")


class Roster:
    """The clients that can be asked, keyed by their own numbers.

    Each new node is asked once who it is. A node is left out, with a warning of one sentence, if
    it does not introduce itself, claims a number that is taken, has a model of another size, or
    draws other random numbers than the server.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._known: dict[int, Hello | None] = {}  # node → who; None where it was turned away
        self._asked: dict[str, int] = {}  # message → node that has not answered yet
        self._turned_away: dict[int, str] = {}  # node → why
        self._warned: set[int] = set()  # nodes whose number is taken
        self.nodes: dict[int, int] = {}  # client → node

    def wait(self, grid: Grid, count: int, patience: float) -> None:
        """Enrol until ``count`` clients are there (TimeoutError after ``patience`` seconds)."""
        start, pause, told = time.monotonic(), 0.01, _TELL_AFTER
        self.enrol(grid)
        while len(self.nodes) < count:
            waited = time.monotonic() - start
            if waited >= patience:
                raise TimeoutError(
                    f"{len(self.nodes)} of {count} clients came within {patience:g} s; "
                    f"start more nodes, or ask for fewer clients{self._others()}"
                )
            if waited >= told:
                told += _TELL_EVERY
                _LOG.warning("waiting: %s of %s clients are there", len(self.nodes), count)
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
            self.enrol(grid)

    def enrol(self, grid: Grid) -> None:
        """Forget nodes that are gone, ask new ones who they are, hear who has answered.

        Never waits: a node that hangs is heard whenever it answers.
        """
        online = set(grid.get_node_ids())
        self._known = {node: hello for node, hello in self._known.items() if node in online}
        self.nodes = {client: node for client, node in self.nodes.items() if node in online}
        self._asked = {key: node for key, node in self._asked.items() if node in online}
        for node in sorted(online - set(self._known) - set(self._asked.values())):
            self._asked |= dict.fromkeys(grid.push_messages([_question(node)]), node)
        for reply in grid.pull_messages(list(self._asked)) if self._asked else ():
            self._asked.pop(reply.metadata.reply_to_message_id, None)
            if (answer := introduction(reply)) is not None:
                self._hear(reply.metadata.src_node_id, answer)
        self._admit()

    def client(self, node: int) -> int | None:
        """The client behind a node."""
        hello = self._known.get(node)
        return None if hello is None else hello.client

    def _others(self) -> str:
        if not self._turned_away:
            return ""
        node, why = min(self._turned_away.items())
        return f" ({len(self._turned_away)} came and cannot take part, node {node}: {why})"

    def _hear(self, node: int, answer: Hello | str) -> None:
        problem = answer if isinstance(answer, str) else self._objection(answer)
        self._known[node] = None if problem or isinstance(answer, str) else answer
        if problem:
            self._turned_away[node] = problem
            _LOG.warning("node %s cannot take part: %s", node, problem)
        elif isinstance(answer, Hello) and not answer.stable:
            _LOG.warning(
                "node %s has neither partition-id nor client-id in its node config, so this "
                "run cannot be reproduced: its number is the node's",
                node,
            )

    def _admit(self) -> None:
        # A node whose number is taken stays outside only as long as the other one is there: after
        # a restart the old node may be listed for a while beside the new one.
        for node, hello in sorted(self._known.items()):
            if hello is None:
                continue
            holder = self.nodes.setdefault(hello.client, node)
            if holder != node and node not in self._warned:
                self._warned.add(node)
                _LOG.warning(
                    "node %s cannot take part: client %s is already there as node %s",
                    node,
                    hello.client,
                    holder,
                )

    def _objection(self, hello: Hello) -> str | None:
        if hello.dim != self._dim:
            return f"client {hello.client} has {hello.dim} parameters, the server {self._dim}"
        if hello.fingerprint != fingerprint():
            return f"client {hello.client} draws other random numbers: use the same numpy version"
        if hello.size < 1:
            return f"client {hello.client} has no data"
        return None


def greet(grid: Grid, node: int, timeout: float) -> Hello | str | None:
    """Ask one node who it is: its introduction, why there is none, or None if nothing came."""
    for reply in exchange(grid, [_question(node)], timeout):
        return introduction(reply)
    return None


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


def _question(node: int) -> Message:
    return Message(RecordDict({"fedbias": ConfigRecord()}), node, "query.hello")
