"""Exactly once, where batch sizes and step sizes follow from what was applied."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.server import apply, plan_for
from fedbias.state import ServerState
from tests.tools.exactly_once import both_ways, everything
from tests.tools.uneven import uneven

SIZES = (50, 30, 12, 1)
CLIENTS, START = uneven(*SIZES, dim=6), np.linspace(1, 3, 6)
ROUNDS = 15
OPTIMIZERS = {
    "heavy ball": fb.heavy_ball(0.2, 0.5),
    "AdaGrad": fb.adagrad(0.5),
    "AdaGrad-Norm": fb.adagrad_norm(1.0),
    "Adam": fb.adam(0.2),
}
SPARSE = {"compressor": fb.top_k(0.34), "feedback": fb.error_feedback()}
SETTINGS = {
    "norm test": {"batch_size": fb.norm_test(eta=0.2, maximum=40)},
    "norm test, top-k": {"batch_size": fb.norm_test(eta=0.2, maximum=40), **SPARSE},
    "norm test, EF21": {
        "batch_size": fb.norm_test(eta=0.2, maximum=40),
        "compressor": fb.dithered(3),
        "feedback": fb.ef21(),
        "weights": "examples",
    },
    "norm test, reshuffled, decaying": {
        "batch_size": fb.norm_test(eta=0.2, maximum=40, initial=3),
        "estimator": fb.minibatch("reshuffle"),
        "decay": fb.cosine_decay(samples=1500, warmup=40),
        **SPARSE,
    },
    "augmented test": {"batch_size": fb.augmented_test(theta=0.5, nu=1.0, maximum=40), **SPARSE},
    "clients compared": {
        "batch_size": fb.cross_client_test(eta=0.5, maximum=40),
        "compressor": fb.random_k(0.5),
    },
    "local steps": {
        "batch_size": fb.local_norm_test(eta=0.7, maximum=40),
        "estimator": fb.local_steps(2, 0.05, 0.5, fb.minibatch("reshuffle")),
        "decay": fb.cosine_decay(samples=3000),
        **SPARSE,
    },
    "linear": {"batch_size": fb.linear_batch(2, 40, 200), **SPARSE},
    "stage-wise": {"batch_size": fb.stagewise_batch(2, 3, 30, 40), "feedback": fb.ef21()},
}


def chosen(name):
    return {"estimator": fb.minibatch(), **SETTINGS[name]}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_fifth_of_the_replies_lost(name, optimizer):
    """Points, memories, optimizer state, sizes, samples and wishes, bit for bit and round by round
    those of the run in which the pairs were left out; and the runs are not trivial.

    Kills: a size, or samples, of replies that never came.
    """
    gone = {(k, client) for k in range(ROUNDS) for client in fb.lost(1, k, range(4), 0.2)}
    assert 8 <= len(gone) <= 16
    run = CLIENTS, OPTIMIZERS[optimizer], START, ROUNDS
    lossy, sparse = both_ways(gone, *run, **chosen(name))
    assert lossy == sparse
    sizes = [state[7][0] for state in lossy[0]]
    assert len(set(sizes)) > 2 and sizes == sorted(sizes) and sizes[-1] > 8
    samples = [state[7][1] for state in lossy[0]]
    local = 2 if name == "local steps" else 1
    assert samples == [
        local * sum(min(size, SIZES[client]) for client in state[5])
        for size, state in zip(sizes, lossy[0], strict=True)
    ]
    whole = everything(*run, **chosen(name))
    assert whole[0][-1][6][1] > lossy[0][-1][6][1]  # more samples where none was lost


pairs = st.sets(st.sampled_from([(k, client) for k in range(6) for client in range(4)]))


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=10)
@given(gone=pairs)
def test_whichever_replies_are_lost(name, gone):
    """Rounds without any reply included: they leave sizes and samples as they were."""
    run = CLIENTS, fb.adagrad_norm(1.0), START, 6
    lossy, sparse = both_ways(gone, *run, **chosen(name))
    assert lossy == sparse
    before = (None, 0)
    for k, state in enumerate(lossy[0]):
        if all((k, client) in gone for client in range(4)):
            assert state[6] == before and state[7][1:] == (0, "nan")
        before = state[6]


@pytest.mark.parametrize("name", SETTINGS)
def test_repeated_plans_get_identical_bytes(name):
    """Every plan twice, through its record; the first answer and the last are one, statistic
    included. The second and the fourth client's replies are lost now and then.

    Kills: a statistic of another batch, a position that moved although nothing was applied.
    """
    made = Algorithm(OPTIMIZERS["Adam"], **chosen(name))
    state, told = ServerState(START, enrolled=dict(enumerate(SIZES))), 0
    ledgers = [Ledger()] * 4
    for round in range(8):
        reports = []
        for client, objective in enumerate(CLIENTS):
            plan = fb.Plan.from_record(plan_for(made, state, client).to_record())
            first, ledgers[client] = respond(objective, plan, ledgers[client])
            again, ledgers[client] = respond(objective, plan, ledgers[client])
            assert first.to_record() == again.to_record()
            told += first.statistic is not None
            if (round + client) % 3 or client % 2 == 0:
                reports.append(fb.Report.from_record(first.to_record()))
        state, outcome = apply(made, state, reports)
        assert len(outcome.applied) == len(reports)
    assert state.batch_size > 2
    assert (told >= 24) == (made.batching.measures is not None)


def test_lost_memory_loses_no_size():
    """b is the server's alone. Kills: a client that starts again with the first size."""
    made = Algorithm(OPTIMIZERS["Adam"], **chosen("norm test, top-k"))
    state = ServerState(START, 9, acknowledged={0: 8}, enrolled={0: 50}, batch_size=31, samples=500)
    report, _ = respond(CLIENTS[0], plan_for(made, state, 0), Ledger())
    after, outcome = apply(made, state, [report])
    assert outcome.forgotten == (0,) and outcome.samples == 31
    assert after.samples == 531 and after.batch_size >= 31
