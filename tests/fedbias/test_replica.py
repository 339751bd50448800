"""A client's copy of the model: the server's steps repeated, and what is no step refused."""

import json
from dataclasses import replace
from unittest import mock
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.directions import combination
from fedbias.headers import ProtocolError
from fedbias.ledger import Ledger, LostModel
from fedbias.packets import PacketError
from fedbias.replica import (
    Replica,
    Step,
    caught_up,
    check_seeds,
    followed,
    step_of,
    steps_record,
    whole_record,
)
from fedbias.rounds import dense
from fedbias.server import apply, plan_for, weights_of
from fedbias.state import ServerState
from tests.tools.kinds import Cliff, able
from tests.tools.messages import JSON
from tests.tools.uneven import uneven

DIM = 30
OPTIMIZERS = [
    fb.gradient_descent(0.05),
    fb.heavy_ball(0.05, 0.3),
    fb.polyak(0.04, 0.4),
    fb.nesterov(0.04, 0.4),
    fb.adagrad(0.1),
    fb.adagrad_norm(0.3, initial=0.1),
    fb.adam(0.05),
]
TWO = fb.by_capability(directional=fb.forward_gradient(3), loss=fb.two_point(3, 1e-4))
SETTINGS = {
    "plain": {"estimator": fb.two_point(3, 1e-4)},
    "decay": {
        "estimator": TWO,
        "batch_size": 5,
        "decay": fb.cosine_decay(samples=400, warmup=30),
        "weights": "examples",
    },
    "inverse variance": {"estimator": TWO, "weights": "inverse_variance"},
}


def played(algorithm, objectives, start, rounds, silent=lambda k: ()):
    """(before, after, the applied reports) of every round of a federation in the core."""
    state, ledgers = ServerState(start), [Ledger() for _ in objectives]
    for k in range(rounds):
        reports = {}
        for client, objective in enumerate(objectives):
            plan = plan_for(algorithm, state, client)
            reports[client], ledgers[client] = respond(objective, plan, ledgers[client])
        arrived = [report for client, report in reports.items() if client not in silent(k)]
        after, outcome = apply(algorithm, state, arrived)
        yield state, after, {client: reports[client] for client in outcome.applied}
        state = after


def same(replica, state):
    assert replica.round == state.round
    assert replica.point.dtype == state.point.dtype
    assert replica.point.tobytes() == state.point.tobytes()
    assert replica.optimizer.keys() == state.optimizer.keys()
    for name, vector in state.optimizer.items():
        assert replica.optimizer[name].dtype == vector.dtype
        assert replica.optimizer[name].tobytes() == vector.tobytes()


def held(state):
    """What a client that is in step holds."""
    return Replica(state.round, state.point, state.optimizer)


def sent(record):
    """The record as it comes out of a message: nothing in it is Python's own."""
    text = {name: json.loads(json.dumps(p)) for name, p in record.items() if isinstance(p, str)}
    return record | text


# The step -----------------------------------------------------------------------------------------


def test_a_step_by_hand():
    """x − γ·(w_1·2u + w_2·(−4)u')/(w_1 + w_2). Kills: a mean without its weights, another seed."""
    packets = [
        combination(7, np.float32([2.0]), 3, float),
        combination(9, np.float32([-4.0]), 3, float),
    ]
    u, v = fb.direction((7, 0), 3), fb.direction((9, 0), 3)
    step = Step(4, fb.gradient_descent(0.5), (1.0, 3.0), tuple(packets))
    moved = followed(Replica(4, np.array([1.0, 2.0, 3.0])), [step], 5)
    expected = np.array([1.0, 2.0, 3.0]) - 0.5 * (1 * 2 * u + 3 * -4 * v) / 4
    assert moved.round == 5 and moved.optimizer == {}
    np.testing.assert_allclose(moved.point, expected, rtol=1e-15)
    assert step.wire_bytes == 2 * (10 + 12 + 4 + 4)


def test_the_weights_are_summed_as_the_server_does():
    """Ten times 0.1 is 1 − 2^−53, one by one. Kills: the rounding of another sum."""
    packet = combination(1, np.float32([1.0]), 1, float)
    step = Step(0, fb.gradient_descent(1.0), (0.1,) * 10, (packet,) * 10)
    total, mass, u = np.zeros(1), 0.0, fb.direction((1, 0), 1)
    for _ in range(10):
        total, mass = total + 0.1 * u, mass + 0.1
    assert mass == 1 - 2**-53
    assert followed(Replica(0, np.zeros(1)), [step], 1).point.tobytes() == (-total / mass).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
def test_the_clients_steps_are_the_servers(optimizer, case, dtype):
    """Ten rounds, some replies lost, a round without any: bit for bit, through the record.

    Kills: another order, weights of a later round, a step size that does not decay, a state of
    the optimizer that is left behind, a dtype that changes.
    """
    algorithm = Algorithm(optimizer, **SETTINGS[case], seed=4)
    objectives = able(uneven(7, 20, 11, 9, 30, dim=DIM), "ldlld")
    silent = [(), (1,), (), (0, 4), range(5), (), (2,), (), (), ()]
    start = Replica(0, np.linspace(-1, 1, DIM, dtype=dtype))
    each, behind, steps = start, None, []
    for before, after, applied in played(
        algorithm, objectives, start.point, len(silent), silent.__getitem__
    ):
        step = [step_of(algorithm, before, after, applied)] if applied else []
        steps += step
        each = caught_up(sent(steps_record(before.round, held(after), step)), each)
        same(each, after)
        if before.round == 3:
            behind = each
    assert len(steps) == 9 and not np.array_equal(each.point, start.point)
    record = steps_record(0, held(after), steps)
    for replica in (start, behind, each):  # whatever each of them has taken already
        same(caught_up(sent(record), replica), after)
    if case == "decay":
        assert len({step.optimizer.step_size for step in steps}) == 9
    if case == "inverse variance":
        assert len({weight for step in steps for weight in step.weights}) > 5


def test_dropped_directions_are_dropped_again():
    """Kills: NaN that travels into the model."""
    algorithm = Algorithm(fb.gradient_descent(0.05), fb.two_point(6, 0.5), seed=2)
    objectives = [Cliff(f, 0.3) for f in uneven(7, 20, dim=DIM)]
    replica = Replica(0, np.zeros(DIM))
    for before, after, applied in played(algorithm, objectives, replica.point, 3):
        assert sum(report.dropped for report in applied.values()) > 0
        step = step_of(algorithm, before, after, applied)
        replica = caught_up(steps_record(before.round, held(after), [step]), replica)
        same(replica, after)


def test_the_step_of_a_round_by_hand():
    """With its own step size and its own weights, those of the variances before the round."""
    algorithm = Algorithm(
        *(fb.gradient_descent(0.8), TWO),
        weights="inverse_variance",
        decay=fb.cosine_decay(samples=100, final=0.5),
    )
    before = ServerState(np.zeros(DIM), 3, variances={"directional": (1, 2.0), "loss": (4, 16.0)})
    after = replace(before, samples=50, variances={"directional": (2, 1.0), "loss": (5, 1.0)})
    objectives = able(uneven(7, 20, dim=DIM), "ld")
    plans = [plan_for(algorithm, before, client) for client in range(2)]
    reports = [respond(*pair, Ledger())[0] for pair in zip(objectives, plans, strict=True)]
    assert weights_of(algorithm, before, reports) == [0.125, 1.0]
    step = step_of(algorithm, before, after, dict(enumerate(reports)))
    assert (step.round, step.weights) == (3, (0.125, 1.0))
    assert step.optimizer == fb.gradient_descent(0.75 * 0.8)
    assert step.packets == (reports[0].packet, reports[1].packet)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("uniform", [1.0, 1.0, 1.0]),
        ("examples", [7.0, 20.0, 5.0]),
        ("inverse_variance", [0.25, 1.0, 0.25]),
    ],
)
def test_the_weights_of_reports(weights, expected):
    """Kills: a kind's weight without its variance, examples that are not asked for."""
    algorithm = Algorithm(fb.gradient_descent(0.1), TWO, weights=weights)
    state = ServerState(np.zeros(3), variances={"directional": (3, 0.5), "loss": (3, 2.0)})
    packet = combination(1, np.float32([1.0]), 3, float)
    reports = [
        fb.Report(0, client, packet, examples, 0.0, 1, kind)
        for client, (examples, kind) in enumerate([(7, "loss"), (20, "directional"), (5, "loss")])
    ]
    assert weights_of(algorithm, state, reports) == expected
    unknown = replace(state, variances={"loss": (3, 2.0)})
    if weights == "inverse_variance":
        assert weights_of(algorithm, unknown, reports) == [1.0, 1.0, 1.0]


# What cannot be told in seeds ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "feedback", "named"),
    [
        (fb.exact(), fb.no_feedback(), "exact()"),
        (fb.minibatch(), fb.error_feedback(), "minibatch()"),
        (fb.clipped(1.0, inner=fb.two_point(2, 0.1)), fb.no_feedback(), "clipped("),
        (
            fb.by_capability(gradient=fb.exact(), loss=fb.two_point(2, 0.1)),
            fb.no_feedback(),
            "exact()",
        ),
        (fb.two_point(2, 0.1), fb.ef21(), "ef21()"),
        (fb.two_point(2, 0.1), fb.differential(memory=True), "differential(memory=True)"),
    ],
)
def test_vectors_cannot_be_told(estimator, feedback, named):
    """Kills: a client that is sent as many bytes as a model has, or a model that is not the
    server's.
    """
    algorithm = Algorithm(fb.gradient_descent(0.1), estimator, feedback=feedback)
    with pytest.raises(ValueError) as caught:
        check_seeds(algorithm)
    says = str(caught.value)
    assert says.startswith(
        f"broadcast='seeds' repeats the clients' seeds and scalars, and with {named}"
    )
    assert says.endswith("use two_point or forward_gradient alone, or broadcast='model'")


@pytest.mark.parametrize(
    ("estimator", "feedback"),
    [
        (fb.two_point(2, 0.1), fb.no_feedback()),
        (fb.forward_gradient(2), fb.error_feedback()),
        (TWO, fb.differential()),
    ],
)
def test_seeds_can_be_told(estimator, feedback):
    check_seeds(Algorithm(fb.gradient_descent(0.1), estimator, feedback=feedback))


# The record ---------------------------------------------------------------------------------------

POINT = np.array([1.0, -0.0, 5e-324])
PACKETS = tuple(combination(seed, np.float32([1.0, np.nan]), 3, float) for seed in (1, 2, 3))
STEPS = [
    Step(2, fb.heavy_ball(0.5, 0.25), (1.0, 0.1), PACKETS[:2]),
    Step(4, fb.heavy_ball(0.25, 0.25), (3.0,), PACKETS[2:]),
]
AT = Replica(2, POINT, {"velocity": POINT / 3})
END = followed(AT, STEPS, 5)
GOOD = steps_record(2, END, STEPS)


def test_a_whole_replica_there_and_back():
    """Kills: a state that is left out, a dtype or the sign of a zero that changes."""
    for optimizer in ({}, {"count": np.array([2.0]), "first": np.float32([1, 2, 3]) / 3}):
        mine = Replica(7, POINT, optimizer)
        record = whole_record(mine)
        assert record.keys() == {"point", "replica"} | {f"optimizer/{name}" for name in optimizer}
        for before in (None, AT, replace(mine, round=9)):
            found = caught_up(record, before)
            same(found, ServerState(POINT, 7, optimizer))


def test_a_record_of_steps_by_hand():
    """Kills: a packet or a header field more than is needed."""
    assert {
        "steps": f'{{"since": 2, "round": 5, "check": {crc32(END.point.tobytes())}, "steps": '
        '[[2, "heavy_ball(step_size=0.5, beta=0.25)", [1.0, 0.1]], '
        '[4, "heavy_ball(step_size=0.25, beta=0.25)", [3.0]]]}',
        "packets": [bytes(packet) for packet in PACKETS],
    } == GOOD


def test_steps_that_were_taken_are_not_taken_again():
    """Kills: a repeated plan that moves the model once more, or an interval too few or too many."""
    whole = caught_up(GOOD, AT)
    same(whole, END)
    for between in (3, 4):
        at = followed(AT, STEPS[:1], between)
        same(caught_up(GOOD, at), whole)
    assert caught_up(GOOD, whole).point.tobytes() == whole.point.tobytes()
    nothing = steps_record(5, replace(whole, round=6), [])
    same(caught_up(nothing, whole), replace(whole, round=6))


def test_without_the_model_before_it_the_record_is_of_no_use():
    """Kills: steps from the wrong model, in either direction."""
    for other in (None, replace(AT, round=1), replace(AT, round=6)):
        with pytest.raises(LostModel, match="does not have the model that the steps go on from"):
            caught_up(GOOD, other)


ELSEWHERE = "the steps do not lead to the server's model here: other numbers"


@pytest.mark.parametrize(
    "other",
    [
        replace(END, point=np.nextafter(END.point, 9)),
        replace(END, point=END.point.astype(np.float32).astype(float)),
        replace(AT, point=np.nextafter(POINT, 9)),
        replace(AT, optimizer={"velocity": POINT / 2}),
        followed(AT, STEPS[1:], 5),
    ],
    ids=["an ulp", "rounded", "an ulp before the steps", "another velocity", "a step too few"],
)
def test_another_model_of_the_right_round(other):
    """Kills: a client that goes on beside the server, a check of another point or of half of it."""
    assert followed(other, STEPS, 5).point.tobytes() != END.point.tobytes()
    with pytest.raises(LostModel) as caught:
        caught_up(GOOD, other)
    assert str(caught.value) == ELSEWHERE


def test_a_zero_of_the_other_sign_is_another_model():
    """Bit for bit, where no step remains. Kills: a check of the values."""
    record = steps_record(2, AT, [])
    same(caught_up(record, AT), AT)
    with pytest.raises(LostModel, match=ELSEWHERE):
        caught_up(record, replace(AT, point=POINT + 0.0))


def test_a_plan_with_its_own_model_says_nothing_of_steps():
    assert caught_up({"header": "{}", "point": dense(POINT)}, AT) is None


def header(**changes):
    return GOOD | {"steps": json.dumps(json.loads(GOOD["steps"]) | changes)}


def one_step(*step):
    return header(steps=[step]) | {"packets": GOOD["packets"][:2]}


SPELLED, OTHER = "gradient_descent(step_size=0.5)", combination(1, np.float32([1.0]), 4, float)
SINGLE = combination(1, np.float32([1.0]), 3, np.float32)
MALFORMED = {
    "no JSON": (GOOD | {"steps": "{"}, "no JSON header"),
    "a list": (GOOD | {"steps": "[]"}, "must have the fields"),
    "a number": (GOOD | {"steps": 5}, "no JSON header"),
    "another field": (header(x=1), "must have the fields"),
    "no round": (header(round=None), "round cannot be"),
    "no check": (header(check=None), "check cannot be"),
    "a check that is text": (header(check="1"), "check cannot be"),
    "a negative round": (header(since=-1), "since cannot be"),
    "steps that are text": (header(steps="abc"), "steps cannot be"),
    "a step that is a number": (header(steps=[7]), "steps cannot be"),
    "a step of two parts": (one_step(2, SPELLED), "steps cannot be"),
    "a round that is infinite": (one_step(float("inf"), SPELLED, [1.0, 1.0]), "steps cannot be"),
    "a round that is text": (one_step("2", SPELLED, [1.0, 1.0]), "steps cannot be"),
    "an optimizer that is none": (one_step(2, "exact()", [1.0, 1.0]), "'exact()' does not fit"),
    "an unknown optimizer": (one_step(2, "warp()", [1.0, 1.0]), "no setting 'warp'"),
    "an optimizer that is a number": (one_step(2, 3, [1.0, 1.0]), "steps cannot be"),
    "no weights": (one_step(2, SPELLED, []), "steps cannot be"),
    "weights that are text": (one_step(2, SPELLED, "12"), "steps cannot be"),
    "a weight of 0": (one_step(2, SPELLED, [0.0, 1.0]), "steps cannot be"),
    "a negative weight": (one_step(2, SPELLED, [-1.0, 1.0]), "steps cannot be"),
    "a weight that is NaN": (one_step(2, SPELLED, [float("nan"), 1.0]), "steps cannot be"),
    "an infinite weight": (one_step(2, SPELLED, [float("inf"), 1.0]), "steps cannot be"),
    "a weight that is none": (one_step(2, SPELLED, [None, 1.0]), "steps cannot be"),
    "a huge weight": (one_step(2, SPELLED, [10**400, 1.0]), "steps cannot be"),
    "a weight too few": (one_step(2, SPELLED, [1.0]), "one packet for each weight"),
    "a weight too many": (one_step(2, SPELLED, [1.0] * 3), "one packet for each weight"),
    "no packets": ({"steps": GOOD["steps"]}, "no steps' packets"),
    "packets that are one": (GOOD | {"packets": b"".join(GOOD["packets"])}, "no steps' packets"),
    "packets that are text": (GOOD | {"packets": ["a", "b", "c"]}, "no steps' packets"),
    "a truncated packet": (
        GOOD | {"packets": [*GOOD["packets"][:2], GOOD["packets"][2][:-1]]},
        "takes 34 bytes, not 33",
    ),
    "another dim": (GOOD | {"packets": [*GOOD["packets"][:2], bytes(OTHER)]}, "vector of dim 3"),
    "another dtype": (GOOD | {"packets": [*GOOD["packets"][:2], bytes(SINGLE)]}, "dtype float32"),
    "an infinite slope": (
        GOOD | {"packets": [bytes(combination(1, np.float32([np.inf]), 3, float))] * 3},
        "infinite slope",
    ),
    "a step beyond all numbers": (
        one_step(2, "gradient_descent(step_size=1e+308)", [1.0])
        | {"packets": [bytes(combination(1, np.float32([3e38]), 3, float))]},
        "3 entries are NaN or infinite",
    ),
    "another optimizer's state": (one_step(2, "adam()", [1.0, 1.0]), "'count'"),
    "a whole without a round": ({"point": dense(POINT), "replica": "{}"}, "must have the fields"),
    "a whole without a point": ({"replica": '{"round": 3}'}, "no packet 'point'"),
    "a whole with a sparse point": (
        {"replica": '{"round": 3}', "point": bytes(PACKETS[0])},
        "point must come uncompressed",
    ),
    "a whole with half a state": (
        whole_record(AT) | {"optimizer/velocity": dense(POINT)[:-1]},
        "takes 38 bytes, not 37",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_step_is_refused(case):
    """With a sentence. Kills: each check that is dropped, whatever else Python raises."""
    record, says = MALFORMED[case]
    with pytest.raises((ProtocolError, PacketError)) as caught:
        caught_up(record, AT)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
@pytest.mark.parametrize("value", [-3.0, 0.0, 1e308, float("inf"), float("nan")])
def test_a_state_that_no_server_has(optimizer, value):
    """Kills: an exception of another kind, a model of NaN."""
    names = ("velocity", "previous", "descended", "squares", "count", "first", "second")
    for length in (1, 2, 3):
        state = {name: np.full(length, value) for name in names}
        at, steps = replace(AT, optimizer=state), [Step(2, optimizer, (1.0, 2.0), PACKETS[:2])]
        try:
            with np.errstate(all="ignore"):
                end = followed(at, steps, 3)
        except (KeyError, ValueError, ArithmeticError):
            end = None  # there is no such model
        record = steps_record(2, end or Replica(3, POINT), steps)
        try:
            found = caught_up(record, at)
        except (ProtocolError, PacketError):
            assert end is None
            continue
        same(found, end)
        assert np.isfinite(found.point).all()


STEP = st.tuples(
    st.integers(0, 6) | JSON,
    st.sampled_from([repr(optimizer) for optimizer in OPTIMIZERS]) | JSON,
    st.lists(st.floats() | st.integers(), max_size=3) | JSON,
)
PART = st.binary(max_size=40) | st.sampled_from(
    [bytes(packet) for packet in (*PACKETS, OTHER, SINGLE)] + [dense(POINT), dense(POINT[:2])]
)


@settings(max_examples=200)
@given(
    header=st.fixed_dictionaries(
        {
            "since": st.integers(0, 3) | JSON,
            "round": st.integers(0, 6) | JSON,
            "check": st.just(0) | JSON,
        },
        optional={"steps": st.lists(STEP, max_size=2) | JSON, "more": JSON},
    ),
    packets=st.lists(PART, max_size=4) | PART | JSON,
    whole=st.none() | JSON,
    vectors=st.dictionaries(st.sampled_from(["point", "optimizer/velocity"]), PART),
)
def test_whatever_comes_a_client_lives(header, packets, whole, vectors):
    """200 records of all sorts: an error of the protocol, or a model that is finite or was sent.

    The check passes where it is 0. Kills: an OverflowError, a TypeError, a warning of numpy's.
    """
    record = vectors | {"steps": json.dumps(header), "packets": packets}
    if whole is not None:
        record["replica"] = json.dumps(whole)
    try:
        with mock.patch("fedbias.replica._check", lambda replica: 0):
            found = caught_up(record, AT)
    except (ProtocolError, PacketError, LostModel):
        return
    assert found is not None and (whole is not None or np.isfinite(found.point).all())


@given(st.data())
def test_a_record_with_one_byte_changed(data):
    """It is refused, or leads to the same model.

    Kills: a packet or a header that is believed without being looked at.
    """
    record = dict(GOOD)
    if data.draw(st.booleans()):
        text = bytearray(GOOD["steps"].encode())
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(32, 126))
        record["steps"] = text.decode()
    else:
        which = data.draw(st.integers(0, 2))
        packet = bytearray(GOOD["packets"][which])
        packet[data.draw(st.integers(0, len(packet) - 1))] ^= data.draw(st.integers(1, 255))
        record["packets"] = [*GOOD["packets"]]
        record["packets"][which] = bytes(packet)
        with pytest.raises((ProtocolError, PacketError)):
            caught_up(record, AT)
        return
    try:
        found = caught_up(record, AT)
    except (ProtocolError, PacketError, LostModel):
        return
    assert found.point.tobytes() == END.point.tobytes()
