"""The server's side of a round: by hand, whatever arrives, in whatever order."""

import math
from dataclasses import FrozenInstanceError, replace
from itertools import permutations

import numpy as np
import pytest

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.problems import Squares
from fedbias.server import apply, plan_for
from fedbias.state import ServerState

STEP = Algorithm(fb.gradient_descent(1.0))
STATE = ServerState(np.zeros(2), round=4, acknowledged={1: 2})


def report(client, vector=(1.0, 2.0), *, dtype=np.float64, **changes):
    packet = fb.identity().encode(np.array(vector, dtype))
    return replace(fb.Report(4, client, packet, 1, 0.5, 10), **changes)


def raw(*values, dtype=np.float64):
    """A packet that no honest client makes, for it may hold NaN."""
    payload = np.array(values, dtype).tobytes()
    return fb.Packet("identity", np.dtype(dtype), len(values), None, (), payload)


def test_the_uniform_mean_by_hand():
    """(1, 2) and (3, 6) → x = −(2, 4). Kills: a sum, a wrong sign, a step in the wrong round."""
    changes = {"examples": 9, "loss": 1.5, "computed": 5, "lost_memory": True}
    reports = [report(1), report(0, (3.0, 6.0), **changes)]
    state, outcome = apply(STEP, replace(STATE, samples=100), reports)
    assert state.point.tolist() == [-2, -4] and state.round == 5
    assert state.acknowledged == {0: 4, 1: 4} and STATE.acknowledged == {1: 2}
    assert outcome.applied == (0, 1) and outcome.forgotten == (0,) and outcome.refused == {}
    assert outcome.loss == 1.0 and outcome.gradient_norm == math.sqrt(20)
    assert outcome.payload_bits == 256 and outcome.wire_bits == 16 * (10 + 16 + 4)
    assert outcome.computed == 15 and outcome.received == 2
    assert (outcome.samples, state.samples) == (10, 110)  # all of 1 + 9, and not what they computed


def test_the_mean_by_examples_by_hand():
    """1·(1, 2) + 3·(3, 6) over 4, and losses alike. Kills: weights that are ignored or squared."""
    algorithm = replace(STEP, weights="examples")
    reports = [report(0), report(1, (3.0, 6.0), examples=3, loss=1.5)]
    state, outcome = apply(algorithm, STATE, reports)
    assert state.point.tolist() == [-2.5, -5] and outcome.loss == 1.25


def test_the_order_of_arrival_changes_no_bit():
    """Sums of 10^16, 1 and −10^16 depend on their order. Kills: summing as they come."""
    rng = np.random.default_rng(0)
    vectors = [(1e16, 0.1), (1.0, 0.2), (-1e16, 0.3), tuple(rng.standard_normal(2))]
    reports = [report(c, v, examples=c + 1, loss=0.1 * c) for c, v in enumerate(vectors)]
    algorithm = Algorithm(fb.heavy_ball(0.1, 0.5), weights="examples")
    state = replace(STATE, optimizer={"velocity": np.ones(2)})
    outcomes = [apply(algorithm, state, order) for order in permutations(reports)]
    for moved, outcome in outcomes:
        assert moved.point.tobytes() == outcomes[0][0].point.tobytes()
        assert list(moved.optimizer) == ["velocity"]
        velocity = moved.optimizer["velocity"]
        assert velocity.tobytes() == outcomes[0][0].optimizer["velocity"].tobytes()
        assert outcome == outcomes[0][1]


REFUSED = {
    "NaN": ({"packet": raw(1.0, math.nan)}, "1 entries are NaN or infinite"),
    "infinite": ({"packet": raw(math.inf, -math.inf)}, "2 entries are NaN or infinite"),
    "wrong length": ({"packet": raw(1.0, 2.0, 3.0)}, "expected a vector of dim 2"),
    "huge": ({"packet": fb.Packet("random_k", np.dtype(float), 2**32 - 1, None, (1, 7), b"")}, "2"),
    "wrong dtype": ({"packet": raw(1, 2, dtype=np.float32)}, "dtype float32, not float64"),
    "unsorted places": (
        {"packet": fb.Packet("top_k", np.dtype(float), 2, None, (2,), b"\x80" + bytes(16))},
        "the places are not 2 ascending indices",
    ),
    "no radius": (
        {"packet": fb.uniform(2).encode(np.ones(2), radius=2.0)},
        "encoded for a preset radius",
    ),
    "half overflow": (
        {"packet": fb.Packet("half", np.dtype(float), 2, None, (1024,), b"\0\x3c" * 2)},
        "overflows",
    ),
    "an older round": ({"round": 3}, "the report is of round 3, not 4"),
    "a later round": ({"round": 5}, "the report is of round 5, not 4"),
    "no examples": ({"examples": 0}, "0 examples"),
    "negative examples": ({"examples": -3}, "-3 examples"),
    "NaN loss": ({"loss": math.nan}, "a loss of nan"),
    "infinite loss": ({"loss": math.inf}, "a loss of inf"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("weights", ["uniform", "examples"])
@pytest.mark.parametrize("client", [0, 1, 9])  # before, instead of, and after the good ones
def test_a_bad_report_is_refused_and_the_round_goes_on(case, weights, client):
    """Kills: a check that is dropped, a refused report that counts in a mean, a round that ends."""
    changes, reason = REFUSED[case]
    algorithm = replace(STEP, weights=weights)
    good = [report(c, (c + 1.0, 2.0), examples=c + 1) for c in (0, 1, 2) if c != client]
    state, outcome = apply(algorithm, STATE, [*good, report(client, **changes)])
    expected, without = apply(algorithm, STATE, good)
    assert outcome.refused.keys() == {client} and reason in outcome.refused[client]
    assert state.point.tobytes() == expected.point.tobytes()
    assert state.acknowledged == expected.acknowledged
    assert replace(outcome, refused={}) == without


@pytest.mark.parametrize("weights", ["uniform", "examples"])
@pytest.mark.parametrize("examples", [10**400, 10**309], ids=["1e400", "1e309"])
def test_absurd_weights_do_not_end_the_run(weights, examples):
    """A whole number that no float holds: the report may be refused, the server goes on."""
    algorithm = replace(STEP, weights=weights)
    state, _ = apply(algorithm, STATE, [report(0), report(1, examples=examples)])
    assert state.round == 5 and np.isfinite(state.point).all()


def test_a_second_report_is_refused():
    """Kills: a client that counts twice."""
    state, outcome = apply(STEP, STATE, [report(1), report(0, (3.0, 6.0)), report(1, (9.0, 9.0))])
    assert state.point.tolist() == [-2, -4] and outcome.applied == (0, 1)
    assert outcome.refused == {1: "client 1 reported twice in round 4"}


@pytest.mark.parametrize("reports", [[], [report(0, round=1)], [report(0), report(2, round=9)]])
def test_too_few_replies_leave_the_model_untouched(reports):
    """Only the round moves. Kills: an optimizer step on nothing, a premature acknowledgement."""
    algorithm = Algorithm(fb.heavy_ball(0.1, 0.5), minimum_replies=2)
    state = replace(STATE, optimizer={"velocity": np.ones(2)}, buffers=None)
    moved, outcome = apply(algorithm, state, reports)
    assert moved == replace(state, round=5) and moved.point is state.point
    assert outcome.applied == () and math.isnan(outcome.loss)
    assert outcome.computed == outcome.samples == 0
    assert len(outcome.refused) == len([r for r in reports if r.round != 4])
    assert outcome.received + len(outcome.refused) == len(reports)


def test_enough_replies_are_enough():
    algorithm = replace(STEP, minimum_replies=2)
    assert apply(algorithm, STATE, [report(0), report(3)])[1].applied == (0, 3)


def with_buffers(client, values, **changes):
    return report(client, buffers=raw(*values), **changes)


def test_buffers_are_averaged_with_the_weights():
    """Kills: buffers of the last client, buffers that move by the optimizer's step."""
    state = replace(STATE, buffers=np.array([5.0]))
    reports = [with_buffers(0, [1.0]), with_buffers(1, [4.0], examples=2)]
    assert apply(STEP, state, reports)[0].buffers.tolist() == [2.5]
    moved, outcome = apply(replace(STEP, weights="examples"), state, reports)
    assert moved.buffers.tolist() == [3] and state.buffers.tolist() == [5]
    assert outcome.wire_bits == 16 * (10 + 16 + 4) + 16 * (10 + 8 + 4)
    assert apply(STEP, state, [])[0].buffers is state.buffers
    assert apply(STEP, STATE, reports)[0].buffers is None  # nobody asked for them


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (report(1), "lacks the buffers"),
        (with_buffers(1, [1.0, 2.0]), "expected a vector of dim 1"),
        (with_buffers(1, [math.nan]), "1 entries are NaN or infinite"),
    ],
)
def test_bad_buffers_are_refused(bad, reason):
    """Kills: a mean over buffers that some clients did not send."""
    state = replace(STATE, buffers=np.array([5.0]))
    moved, outcome = apply(STEP, state, [with_buffers(0, [1.0]), bad])
    assert outcome.applied == (0,) and reason in outcome.refused[1]
    assert moved.buffers.tolist() == [1]


class Counting(Squares):
    """An objective whose buffer counts gradients, in place, as BatchNorm's counter does."""

    def __init__(self):
        super().__init__(np.eye(2), np.ones(2))
        object.__setattr__(self, "buffers", np.zeros(1))

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)

    def gradient(self, point, batch=None):
        self.buffers += 1  # in place
        return super().gradient(point, batch)


def test_an_objective_may_change_its_buffers_in_place():
    """The plan and the server keep theirs. Kills: one array shared by server and clients."""
    plan = plan_for(STEP, replace(STATE, buffers=np.array([5.0])), 0)
    answers = [respond(Counting(), plan, Ledger())[0] for _ in range(2)]
    assert [fb.decode(answer.buffers).tolist() for answer in answers] == [[6], [6]]
    assert plan.buffers.tolist() == [5]
    history = fb.run([Counting(), Counting()], fb.gradient_descent(0.1), np.zeros(2), 1)
    assert history.wire_bits.tolist() == [2 * 8 * (14 + 16 + 14 + 8)]


def test_defaults():
    """Kills: a changed default, by which published runs would change."""
    expected = (fb.exact(), fb.identity(), fb.no_feedback(), None, "uniform", 1, 0, 0)
    assert Algorithm(fb.adam()) == Algorithm(fb.adam(), *expected, fb.no_decay())


@pytest.mark.parametrize(
    "value",
    [STEP, STATE, report(0), report(0).packet, Ledger(), plan_for(STEP, STATE, 0)],
    ids=type,
)
def test_values_are_frozen(value):
    """Kills: a state that can be changed in place, and a round that cannot be repeated."""
    name = next(iter(vars(value)))
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, None)


def test_what_a_client_is_asked():
    """Kills: the acknowledgement of another client, a plan for the wrong round."""
    algorithm = Algorithm(
        fb.adam(), fb.minibatch(), fb.half(), fb.error_feedback(), 3, "examples", seed=8
    )
    plan = plan_for(algorithm, STATE, 1)
    assert (plan.round, plan.seed, plan.client, plan.acknowledged) == (4, 8, 1, 2)
    assert plan_for(algorithm, STATE, 2).acknowledged == -1
    assert (plan.estimator, plan.compressor, plan.feedback, plan.batch_size) == (
        *(fb.minibatch(), fb.half(), fb.error_feedback(), 3),
    )
    assert plan.point is STATE.point and plan.buffers is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optimizer": "adam()"}, "optimizer must be like gradient_descent(step_size=0.1), not"),
        ({"estimator": fb.sign()}, "estimator must be like exact(), not sign()"),
        ({"compressor": fb.exact()}, "compressor must be like identity(), not exact()"),
        ({"feedback": None}, "feedback must be like no_feedback(), not None"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, not 0"),
        ({"batch_size": -1}, "batch_size must be a whole number >= 1, not -1"),
        ({"batch_size": True}, "batch_size must be a whole number >= 1, None, or like norm_test"),
        ({"batch_size": "8"}, "norm_test(eta=0.5, maximum=256), not '8'"),
        ({"batch_size": 2.5}, "norm_test(eta=0.5, maximum=256), not 2.5"),
        ({"decay": 0.9}, "decay must be like cosine_decay(samples=100000), not 0.9"),
        ({"batch_size": 8}, "batch_size=8 has no meaning for exact(), which uses all the data"),
        ({"weights": "size"}, "one of 'uniform', 'examples', 'inverse_variance', not 'size'"),
        ({"minimum_replies": 0}, "minimum_replies must be a whole number >= 1, not 0"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"seed": 2**63}, "seed must be a whole number >= 0"),
        ({"seed": 1.0}, "seed must be a whole number >= 0"),
    ],
)
def test_impossible_settings(changes, sentence):
    with pytest.raises(ValueError) as caught:
        replace(STEP, **changes)
    assert str(caught.value).startswith("algorithm: ") and sentence in str(caught.value)
