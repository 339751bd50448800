"""Malicious and broken clients: refused, counted, logged with id and reason; the round goes on."""

import json
import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

import fedbias as fb
from strategies import FedBias
from tests.tools.federation import Watched, app_of, train

PROBLEM = fb.LeastSquares.random(6, 4.0, seed=2, clients=4)
ZERO = np.zeros(6)
STEP = fb.heavy_ball(0.5, 0.3)


def packet(values, dtype=np.float64, codec="identity"):
    """A packet that no honest client makes."""
    payload = np.array(values, dtype).tobytes()
    return bytes(fb.Packet(codec, np.dtype(dtype), len(values), None, (), payload))


def answer(change):
    """Answer with the honest record, changed."""

    def reply_with(message, reply):
        record = change(dict(reply.content["fedbias"]))
        return Message(RecordDict({"fedbias": ConfigRecord(record)}), reply_to=message)

    return reply_with


def header(**changes):
    return answer(lambda r: r | {"header": json.dumps(json.loads(r["header"]) | changes)})


def body(make):
    return answer(lambda record: record | {"packet": make(record["packet"])})


def content(**records):
    return lambda message, reply: Message(RecordDict(records), reply_to=message)


HUGE = bytes(fb.Packet("random_k", np.dtype(float), 2**32 - 1, None, (1, 7), bytes(8)))
ARRAYS = ArrayRecord({"w": Array(ZERO)})
BAD = {
    "NaN": (body(lambda _: packet([math.nan, 0, 0, 0, 0, math.nan])), "2 entries are NaN"),
    "infinite": (body(lambda _: packet([math.inf, 0, 0, 0, 0, 0])), "1 entries are NaN or infin"),
    "too short": (body(lambda _: packet([0.0] * 5)), "expected a vector of dim 6"),
    "too long": (body(lambda _: packet([0.0] * 7)), "expected a vector of dim 6"),
    "huge": (body(lambda _: HUGE), "expected a vector of dim 6, the packet has 4294967295"),
    "another dtype": (body(lambda _: packet([0.0] * 6, np.float32)), "dtype float32, not float64"),
    "truncated": (body(lambda b: b[:-1]), "takes 62 bytes, not 61"),
    "longer": (body(lambda b: b + b"\0"), "takes 62 bytes, not 63"),
    "altered": (body(lambda b: b[:30] + bytes([b[30] ^ 4]) + b[31:]), "checksum"),
    "foreign": (body(lambda b: b"PK" + b[2:]), "not a packet of version 1"),
    "empty packet": (body(lambda b: b""), "at least 14 bytes"),
    "text": (body(lambda b: "packet"), "no packet 'packet'"),
    "no packet": (answer(lambda r: {"header": r["header"]}), "no packet 'packet'"),
    "an older round": (header(round=0), "the report is of round 0, not 1"),
    "a later round": (header(round=2), "the report is of round 2, not 1"),
    "another client": (header(client=0), "it speaks for client 0"),
    "nobody": (header(client=77), "it speaks for client 77"),
    "no examples": (header(examples=0), "0 examples"),
    "negative examples": (header(examples=-5), "examples"),
    "NaN loss": (header(loss=math.nan), "a loss of nan"),
    "text for a loss": (header(loss="low"), "loss"),
    "no JSON": (answer(lambda r: r | {"header": "}"}), "no JSON header"),
    "no header": (answer(lambda r: {"packet": r["packet"]}), "no JSON header"),
    "nothing": (content(), "no record 'fedbias'"),
    "another record": (content(other=ConfigRecord({"x": 1})), "no record 'fedbias'"),
    "arrays": (content(fedbias=ARRAYS), "no record 'fedbias'"),
    "an exception": (
        lambda m, _: Message(Error(2, "ZeroDivisionError: by zero"), reply_to=m),
        "ZeroDivisionError: by zero",
    ),
    "an error without reason": (lambda m, _: Message(Error(8), reply_to=m), "error 8"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_a_bad_reply_is_refused_and_the_round_goes_on(case, weights, warned):
    """Client 1 in round 2 of 3. Kills: each check that is dropped; a refusal that ends the run,
    counts as lost, is not logged, costs bytes, or is acknowledged to its client.
    """
    change, reason = BAD[case]
    grid = Watched(app_of(PROBLEM.objectives), 4, intercept={(1, 1): change})
    settings = {"compressor": fb.identity(), "feedback": fb.error_feedback(), "weights": weights}
    run = train(FedBias(STEP, minimum_clients=4, **settings), grid, ZERO, 3)
    assert [(r.applied, r.refused, r.lost) for r in run.records[1:]] == [
        *((4, 0, 0), (3, 1, 0), (4, 0, 0))
    ]
    (line,) = warned()
    assert line.startswith("round 2: refused the reply of client 1: ") and reason in line
    assert "\n" not in line
    left_out = fb.run(
        *(PROBLEM.objectives, STEP, ZERO, 3),
        **settings,
        participation=lambda k: [0, 2, 3] if k == 1 else range(4),
    )
    assert run.points.tobytes() == left_out.points.tobytes()
    assert [8 * r.uplink_bytes for r in run.records[1:]] == left_out.wire_bits.tolist()
    assert run.checkpoints[2].state.acknowledged == {0: 1, 1: 0, 2: 1, 3: 1}


@pytest.mark.parametrize("failure", [ValueError, RuntimeError, ZeroDivisionError, KeyError])
def test_an_app_that_raises(failure, warned):
    """Through the engine, as it happens to users. Kills: an exception that ends the run."""

    def mod(message, context, call_next):
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == 2:
            raise failure("the disk is full")
        return call_next(message, context)

    grid = Watched(app_of(PROBLEM.objectives, [mod]), 4)
    run = train(FedBias(STEP, minimum_clients=4), grid, ZERO, 2)
    assert [(r.applied, r.refused, r.lost) for r in run.records[1:]] == [(3, 1, 0)] * 2
    assert [line.split(":")[:2] for line in warned()] == [
        [f"round {number}", " refused the reply of client 2"] for number in (1, 2)
    ]
    assert all("the disk is full" in line for line in warned())


def test_two_liars_are_two_refusals(warned):
    """Kills: reasons that overwrite each other."""
    grid = Watched(
        app_of(PROBLEM.objectives), 4, intercept={0: header(round=9), 3: body(lambda b: b[:9])}
    )
    run = train(FedBias(STEP, minimum_clients=4), grid, ZERO, 1)
    assert (run.records[1].applied, run.records[1].refused) == (2, 2)
    assert [line.split(":")[1] for line in warned()] == [
        *(" refused the reply of client 0", " refused the reply of client 3")
    ]


def test_a_second_report_does_not_count(warned):
    """Kills: a client that votes twice."""
    grid = Watched(app_of(PROBLEM.objectives), 4, intercept={2: lambda m, reply: [reply, reply]})
    run = train(FedBias(STEP, minimum_clients=4), grid, ZERO, 1)
    honest = fb.run(PROBLEM.objectives, STEP, ZERO, 1)
    assert run.points.tobytes() == honest.points.tobytes() and run.records[1].applied == 4
    assert warned() == [
        "round 1: refused the reply of client 2: client 2 reported twice in round 0"
    ]
    assert run.records[1].uplink_bytes == 4 * 62


def test_a_node_that_nobody_knows_is_refused(warned):
    """Kills: a report accepted from whoever says the right number."""

    def stranger(message, reply):
        reply.metadata.__dict__["_src_node_id"] = 99
        return reply

    grid = Watched(app_of(PROBLEM.objectives), 4, intercept={1: stranger})
    run = train(FedBias(STEP, minimum_clients=4), grid, ZERO, 1)
    assert (run.records[1].applied, run.records[1].refused) == (3, 1)
    assert warned() == ["round 1: refused the reply of client -1: it speaks for client 1"]


def test_only_liars(warned):
    """Kills: 0/0 in the mean, an optimizer that steps along nothing."""
    lies = {(k, c): header(round=5) for k in (1, 2) for c in range(4)}
    grid = Watched(app_of(PROBLEM.objectives), 4, intercept=lies)
    run = train(FedBias(STEP, minimum_clients=4), grid, ZERO, 3)
    assert [(r.applied, r.refused, r.lost) for r in run.records[2:]] == [(0, 4, 0)] * 2
    once = train(FedBias(STEP, minimum_clients=4), Watched(app_of(PROBLEM.objectives), 4), ZERO, 1)
    assert run.point.tobytes() == once.point.tobytes() != ZERO.tobytes()
    assert run.strategy.state.acknowledged == dict.fromkeys(range(4), 0) and len(warned()) == 8


def test_nobody_can_do_it_from_the_start(warned):
    """Kills: all the rounds for nothing."""
    grid = Watched(app_of(PROBLEM.objectives), 4, intercept={c: header(round=5) for c in range(4)})
    with pytest.raises(ValueError, match="no client could do its part; client 0: the report is of"):
        train(FedBias(STEP, minimum_clients=4), grid, ZERO, 2)
    assert len(warned()) == 4


def test_buffers_that_are_wrong(warned):
    """Kills: buffers that are not validated."""
    module_free = [Drifting(objective) for objective in PROBLEM.objectives]
    bad = {
        0: answer(lambda r: {k: v for k, v in r.items() if k != "buffers"}),
        1: answer(lambda r: r | {"buffers": packet([1.0])}),
        2: answer(lambda r: r | {"buffers": packet([1.0, math.nan])}),
    }
    grid = Watched(app_of(module_free), 4, intercept=bad)
    buffers = ArrayRecord({"b": Array(np.array([5.0, 6.0]))})
    run = train(FedBias(STEP, minimum_clients=4), grid, ZERO, 1, initial_buffers=buffers)
    assert (run.records[1].applied, run.records[1].refused) == (1, 3)
    assert run.result.arrays["b"].numpy().tolist() == [6, 7]
    reasons = [line.split(": ", 2)[2] for line in warned()]
    assert "lacks the buffers" in reasons[0] and "dim 2, the packet has 1" in reasons[1]
    assert "1 entries are NaN" in reasons[2]


class Drifting:
    """Adds one to its buffers whenever it computes a gradient."""

    def __init__(self, inner):
        self.inner, self.buffers, self.dim, self.size = inner, None, inner.dim, inner.size

    def loss(self, point, batch=None):
        return self.inner.loss(point, batch)

    def gradient(self, point, batch=None):
        self.buffers = self.buffers + 1
        return self.inner.gradient(point, batch)


def test_a_client_that_lost_its_memory_says_so(warned):
    """Client 3 restarts after round 2. Kills: memory of another run, a warning left out, and a
    server that goes on as if nothing happened.
    """

    class Restarts(Watched):
        def push_messages(self, messages):
            pushed = list(messages)
            if pushed and pushed[0].metadata.message_type == "train" and len(self.asked()) == 8:
                self.contexts[4].state = RecordDict()
            return super().push_messages(pushed)

    settings = {"compressor": fb.top_k(0.2), "feedback": fb.error_feedback()}
    grid = Restarts(app_of(PROBLEM.objectives), 4)
    run = train(FedBias(STEP, minimum_clients=4, **settings), grid, ZERO, 4)
    assert [r.forgotten for r in run.records] == [0, 0, 0, 1, 0]
    assert warned() == ["round 3: client 3 had lost its memory"]
    assert [r.applied for r in run.records] == [0, 4, 4, 4, 4]
    undisturbed = fb.run(PROBLEM.objectives, STEP, ZERO, 4, **settings)
    assert run.points[:3].tobytes() == undisturbed.points[:3].tobytes()
    assert run.points[3].tobytes() != undisturbed.points[3].tobytes()


# Corners ------------------------------------------------------------------------------------------


def test_a_second_report_is_not_a_reply_that_was_found():
    grid = Watched(app_of(PROBLEM.objectives), 4, intercept={2: lambda m, reply: [reply, reply]})
    assert train(FedBias(STEP, minimum_clients=4), grid, ZERO, 1).records[1].lost == 0
