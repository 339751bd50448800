"""Exactly once between clients that own their models: a pair averages, or neither of it does."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from fedbias.gossip import GossipAlgorithm, GossipPlan, GossipState, apply, plan_for
from fedbias.gossip import respond as answer
from fedbias.gossip.client import MODEL, settled
from fedbias.gossip.server import asked
from fedbias.ledger import Ledger
from tests.tools.exactly_once import bits
from tests.tools.gossip_clients import HALF

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
    there = everything(
        name, rounds, participation=lambda k: {*range(4)} - {c for j, c in gone if j == k}
    )
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
    state, ledgers, present = (
        GossipState(ENTRY, enrolled=dict.fromkeys(range(4), 8)),
        [Ledger()] * 4,
        {},
    )
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
