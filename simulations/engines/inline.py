"""A Flower Grid in this process: the same messages, no Ray, no network, no waiting."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast
from uuid import uuid4

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedbias.vectors import Vector

_RAISED = 2  # Flower's code for a ClientApp that raised
_LOG = logging.getLogger("flwr")
NodeConfig = Callable[[int], Mapping[str, Any]]


class InlineGrid(Grid):
    """Runs a ClientApp for many clients, one after the other, in the caller's process.

    Parameters
    ----------
    client_app : ClientApp
        What every node runs.
    clients : int
        Number of nodes.
    node_config : callable, optional
        Client → its node configuration; by default its ``partition-id`` and ``num-partitions``.
    run_config : mapping, optional
        What the clients find in ``context.run_config``.
    cohort : bool
        Whether a round's clients may be computed together, where the app and the objective offer
        that: faster, and equal to client by client only up to rounding.

    Notes
    -----
    A client's ``Context.state`` lives as long as the grid. An exception in the app becomes an error
    reply, as in Flower's own runtimes.
    """

    def __init__(
        self,
        client_app: ClientApp,
        clients: int,
        node_config: NodeConfig | None = None,
        *,
        run_config: Mapping[str, Any] | None = None,
        cohort: bool = False,
    ) -> None:
        self._app, self._cohort, self._run = client_app, cohort, Run.create_empty(run_id=1)
        self._replies: dict[str, Message] = {}
        configure = node_config or (lambda i: {"partition-id": i, "num-partitions": clients})
        self.contexts = {
            client + 1: Context(1, client + 1, dict(configure(client)), RecordDict(), {})
            for client in range(clients)
        }
        for context in self.contexts.values():
            context.run_config = dict(run_config or {})
        # Message() asks who is sending; in this process it is this run's server.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0

    def set_run(self, run: Run) -> None:
        """Adopt a run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All the nodes, always online."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver the messages and let their nodes answer at once."""
        pushed = list(messages)
        for message in pushed:
            message.metadata.__dict__["_message_id"] = str(uuid4())
        for message, reply in zip(pushed, self._answers(pushed), strict=True):
            self._replies[message.metadata.message_id] = reply
        return [message.metadata.message_id for message in pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages, each once."""
        return [self._replies.pop(key) for key in list(message_ids) if key in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull; nothing is ever late here."""
        return self.pull_messages(self.push_messages(messages))

    def _answers(self, messages: list[Message]) -> Iterator[Message]:
        prepare = getattr(self._app, "prepare", None)
        training = [m for m in messages if m.metadata.message_type == "train"]
        known = [m for m in training if m.metadata.dst_node_id in self.contexts]
        if self._cohort and prepare and len(known) > 1:
            prepare(known, [self.contexts[m.metadata.dst_node_id] for m in known])
        for message in messages:
            yield self._answer(message)

    def _answer(self, message: Message) -> Message:
        context = self.contexts.get(message.metadata.dst_node_id)
        if context is None:
            return Message(Error(5, "there is no such node"), reply_to=message)
        try:
            return self._app(message, context)
        except Exception as reason:  # whatever a user's app raises
            _LOG.debug("%s", traceback.format_exc())
            return Message(Error(_RAISED, f"{type(reason).__name__}: {reason}"), reply_to=message)


def export_states(contexts: Mapping[int, Context]) -> tuple[dict[str, Vector], dict[str, Any]]:
    """All the nodes' states as named arrays and plain values, for a checkpoint."""
    arrays: dict[str, Vector] = {}
    values: dict[str, Any] = {}
    for node, context in contexts.items():
        for name, record in context.state.array_records.items():
            values[f"{node}/{name}"] = list(record)
            arrays |= {f"{node}/{name}/{key}": array.numpy() for key, array in record.items()}
        for name, settings in context.state.config_records.items():
            values[f"{node}/{name}"] = dict(settings)
    return arrays, values


def import_states(
    contexts: Mapping[int, Context], arrays: Mapping[str, Vector], values: Mapping[str, Any]
) -> None:
    """Put exported states back."""
    for place, value in values.items():
        node, name = place.split("/", 1)
        state = contexts[int(node)].state
        if isinstance(value, dict):
            state[name] = ConfigRecord(cast(Any, value))
        else:
            state[name] = ArrayRecord({key: Array(arrays[f"{place}/{key}"]) for key in value})
