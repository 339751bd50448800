"""Exactly once: a lost or repeated message changes nothing that its absence would not change."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.ledger import NEVER, Ledger, pend, settle
from fedbias.server import apply, plan_for
from fedbias.state import ServerState

OLD, NEW = {"m": np.array([1.0])}, {"m": np.array([2.0])}
WAITING = Ledger(applied=3, memory=OLD, pending_round=5, pending=NEW)
LOST = Ledger(applied=4, pending_round=6, pending=NEW, lost=True)


@pytest.mark.parametrize(
    ("ledger", "acknowledged", "expected"),
    [
        (WAITING, 5, Ledger(applied=5, memory=NEW)),  # it arrived: commit
        (WAITING, 3, Ledger(applied=3, memory=OLD)),  # it did not: roll back
        (WAITING, 4, Ledger(applied=4, lost=True)),  # the server knows another memory
        (WAITING, 7, Ledger(applied=7, lost=True)),
        (WAITING, NEVER, Ledger()),  # the server began anew: nothing was lost
        (Ledger(), NEVER, Ledger()),  # a new client of a new server
        (Ledger(), 4, Ledger(applied=4, lost=True)),  # a client that lost everything
        (Ledger(pending_round=0, pending=NEW), NEVER, Ledger()),  # the very first reply lost
        (Ledger(pending_round=0, pending=NEW), 0, Ledger(applied=0, memory=NEW)),
        (LOST, 4, Ledger(applied=4, lost=True)),  # nobody was told yet: still lost
        (LOST, 6, Ledger(applied=6, memory=NEW)),  # told, and begun anew
        (LOST, NEVER, Ledger()),
    ],
)
def test_every_transition(ledger, acknowledged, expected):
    """Kills: commit and rollback swapped, loss that is not noticed or forgotten too early."""
    settled = settle(ledger, acknowledged)
    assert settled == expected
    assert settle(settled, acknowledged) == settled  # a repeated plan changes nothing


def test_pending_keeps_what_is_committed():
    after = pend(Ledger(applied=3, memory=OLD, lost=True), 5, NEW)
    assert after == Ledger(applied=3, memory=OLD, pending_round=5, pending=NEW, lost=True)


EVENTS = ["applied", "reply lost", "idle", "repeated", "wiped", "server anew"]


@pytest.mark.parametrize("first", EVENTS)
def test_all_histories_of_six_events(first):
    """Exhaustively against a model: the memory is the row of rounds that were applied since it
    began, and a loss is reported exactly until a report was applied. 6^6 histories.

    Kills: any transition that only a longer history shows.
    """
    for events in product([first], *[EVENTS] * 5):
        ledger, acknowledged, round = Ledger(), NEVER, 0
        memory, lost = (), False
        for event in events:
            if event == "wiped":
                ledger, memory, lost = Ledger(), (), acknowledged != NEVER
                continue
            if event == "server anew":
                acknowledged, round, memory, lost = NEVER, 0, (), False
                continue
            if event != "idle":
                for _ in range(2 if event == "repeated" else 1):
                    ledger = settle(ledger, acknowledged)
                    assert tuple(ledger.memory.get("rounds", ())) == memory, events
                    assert ledger.lost == lost, events
                    ledger = pend(ledger, round, {"rounds": (*memory, round)})
                if event != "reply lost":
                    acknowledged, memory, lost = round, (*memory, round), False
            round += 1


PROBLEM = fb.LeastSquares.random(4, 10, 0, clients=3)
START = np.linspace(-1, 1, 4)
SETTINGS = {
    "error feedback, top k": {"compressor": fb.top_k(0.25), "feedback": fb.error_feedback()},
    "error feedback, dithered": {"compressor": fb.dithered(2), "feedback": fb.error_feedback()},
    "random k": {"compressor": fb.random_k(0.5)},
    "local momentum": {"estimator": fb.local_steps(2, 0.1, 0.5, fb.exact())},
    "reshuffled": {"estimator": fb.minibatch("reshuffle"), "batch_size": 3},
    "drawn": {"estimator": fb.minibatch(), "batch_size": 3},
    "all of it": {
        "estimator": fb.local_steps(2, 0.1, 0.5, fb.minibatch("reshuffle")),
        "batch_size": 3,
        "compressor": fb.top_k(0.25),
        "feedback": fb.error_feedback(),
        "weights": "examples",
    },
}
each = pytest.mark.parametrize("name", SETTINGS)
OPTIMIZER = fb.heavy_ball(0.1, 0.5)


def same(arrays, others):
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert array.dtype == others[name].dtype and array.tobytes() == others[name].tobytes()


def same_history(one, other):
    """Bit for bit: points, losses, bits, optimizer state and every client's memory."""
    assert one.points.tobytes() == other.points.tobytes()
    assert one.losses.tobytes() == other.losses.tobytes()
    np.testing.assert_array_equal(one.wire_bits, other.wire_bits)
    np.testing.assert_array_equal(one.payload_bits, other.payload_bits)
    same(one.optimizer_state, other.optimizer_state)
    for memory, expected in zip(one.memories, other.memories, strict=True):
        same(memory, expected)


def pairs(rounds, clients):
    everyone = [(round, client) for round in range(rounds) for client in range(clients)]
    return st.sets(st.sampled_from(everyone))


@each
@settings(max_examples=25)
@given(gone=pairs(6, 3))
def test_lost_replies_are_as_if_never_asked(name, gone):
    """fb.run with lost= against fb.run with participation=, and the runs are not trivial.

    Kills: an error, a momentum, a position or an optimizer state that moves with a lost reply.
    """

    def present(round):
        return [client for client in range(3) if (round, client) not in gone]

    def absent(round):
        return [client for client in range(3) if (round, client) in gone]

    common = (PROBLEM.objectives, OPTIMIZER, START, 6)
    lossy = fb.run(*common, **SETTINGS[name], lost=absent, seed=3)
    sparse = fb.run(*common, **SETTINGS[name], participation=present, seed=3)
    same_history(lossy, sparse)
    assert [outcome.applied for outcome in lossy.outcomes] == [tuple(present(k)) for k in range(6)]
    remembers = name not in ("random k", "drawn")
    for client, memory in enumerate(lossy.memories):
        assert bool(memory) == (remembers and any(client in present(k) for k in range(6)))
    moved = np.any(np.diff(lossy.points, axis=0) != 0, axis=1)
    assert moved.tolist() == [bool(present(k)) for k in range(6)]


FATES = ["arrives", "repeated", "lost", "repeated and lost", "not asked"]


@each
@settings(max_examples=25)
@given(
    fates=st.lists(st.lists(st.sampled_from(FATES), min_size=3, max_size=3), max_size=6),
    minimum=st.integers(1, 3),
)
def test_repeated_plans_and_too_few_replies(name, fates, minimum):
    """Message by message, through their records, against the run without the lost pairs.

    Repeated plans are answered with identical bytes. Below ``minimum_replies`` nothing counts.
    """
    algorithm = Algorithm(OPTIMIZER, **SETTINGS[name], minimum_replies=minimum, seed=3)
    state, ledgers, present = ServerState(START), [Ledger()] * 3, {}
    for round, row in enumerate(fates):
        reports, before = [], state
        for client, fate in enumerate(row):
            if fate == "not asked":
                continue
            plan = fb.Plan.from_record(plan_for(algorithm, state, client).to_record())
            records = []
            for _ in range(1 + ("repeated" in fate)):
                objective = PROBLEM.objectives[client]
                report, ledgers[client] = respond(objective, plan, ledgers[client])
                records.append(report.to_record())
            assert records[0] == records[-1]
            if "lost" not in fate:
                reports.append(fb.Report.from_record(records[0]))
        state, outcome = apply(algorithm, state, reports)
        present[round] = outcome.applied
        assert len(outcome.applied) in (0, len(reports)) and not outcome.forgotten
        if len(reports) < minimum:
            assert outcome.applied == () and state.point is before.point
            assert state.optimizer == before.optimizer
            assert state.acknowledged == before.acknowledged
    expected = fb.run(
        PROBLEM.objectives,
        OPTIMIZER,
        START,
        len(fates),
        **SETTINGS[name],
        participation=present.__getitem__,
        seed=3,
    )
    assert state.point.tobytes() == expected.points[-1].tobytes()
    same(state.optimizer, expected.optimizer_state)
    for client, ledger in enumerate(ledgers):
        settled = settle(ledger, state.acknowledged.get(client, NEVER))
        same(settled.memory, expected.memories[client])


def test_a_client_that_lost_its_memory_says_so_until_it_was_heard():
    """Kills: a loss that is reported once, or for ever, or by a new client."""
    algorithm = Algorithm(OPTIMIZER, **SETTINGS["error feedback, top k"])
    state, ledger, said = ServerState(START), Ledger(), []
    for round, fate in enumerate(["ok", "ok", "wiped", "lost", "lost", "ok", "ok"]):
        if fate == "wiped":
            ledger = Ledger()
        plan = plan_for(algorithm, state, 0)
        report, ledger = respond(PROBLEM.objectives[0], plan, ledger)
        said.append(report.lost_memory)
        arrived = [] if fate in ("lost", "wiped") else [report]
        state, outcome = apply(algorithm, state, arrived)
        assert outcome.forgotten == ((0,) if round == 5 else ())
    assert said == [False, False, True, True, True, True, False]


def test_a_server_that_began_anew_gets_the_first_answer_again():
    """Acknowledged −1: whatever the client remembers, it answers like a new one."""
    algorithm = Algorithm(OPTIMIZER, **SETTINGS["all of it"])
    first = plan_for(algorithm, ServerState(START), 0)
    report, ledger = respond(PROBLEM.objectives[0], first, Ledger())
    state, _ = apply(algorithm, ServerState(START), [report])
    _, ledger = respond(PROBLEM.objectives[0], plan_for(algorithm, state, 0), ledger)
    again, _ = respond(PROBLEM.objectives[0], first, ledger)
    assert again.to_record() == report.to_record() and not again.lost_memory


def test_a_refused_turn_leaves_the_ledger_as_it_was():
    """A plan the client cannot answer raises, and the next one is answered as if it never came."""
    algorithm = Algorithm(OPTIMIZER, **SETTINGS["error feedback, top k"])
    plan = plan_for(algorithm, ServerState(START), 0)
    _, ledger = respond(PROBLEM.objectives[0], plan, Ledger())
    kept = {name: array.copy() for name, array in ledger.pending.items()}
    with pytest.raises(ValueError, match="the plan's point has dim 3, not 4"):
        respond(PROBLEM.objectives[0], plan_for(algorithm, ServerState(np.ones(3)), 0), ledger)
    same(ledger.pending, kept)
