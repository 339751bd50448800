"""Who may take part: late nodes, doubles, strangers, and models of another size."""

import json

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

import fedbias as fb
from strategies import FedBias
from tests.tools.federation import Watched, app_of, slopes, train

PROBLEM = fb.LeastSquares.random(4, 3.0, seed=6, clients=4)
ZERO = np.zeros(4)
STEP = fb.gradient_descent(0.5)
DOUBLE = (
    "node 3 cannot take part: client 1 is already there as node 2; it takes over when that one is "
    "gone, or give each node a partition-id of its own"
)


class Coming(Watched):
    """``online(poll)`` says which nodes are there when the server looks for the nth time."""

    polls = 0

    def get_node_ids(self):
        self.polls += 1
        return [node for node in super().get_node_ids() if node in self.online(self.polls)]


def coming(online, objectives=PROBLEM.objectives, count=4, node_config=None):
    grid = Coming(app_of(objectives), count, node_config)
    grid.online = online
    return grid


def hello(**changes):
    """An app whose second node introduces itself otherwise."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        if message.metadata.message_type != "query.hello" or context.node_id != 2:
            return reply
        told = json.loads(reply.content["fedbias"]["header"]) | changes
        record = ConfigRecord({"header": json.dumps(told)})
        return Message(RecordDict({"fedbias": record}), reply_to=message)

    return mod


def test_waits_for_nodes_that_connect_late(clock):
    """One node more at every look. Kills: a sample of those that came first (Flower's FedAvg)."""
    grid = coming(lambda poll: range(1, poll + 1))
    run = train(FedBias(STEP, minimum_clients=4), grid, ZERO, 2)
    assert grid.asked() == [(k, c) for k in range(2) for c in range(4)]
    assert grid.asked("query.hello") == [1, 2, 3, 4] and clock.naps
    assert run.points.tobytes() == fb.run(PROBLEM.objectives, STEP, ZERO, 2).points.tobytes()


def test_gives_up_after_patience(clock):
    """Kills: a server that waits for ever, or not at all."""
    grid = coming(lambda poll: (1, 2))
    with pytest.raises(TimeoutError) as caught:
        train(FedBias(STEP, minimum_clients=4, patience=12.5), grid, ZERO, 2)
    assert str(caught.value) == (
        "2 of 4 clients came within 12.5 s; start more nodes, or ask for fewer clients"
    )
    assert 12.5 <= sum(clock.naps) < 14 and grid.asked() == []


def test_patience_zero_looks_once(clock):
    """Kills: a loop that gives up before it looked."""
    run = train(FedBias(STEP, minimum_clients=4, patience=0), coming(lambda p: range(9)), ZERO, 1)
    assert run.records[1].applied == 4
    with pytest.raises(TimeoutError, match="1 of 2 clients came within 0 s"):
        train(FedBias(STEP, minimum_clients=2, patience=0), coming(lambda poll: (1,)), ZERO, 1)


def test_who_comes_later_takes_part_later():
    """Kills: a roster that is closed after the start, a hello that is asked twice."""
    grid = coming(lambda poll: (1, 2) if poll < 4 else (1, 2, 3, 4))
    run = train(FedBias(STEP, minimum_clients=2), grid, ZERO, 5)
    applied = [record.applied for record in run.records]
    assert applied[1] == 2 and applied[-1] == 4 and applied == sorted(applied)
    assert grid.asked("query.hello") == [1, 2, 3, 4]


def test_who_is_gone_is_not_asked():
    """Kills: a plan for a node that left, a sample with it."""
    grid = coming(lambda poll: (1, 2, 3, 4) if poll < 4 else (1, 4))
    run = train(FedBias(STEP, minimum_clients=4), grid, ZERO, 5)
    assert [client for k, client in grid.asked() if k == 4] == [0, 3]
    assert run.records[-1].lost == 0


# A number that two claim --------------------------------------------------------------------------


def test_a_double_is_left_out_until_the_first_is_gone(warned):
    """Nodes 2 and 3 are both client 1; node 2 leaves in the middle. Kills: a client that counts
    twice, a client that is lost for good when its node restarts, a warning in every round.
    """
    numbers = (0, 1, 1, 2)
    grid = coming(
        lambda poll: (1, 2, 3, 4) if poll < 6 else (1, 3, 4),
        node_config=lambda i: {"partition-id": numbers[i]},
    )
    run = train(FedBias(STEP, minimum_clients=3), grid, ZERO, 8)
    assert [r.applied for r in run.records[1:]] == [3] * 8
    nodes = [m.metadata.dst_node_id for m, _ in grid.sent if m.metadata.message_type == "train"]
    assert nodes == [1, 2, 4] * 4 + [1, 3, 4] * 4
    assert warned() == [DOUBLE, "round 5: client 1 had lost its memory"]
    expected = fb.run(PROBLEM.objectives[:3], STEP, ZERO, 8)
    assert run.points.tobytes() == expected.points.tobytes()


def test_who_took_over_is_not_among_those_who_cannot_take_part():
    """Node 3 takes over from node 2, then node 1 leaves. Kills: a reason that is none any more."""
    grid = coming(
        lambda poll: (1, 2, 3) if poll < 4 else (1, 3) if poll < 6 else (3,),
        node_config=lambda i: {"partition-id": (0, 1, 1, 9)[i]},
    )
    with pytest.raises(TimeoutError, match="ask for fewer clients$"):
        train(FedBias(STEP, minimum_clients=2, minimum_replies=2), grid, ZERO, 9)


def test_the_double_remembers_nothing(warned):
    """The node that takes over has no memory, and says so. Kills: two memories under one number."""
    grid = coming(
        lambda poll: (1, 2) if poll < 5 else (1, 3),
        node_config=lambda i: {"partition-id": (0, 1, 1, 9)[i]},
    )
    settings = {"compressor": fb.top_k(0.25), "feedback": fb.error_feedback()}
    run = train(FedBias(STEP, minimum_clients=2, **settings), grid, ZERO, 8)
    assert sum(r.forgotten for r in run.records) == 1 and run.records[-1].applied == 2
    assert any(line.endswith("client 1 had lost its memory") for line in warned())


# A federation of known size -----------------------------------------------------------------------


def test_a_double_ends_the_start_of_a_federation_of_known_size(clock, warned):
    """Said at once and again at the end. Kills: a start that waits for patience; an error that
    does not say who cannot take part.
    """
    grid = coming(lambda poll: (2, 3), node_config=lambda i: {"partition-id": (9, 1, 1, 9)[i]})
    with pytest.raises(TimeoutError) as caught:
        train(FedBias(STEP, minimum_clients=2, partitions=2), grid, ZERO, 2)
    why = DOUBLE.removeprefix("node 3 cannot take part: ")
    said = str(caught.value).replace("76 s", "75 s")  # it looks once a second
    assert said == (
        "1 of 2 clients came within 75 s; start more nodes, or ask for fewer clients "
        f"(1 came and cannot take part, node 3: {why})"
    )
    assert 75 <= sum(clock.naps) < 77 and warned()[0] == DOUBLE


def test_who_is_started_again_before_the_start_is_no_double_for_long(clock):
    """Node 2 dies and is back as node 3; both are listed for a minute, node 1 comes last.

    Kills: a start that ends while Flower still lists the dead one.
    """
    grid = coming(
        lambda poll: (2, 3) if clock.now < 1030 else (1, 2, 3) if clock.now < 1060 else (1, 3),
        node_config=lambda i: {"partition-id": (0, 1, 1, 9)[i]},
    )
    run = train(FedBias(STEP, minimum_clients=2, partitions=2), grid, ZERO, 1)
    assert run.records[1].applied == 2


def test_a_node_that_is_wrong_does_not_end_the_wait_for_the_others(clock):
    """Node 1 declines, node 2 is started by hand 40 s later, 1 is put right after 50 s.

    Kills: a start that ends before as many nodes were there as there are clients.
    """
    grid = coming(
        lambda poll: (1,) if clock.now < 1040 else (1, 2) if clock.now < 1050 else (2, 3),
        node_config=lambda i: {"partition-id": ("?", 1, 0, 9)[i]},
    )
    run = train(FedBias(STEP, minimum_clients=2, partitions=2), grid, ZERO, 1)
    assert run.records[1].applied == 2


def test_a_federation_of_unknown_size_waits_for_patience(clock):
    """Kills: a start that ends although anybody may still come."""
    grid = coming(lambda poll: (2, 3), node_config=lambda i: {"partition-id": (9, 1, 1, 9)[i]})
    with pytest.raises(TimeoutError, match="within 300 s"):
        train(FedBias(STEP, minimum_clients=2), grid, ZERO, 2)
    assert sum(clock.naps) >= 300


def test_while_nodes_come_nobody_is_given_up(clock):
    """Node 2 declines; node 3 comes after 14 s, node 4 after 28. Kills: 15 s from the start."""
    came = {1: 0.0, 2: 0.0, 3: 14.0, 4: 28.0}
    grid = coming(
        lambda poll: [node for node in came if came[node] <= clock.now - 1000.0],
        node_config=lambda i: {"partition-id": (0, "?", 1, 2)[i]},
    )
    run = train(FedBias(STEP, minimum_clients=3, partitions=3), grid, ZERO, 1)
    assert run.records[1].applied == 3


def test_who_has_not_answered_is_waited_for(clock):
    """Node 3 hangs. Kills: a start that ends before everybody has had a say."""

    class Hanging(Watched):
        def pull_messages(self, message_ids):
            return [m for m in super().pull_messages(message_ids) if m.metadata.src_node_id != 3]

    config = {1: {"partition-id": "one"}}
    grid = Hanging(app_of(PROBLEM.objectives), 3, lambda i: config.get(i, {"partition-id": i}))
    with pytest.raises(TimeoutError, match="1 of 2 clients came within 40 s"):
        train(FedBias(STEP, minimum_clients=2, partitions=2, patience=40), grid, ZERO, 1)


def test_who_left_without_an_answer_is_not_waited_for(clock):
    """Node 3 hangs, and is gone after 30 s. Kills: a question that outlasts its node."""

    class Hanging(Watched):
        def get_node_ids(self):
            return [1, 2, 3] if clock.now < 1030 else [1, 2]

        def pull_messages(self, message_ids):
            return [m for m in super().pull_messages(message_ids) if m.metadata.src_node_id != 3]

    config = {1: {"partition-id": "one"}}
    grid = Hanging(app_of(PROBLEM.objectives), 3, lambda i: config.get(i, {"partition-id": i}))
    with pytest.raises(TimeoutError, match="1 of 2 clients came within 3[01] s"):
        train(FedBias(STEP, minimum_clients=2, partitions=2), grid, ZERO, 1)


def test_a_run_that_goes_on_waits_for_patience(clock):
    """Node 2 is restarted with the number of node 1. Kills: a long run that ends after 15 s."""
    grid = coming(
        lambda poll: (1, 2) if poll < 4 else (1, 3),
        node_config=lambda i: {"partition-id": (0, 1, 0, 9)[i]},
    )
    strategy = FedBias(STEP, minimum_clients=2, minimum_replies=2, partitions=2, patience=99)
    with pytest.raises(
        TimeoutError, match=r"1 of 2 clients came within 99 s.* as node 1; it takes"
    ):
        train(strategy, grid, ZERO, 9)


def test_who_splits_the_data_otherwise_is_left_out(warned):
    """Kills: a model of two federations' data."""
    grid = coming(
        lambda poll: range(9),
        node_config=lambda i: {"partition-id": i, "num-partitions": 5 if i == 2 else 4},
    )
    run = train(FedBias(STEP, minimum_clients=3, partitions=4), grid, ZERO, 1)
    assert run.records[1].applied == 3
    assert warned() == [
        "node 3 cannot take part: client 2 has num-partitions = 5, this run 4: "
        "give every node the same num-partitions"
    ]


# Strangers ----------------------------------------------------------------------------------------


def test_a_client_without_a_number_of_its_own_is_warned_of(warned):
    """Kills: a run that cannot be reproduced and does not say so."""
    objectives = {1: PROBLEM.objectives[0], 2: PROBLEM.objectives[1]}
    grid = Watched(app_of(objectives), 2, lambda i: {"site": "here"})
    run = train(FedBias(STEP, minimum_clients=2), grid, ZERO, 1)
    assert grid.asked() == [(0, 1), (0, 2)] and run.records[1].applied == 2
    assert warned() == [
        f"node {node} has neither partition-id nor client-id in its node config, so this run "
        "cannot be reproduced: its number is the node's"
        for node in (1, 2)
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dim": 5}, "client 1 has 5 parameters, the server 4"),
        (
            {"fingerprint": "0123456789abcdef"},
            "client 1 draws other random numbers: use the same numpy version",
        ),
        ({"size": 0}, "client 1 has no data"),
        ({"client": "1"}, "client"),
        ({"client": -1}, "client"),
        ({"stable": 1}, "stable"),
        ({"surprise": 1}, "header"),
    ],
)
def test_who_does_not_fit_is_left_out(changes, reason, warned):
    """Once, and the others go on. Kills: each objection; a warning in every round."""
    grid = Watched(app_of(PROBLEM.objectives, [hello(**changes)]), 4)
    run = train(FedBias(STEP, minimum_clients=3), grid, ZERO, 3)
    (line,) = warned()
    assert line.startswith("node 2 cannot take part: ") and reason in line and "\n" not in line
    assert [client for _, client in grid.asked()] == [0, 2, 3] * 3
    assert [(r.applied, r.lost, r.refused) for r in run.records[1:]] == [(3, 0, 0)] * 3


def test_an_app_that_does_not_speak_fedbias(warned):
    """Kills: a KeyError that ends the run."""

    def mod(message, context, call_next):
        if message.metadata.message_type == "query.hello" and context.node_id == 2:
            return Message(RecordDict(), reply_to=message)
        return call_next(message, context)

    run = train(
        FedBias(STEP, minimum_clients=3), Watched(app_of(PROBLEM.objectives, [mod]), 4), ZERO, 1
    )
    assert run.records[1].applied == 3 and warned()[0].startswith("node 2 cannot take part: ")


def test_another_model_is_refused_with_both_sizes(warned):
    """Kills: a client whose every report is refused in every round instead."""
    objectives = [*PROBLEM.objectives[:2], *slopes([1.0, 2.0])]
    run = train(FedBias(STEP, minimum_clients=2), Watched(app_of(objectives), 3), ZERO, 2)
    assert warned() == ["node 3 cannot take part: client 2 has 2 parameters, the server 4"]
    assert [r.applied for r in run.records] == [0, 2, 2]


def test_a_client_that_cannot_start_says_why(warned):
    """Kills: a reason that is lost between client and server."""
    config = {1: {"partition-id": "one"}}
    grid = Watched(app_of(PROBLEM.objectives), 4, lambda i: config.get(i, {"partition-id": i}))
    run = train(FedBias(STEP, minimum_clients=3), grid, ZERO, 1)
    says = "node config: partition-id must be a whole number >= 0, not 'one'"
    assert f"node 2 cannot take part: {says}" in warned() and run.records[1].applied == 3


# Corners ------------------------------------------------------------------------------------------


def test_a_lost_hello_is_asked_again():
    """Flower's code 5 says that the message was not delivered, not that the client declined."""

    class Flaky(Watched):
        polls = 0

        def get_node_ids(self):
            self.polls += 1
            return super().get_node_ids()

        def _answer(self, message):
            if message.metadata.dst_node_id == 2 and self.polls == 1:
                return Message(Error(5, "gone for a moment"), reply_to=message)
            return super()._answer(message)

    run = train(FedBias(STEP, minimum_clients=3), Flaky(app_of(PROBLEM.objectives), 4), ZERO, 3)
    assert run.records[-1].applied == 4


def test_a_node_that_never_answers_is_not_waited_for_every_round(clock):
    """It is online, but its hello never comes."""

    class Hanging(Watched):
        def pull_messages(self, message_ids):
            found = super().pull_messages(message_ids)
            return [m for m in found if m.metadata.src_node_id != 2]

    grid = Hanging(app_of(PROBLEM.objectives), 4)
    train(FedBias(STEP, minimum_clients=3, patience=10), grid, ZERO, 5)
    assert sum(clock.naps) < 25


def test_a_hello_that_died_with_its_process_is_asked_again(clock):
    """Node 2 had it when it was killed, and is back under the same id, as nodes with keys are.

    Kills: a node that stays outside for ever.
    """

    class Restarted(Watched):
        def pull_messages(self, message_ids):
            found = super().pull_messages(message_ids)
            if len(self.asked("query.hello")) > 3:
                return found
            return [m for m in found if m.metadata.src_node_id != 2]

    grid = Restarted(app_of(PROBLEM.objectives), 3)
    run = train(FedBias(STEP, minimum_clients=3, partitions=3), grid, ZERO, 1)
    assert grid.asked("query.hello") == [1, 2, 3, 2] and run.records[1].applied == 3
    assert 60 <= sum(clock.naps) < 62
