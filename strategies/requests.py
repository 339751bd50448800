"""What is asked of the clients, as Flower's messages; the vectors are encoded once for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict

from fedbias.rounds import Plan, dense
from fedbias.state import ServerState


def train_packets(plans: Sequence[Plan]) -> dict[str, bytes]:
    """The packets that the plans of one round share; none without plans."""
    shared = plans[0].to_record() if plans else {}
    return {name: part for name, part in shared.items() if name != "header"}


def train_requests(
    plans: Sequence[Plan], packets: Mapping[str, bytes], nodes: Mapping[int, int], number: int
) -> Iterator[Message]:
    """One message per plan to its client's node."""
    for plan in plans:
        record = ConfigRecord({"header": plan.header(), **packets})
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
