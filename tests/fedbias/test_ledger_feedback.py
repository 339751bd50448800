"""Exactly once, for every feedback with every step: points, and all that anybody remembers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from tests.tools.exactly_once import both_ways, everything
from tests.tools.quantized import endless

PROBLEM = fb.LeastSquares.random(4, 10, 0, clients=3)
START = np.linspace(-1, 1, 4)
FEEDBACKS = {
    "none": fb.no_feedback(),
    "error feedback": fb.error_feedback(),
    "ef21": fb.ef21(),
    "differential": fb.differential(),
    "memory": fb.differential(memory=True),
}
OPTIMIZERS = {
    "GD": fb.gradient_descent(0.3),
    "HB": fb.polyak(0.3, 0.5),
    "NAG": fb.nesterov(0.3, 0.5),
    "parallel": fb.heavy_ball(0.3, 0.5),
}
PAIRS = [
    (feedback, optimizer)
    for feedback in FEEDBACKS
    for optimizer in OPTIMIZERS
    if optimizer != "parallel" or not FEEDBACKS[feedback].shifts
]
SETTINGS = {
    "exact, top k": {"compressor": fb.top_k(0.5)},
    "reshuffled, uniform": {
        "estimator": fb.minibatch("reshuffle"),
        "batch_size": 3,
        "compressor": fb.uniform(3),
    },
    "local, dithered": {
        "estimator": fb.local_steps(2, 0.05, 0.5, fb.minibatch("reshuffle")),
        "batch_size": 3,
        "compressor": fb.dithered(3),
        "weights": "examples",
    },
}


@pytest.mark.parametrize(("feedback", "optimizer"), PAIRS)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_fifth_of_the_replies_lost(feedback, optimizer, name):
    """Bit for bit the run in which they were left out, round by round; not the run without loss.

    Kills: an error, an h on either side, a momentum, a batch or a count that moves with a reply
    that never came.
    """
    run = PROBLEM.objectives, OPTIMIZERS[optimizer], START, 15
    chosen = {"feedback": FEEDBACKS[feedback], **SETTINGS[name]}
    gone = {(k, client) for k in range(15) for client in fb.lost(1, k, range(3), 0.2)}
    assert 5 <= len(gone) <= 13
    lossy, sparse = both_ways(gone, *run, **chosen)
    assert lossy == sparse
    assert lossy[0] != everything(*run, **chosen)[0]
    remembered = set(lossy[1][0])
    expected = {
        "none": set(),
        "error feedback": {"feedback.error"},
        "ef21": {"feedback.gradient"},
        "differential": {"feedback.error"},
        "memory": {"feedback.error", "feedback.gradient"},
    }[feedback]
    if FEEDBACKS[feedback].shifts and optimizer != "GD":
        expected |= {"feedback.earlier"}
    assert {each for each in remembered if each.startswith("feedback.")} == expected
    assert len(lossy[0][-1][2]) == (3 if FEEDBACKS[feedback].remembers else 0)


everyone = [(k, client) for k in range(6) for client in range(3)]


@pytest.mark.parametrize(("feedback", "optimizer"), PAIRS)
@settings(max_examples=10)
@given(gone=st.sets(st.sampled_from(everyone)))
def test_whichever_replies_are_lost(feedback, optimizer, gone):
    """Rounds without any reply included."""
    run = PROBLEM.objectives, OPTIMIZERS[optimizer], START, 6
    settings = {"feedback": FEEDBACKS[feedback], "compressor": fb.uniform(3)}
    lossy, sparse = both_ways(gone, *run, **settings)
    assert lossy == sparse


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("method", ["gradient_descent", "nesterov", "polyak"])
@settings(max_examples=10)
@given(gone=st.sets(st.sampled_from([(k, 0) for k in range(12)])))
def test_a_preset_schedule_too(memory, method, gone):
    """One client. Kills: a radius of the round in the place of the count's."""
    case = endless(method, 4)
    lossy, sparse = both_ways(
        *(gone, [case.objective], case.method.optimizer, case.start, 12),
        feedback=fb.differential(case.preset, memory),
        compressor=fb.dithered(6),
    )
    assert lossy == sparse
    assert lossy[0][-1][3] == ({0: 12 - len(gone)} if len(gone) < 12 else {})
