"""Replies → reports, and why some of them are none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import Message

from fedbias.ledger import LOST_MODEL
from fedbias.rounds import Report

from .exchange import NEVER_CAME
from .roster import Roster

_NOBODY = -1  # stands for a node that is not on the roster


@dataclass
class Replies:
    """What came back in one round.

    Attributes
    ----------
    reports : list of Report
        In order of arrival, each client's first alone, not yet validated against the model.
    refused : dict of int to str
        Client → why its reply is no report; −1 for nodes that nobody knows.
    header_bytes : int
        Of the reports' JSON headers.
    heard : set of int
        The nodes something came from.
    lost_models : list of int
        The clients that do not have the model any more that they were to go on from.
    """

    reports: list[Report] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    header_bytes: int = 0
    heard: set[int] = field(default_factory=set)
    lost_models: list[int] = field(default_factory=list)


def collect(replies: Iterable[Message], roster: Roster) -> Replies:
    """Read the replies as they arrive; what Flower could not deliver is lost, not refused."""
    found, reported = Replies(), set[int]()
    for reply in replies:
        if reply.has_error() and reply.error.code in NEVER_CAME:
            continue
        found.heard.add(reply.metadata.src_node_id)
        client = roster.client(reply.metadata.src_node_id)
        if client is not None and reply.has_error() and reply.error.code == LOST_MODEL:
            found.lost_models.append(client)
        try:
            report, header = _read(reply, client)
            if report.client in reported:
                raise ValueError(f"client {client} reported twice in round {report.round}")
        except ValueError as reason:
            found.refused[_NOBODY if client is None else client] = str(reason)
            continue
        found.reports.append(report)
        reported.add(report.client)
        found.header_bytes += header
    return found


def _read(reply: Message, client: int | None) -> tuple[Report, int]:
    if reply.has_error():
        raise ValueError(reply.error.reason or f"error {reply.error.code}")
    record = reply.content.config_records.get("fedbias")
    if record is None:
        raise ValueError("the reply has no record 'fedbias'")
    report = Report.from_record(record)
    if report.client != client:
        raise ValueError(f"it speaks for client {report.client}")
    return report, len(str(record["header"]))
