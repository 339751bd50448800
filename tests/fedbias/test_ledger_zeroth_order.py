"""Exactly once, where clients differ in what they can compute and in what they remember."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.estimators import as_estimator
from fedbias.ledger import Ledger
from fedbias.server import apply, plan_for
from fedbias.state import ServerState
from tests.tools.exactly_once import both_ways, everything
from tests.tools.kinds import Cliff, able

PROBLEM = fb.LeastSquares.random(4, 10, 0, clients=5)
CLIENTS = able(PROBLEM.objectives, "ggdll")
CLIENTS[4] = Cliff(PROBLEM.objectives[4], 0.05)  # which drops a direction now and then
START = np.linspace(-1, 1, 4)
ROUNDS = 15
KINDS = {
    "gradient": fb.minibatch("reshuffle"),
    "directional": fb.forward_gradient(2),
    "loss": fb.two_point(4, 0.3),
}
STEPS = {kind: fb.local_steps(2, 0.05, 0.5, inner=estimator) for kind, estimator in KINDS.items()}
SPARSE = {"compressor": fb.top_k(0.5), "feedback": fb.error_feedback()}
SETTINGS = {
    "top k": SPARSE,
    "by examples, top k": {"weights": "examples", **SPARSE},
    "inverse variance": {"weights": "inverse_variance"},
    "inverse variance, top k": {"weights": "inverse_variance", **SPARSE},
    "EF21": {"compressor": fb.top_k(0.5), "feedback": fb.ef21()},
    "differential": {"compressor": fb.uniform(6), "feedback": fb.differential()},
    "local steps": {"estimator": STEPS, "weights": "inverse_variance", **SPARSE},
    "growing batches": {
        "batch_size": fb.cross_client_test(eta=0.5, maximum=40),
        "weights": "inverse_variance",
        **SPARSE,
    },
}

REMEMBERED = {  # by clients with gradients, and without: seeds and scalars lose nothing
    "inverse variance": [{"batches.seen"}, set()],
    "EF21": [{"feedback.gradient", "batches.seen"}, {"feedback.gradient"}],
    "local steps": [
        {"feedback.error", "local_steps.momentum", "batches.seen"},
        {"feedback.error", "local_steps.momentum"},
    ],
}


def chosen(name):
    return {"estimator": KINDS, "batch_size": 3} | SETTINGS[name]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_fifth_of_the_replies_lost(name):
    """Points, memories on both sides, variances and dropped directions, bit for bit and round by
    round those of the run in which the pairs were left out; and the runs are not trivial.

    Kills: a variance of replies that never came, an error of seeds and scalars, a seed that counts
    the replies.
    """
    gone = {(k, client) for k in range(ROUNDS) for client in fb.lost(2, k, range(5), 0.2)}
    assert 8 <= len(gone) <= 22
    run = CLIENTS, fb.gradient_descent(0.2), START, ROUNDS
    lossy, sparse = both_ways(gone, *run, **chosen(name))
    assert lossy == sparse
    whole = everything(*run, **chosen(name))
    assert whole[0] != lossy[0]
    variances, dropped = zip(*(state[8] for state in lossy[0]), strict=True)
    assert sum(dropped) > 0 or name == "local steps"
    known = ["gradient", "loss"] if chosen(name).get("weights") == "inverse_variance" else []
    assert list(variances[-1]) == known
    if known:
        rounds = [state[8][0]["gradient"][0] for state in whole[0] if state[8][0]]
        assert 0 < variances[-1]["gradient"][0] < rounds[-1] == ROUNDS
    gradient, *others = REMEMBERED.get(name, [{"feedback.error", "batches.seen"}, set()])
    assert [set(memory) for memory in lossy[1]] == [*[gradient] * 2, *others * 3]


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=8)
@given(gone=st.sets(st.sampled_from([(k, client) for k in range(5) for client in range(5)])))
def test_whichever_replies_are_lost(name, gone):
    """Rounds without any reply, or without one of a kind, included."""
    run = CLIENTS, fb.heavy_ball(0.2, 0.5), START, 5
    changes = chosen(name)
    if name == "differential":
        run = CLIENTS, fb.polyak(0.2, 0.5), START, 5
    lossy, sparse = both_ways(gone, *run, **changes)
    assert lossy == sparse


@pytest.mark.parametrize("name", SETTINGS)
def test_repeated_plans_get_identical_bytes(name):
    """Every plan twice, through its record, and seeds of one turn. Kills: a stream that goes on
    from one answer to the next."""
    known = chosen(name)
    made = Algorithm(
        fb.gradient_descent(0.2), **(known | {"estimator": as_estimator(known["estimator"])})
    )
    state, ledgers = ServerState(START), [Ledger()] * 5
    for round in range(5):
        reports = []
        for client, objective in enumerate(CLIENTS):
            plan = fb.Plan.from_record(plan_for(made, state, client).to_record())
            first, ledgers[client] = respond(objective, plan, ledgers[client])
            again, ledgers[client] = respond(objective, plan, ledgers[client])
            assert first.to_record() == again.to_record()
            if (round + client) % 3:
                reports.append(fb.Report.from_record(first.to_record()))
        state, outcome = apply(made, state, reports)
        assert len(outcome.applied) == len(reports)
