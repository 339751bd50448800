"""Who is there: node ids → clients that introduced themselves."""

from __future__ import annotations

import logging
import time

from flwr.serverapp import Grid

from fedbias.hello import Hello
from fedbias.randomness import fingerprint

from .introductions import TELL, Introductions

# Seconds after which nobody else is expected where somebody was turned away, and where a node has
# the number of another: that one may be dead, and is listed for up to a minute then.
_QUIET, _LISTED = 15.0, 75.0
_LOG = logging.getLogger("flwr")


class Roster:
    """The clients that can be asked, keyed by their own numbers.

    Each new node is asked once who it is. A node is left out, with a warning of one sentence, if
    it does not introduce itself, claims a number that is taken, has a model of another size, splits
    the data otherwise, or draws other random numbers than the server.

    Parameters
    ----------
    dim : int
        Of the model.
    partitions : int, optional
        Over how many clients the data is split, where the server knows.
    """

    def __init__(self, dim: int, partitions: int | None = None) -> None:
        self._dim, self._partitions = dim, partitions
        self._known: dict[int, Hello | None] = {}  # node → who; None where it was turned away
        self._questions = Introductions()
        self._turned_away: dict[int, str] = {}  # node → why
        self._heard = 0.0  # when a node answered last
        self._complete = False  # whether enough clients were there once
        self.nodes: dict[int, int] = {}  # client → node
        self.sizes: dict[int, int] = {}  # client → examples, also of those that are away now

    def wait(self, grid: Grid, count: int, patience: float) -> None:
        """Enrol until ``count`` clients are there (TimeoutError after ``patience`` seconds).

        Where the federation's size is known, a first wait ends sooner if somebody was turned away
        and nobody else comes.
        """
        start, pause, told = time.monotonic(), 0.01, TELL
        self.enrol(grid)
        while len(self.nodes) < count:
            waited = time.monotonic() - start
            if waited >= patience or self._hopeless():
                spent = patience if waited >= patience else round(waited)
                raise TimeoutError(
                    f"{len(self.nodes)} of {count} clients came within {spent:g} s; "
                    f"start more nodes, or ask for fewer clients{self._others()}"
                )
            if waited >= told:
                told += TELL
                _LOG.warning("waiting: %s of %s clients are there", len(self.nodes), count)
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
            self.enrol(grid)
        self._complete = True

    def enrol(self, grid: Grid) -> None:
        """Forget nodes that are gone, ask new ones who they are, hear who has answered.

        Never waits: a node that hangs is heard whenever it answers.
        """
        online = set(grid.get_node_ids())
        self._known = {node: hello for node, hello in self._known.items() if node in online}
        self.nodes = {client: node for client, node in self.nodes.items() if node in online}
        self._questions.forget(self._questions.waiting() - online)
        self._questions.ask(grid, online - set(self._known))
        for node, answer in self._questions.hear(grid).items():
            self._hear(node, answer)
        self._admit()

    def able(self, capability: str) -> list[int]:
        """The clients that offer a capability, in ascending order."""
        known = {client: self._known.get(node) for client, node in sorted(self.nodes.items())}
        return [
            client for client, hello in known.items() if hello and capability in hello.capabilities
        ]

    def client(self, node: int) -> int | None:
        """The client behind a node."""
        hello = self._known.get(node)
        return None if hello is None else hello.client

    def _hopeless(self) -> bool:
        """Whether all the nodes of a federation that never was complete have had their say."""
        if self._partitions is None or self._complete or self._questions.waiting():
            return False
        away = [node for node in self._turned_away if node in self._known]
        if not away or len(self._known) < self._partitions:
            return False
        doubles = any(self._known[node] is not None for node in away)
        return time.monotonic() - self._heard >= (_LISTED if doubles else _QUIET)

    def _others(self) -> str:
        if not self._turned_away:
            return ""
        node, why = min(self._turned_away.items())
        return f" ({len(self._turned_away)} came and cannot take part, node {node}: {why})"

    def _hear(self, node: int, answer: Hello | str) -> None:
        self._heard = time.monotonic()
        problem = answer if isinstance(answer, str) else self._objection(answer)
        self._known[node] = None if problem or isinstance(answer, str) else answer
        if problem:
            self._turn_away(node, problem)
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
            if holder == node:
                self._turned_away.pop(node, None)
                self.sizes[hello.client] = hello.size
            elif node not in self._turned_away:
                self._turn_away(
                    node,
                    f"client {hello.client} is already there as node {holder}; it takes over when "
                    "that one is gone, or give each node a partition-id of its own",
                )

    def _turn_away(self, node: int, why: str) -> None:
        self._turned_away[node] = why
        _LOG.warning("node %s cannot take part: %s", node, why)

    def _objection(self, hello: Hello) -> str | None:
        if hello.dim != self._dim:
            return f"client {hello.client} has {hello.dim} parameters, the server {self._dim}"
        if hello.fingerprint != fingerprint():
            return f"client {hello.client} draws other random numbers: use the same numpy version"
        if hello.size < 1:
            return f"client {hello.client} has no data"
        if self._partitions and hello.partitions not in (None, self._partitions):
            return (
                f"client {hello.client} has num-partitions = {hello.partitions}, this run "
                f"{self._partitions}: give every node the same num-partitions"
            )
        return None
