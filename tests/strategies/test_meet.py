"""The first client that is met: what a federation says of itself before the run is set up."""

import pytest
from flwr.app import Error, Message

import fedbias as fb
from strategies import meet
from strategies.introductions import Introductions
from tests.tools.federation import Watched, app_of

PROBLEM = fb.LeastSquares.random(4, 3.0, seed=6, clients=4)


class Federation(Watched):
    """Nodes in ``late`` answer after so many seconds; nodes in ``lost`` lose their first hello,
    nodes in ``dead`` take it along without a word.
    """

    late: dict = {}
    lost: set = set()
    dead: set = set()

    def __init__(self, clock, node_config=None, clients=4):
        super().__init__(app_of(PROBLEM.objectives), clients, node_config)
        self.clock = clock

    def pull_messages(self, message_ids):
        ready = [
            key
            for key in message_ids
            if key in self._replies
            and self.clock.now - 1000 >= self.late.get(self._replies[key].metadata.src_node_id, 0)
        ]
        return super().pull_messages(ready)

    def _answer(self, message):
        node = message.metadata.dst_node_id
        if node in self.lost:
            self.lost = self.lost - {node}
            return Message(Error(5, "gone for a moment"), reply_to=message)
        return super()._answer(message)

    def push_messages(self, messages):
        (key,) = super().push_messages(messages)
        node = self._replies[key].metadata.src_node_id
        if node in self.dead:
            self.dead = self.dead - {node}
            del self._replies[key]
        return [key]


def test_one_question_is_enough(clock):
    """Kills: a hello to everybody, who will all be asked again by the roster."""
    grid = Federation(clock)
    hello = meet(grid, 5.0)
    assert (hello.client, hello.partitions, hello.dim) == (0, 4, 4)
    assert grid.asked("query.hello") == [1] and not clock.naps


def test_a_node_that_does_not_answer_delays_nobody(clock):
    """One node more is asked every second. Kills: waiting for the first one alone."""
    grid = Federation(clock)
    grid.late = {1: 1e9, 2: 1e9}
    assert meet(grid, 300.0).client == 2
    assert grid.asked("query.hello") == [1, 2, 3] and 1.9 < sum(clock.naps) < 2.5


def test_a_late_answer_counts(clock):
    """Kills: a question that is forgotten when the next one is asked."""
    grid = Federation(clock, clients=1)
    grid.late = {1: 20.0}
    assert meet(grid, 300.0).client == 0 and grid.asked("query.hello") == [1]


def test_a_lost_hello_is_asked_again(clock):
    """Kills: a node that is given up because a message was."""
    grid = Federation(clock, clients=1)
    grid.lost = {1}
    assert meet(grid, 5.0).client == 0 and grid.asked("query.hello") == [1, 1]


def test_a_hello_that_died_with_its_process_is_asked_again(clock):
    """After a minute. Kills: a node with a key of its own that is never met once it restarted."""
    grid = Federation(clock, clients=1)
    grid.dead = {1}
    assert meet(grid, 300.0).client == 0
    assert grid.asked("query.hello") == [1, 1] and 60 <= sum(clock.naps) < 61


def test_one_answer_settles_all_the_questions_to_a_node(clock):
    """Kills: a node that is there and waited for."""
    grid, questions = Federation(clock, clients=1), Introductions()
    grid.dead = {1}
    questions.ask(grid, [1])
    clock.now += 61
    questions.ask(grid, [1])
    assert questions.waiting() == {1} and questions.hear(grid)[1].client == 0
    assert questions.waiting() == set()


def test_who_declines_is_passed_over(clock):
    """Kills: a run that ends because of one node out of four."""
    grid = Federation(clock, lambda i: {"partition-id": "abc" if i < 2 else i})
    assert meet(grid, 9.0).client == 2


def test_all_decline(clock):
    """Kills: patience with nodes that have all had their say."""
    grid = Federation(clock, lambda i: {"partition-id": "abc"})
    with pytest.raises(ValueError) as caught:
        meet(grid, 300.0)
    assert str(caught.value) == (
        "node 1 cannot take part: node config: partition-id must be a whole number >= 0, not 'abc'"
    )
    assert grid.asked("query.hello") == [1, 2, 3, 4] and sum(clock.naps) < 5


def test_nobody_comes(clock, warned):
    """Kills: an endless wait, a silent one, one that does not look."""
    with pytest.raises(TimeoutError, match="^no client came within 12.5 s; start nodes$"):
        meet(Federation(clock, clients=0), 12.5)
    assert 12.5 <= sum(clock.naps) < 13 and warned() == ["waiting: no client is there"]
    assert meet(Federation(clock), 0.0).client == 0
