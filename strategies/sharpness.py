"""The sharpness of the clients' mean loss, by messages: the core's Lanczos over their products."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbias.algorithm import Algorithm
from fedbias.directions import check_directions
from fedbias.ledger import LOST_MODEL
from fedbias.rounds import Record, packet_of
from fedbias.sharpness import HvpQuery, Lanczos, NotMeasured, Reading, take_reading
from fedbias.state import ServerState
from fedbias.steps import steered
from fedbias.sums import vector_like
from fedbias.vectors import Vector

from .broadcast import size_of
from .exchange import NEVER_CAME, exchange
from .roster import Roster

_LOG = logging.getLogger("flwr")


@dataclass(frozen=True)
class Survey:
    """What a round's measurement came to.

    Attributes
    ----------
    reading : Reading or None
        None where there is none, and ``failure`` says why.
    wire_bytes : int
        Of all the packets and headers sent and received for it.
    """

    reading: Reading | None
    wire_bytes: int
    failure: str | None = None


def survey(
    algorithm: Algorithm, state: ServerState, roster: Roster, grid: Grid, timeout: float
) -> tuple[ServerState, Survey]:
    """Measure: the state that knows what came of it, and how it went.

    Where it fails the state is the same: training goes on with the last reading.
    """
    number, setting = state.round + 1, cast(Lanczos, algorithm.measuring)
    weights = {client: algorithm.weight(roster.sizes[client]) for client in roster.able("hvp")}
    messages, everyone = _Products(grid, roster, timeout, state), len(roster.sizes)
    try:
        where = (algorithm.seed, state.round, state.point)
        reading = take_reading(setting, *where, weights, everyone, messages.ask)
    except NotMeasured as reason:
        went_on = "the last one holds" if state.sharpness else "there is none yet"
        _LOG.warning("round %s: the sharpness was not measured, %s: %s", number, went_on, reason)
        return state, Survey(None, messages.wire_bytes, str(reason))
    after = steered(algorithm, state, reading)
    _LOG.info("round %s: sharpness %.4g (%s products)", number, reading.value, reading.products)
    if algorithm.steering:
        _warn(number, reading, after.step_size, algorithm.stability)
        if len(weights) < everyone:
            _LOG.warning(
                "round %s: steps follow the sharpness of the %s clients that are there and can "
                "compute Hessian-vector products, of %s",
                *(number, len(weights), everyone),
            )
    return after, Survey(reading, messages.wire_bytes)


def _warn(number: int, reading: Reading, step_size: float | None, limit: float | None) -> None:
    """Say where the step size does not follow from λ̂ as the rule's share would have it."""
    if reading.value <= 0:
        _LOG.warning(
            "round %s: the sharpness is %.3g: no step size follows from it, the last one stays",
            *(number, reading.value),
        )
    elif step_size and limit and step_size * reading.value >= limit:
        _LOG.warning(
            "round %s: the smallest step size allowed, %.3g, is beyond the limit at a sharpness of "
            "%.3g",
            *(number, step_size, reading.value),
        )


class _Products:
    """Products by messages: the point goes along once, and again to who has lost it."""

    def __init__(self, grid: Grid, roster: Roster, timeout: float, state: ServerState) -> None:
        self._grid, self._roster, self._timeout = grid, roster, timeout
        self._point, self._group = state.point, str(state.round + 1)
        self._holders: set[int] = set()
        self.wire_bytes = 0

    def ask(self, queries: Sequence[HvpQuery]) -> Iterator[Vector]:
        """All the products, in order: without one, it would not be the same operator's any more."""
        records = self._exchanged(queries)
        again = [query for query in queries if records[query.client] is None]
        if again:
            self._holders -= {query.client for query in again}
            records |= self._exchanged(again)
        return (self._opened(query.client, records[query.client]) for query in queries)

    def _exchanged(self, queries: Sequence[HvpQuery]) -> dict[int, Record | None]:
        """Client → its answer's record; None where it, or the network, has lost something."""
        replies = list(exchange(self._grid, self._messages(queries), self._timeout))
        self.wire_bytes += sum(map(_bytes_of, replies))  # also where one of them ends the reading
        replies.sort(key=self._client)  # so that the first who failed does not depend on the order
        records = {self._client(reply): self._answer(reply) for reply in replies}
        if silent := sorted({query.client for query in queries} - set(records)):
            raise NotMeasured(f"client {silent[0]} did not answer within {self._timeout:g} s")
        return records

    def _messages(self, queries: Sequence[HvpQuery]) -> Iterator[Message]:
        packets = dict[bool, Record]()  # by whether the point is there; encoded once for all
        for query in queries:
            held = query.client in self._holders
            if held not in packets:
                packets[held] = replace(query, point=None if held else self._point).to_record()
            self._holders.add(query.client)
            record = packets[held] | {"header": query.header()}
            self.wire_bytes += size_of(record)
            content = RecordDict({"fedbias": ConfigRecord(record)})
            node = self._roster.nodes[query.client]
            yield Message(content, node, "query.hvp", group_id=self._group)

    def _client(self, reply: Message) -> int:
        client = self._roster.client(reply.metadata.src_node_id)
        if client is None:
            raise NotMeasured(f"node {reply.metadata.src_node_id} is not enrolled any more")
        return client

    def _answer(self, reply: Message) -> Record | None:
        if not reply.has_error():
            return _record_of(reply)
        if reply.error.code == LOST_MODEL or reply.error.code in NEVER_CAME:
            return None
        raise NotMeasured(f"client {self._client(reply)}: {reply.error.reason}")

    def _opened(self, client: int, record: Record | None) -> Vector:
        if record is None:
            raise NotMeasured(
                f"client {client} does not answer, or does not keep the point that it was sent"
            )
        try:
            packet = packet_of(record, "product")
            check_directions(packet, 0)  # it comes as it is
            return vector_like(self._point, packet)
        except ValueError as reason:
            raise NotMeasured(f"client {client}: {reason}") from None


def _record_of(reply: Message) -> Record:
    return dict(reply.content.config_records.get("fedbias", {}))


def _bytes_of(reply: Message) -> int:
    """Of the packets and headers in an answer, whatever else there may be; of an error, none."""
    parts = () if reply.has_error() else _record_of(reply).values()
    return sum(len(part) for part in parts if isinstance(part, str | bytes))
