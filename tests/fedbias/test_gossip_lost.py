"""Meetings that one side hears of late or never, and clients that lost their model, by hand."""

from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias.gossip import (
    GossipAlgorithm,
    GossipState,
    apply,
    enter,
    forget,
    model_of,
    plan_for,
    query_for,
    start_of,
)
from fedbias.gossip import respond as answer
from fedbias.gossip.client import MODEL, settled
from fedbias.ledger import NEVER, Ledger, LostModel
from tests.tools.exactly_once import bits
from tests.tools.gossip_clients import HALF, at, centred

ALONE = GossipAlgorithm(estimator=HALF)


def begun(*starts):
    """The server and the clients before the first round, each at its start."""
    state = GossipState(np.zeros(1), enrolled=dict.fromkeys(range(len(starts)), 1))
    return state, [Ledger(memory={MODEL: start}) for start in at(*starts)]


CLIENTS = centred(0, 8)  # two that own their models


def step(algorithm, state, ledgers, clients, lost=()):
    """One round in which these clients answer."""
    reports = []
    for client in clients:
        plan = plan_for(algorithm, state, client, begun=True)
        report, ledgers[client] = answer(CLIENTS[client], plan, ledgers[client])
        reports.append(report)
    return apply(algorithm, state, [r for r in reports if r.client not in lost])[0]


def models(state, ledgers):
    """X_i once all that happened is known."""
    return [
        model_of(settled(ledger, state.acknowledged.get(c, NEVER), state.relays.get(c), 1.0)).item()
        for c, ledger in enumerate(ledgers)
    ]


@pytest.mark.parametrize("fate", ["not asked", "asked in vain"])
def test_a_meeting_that_one_of_them_hears_of_late(fate):
    """While the other goes on alone for two rounds.

    Kills: a relay that is gone after a round, or kept when it was acted on; a momentum rolled back.
    """
    state, ledgers = begun(12, 0)
    state = step(ALONE, state, ledgers, [0, 1])  # v = 12, −8: X' = 6, 4
    assert models(state, ledgers) == [5.0, 5.0] and set(state.relays) == {0, 1}
    for expected in (8.5, 10.0):  # v = −4 − 3, −3.5 + .5
        there = [0, 1] if fate == "asked in vain" else [1]
        state = step(ALONE, state, ledgers, there, lost=[0])
        assert set(state.relays) == {0} and models(state, ledgers) == [5.0, expected]
    state = step(ALONE, state, ledgers, [0, 1])  # v = 6 + 5, −1.5 + 2: X' = −.5, 9.75
    assert models(state, ledgers) == [4.625, 4.625]
    assert state.acknowledged == {0: 3, 1: 3} and state.samples == 6
    state = step(ALONE, state, ledgers, [0])  # v = 5.5 + 4.625, and nobody to meet
    assert models(state, ledgers) == [-0.4375, 4.625] and set(state.relays) == {1}


def test_half_a_meeting_is_none():
    """If one model is lost, the other keeps its own. Kills: a pair of which one is enough."""
    for lost, expected in (([1], [4.0, 0.0]), ([0], [8.0, 4.0]), ([0, 1], [8.0, 0.0])):
        state, ledgers = begun(8, 0)
        state = step(ALONE, state, ledgers, [0, 1], lost)
        assert models(state, ledgers) == expected and not state.relays
        assert set(state.acknowledged) == {0, 1} - set(lost)


@pytest.mark.parametrize("feedback", [fb.no_feedback(), fb.ef21()])
def test_a_client_that_lost_its_model(feedback):
    """It says so, its ledger stays, and what the server forgot begins at the entry model.

    Kills: a step from nowhere, an h or a relay that outlives its client, a partner that forgets.
    """
    algorithm = replace(ALONE, feedback=feedback)
    state, ledgers = begun(8, 0)
    state = step(algorithm, state, ledgers, [0, 1])
    ledgers[0] = Ledger()
    with pytest.raises(LostModel, match="this client has no model"):
        step(algorithm, state, ledgers, [0])
    assert ledgers[0] == Ledger()
    before, state = state, forget(state, [0])
    assert state == replace(
        before,
        acknowledged={1: 0},
        relays={1: before.relays[1]},
        memories={1: before.memories[1]} if feedback.remembers else {},
    )
    plan = plan_for(algorithm, state, 0)
    assert plan.model is state.entry and plan.partner is None and plan.acknowledged == NEVER
    report, ledgers[0] = answer(CLIENTS[0], plan, ledgers[0])
    assert fb.decode(report.packet).tolist() == [0.0]  # the entry is its minimiser
    other, ledgers[1] = answer(CLIENTS[1], plan_for(algorithm, state, 1), ledgers[1])
    state, outcome = apply(algorithm, state, [report, other])
    assert outcome.pairs == ((0, 1),) and not outcome.refused
    assert models(state, ledgers) == [4.0, 4.0]  # 0, and 4 − (−4 − 4)/2 = 8


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_server_that_forgot_a_client_which_did_not_forget(rounds):
    """It begins at the entry all the same, without its old momentum. Kills: a newcomer that goes on
    from where it was."""
    state, ledgers = begun(8, 0)
    for _ in range(rounds):
        state = step(ALONE, state, ledgers, [0, 1])
    plan = replace(plan_for(ALONE, forget(state, [0]), 0), model=np.ones(1))
    report, ledger = answer(CLIENTS[0], plan, ledgers[0])
    assert fb.decode(report.packet).tolist() == [0.5]  # 1 − ½·1
    assert bits(ledger.memory) == bits({MODEL: np.ones(1)})


def test_an_old_plan_does_no_harm():
    """One of a round that is over is refused, and nothing was changed, whether the last step's fate
    is known to the client or not. Only a plan with its own model begins anew.

    Kills: a look at one of the two rounds alone, a new run that is taken for an old plan.
    """
    state, ledgers = begun(8, 0)
    first = plan_for(ALONE, state, 0)
    assert first.model.item() == 0 and first.round == 0
    old = replace(first, model=None)
    for _ in range(2):
        state = step(ALONE, state, ledgers, [0, 1])
    waiting, seen = ledgers[0], models(state, ledgers)
    known = settled(waiting, state.acknowledged[0], state.relays[0], 1.0)
    rounds = [(ledger.applied, ledger.pending_round) for ledger in (waiting, known)]
    assert rounds == [(0, 1), (1, NEVER)]
    for ledger in (waiting, known):
        memory, pending = bits(ledger.memory), bits(ledger.pending)
        with pytest.raises(ValueError) as caught:
            answer(CLIENTS[0], old, ledger)
        assert str(caught.value) == "the plan of round 0 comes too late: it is over"
        assert (bits(ledger.memory), bits(ledger.pending)) == (memory, pending)
        _, anew = answer(CLIENTS[0], first, ledger)
        assert bits(anew.memory) == bits({MODEL: np.zeros(1)})
    assert models(state, ledgers) == seen


def test_a_model_is_seen_and_nothing_changes():
    """Before and after its meeting is settled, and at mixing 3/4. Kills: a query that knows less
    than a plan does, or that commits."""
    algorithm = replace(ALONE, mixing=0.75)
    state, ledgers = begun(12, 0)
    state = step(algorithm, state, ledgers, [0, 1])  # X' = 6, 4, whose mean is 5
    for _ in range(2):
        seen = [query_for(algorithm, state, c).answer(ledger) for c, ledger in enumerate(ledgers)]
        assert [model.item() for model in seen] == [5.25, 4.75]
    assert ledgers[0].pending_round == 0 and ledgers[0].memory[MODEL].item() == 12
    with pytest.raises(LostModel):
        query_for(algorithm, state, 0).answer(Ledger())


def test_where_newcomers_begin():
    """At the entry of the time when they came; who begins again, at the new one.

    Kills: a start that moves while its client is away, or that outlives its first step.
    """
    state = replace(begun(0, 0, 0, 0)[0], acknowledged={3: 0}, round=1)
    moved = enter(state, np.ones(1), again=[2])
    assert [start_of(moved, client).item() for client in range(5)] == [0, 0, 1, 1, 1]
    assert set(moved.starts) == {0, 1} and moved.entry.item() == 1
    later = enter(replace(moved, enrolled=dict.fromkeys(range(5), 1)), np.full(1, 2.0))
    assert [start_of(later, client).item() for client in range(6)] == [0, 0, 1, 2, 1, 2]
    assert [plan_for(ALONE, later, c).model is None for c in range(5)] == [False] * 3 + [
        True,
        False,
    ]
    assert plan_for(ALONE, later, 4).model.item() == 1
    report, _ = answer(CLIENTS[0], plan_for(ALONE, later, 0), Ledger())
    assert set(apply(ALONE, later, [report])[0].starts) == {1, 2, 4}
    assert set(forget(later, [1]).starts) == {0, 2, 4}


def test_what_a_client_is_asked():
    """Kills: a plan without its decay, with another's relay, with the entry for who has begun."""
    algorithm = replace(
        ALONE, step_size=0.5, decay=fb.cosine_decay(samples=4, final=0.5), mixing=0.75
    )
    relay = fb.identity().encode(np.ones(1))
    state = replace(begun(8, 0)[0], round=7, samples=2, acknowledged={1: 5}, relays={1: relay})
    new, known = plan_for(algorithm, state, 0), plan_for(algorithm, state, 1)
    assert new == replace(known, client=0, acknowledged=NEVER, partner=None, model=state.entry)
    assert (known.round, known.seed, known.client, known.acknowledged) == (7, 0, 1, 5)
    assert known.partner is relay and known.model is None
    assert known.step_size == pytest.approx(0.375, rel=1e-15)  # half way from .5 to .25
    assert (known.mixing, known.estimator, known.batch_size) == (0.75, HALF, None)
    assert plan_for(algorithm, state, 0, begun=True).model is None
