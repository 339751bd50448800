"""Seeded directions: numpy's own, block by block, alike on both sides, and a few bytes each."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fedbias as fb
from fedbias.client import respond
from fedbias.directions import add, combination, combined, fill, shift
from fedbias.ledger import Ledger
from fedbias.objectives import ForwardOnly
from fedbias.packets import PacketError
from fedbias.rounds import Plan, Report
from fedbias.turn import Turn

BLOCK = 2**13  # what is drawn at once
LENGTHS = [1, 2, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK + 1, 20_001]
SEED = 2**62 + 12345
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
MILLION = 10**6


class Bowl:
    """½‖x‖², which takes no memory to compute."""

    size = 5

    def __init__(self, dim):
        self.dim = dim

    def loss(self, point, batch=None):
        return 0.5 * float(point @ point)

    def directional(self, point, vector, batch=None):
        return float(point @ vector)


def drawn(k, dim, dtype):
    """U_k as numpy draws it at once."""
    return np.random.default_rng((SEED, k)).standard_normal(dim, dtype)


@each_dtype
@pytest.mark.parametrize("dim", LENGTHS)
def test_blocks_make_the_whole(dim, dtype):
    """Every way to a direction gives numpy's own bits, written over what was there.

    Kills: a block too few, one that starts the stream again, float64 drawn for float32.
    """
    whole = drawn(3, dim, dtype)
    assert fb.direction((SEED, 3), dim, dtype).tobytes() == whole.tobytes()
    out = np.full(dim, 9, dtype)
    fill(out, (SEED, 3))
    assert out.tobytes() == whole.tobytes()
    point = np.linspace(-1, 2, dim).astype(dtype)
    shift(point, 0.3, (SEED, 3), out)
    assert out.tobytes() == (point + dtype(0.3) * whole).tobytes()
    add(point, -0.7, (SEED, 3))
    assert point.tobytes() == (np.linspace(-1, 2, dim).astype(dtype) - dtype(0.7) * whole).tobytes()


@each_dtype
@pytest.mark.parametrize("dim", LENGTHS)
def test_a_combination_by_hand(dim, dtype):
    """(1.5u_0 − 2u_2 + ¼u_4)/3 in this order, the bytes' and the numbers'; u_1 and u_3 are dropped.

    Kills: a mean over all five, a place that moves up where one is dropped, a sum without a mean,
    a seed without its k.
    """
    scalars = np.array([1.5, np.nan, -2.0, np.nan, 0.25], np.float32)
    total = np.zeros(dim, dtype)
    for k in (0, 2, 4):
        total += dtype(scalars[k]) * drawn(k, dim, dtype)
    total /= 3
    packet = combination(SEED, scalars, dim, dtype)
    assert combined(SEED, scalars, dim, dtype).tobytes() == total.tobytes()
    for known in (packet, fb.Packet.from_bytes(bytes(packet))):
        vector = fb.decode(known, dim=dim)
        assert vector.dtype == dtype and vector.tobytes() == total.tobytes()


def test_bytes_of_a_combination_by_hand():
    """Kills: a field of another width, scalars of eight bytes, another number on the wire."""
    packet = combination(258, np.array([1.0, np.nan, -2.0], np.float32), 5, np.float64)
    head = "6662 01 0b 02 00 05000000"  # magic, version 1, codec 11, float64, no scale, dim 5
    body = head + "0201000000000000" + "03000000" + "0000803f 0000c07f 000000c0"
    assert bytes(packet)[:-4].hex() == body.replace(" ", "")
    assert packet.payload_bits == 3 * 32 and packet.wire_bits == 8 * (10 + 8 + 4 + 12 + 4)


def test_every_truncation_bit_flip_and_extension_is_refused():
    """Exhaustive. Kills: a length that does not follow from the number of directions."""
    data = bytes(combination(SEED, np.array([1.5, np.nan, -2.0], np.float32), 7, np.float32))
    assert bytes(fb.Packet.from_bytes(data)) == data
    spoiled = [data[:length] for length in range(len(data))]
    spoiled += [data + b"\0", data + bytes(4), data + data, b"\0" + data]
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        spoiled.append(bytes(flipped))
    for other in spoiled:
        with pytest.raises(PacketError):
            fb.Packet.from_bytes(other)


FLOAT32 = st.floats(width=32, allow_infinity=False)


@given(
    st.integers(0, 2**64 - 1),
    st.lists(FLOAT32, min_size=1, max_size=8),
    st.integers(1, 50),
    st.sampled_from([np.float32, np.float64]),
)
@example(5, [3.4e38], 1000, np.float32)
@example(5, [3.4e38, -3.4e38, float("nan")], 1000, np.float32)
def test_whatever_the_slopes(seed, slopes, dim, dtype):
    """There and back; a mean beyond float32 is infinite, and no warning. All NaN is refused.

    Kills: an overflow that warns, a mean over no direction at all.
    """
    scalars = np.array(slopes, np.float32)
    packet = fb.Packet.from_bytes(bytes(combination(seed, scalars, dim, dtype)))
    assert packet.fields == (seed, len(slopes))
    if np.isnan(scalars).all():
        with pytest.raises(PacketError, match="no direction has a finite slope"):
            fb.decode(packet)
        return
    vector = fb.decode(packet)
    assert vector.shape == (dim,) and vector.dtype == dtype
    assert np.isfinite(vector).all() or np.nanmax(np.abs(scalars)) > 1e36
    assert not vector.any() or np.nanmax(np.abs(scalars)) > 0


@given(st.binary(max_size=60), st.integers(0, 12), st.integers(1, 40))
def test_any_bytes_are_read_or_refused(payload, count, dim):
    """Fuzz behind the length. Kills: a slope that is taken unchecked."""
    length = 4 * count
    bad = fb.Packet("directions", np.dtype(float), dim, None, (1, count), (payload * 60)[:length])
    try:
        vector = fb.decode(fb.Packet.from_bytes(bytes(bad)))
    except PacketError:
        return
    assert np.isfinite(vector).all()


ESTIMATORS = [
    fb.two_point(5, 1e-3),
    fb.two_point(5, 1e-3, central=True),
    fb.forward_gradient(5),
]
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)


def plan(estimator, point, feedback=fb.no_feedback()):
    return Plan(2, 7, 4, -1, estimator, None, fb.identity(), feedback, point)


@each_estimator
@each_dtype
def test_the_server_rebuilds_the_clients_vector(estimator, dtype):
    """Through the record's bytes, and bit for bit the vector that the client would use itself.

    It shows that with ef21, which needs the vector, so it travels whole.
    """
    point = np.linspace(-1, 1, 2 * BLOCK + 77).astype(dtype)
    asked = Plan.from_record(plan(estimator, point).to_record())
    report, _ = respond(Bowl(point.size), asked, Ledger())
    back = Report.from_record(report.to_record())
    whole, memory = respond(Bowl(point.size), plan(estimator, point, fb.ef21()), Ledger())
    assert (back.packet.codec, whole.packet.codec) == ("directions", "identity")
    rebuilt = fb.decode(back.packet, dim=point.size)
    assert rebuilt.dtype == dtype and rebuilt.tobytes() == fb.decode(whole.packet).tobytes()
    assert memory.pending["feedback.gradient"].tobytes() == rebuilt.tobytes()
    own = estimator.estimate(Bowl(point.size), point, Turn(7, 2, 4, None))
    assert own.vector.tobytes() == rebuilt.tobytes()


@each_estimator
def test_a_reply_costs_26_bytes_and_4_per_direction(estimator):
    """At d = 10^6 as at d = 3. Kills: a vector on the wire, a scalar of eight bytes."""
    for dim in (3, MILLION):
        report, _ = respond(Bowl(dim), plan(estimator, np.ones(dim, np.float32)), Ledger())
        assert report.uplink_bytes == 26 + 4 * 5 < 100 + 4 * 5
        assert len(report.to_record()["packet"]) == report.uplink_bytes
        assert report.packet.payload_bits == 32 * 5


def peak(work):
    """Bytes that a call allocates at most, numpy's arrays among them."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@each_estimator
@each_dtype
def test_one_vector_besides_the_point(estimator, dtype):
    """At d = 10^6, for the whole turn; and another one to rebuild it. Not more than 2 % beyond.

    Kills: directions that are stored, a copy of the point for either side.
    """
    point, reports = np.ones(MILLION, dtype), []
    whole = point.nbytes
    asked, objective = plan(estimator, point), Bowl(MILLION)
    taken = peak(lambda: reports.append(respond(objective, asked, Ledger())[0]))
    assert whole < taken < 1.02 * whole
    assert whole < peak(lambda: fb.decode(reports[0].packet, dim=MILLION)) < 1.02 * whole


def test_forward_only_hides_gradients():
    """Kills: a wrapper that lets a capability through, or hides the metrics or the buffers."""

    class All(Bowl):
        buffers = np.ones(2)

        def gradient(self, point, batch=None):
            return point

        def hvp(self, point, vector, batch=None):
            return vector

        def metrics(self, point):
            return {"loss": 1.0, "accuracy": 0.5}

    inner = All(3)
    plain, slopes = ForwardOnly(inner), ForwardOnly(inner, directional=True)
    assert fb.objectives.capabilities(plain) == set()
    assert fb.objectives.capabilities(slopes) == {"directional"}
    point = np.array([1.0, 2.0, 3.0])
    assert plain.loss(point) == 7 and slopes.directional(point, point) == 14
    assert (plain.dim, plain.size) == (3, 5) and plain.metrics(point)["accuracy"] == 0.5
    plain.buffers = np.zeros(2)
    assert inner.buffers.tolist() == [0, 0] == slopes.buffers.tolist()
    bare = ForwardOnly(Bowl(3))
    assert bare.buffers is None and bare.metrics(point) == {"loss": 7.0}

    class Blind:
        dim = size = 1

    with pytest.raises(fb.MissingCapability, match="ForwardOnly needs directional, which Blind"):
        ForwardOnly(Blind(), directional=True)


def test_the_seed_is_the_turns():
    """U_k of (seed, k), the seed drawn for this seed, round and client.

    Kills: a direction shared by clients or rounds, one that depends on how many there are.
    """

    def seed_of(estimator, *where):
        content = estimator.estimate(Bowl(3), np.ones(3), Turn(*where, None)).content
        return content.fields[0]

    where = [(7, 2, 4), (8, 2, 4), (7, 3, 4), (7, 2, 5), (2, 7, 4)]
    seeds = [seed_of(fb.two_point(5, 1e-3), *each) for each in where]
    assert len(set(seeds)) == 5
    assert [seed_of(fb.forward_gradient(1), *each) for each in where] == seeds
    rng = np.random.default_rng([7, 2, 4, 9])
    assert seeds[0] == int(rng.integers(2**63))
    first = fb.two_point(1, 1e-3).estimate(Bowl(3), np.ones(3), Turn(7, 2, 4, None)).content
    five = fb.two_point(5, 1e-3).estimate(Bowl(3), np.ones(3), Turn(7, 2, 4, None)).content
    assert first.payload == five.payload[:4]
