"""What is asked of the clients, as Flower's messages; the vectors are encoded once for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict

from fedbias.rounds import Plan, Record, dense
from fedbias.state import ServerState


def shared_packets(plans: Sequence[Plan]) -> dict[int, Record]:
    """For each client the packets of its plan, which all the plans of one round share."""
    shared = plans[0].to_record() if plans else {}
    packets = {name: part for name, part in shared.items() if name != "header"}
    return {plan.client: packets for plan in plans}


def train_requests(
    plans: Sequence[Plan],
    packets: Mapping[int, Record],
    nodes: Mapping[int, int],
    number: int,
) -> Iterator[Message]:
    """One message per plan to its client's node, with the client's packets."""
    for plan in plans:
        record = ConfigRecord({"header": plan.header(), **packets[plan.client]})
        content = RecordDict({"fedbias": record})
        yield Message(content, nodes[plan.client], "train", group_id=str(number))


def evaluate_requests(
    state: ServerState, nodes: Mapping[int, int], number: int
) -> Iterator[Message]:
    """The point for every client, in their order."""
    packets = {"point": dense(state.point)}
    if state.buffers is not None:
        packets["buffers"] = dense(state.buffers)
    for _, node in sorted(nodes.items()):
        content = RecordDict({"fedbias": ConfigRecord(dict(packets))})
        yield Message(content, node, "evaluate", group_id=str(number))
