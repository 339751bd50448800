"""Who is there: node ids → clients that introduced themselves."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbias.hello import Hello
from fedbias.randomness import fingerprint

from .exchange import exchange

_HELLO_SECONDS = 60.0  # who has not answered by then is asked again in the next round
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
        self._warned: set[int] = set()  # nodes whose number is taken
        self.nodes: dict[int, int] = {}  # client → node

    def wait(self, grid: Grid, count: int, patience: float) -> None:
        """Enrol until ``count`` clients are there (TimeoutError after ``patience`` seconds)."""
        end, told, pause = time.monotonic() + patience, time.monotonic() + 5, 0.05
        self.enrol(grid, patience)
        while len(self.nodes) < count:
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"{len(self.nodes)} of {count} clients came within {patience:g} s; "
                    "start more nodes, or ask for fewer clients"
                )
            if time.monotonic() >= told:
                told = time.monotonic() + 10
                _LOG.warning("waiting: %s of %s clients are there", len(self.nodes), count)
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
            self.enrol(grid, max(0.0, end - time.monotonic()))

    def enrol(self, grid: Grid, patience: float) -> None:
        """Ask new nodes who they are, and forget those that are gone."""
        online = set(grid.get_node_ids())
        self._known = {node: hello for node, hello in self._known.items() if node in online}
        self.nodes = {client: node for client, node in self.nodes.items() if node in online}
        strangers = sorted(online - set(self._known))
        self._hear(greet(grid, strangers, min(patience, _HELLO_SECONDS)))
        self._admit()

    def client(self, node: int) -> int | None:
        """The client behind a node."""
        hello = self._known.get(node)
        return None if hello is None else hello.client

    def _hear(self, answers: dict[int, Hello | str]) -> None:
        for node, answer in sorted(answers.items()):
            problem = answer if isinstance(answer, str) else self._objection(answer)
            self._known[node] = None if problem or isinstance(answer, str) else answer
            if problem:
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


def greet(grid: Grid, nodes: Iterable[int], patience: float) -> dict[int, Hello | str]:
    """Ask nodes who they are: their introductions, or why there is none; nothing if none came."""
    content = RecordDict({"fedbias": ConfigRecord()})
    questions = [Message(content, node, "query.hello") for node in nodes]
    answers: dict[int, Hello | str] = {}
    for reply in exchange(grid, questions, patience) if questions else ():
        node = reply.metadata.src_node_id
        if reply.has_error():
            answers[node] = str(reply.error.reason)
            continue
        try:
            answers[node] = Hello.from_record(reply.content.config_records["fedbias"])
        except (KeyError, ValueError) as reason:
            answers[node] = str(reason)
    return answers
