"""One contract for every compressor: the bytes, their size, and what ``guarantee`` promises."""

import dataclasses
import math

import numpy as np
import pytest

import fedbias as fb

COMPRESSORS = [
    fb.identity(),
    fb.half(),
    fb.sign(),
    *(fb.uniform(bits) for bits in (1, 2, 3, 8, 11, 16)),
    *(fb.dithered(bits) for bits in (1, 2, 5, 16)),
    *(fb.lattice(kind, bits) for kind in ("A2", "D4", "E8") for bits in (1, 2, 5, 16)),
    *(fb.lattice(kind, 3, full_range=True) for kind in ("A2", "D4", "E8")),
    fb.lattice("Leech", 2),
    *(fb.top_k(fraction) for fraction in (0.01, 0.1, 0.5, 1)),
    *(fb.random_k(fraction) for fraction in (0.01, 0.1, 0.5, 1)),
    *(fb.entropy_coded(bits) for bits in (0.5, 5.3)),
    fb.trellis_coded(1.7),
    *(fb.rotated(inner) for inner in (fb.identity(), fb.sign(), fb.uniform(1), fb.uniform(8))),
    *(fb.rotated(inner) for inner in (fb.dithered(5), fb.lattice("E8", 2), fb.top_k(0.1))),
    *(fb.rotated(inner) for inner in (fb.random_k(0.5), fb.entropy_coded(2))),
]
OF_ANY_LENGTH = ("entropy_coded", "trellis_coded")  # the vector decides
DIMS = [1, 2, 3, 7, 64, 1000]
each_compressor = pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
each_dim = pytest.mark.parametrize("dim", DIMS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def vectors(dim, dtype):
    """Random and adversarial vectors, of usual, tiny and huge size; none can be written to."""
    rng = np.random.default_rng(dim)
    shapes = [
        rng.standard_normal(dim),
        rng.standard_cauchy(dim).clip(-1e4, 1e4),
        np.eye(1, dim, dim // 2)[0],  # one-hot
        -np.ones(dim),
        0.5 ** np.arange(dim).clip(0, 40),
        np.where(np.arange(dim) % 2, 1.0, -0.75),
    ]
    for shape in shapes:
        for size in (1.0, 1e-30, 1e30):
            vector = (size * shape).astype(dtype)
            vector.flags.writeable = False
            yield vector


def encoded(compressor, vector, radius=None, seed=1):
    return compressor.encode(vector, np.random.default_rng(seed), radius)


def error(compressor, vector, radius=None, seed=1):
    """The error in double precision, so that squares of 1e30 do not overflow."""
    decoded = fb.decode(encoded(compressor, vector, radius, seed), radius)
    return decoded.astype(np.float64) - vector


def within(compressor):
    """What codes the vector behind a rotation, or the compressor itself."""
    return compressor.inner if compressor.name == "rotated" else compressor


def size_of(compressor, packet):
    """The predicted length; where the vector decides, the refusal to predict and the real one."""
    if within(compressor).name not in OF_ANY_LENGTH:
        return compressor.wire_bytes(packet.dim, packet.dtype)
    for predict in (compressor.wire_bytes, compressor.rate):
        with pytest.raises(ValueError, match="the length depends on the vector; encode it"):
            predict(packet.dim, packet.dtype)
    assert len(packet.payload) <= max(within(compressor).bits * packet.dim / 8, 32)
    return 14 + 4 + 8 * (compressor.name == "rotated") + len(packet.payload)


def slack(vector):
    """A few units in the last place of every entry, as the notes of Guarantee say."""
    return 4 * np.finfo(vector.dtype).eps * math.sqrt(vector.size) * float(np.abs(vector).max())


@each_compressor
@each_dim
@each_dtype
def test_the_bytes_stand_for_the_vector(compressor, dim, dtype):
    """Kills: an encoder that writes into its argument, a size that differs from its prediction,
    a decoder that gives another vector after the wire, randomness beside the rng."""
    for vector in vectors(dim, dtype):
        packet = encoded(compressor, vector)
        predicted = size_of(compressor, packet)
        data, decoded = bytes(packet), fb.decode(packet)
        assert decoded.dtype == dtype and decoded.shape == (dim,)
        assert fb.decode(fb.Packet.from_bytes(data), dim=dim).tobytes() == decoded.tobytes()
        assert len(data) == predicted and packet.wire_bits == 8 * predicted
        assert 0 <= 8 * len(packet.payload) - packet.payload_bits < 16  # two places to pad
        assert bytes(encoded(compressor, vector)) == data
        assert compressor.random or bytes(compressor.encode(vector)) == data
        assert np.isfinite(decoded).all()


@each_compressor
@each_dim
@each_dtype
def test_zero_stays_zero(compressor, dim, dtype):
    """Kills: 0/0 in a scale; a quantizer whose smallest cell is not multiplied by the scale."""
    packet = encoded(compressor, np.zeros(dim, dtype))
    assert not fb.decode(packet).any() and len(bytes(packet)) == size_of(compressor, packet)


# payload bits and bytes of header fields, from the formats' definitions; b bits of values
SIZES = {
    "identity": (lambda d, b, c: b * d, 0),
    "half": (lambda d, b, c: 16 * d, 2),
    "sign": (lambda d, b, c: d, 0),
    "uniform": (lambda d, b, c: c.bits * d, 1),
    "dithered": (lambda d, b, c: c.bits * d, 1),
    "lattice": (lambda d, b, c: c.bits * d, 3),
    "top_k": (lambda d, b, c: b * k(c, d) + min(d, k(c, d) * math.ceil(math.log2(d))), 4),
    "random_k": (lambda d, b, c: b * k(c, d), 12),
}


def k(compressor, dim):
    return max(1, round(compressor.fraction * dim))


@pytest.mark.parametrize(
    "compressor", [c for c in COMPRESSORS if within(c).name not in OF_ANY_LENGTH], ids=repr
)
@each_dim
@each_dtype
def test_sizes_by_hand(compressor, dim, dtype):
    """Kills: indices of 32 bits, a scale that is not counted, payload bits that include padding."""
    inner = within(compressor)
    formula, fields = SIZES[inner.name]
    itemsize = np.dtype(dtype).itemsize
    packet = encoded(compressor, np.ones(dim, dtype))
    assert packet.payload_bits == formula(dim, 8 * itemsize, inner)
    scale = itemsize * (inner.name in ("sign", "uniform", "dithered", "lattice"))
    head = 14 + scale + fields + 8 * (compressor.name == "rotated")
    assert packet.wire_bits == 8 * (head + math.ceil(packet.payload_bits / 8))


@each_compressor
@each_dim
@each_dtype
def test_what_is_guaranteed_holds(compressor, dim, dtype):
    """For every vector; with the rounding of the dtype. Kills: a guarantee that is too good."""
    promised, random = compressor.guarantee(dim), within(compressor).random
    assert promised.unbiased or not random
    for vector in vectors(dim, dtype):
        norm, off = np.linalg.norm(vector.astype(float)), error(compressor, vector)
        if promised.contraction is not None:
            assert 0 < promised.contraction <= 1
            most = math.sqrt(1 - promised.contraction) * norm
            assert np.linalg.norm(off) <= most + slack(vector)
        if not random:
            assert np.linalg.norm(off) <= math.sqrt(promised.variance) * norm + slack(vector)


@pytest.mark.parametrize(
    "compressor", [c for c in COMPRESSORS if c.takes_radius], ids=lambda c: repr(c)
)
@each_dim
@each_dtype
def test_covering_with_a_radius(compressor, dim, dtype):
    """‖e‖ ≤ ρ·2^(−R)·r inside the ball, without a scale. Kills: a radius that is not used."""
    for vector in (*vectors(dim, dtype), np.zeros(dim, dtype) + dtype(0)):
        norm = float(np.linalg.norm(vector.astype(float)))
        for radius in (1.001 * norm, 3 * norm) if norm else (0.7,):
            packet = encoded(compressor, vector, radius)
            assert packet.scale is None
            assert len(bytes(packet)) == compressor.wire_bytes(dim, dtype, radius)
            rate = packet.payload_bits / dim
            most = compressor.guarantee(dim).covering * 2.0**-rate * radius
            rounding = 8 * np.finfo(dtype).eps * math.sqrt(dim) * radius
            assert np.linalg.norm(error(compressor, vector, radius)) <= most + rounding


class AlmostOne:
    """A generator that always draws the largest number below 1."""

    def random(self, size, dtype):
        return np.full(size, 1 - 2.0**-53, dtype)


def test_what_is_guaranteed_is_attained():
    """The bounds are the best possible. Kills: a guarantee that is too weak."""

    def loss(compressor, vector):
        return float(np.sum(error(compressor, vector) ** 2) / np.sum(vector**2))

    ones, one = np.ones(64), np.eye(1, 64, 5)[0]
    for fraction in (1 / 64, 0.25, 0.5):
        assert loss(fb.top_k(fraction), ones) == 1 - fraction
        assert loss(fb.random_k(fraction), ones) == 1 / fraction - 1
    assert loss(fb.sign(), one) == 1 - 1 / 64 == 1 - fb.sign().guarantee(64).contraction
    for bits in (1, 2, 3, 4, 8, 16):
        assert (
            loss(fb.uniform(bits), one) == 64 / 4**bits == fb.uniform(bits).guarantee(64).variance
        )
        zero = error(fb.uniform(bits), np.zeros(64), radius=2.0)
        assert np.linalg.norm(zero) == math.sqrt(64) * 2.0**-bits * 2
    assert loss(fb.dithered(1), one) == 63  # of at most 64: every zero goes to ±s
    assert loss(fb.half(), np.array([1 + 2.0**-11])) == pytest.approx(2.0**-22, rel=1e-3)
    step = 2 / (2**4 - 1)
    above = np.full(64, step / 2 * (1 + 1e-9))  # just above a level, and rounded up all the same
    packet = fb.dithered(4).encode(above, AlmostOne(), radius=1.0)
    worst = np.linalg.norm(fb.decode(packet, 1.0) - above)
    assert worst == pytest.approx(fb.dithered(4).guarantee(64).covering * 2.0**-4, rel=1e-6)


@pytest.mark.parametrize(
    ("compressor", "dim", "expected"),
    [
        (fb.identity(), 5, (True, 1, 0, 0)),
        (fb.sign(), 4, (False, 1 / 4, 3 / 4, None)),
        (fb.uniform(1), 4, (False, None, 1, 2)),  # d·4^−b = 1: nothing to promise
        (fb.uniform(1), 2, (False, 0.5, 0.5, math.sqrt(2))),
        (fb.uniform(2), 4, (False, 0.75, 0.25, 2)),
        (fb.dithered(1), 4, (True, None, 4, 8)),
        (fb.dithered(2), 9, (True, None, 1, 8)),
        (fb.top_k(0.25), 8, (False, 0.25, 0.75, None)),
        (fb.top_k(1), 8, (True, 1, 0, None)),
        (fb.random_k(0.25), 8, (True, None, 3, None)),
        (fb.random_k(1), 8, (True, 1, 0, None)),
        (fb.half(), 2**10, (False, 1 - 2.0**-22 - 2.0**-68, 2.0**-22 + 2.0**-68, None)),
    ],
    ids=repr,
)
def test_guarantees_by_hand(compressor, dim, expected):
    assert compressor.guarantee(dim) == fb.Guarantee(*expected)


@each_compressor
def test_refused_vectors(compressor):
    """Kills: NaN that passes as a code, integers that are converted silently."""
    rng = np.random.default_rng(0)
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="1 of 3 entries are NaN or infinite"):
            compressor.encode(np.array([1.0, bad, 2.0]), rng)
    for wrong in (np.zeros(0), np.zeros((2, 2)), np.array(1.0)):
        with pytest.raises(ValueError, match="one axis and 1 … "):
            compressor.encode(wrong, rng)
    with pytest.raises(ValueError, match="entries, not \\(4294967296,\\)"):  # costs no memory
        compressor.encode(np.broadcast_to(np.float32(0), (2**32,)), rng)
    for kind in (np.int64, np.float16, np.bool_, np.complex128, ">f8"):
        with pytest.raises(ValueError, match="float32 or float64, not"):
            compressor.encode(np.ones(3, kind), rng)


@each_compressor
def test_refused_radius_and_missing_rng(compressor):
    """Kills: a radius that is silently ignored, a random compressor with a fixed seed."""
    rng = np.random.default_rng(0)
    for radius in (0.0, -1.0, math.inf, math.nan) if compressor.takes_radius else (1.0,):
        allowed = "finite and > 0" if compressor.takes_radius else "it adapts by itself"
        with pytest.raises(ValueError, match=f"{compressor.name}: radius must be .*{allowed}"):
            compressor.encode(np.ones(3), rng, radius)
    if compressor.random:
        with pytest.raises(ValueError, match="draws random numbers: pass rng"):
            compressor.encode(np.ones(3))


@pytest.mark.parametrize("name", ["uniform", "dithered"])
@pytest.mark.parametrize("bits", [0, 17, -1, True, 1.5, "2", None, math.nan])
def test_refused_bits(name, bits):
    sentence = f"{name}: bits must be a whole number >= 1 and <= 16, not {bits!r}"
    with pytest.raises(ValueError) as caught:
        getattr(fb, name)(bits)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", ["top_k", "random_k"])
@pytest.mark.parametrize("fraction", [0, 2, 1 + 1e-9, -0.1, math.nan, math.inf, "a", True, None])
def test_refused_fractions(name, fraction):
    sentence = f"{name}: fraction must be a number > 0 and <= 1, not {fraction!r}"
    with pytest.raises(ValueError) as caught:
        getattr(fb, name)(fraction)
    assert str(caught.value) == sentence


@each_compressor
def test_settings_are_frozen_and_comparable(compressor):
    """Kills: a setting that can change while a run goes on."""
    fields = dataclasses.fields(compressor)
    assert compressor == dataclasses.replace(compressor) and hash(compressor) is not None
    for field in fields:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(compressor, field.name, 1)
