"""Exactly once between clients that own their models: a pair averages, or neither of it does."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from fedbias.gossip import GossipAlgorithm, GossipPlan, GossipState, apply, model_of, plan_for
from fedbias.gossip import respond as answer
from fedbias.gossip.client import MODEL, settled
from fedbias.gossip.server import asked, forget
from fedbias.ledger import NEVER, Ledger, LostModel
from tests.fedbias.test_gossip import HALF, at, centred
from tests.tools.exactly_once import bits

PROBLEM = fb.LeastSquares.random(4, 10, 0, clients=4)
GRADIENTS = PROBLEM.objectives
MIXED = [
    *GRADIENTS[:2],
    fb.ForwardOnly(GRADIENTS[2]),
    fb.ForwardOnly(GRADIENTS[3], directional=True),
]
ENTRY = np.linspace(-1, 1, 4)
STARTS = [ENTRY * (client + 1) for client in range(4)]
DRAWN = fb.minibatch("reshuffle")
SETTINGS = {
    "exact": {"estimator": fb.exact(), "step_size": 0.3},
    "one pair": {"estimator": fb.exact(), "step_size": 0.3, "matching": fb.random_pair()},
    "ring, half way": {"estimator": HALF, "matching": fb.along("ring"), "mixing": 0.5},
    "reshuffled, uniform": {"estimator": DRAWN, "batch_size": 3, "compressor": fb.uniform(3)},
    "momentum, dithered": {
        "estimator": fb.local_steps(2, 0.05, 0.5, DRAWN),
        "batch_size": 3,
        "compressor": fb.dithered(3),
    },
    "ef21": {
        "estimator": fb.local_steps(1, 0.1, 0.5, DRAWN),
        "batch_size": 3,
        "compressor": fb.top_k(0.5),
        "feedback": fb.ef21(),
        "mixing": 0.3,
        "decay": fb.cosine_decay(samples=60),
    },
    "mixed": {
        "estimator": fb.by_capability(
            gradient=fb.local_steps(1, 0.1, 0.5, DRAWN),
            directional=fb.forward_gradient(2),
            loss=fb.local_steps(1, 0.05, 0.9, fb.two_point(3, 1e-3)),
        ),
        "batch_size": 3,
        "step_size": 0.5,
        "decay": fb.cosine_decay(samples=60, warmup=20),
    },
}
each = pytest.mark.parametrize("name", SETTINGS)


def chosen(name):
    """The objectives and the settings of this name."""
    some = {"matching": fb.random_matching()} | SETTINGS[name]
    return (MIXED if name == "mixed" else GRADIENTS), some


def everything(name, rounds, **who):
    """All that a run shows, as bytes: in every round, and what clients remember at the end."""
    objectives, some = chosen(name)
    history = fb.run_gossip(objectives, STARTS, rounds, **some, **who, seed=3)
    assert not any(outcome.refused for outcome in history.outcomes)
    shown = (history.points, history.losses, history.spreads, history.wire_bits)
    rounds = [replace(o, loss=repr(o.loss), gradient_norm=None) for o in history.outcomes]
    rounds = [replace(o, wanted=None) for o in rounds]  # NaN is not itself
    return [array.tobytes() for array in shown], rounds, [bits(kept) for kept in history.memories]


def both_ways(name, rounds, gone):
    """The run in which these replies are lost, and the one in which these clients are not asked."""
    lost = everything(name, rounds, lost=lambda k: [c for c in range(4) if (k, c) in gone])
    there = everything(name, rounds, participation=lambda k: {*range(4)} - {c for j, c in gone if j == k})
    return lost, there


@each
def test_a_fifth_of_the_models_lost(name):
    """Bit for bit the run in which they were left out; not the run without loss.

    Kills: a step, a momentum, a batch or an h that moves with a model that never came; a partner
    that averages alone.
    """
    gone = {(k, client) for k in range(15) for client in fb.lost(1, k, range(4), 0.2)}
    assert 6 <= len(gone) <= 18
    lossy, sparse = both_ways(name, 15, gone)
    assert lossy == sparse
    assert lossy[0] != everything(name, 15)[0]
    for k, outcome in enumerate(lossy[1]):
        away = {client for j, client in gone if j == k}
        assert not away & set(outcome.applied)
        assert not any(away & set(pair) for pair in outcome.pairs)
    assert any(len(outcome.pairs) == 1 for outcome in lossy[1])


@each
@settings(max_examples=8)
@given(gone=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 3))))
def test_whichever_models_are_lost(name, gone):
    """Rounds in which nothing arrived included."""
    lossy, sparse = both_ways(name, 5, gone)
    assert lossy == sparse


@pytest.mark.parametrize("mixing", [1.0, 0.25])
@pytest.mark.parametrize("seed", range(3))
def test_against_the_plain_rule(seed, mixing):
    """X' = X − η∇f, then the pairs of which both are there: nothing else, bit for bit.

    Kills: half a meeting, a relay that is kept or forgotten, a partner's partner.
    """
    gone = {(k, c) for k in range(12) for c in fb.lost(seed, k, range(4), 0.3)}
    models, expected = list(STARTS), [np.mean(STARTS, axis=0)]
    for k in range(12):
        there = {client for client in range(4) if (k, client) not in gone}
        for client in there:
            models[client] = models[client] - 0.3 * GRADIENTS[client].gradient(models[client])
        for i, j in fb.random_matching().pairs(seed, k, range(4)):
            if {i, j} <= there:
                met = (models[i] + models[j]) / 2
                models[i] = met if mixing == 1 else models[i] + mixing * (met - models[i])
                models[j] = met if mixing == 1 else models[j] + mixing * (met - models[j])
        expected.append(np.mean(models, axis=0))
    history = fb.run_gossip(
        *(GRADIENTS, STARTS, 12),
        estimator=fb.exact(),
        matching=fb.random_matching(),
        step_size=0.3,
        mixing=mixing,
        lost=lambda k: [c for c in range(4) if (k, c) in gone],
        seed=seed,
    )
    assert history.points.tobytes() == np.stack(expected).tobytes()
    assert [kept[MODEL].tobytes() for kept in history.memories] == [m.tobytes() for m in models]


FATES = ["arrives", "repeated", "lost", "repeated and lost", "not asked"]


@each
@settings(max_examples=8)
@given(fates=st.lists(st.lists(st.sampled_from(FATES), min_size=4, max_size=4), max_size=6))
def test_message_by_message(name, fates):
    """Through records, from a server that says where to begin, against the loop.

    A repeated plan is answered with identical bytes. Kills: a meeting that happens twice, a
    newcomer that is told where to begin once only.
    """
    objectives, some = chosen(name)
    algorithm = GossipAlgorithm(**some, seed=3)
    state, ledgers, present = GossipState(ENTRY, enrolled=dict.fromkeys(range(4), 8)), [Ledger()] * 4, {}
    for row in fates:
        reports = []
        for client in asked(algorithm, state):
            if row[client] == "not asked":
                continue
            plan = GossipPlan.from_record(plan_for(algorithm, state, client).to_record())
            records = []
            for _ in range(1 + ("repeated" in row[client])):
                report, ledgers[client] = answer(objectives[client], plan, ledgers[client])
                records.append(report.to_record())
            assert records[0] == records[-1]
            if "lost" not in row[client]:
                reports.append(fb.Report.from_record(records[0]))
        state, outcome = apply(algorithm, state, reports)
        assert not outcome.refused
        present[state.round - 1] = outcome.applied
    expected = fb.run_gossip(
        *(objectives, [ENTRY] * 4, len(fates)),
        **some,
        participation=present.__getitem__,
        seed=3,
    )
    assert state.samples == sum(outcome.samples for outcome in expected.outcomes)
    for client, ledger in enumerate(ledgers):
        if client in state.acknowledged:
            met = settled(
                *(ledger, state.acknowledged[client], state.relays.get(client)), algorithm.mixing
            )
            assert bits(met.memory) == bits(expected.memories[client])
        else:
            assert bits(expected.memories[client]) == bits({MODEL: ENTRY})


ALONE = GossipAlgorithm(estimator=HALF)


def begun(*starts, algorithm=ALONE):
    """The objectives (x − 0)²/2, (x − 8)²/2, … of one round, and who has what before it."""
    state = GossipState(np.zeros(1), enrolled=dict.fromkeys(range(len(starts)), 1))
    return state, [Ledger(memory={MODEL: start}) for start in at(*starts)]


CLIENTS = centred(0, 8)


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


def test_a_server_that_forgot_a_client_which_did_not_forget():
    """It begins at the entry all the same, without its old momentum. Kills: a newcomer with the
    memory of another life."""
    state, ledgers = begun(8, 0)
    state = forget(step(ALONE, state, ledgers, [0, 1]), [0])
    report, ledger = answer(CLIENTS[0], replace(plan_for(ALONE, state, 0), model=np.ones(1)), ledgers[0])
    assert fb.decode(report.packet).tolist() == [0.5]  # 1 − ½·1, not 1 − ½·(8/2 + 1)
    assert bits(ledger.memory) == bits({MODEL: np.ones(1)})


def test_an_old_plan_does_no_harm():
    """One of a round that is over: it is refused, and nothing was changed."""
    state, ledgers = begun(8, 0)
    old = plan_for(ALONE, state, 0, begun=True)
    state = step(ALONE, state, ledgers, [0, 1])
    state = step(ALONE, state, ledgers, [0, 1])
    kept = ledgers[0]
    with pytest.raises(LostModel):
        answer(CLIENTS[0], old, kept)
    assert models(state, ledgers) == models(state, [kept, ledgers[1]])


def test_what_a_client_is_asked():
    """Kills: a plan without its decay, with another's relay, or with the entry for who has begun."""
    algorithm = replace(ALONE, step_size=0.5, decay=fb.cosine_decay(samples=4, final=0.5), mixing=0.75)
    relay = fb.identity().encode(np.ones(1))
    state = replace(begun(8, 0)[0], round=7, samples=2, acknowledged={1: 5}, relays={1: relay})
    new, known = plan_for(algorithm, state, 0), plan_for(algorithm, state, 1)
    assert new == replace(known, client=0, acknowledged=NEVER, partner=None, model=state.entry)
    assert (known.round, known.seed, known.client, known.acknowledged) == (7, 0, 1, 5)
    assert known.partner is relay and known.model is None
    assert known.step_size == pytest.approx(0.375, rel=1e-15)  # half way from .5 to .25
    assert (known.mixing, known.estimator, known.batch_size) == (0.75, HALF, None)
    assert plan_for(algorithm, state, 0, begun=True).model is None
