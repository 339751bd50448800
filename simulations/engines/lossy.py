"""A network that loses replies, the same ones on every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Error, Message
from flwr.serverapp import Grid

from fedbias.rounds import Report

_UNAVAILABLE = 4  # Flower's code for a reply that cannot be delivered
IsLost = Callable[[int, int], bool]  # (round, client) → whether its reply is lost


class LossyGrid(Grid):
    """A Grid whose clients do their work, but some of whose train replies never arrive.

    Parameters
    ----------
    grid : Grid
        Carries the messages.
    is_lost : callable
        (round, client) → bool; rounds from 0, as in a Plan.
    """

    def __init__(self, grid: Grid, is_lost: IsLost) -> None:
        self._grid, self._is_lost = grid, is_lost

    set_run = property(lambda self: self._grid.set_run)
    run = property(lambda self: self._grid.run)
    create_message = property(lambda self: self._grid.create_message)

    def get_node_ids(self) -> Iterable[int]:
        """The carrier's nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Requests always arrive."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies, those that are lost as the error that Flower reports for them."""
        return [self._carried(reply) for reply in self._grid.pull_messages(message_ids)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull."""
        replies = self._grid.send_and_receive(messages, timeout=timeout)
        return [self._carried(reply) for reply in replies]

    def _carried(self, reply: Message) -> Message:
        if reply.has_error() or not reply.metadata.message_type.startswith("train"):
            return reply
        record: Any = reply.content.config_records.get("fedbias", {})
        try:
            report = Report.from_record(record)
        except ValueError:
            return reply  # the server shall see what is wrong with it
        if not self._is_lost(report.round, report.client):
            return reply
        gone = Error(_UNAVAILABLE, "the simulated network lost this reply")
        return Message(error=gone, metadata=reply.metadata)  # type: ignore[call-overload,no-any-return]
