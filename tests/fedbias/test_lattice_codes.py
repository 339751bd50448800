"""The compressor ``lattice``: coverings, tails, scales, bytes."""

import itertools
import math
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from fedbias import lattices
from fedbias.compressors.nested import boundary_blocks
from fedbias.lattices import A2
from tests.tools.lattice_points import (
    HALF,
    LATTICES,
    block,
    deep_hole,
    directions,
    hard_points,
    norms,
    off,
    roots,
)

each_lattice = pytest.mark.parametrize("lattice", LATTICES.values(), ids=lambda one: one.name)
each_kind = pytest.mark.parametrize("kind", LATTICES)
each_range = pytest.mark.parametrize("full_range", [False, True])


@each_kind
@each_range
@given(data=st.data())
@settings(max_examples=80)
def test_the_covering_holds(kind, full_range, data):
    """Every ‖v‖ ≤ r. Kills: a reach beyond the safe one, a guarantee without the tail."""
    bits, dim = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 20))
    vector, radius = np.array(data.draw(block(dim))), data.draw(st.sampled_from([1.0, 3e-7, 1e9]))
    compressor = fb.lattice(kind, bits, full_range)
    error = norms(off(compressor, vector * radius, radius))
    assert error <= compressor.guarantee(dim).covering * 2.0**-bits * radius * (1 + 1e-12)


@each_lattice
@each_range
@pytest.mark.parametrize("bits", range(1, 6))
def test_the_covering_at_the_worst_points(lattice, full_range, bits):
    """Spheres, facets and holes; where it is safe, a deep hole attains the bound.

    Kills: a guarantee that is too good or, without the full range, one that is too weak.
    """
    compressor = fb.lattice(lattice.name, bits, full_range)
    reach = lattices.reach(bits, full_range)
    bound = compressor.guarantee(lattice.dim).covering * 2.0**-bits
    points = hard_points(lattice, bits, 200) / (2**bits * HALF)
    for scale in (1.0, norms(deep_hole(lattice)) / reach):
        vector = (scale * points @ lattice.frame.T).reshape(-1)
        errors = norms(off(compressor, vector, 1.0).reshape(-1, lattice.dim))
        assert errors.max() <= bound + 1e-12
    hole = deep_hole(lattice) @ lattice.frame.T / reach
    attained = norms(off(compressor, hole, 1.0)) / bound
    most = 1 + HALF / lattice.covering_radius
    assert attained == pytest.approx(1 / most if full_range or bits == 1 else 1, rel=1e-9)


def test_guarantees_by_hand():
    """E8 safe: √2/(1 − 2^−b); at one bit or full range 1 + √2; A2 with 2/√3 in the place of √2."""
    root, third = math.sqrt(2), 2 / math.sqrt(3)
    for kind, ratio in (("A2", third), ("D4", root), ("E8", root)):
        dim = LATTICES[kind].dim
        for bits in (1, 2, 3, 8):
            safe = ratio / (1 - 2.0**-bits) if bits > 1 else 1 + ratio
            for full_range, one in ((False, safe), (True, 1 + ratio)):
                told = fb.lattice(kind, bits, full_range).guarantee(4 * dim)
                loss = 4 * one**2 / 4**bits
                assert (told.unbiased, told.variance) == (False, pytest.approx(loss))
                assert told.covering == pytest.approx(2 * one)
                kept = pytest.approx(1 - loss) if loss < 1 else None
                assert told.contraction == kept
    tail = fb.lattice("E8", 2).guarantee(15)  # 8 + 4 + 2 + 1
    assert tail.covering**2 == pytest.approx((16 / 9) * (2 + 2 + 4 / 3) + 1)
    assert fb.lattice("A2", 5).guarantee(1).covering == 1


# How many directions of the sphere of radius 2^b·√½ have a closest lattice point that is not a
# codeword: of two that lie opposite on facets of 2^b·V, one is none. From 2·10^6 directions.
BOUNDARY = {
    "A2": (0.4994, 0.2587, 0.3056),
    "D4": (0.5547, 0.3298, 0.1306),
    "E8": (0.5978, 0.1977, 0.0230),
}


@each_lattice
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_nothing_wraps_at_full_range(lattice, bits):
    """A modulo encoder is off by twice the radius there, this one by √2 in lattice units at most.

    Kills: a wrapped lattice point.
    """
    most, count = 2**bits * HALF, 20_000
    vectors = directions(lattice, count, seed=7)
    points = most * vectors @ lattice.frame
    closest = lattice.closest(points)
    plain = lattices.codewords(lattice, bits, lattices.index(lattice, bits, closest))
    assert norms(plain - points).max() > 1.99 * most
    wrapped = int((plain != closest).any(axis=1).sum())
    compressor = fb.lattice(lattice.name, bits, True)
    assert boundary_blocks(compressor, vectors.reshape(-1), 1.0) == wrapped
    share = BOUNDARY[lattice.name][bits - 1]
    assert abs(wrapped / count - share) <= 5 * math.sqrt(share * (1 - share) / count)
    errors = most * norms(off(compressor, vectors.reshape(-1), 1.0).reshape(-1, lattice.dim))
    assert errors.max() <= math.sqrt(2) + 1e-9
    facets = roots(lattice) / math.sqrt(2) @ lattice.frame.T
    worst = most * norms(off(compressor, facets.reshape(-1), 1.0).reshape(-1, lattice.dim))
    assert sorted({round(one, 9) for one in worst.tolist()}) == [0, round(math.sqrt(2), 9)]


@pytest.mark.parametrize("dim", [8, 16, 64])
@pytest.mark.parametrize("bits", [2, 3])
def test_boundary_blocks(dim, bits):
    """None in the safe range; at full range a vector of many blocks shows hardly any."""
    vectors = np.random.default_rng(0).standard_normal((500, dim))
    counts = {}
    for full_range in (False, True):
        code = fb.lattice("E8", bits, full_range)
        counts[full_range] = sum(boundary_blocks(code, one, float(norms(one))) for one in vectors)
    assert counts[False] == 0
    assert counts[True] > 0 if dim == 8 else counts[True] <= 10
    assert dim < 64 or counts[True] == 0


@each_range
@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_a_tail_has_smaller_lattices(bits, full_range):
    """8 + 4 + 2 + 1 entries are E8, D4, A2 and uniform. Kills: the tail with another lattice."""
    vector = np.random.default_rng(bits).standard_normal(31)
    radius = float(norms(vector[:8])) * 1.5

    def errors(kind, part):
        return off(fb.lattice(kind, bits, full_range), part, radius)

    last = off(fb.uniform(bits), vector[30:], radius)
    a2 = np.concatenate([errors("A2", vector[28:30]), last])
    d4 = np.concatenate([errors("D4", vector[24:28]), a2])
    e8 = np.concatenate([errors("E8", vector[:24]), d4])
    np.testing.assert_allclose(errors("A2", vector[28:]), a2, atol=1e-12)
    np.testing.assert_allclose(errors("D4", vector[24:]), d4, atol=1e-12)
    np.testing.assert_allclose(errors("E8", vector), e8, atol=1e-12)


@each_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exactly_b_bits_an_entry(kind, dtype):
    """Kills: padding of the blocks, a scale that is sent beside a radius."""
    for dim, bits in itertools.product(range(1, 21), (1, 2, 3, 8, 16)):
        vector = np.linspace(-1, 2, dim).astype(dtype)
        packet = fb.lattice(kind, bits).encode(vector)
        assert packet.payload_bits == bits * dim
        assert len(packet.payload) == math.ceil(bits * dim / 8)
        decoded = fb.decode(fb.Packet.from_bytes(bytes(packet)), dim=dim)
        assert decoded.dtype == dtype and decoded.shape == (dim,)


def test_bytes_by_hand():
    """A2, b = 2, on the way to 1, −1, 0 and back. Kills: another order of fields or indices."""
    point = np.array([[1.0, -1, 0]]) @ A2.frame.T  # (√2, 0): coordinates 1, 0 in the basis
    vector = point[0] / lattices.reach(2, False)
    packet = fb.lattice("A2", 2).encode(vector, radius=1.0)
    assert bytes(packet)[:-4].hex() == "66620108020002000000" + "000200" + "40"  # 01 00
    np.testing.assert_allclose(fb.decode(packet, 1.0), vector, atol=1e-15)
    full = fb.lattice("E8", 3, True).encode(np.zeros(8, np.float32), radius=1.0)
    assert bytes(full)[:-4].hex() == "66620108010008000000" + "020301" + "000000"


@each_kind
def test_blocks_beyond_the_radius_are_projected(kind):
    """However far. Kills: saturation left out, entries clipped one by one."""
    dim, compressor = LATTICES[kind].dim, fb.lattice(kind, 3)
    vector = directions(LATTICES[kind], 50).reshape(-1)
    on_sphere = vector + off(compressor, vector, 1.0)
    factors = np.repeat(np.resize([1.0, 2.0, 1e9, 1e250], 50), dim)
    with np.errstate(over="raise"):
        found = fb.decode(compressor.encode(vector * factors, radius=1.0), 1.0)
    np.testing.assert_allclose(found, on_sphere, atol=1e-12)
    tiny = fb.decode(compressor.encode(vector * 1e300, radius=1e-300), 1e-300)
    np.testing.assert_allclose(tiny * 1e300, on_sphere, atol=1e-12)
    tail = np.append(vector, 50.0)  # the entry that is left over saturates too
    assert fb.decode(compressor.encode(tail, radius=1.0), 1.0)[-1] == 7 / 8


@each_kind
@each_range
def test_the_scale_is_the_largest_norm_of_a_block(kind, full_range):
    """In the vector's dtype, rounded up. Kills: the norm of the vector, a scale below a block."""
    dim, rng = LATTICES[kind].dim, np.random.default_rng(3)
    for seed in range(50):
        vector = rng.standard_normal(5 * dim + 1).astype([np.float32, np.float64][seed % 2])
        vector[-1] /= 10
        packet = fb.lattice(kind, 4, full_range).encode(vector)
        largest = norms(vector[:-1].astype(float).reshape(-1, dim)).max()
        assert largest * (1 - 1e-15) <= packet.scale <= largest * (1 + 1.3e-7)
        assert float(vector.dtype.type(packet.scale)) == packet.scale
    alone = fb.lattice(kind, 2).encode(np.array([-3.0]))  # one entry: uniform, four cells
    assert alone.scale == 3 and fb.decode(alone).tolist() == [-2.25]


@each_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_numbers(kind, dtype):
    """Kills: squares that overflow, 0/0 of an empty block."""
    info, dim = np.finfo(dtype), 2 * LATTICES[kind].dim
    for extreme in (info.max, info.max / 8, info.tiny, info.smallest_subnormal):
        vector = np.zeros(dim, dtype)
        vector[0] = -extreme
        for compressor in (fb.lattice(kind, 8), fb.lattice(kind, 8, True)):
            back = fb.decode(compressor.encode(vector))
            assert np.isfinite(back).all() and not back[dim // 2 :].any()
            assert abs(float(back[0]) / float(extreme) + 1) <= 0.02
    ends = fb.decode(fb.lattice(kind, 8).encode(np.full(dim, info.max, dtype)))
    assert np.isfinite(ends).all() and (ends > 0).all()


def test_many_blocks_are_done_in_pieces(monkeypatch):
    """Kills: a piece that is read or written in the wrong place, a search in wrong rows."""
    vector = np.random.default_rng(0).standard_normal(8 * 300 + 7)
    compressor = fb.lattice("E8", 1, True)
    radius = 2.0  # below many norms: they are saturated, and many are boundary blocks
    whole = compressor.encode(vector, radius=radius)
    assert boundary_blocks(compressor, vector, radius) > 100
    decoded = fb.decode(whole, radius)
    monkeypatch.setattr("fedbias.lattices._CHUNK", 1000)
    monkeypatch.setattr(sys.modules[type(compressor).__module__], "_BLOCKS", 7)
    assert compressor.encode(vector, radius=radius) == whole
    np.testing.assert_array_equal(fb.decode(whole, radius), decoded)


@each_kind
@pytest.mark.parametrize("bits", [12, 16])
def test_many_bits(kind, bits):
    """Indices stay exact. Kills: float32 on the way."""
    vector = np.random.default_rng(0).standard_normal(64)
    error = vector - fb.decode(fb.lattice(kind, bits).encode(vector))
    assert 0 < norms(error) <= math.sqrt(32) * 1.5 * 2.0**-bits * norms(vector)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (("E7", 2), "kind must be one of 'A2', 'D4', 'E8', 'Leech', not 'E7'"),
        ((8, 2), "kind must be one of 'A2', 'D4', 'E8', 'Leech', not 8"),
        (("E8", 0), "bits must be a whole number >= 1 and <= 16, not 0"),
        (("E8", 17), "bits must be a whole number >= 1 and <= 16, not 17"),
        (("E8", True), "bits must be a whole number >= 1 and <= 16, not True"),
        (("E8", 2, 1), "full_range must be like True, not 1"),
    ],
)
def test_refused_settings(values, sentence):
    with pytest.raises(ValueError) as caught:
        fb.lattice(*values)
    assert str(caught.value) == "lattice: " + sentence


@pytest.mark.parametrize("fields", [(4, 2, 0), (255, 2, 0), (2, 0, 0), (2, 17, 0), (2, 2, 2)])
def test_refused_packets(fields):
    """Kills: a lattice, a width or a flag of a forged packet that is believed."""
    body = struct.pack("<2sBBBBI3B", b"fb", 1, 8, 1, 0, 8, *fields) + bytes(2)
    with pytest.raises(fb.PacketError, match="a lattice packet has a lattice below 4"):
        fb.Packet.from_bytes(body + struct.pack("<I", zlib.crc32(body)))


def test_notation():
    assert repr(fb.lattice("E8", bits=2)) == "lattice(kind='E8', bits=2)"
    assert fb.parse("lattice('D4', 3, full_range=True)", fb.Compressor) == fb.lattice("D4", 3, True)
