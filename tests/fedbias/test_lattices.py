"""Nested lattice quantizers: closest points, codewords and coverings against brute force."""

import itertools
import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from fedbias import lattices
from fedbias.compressors.lattice import boundary_blocks
from fedbias.lattices import A2, D4, E8

LATTICES = {"A2": A2, "D4": D4, "E8": E8}
SMALL = [(A2, 1), (A2, 2), (A2, 3), (A2, 4), (D4, 1), (D4, 2), (D4, 3), (E8, 1)]
HALF = math.sqrt(0.5)
each_lattice = pytest.mark.parametrize("lattice", LATTICES.values(), ids=lambda one: one.name)
each_kind = pytest.mark.parametrize("kind", LATTICES)
each_range = pytest.mark.parametrize("full_range", [False, True])
each_small = pytest.mark.parametrize(
    ("lattice", "bits"), SMALL, ids=[f"{one.name}-{bits}" for one, bits in SMALL]
)


def norms(points):
    return np.linalg.norm(points, axis=-1)


def directions(lattice, count, seed=0):
    """Random points of the unit sphere of R^k."""
    points = np.random.default_rng(seed).standard_normal((count, lattice.dim))
    return points / norms(points)[:, None]


def belongs(lattice, points):
    """The definitions of the lattices, not their decoders."""
    whole, half = (points % 1 == 0).all(axis=1), (points % 1 == 0.5).all(axis=1)
    sums = points.sum(axis=1)
    if lattice is A2:
        return whole & (sums == 0)
    return (whole | half if lattice is E8 else whole) & (sums % 2 == 0)


def around(lattice, point):
    """All lattice points whose coordinates differ from the point's by less than 1.5 or so."""
    size = len(point)
    steps = np.array(list(itertools.product((-1, 0, 1, 2), repeat=size)), float)
    whole, half = np.floor(point) + steps, np.floor(point - 0.5) + 0.5 + steps
    candidates = np.vstack([whole, half])
    return candidates[belongs(lattice, candidates)]


def roots(lattice):
    """The vectors of squared norm 2: 6, 24, 240."""
    near = around(lattice, np.full(lattice.basis.shape[1], -0.25))  # from −2 to 2
    found = near[np.isclose((near**2).sum(axis=1), 2)]
    assert len(found) == {"A2": 6, "D4": 24, "E8": 240}[lattice.name]
    return found


def all_codewords(lattice, bits):
    cosets = np.array(list(itertools.product(range(2**bits), repeat=lattice.dim)))
    return cosets, lattices.codewords(lattice, bits, cosets)


def deep_hole(lattice):
    return np.array([2.0, -1, -1]) / 3 if lattice is A2 else np.eye(1, lattice.dim)[0]


@pytest.mark.parametrize(
    ("lattice", "point", "expected"),
    [
        (A2, [0.6, -0.5, -0.1], [1, -1, 0]),  # 1, 0, 0 by rounding: −½ is cheapest to lower
        (A2, [-0.7, 0.4, 0.3], [-1, 1, 0]),  # −1, 0, 0 by rounding: .4 is cheapest to raise
        (A2, [0.1, 0.1, -0.2], [0, 0, 0]),
        (D4, [0.6, 0, 0, 0], [0, 0, 0, 0]),  # 1 is odd: back to 0
        (D4, [0.9, 0.4, 0.3, 0.2], [1, 1, 0, 0]),
        (D4, [-0.9, 0, -0.4, 0.3], [-1, 0, -1, 0]),
        (D4, [1.1, 0.9, 0, 0], [1, 1, 0, 0]),
        (D4, [3, 0, 0, 0], [4, 0, 0, 0]),  # a deep hole: as near to 2, 0, 0, 0
        (E8, [0.45] * 8, [0.5] * 8),
        (E8, [0.2] * 8, [0] * 8),
        (E8, [0.4] * 7 + [-0.4], [0.5] * 8),  # ½ … −½ has an odd sum: .1 and .9 are the same
        (E8, [0.9, 0.8] + [0.1] * 6, [1, 1] + [0] * 6),
        (E8, [-1.4, -0.6] + [-0.5] * 6, [-1.5] + [-0.5] * 7),
    ],
)
def test_closest_points_by_hand(lattice, point, expected):
    """Kills: the parity of D_n not repaired, the half coset of E8 forgotten."""
    found = lattice.closest(np.array([point], float))
    assert belongs(lattice, found).all()
    if point[-1] == -0.4:  # one coordinate is off by .9: 2·√(7·.01 + .81) against √(8·.16)
        assert norms(found - point)[0] == pytest.approx(math.sqrt(0.07 + 0.81))
    else:
        np.testing.assert_array_equal(found, [expected])


@each_lattice
def test_closest_points_against_brute_force(lattice):
    """Random points, and ties: multiples of a half and of a third.

    Kills: any step of a decoder left out.
    """
    rng, size = np.random.default_rng(0), lattice.basis.shape[1]
    free = rng.uniform(-3, 3, (12, size))
    points = np.vstack([free, np.round(free * 2) / 2, np.round(free * 3) / 3])
    if lattice is A2:
        points[:, -1] = -points[:, :-1].sum(axis=1)
    found = lattice.closest(points)
    assert belongs(lattice, found).all()
    for point, one in zip(points, found, strict=True):
        least = norms(around(lattice, point) - point).min()
        assert norms(one - point) == pytest.approx(least, abs=1e-12)


@each_lattice
def test_radii_and_short_vectors(lattice):
    """Theta series by hand. Kills: a wrong covering radius, shells that miss vectors."""
    hole = deep_hole(lattice)[None]
    assert norms(lattice.closest(hole) - hole)[0] == pytest.approx(lattice.covering_radius)
    size = lattice.basis.shape[1]
    frame = lattice.frame @ lattice.frame.T
    np.testing.assert_allclose(frame, np.eye(lattice.dim), atol=1e-15)
    points = np.random.default_rng(1).uniform(-2, 2, (20_000, lattice.dim)) @ lattice.frame
    assert norms(lattice.closest(points) - points).max() <= lattice.covering_radius + 1e-12
    counts = {"A2": [6, 6, 12], "D4": [24, 48, 144], "E8": [240, 2400, 9120]}[lattice.name]
    for limit, count in zip((2, 4, 6), counts, strict=True):
        shells = lattices.short_vectors(lattice, limit)
        assert shells.shape == (count, size) and belongs(lattice, shells).all()
        assert len(np.unique(shells, axis=0)) == count and 2 <= (shells**2).sum(axis=1).min()
        assert (shells**2).sum(axis=1).max() <= limit
    volume = math.sqrt(np.linalg.det(lattice.basis @ lattice.basis.T))
    assert volume == pytest.approx({"A2": math.sqrt(3), "D4": 2, "E8": 1}[lattice.name])


@each_small
def test_every_codeword_of_small_codes(lattice, bits):
    """2^(bk) different points of the closed cell 2^b·V, each of which codes itself.

    Kills: an index modulo another number, two representatives of one coset.
    """
    cosets, points = all_codewords(lattice, bits)
    assert belongs(lattice, points).all()
    assert len(np.unique(points, axis=0)) == len(points) == 2 ** (bits * lattice.dim)
    np.testing.assert_array_equal(lattices.index(lattice, bits, points), cosets)
    assert (points @ roots(lattice).T).max() <= 2**bits  # the facets of the cell
    assert lattices.is_codeword(lattice, bits, points).all()
    np.testing.assert_array_equal(lattices.nearest_codewords(lattice, bits, points), points)


@each_small
def test_the_decoder_knows_every_codeword(lattice, bits):
    """One packet that holds all indices; those in the ball come back as the same bits."""
    _, points = all_codewords(lattice, bits)
    compressor = fb.lattice(lattice.name, bits, True)
    inside = points[norms(points) <= 2**bits * HALF * (1 + 1e-12)]
    assert len(inside) > 1
    vector = (inside @ lattice.frame.T).reshape(-1)
    packet = compressor.encode(vector, radius=2**bits * HALF)
    decoded = fb.decode(fb.Packet.from_bytes(bytes(packet)), 2**bits * HALF)
    np.testing.assert_allclose(decoded, vector, atol=1e-12)
    assert compressor.encode(decoded, radius=2**bits * HALF) == packet


def hard_points(lattice, bits, count):
    """In lattice units: inside the ball 2^b·√½, on its sphere, on the facets it touches, holes."""
    most, rng = 2**bits * HALF, np.random.default_rng(bits)
    sphere = most * directions(lattice, count) @ lattice.frame
    inside = sphere * rng.uniform(0, 1, (count, 1)) ** (1 / lattice.dim)
    touching = roots(lattice)[:: max(1, len(roots(lattice)) // count)] * 2 ** (bits - 1)
    beside = touching + 0.1 * rng.standard_normal((len(touching), lattice.dim)) @ lattice.frame
    holes = deep_hole(lattice) + np.round(inside)
    points = np.vstack([sphere, inside, touching, beside, holes - holes.mean() * (lattice is A2)])
    return points * np.minimum(1, most / np.maximum(norms(points), 1e-9))[:, None]


def distance_to(codewords, point):
    return math.sqrt(((codewords - point) ** 2).sum(axis=1).min())


@pytest.mark.parametrize(
    ("lattice", "bits", "count"),
    [*((one, bits, 60) for one, bits in SMALL), (E8, 2, 12)],
    ids=[*(f"{one.name}-{bits}" for one, bits in SMALL), "E8-2"],
)
def test_the_nearest_codeword_against_brute_force(lattice, bits, count):
    """Over the whole code. Kills: a wrapped lattice point, a search that stops too early."""
    _, code = all_codewords(lattice, bits)
    points = hard_points(lattice, bits, count)
    found = lattices.nearest_codewords(lattice, bits, points)
    assert lattices.is_codeword(lattice, bits, found).all()
    for point, one in zip(points, found, strict=True):
        assert norms(one - point) == pytest.approx(distance_to(code, point), abs=1e-9)


@each_small
@given(data=st.data())
@settings(max_examples=40)
def test_the_nearest_codeword_of_any_point(lattice, bits, data):
    _, code = all_codewords(lattice, bits)
    point = np.array(data.draw(block(lattice.dim))) @ lattice.frame * 2**bits * HALF
    found = lattices.nearest_codewords(lattice, bits, point[None])
    assert norms(found[0] - point) == pytest.approx(distance_to(code, point), abs=1e-9)


@st.composite
def block(draw, size):
    """A point of the unit ball; every second on its sphere."""
    point = np.array(draw(st.lists(st.floats(-1, 1), min_size=size, max_size=size)))
    length = float(norms(point))
    if length > 1 or (length > 1e-6 and draw(st.booleans())):
        point = point / length
    return point.tolist()


def off(compressor, vector, radius):
    return fb.decode(compressor.encode(vector, radius=radius), radius) - vector


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
    reach = lattices.reach(lattice, bits, full_range)
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


@each_lattice
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_where_the_closest_point_is_a_codeword(lattice, bits):
    """Up to (2^b − 1)·√½ always, just beyond it not. Kills: a smaller safe ball, a larger one."""
    safe = (2**bits - 1) * HALF
    points = safe * (1 - 1e-9) * directions(lattice, 30_000) @ lattice.frame
    points = np.vstack([points, safe * (1 - 1e-9) * roots(lattice) / math.sqrt(2)])
    assert lattices.is_codeword(lattice, bits, lattice.closest(points)).all()
    beyond = lattice.closest(safe * (1 + 1e-9) * roots(lattice) / math.sqrt(2))
    assert (~lattices.is_codeword(lattice, bits, beyond)).sum() == len(beyond) // 2


# How many directions of the sphere of radius 2^b·√½ have a closest lattice point that is not a
# codeword: one of each pair of points on opposite facets of 2^b·V is none. From 10^6 directions.
BOUNDARY = {"A2": (0.5, 0.2584, 0.3041), "D4": (0.5530, 0.3260, 0.1309), "E8": (0, 0, 0)}


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
    parts = [
        ("E8", vector[:24]),
        ("D4", vector[24:28]),
        ("A2", vector[28:30]),
    ]
    for start, kind in enumerate(LATTICES):
        own = [(kind, part) if LATTICES[kind].dim < 4 else (name, part) for name, part in parts]
        assert own or start
    expected = [part + off(fb.lattice(kind, bits, full_range), part, radius) for kind, part in parts]
    last = vector[30:] + off(fb.uniform(bits), vector[30:], radius)
    found = vector + off(fb.lattice("E8", bits, full_range), vector, radius)
    np.testing.assert_array_equal(found, np.concatenate([*expected, last]))
    found = vector[24:] + off(fb.lattice("D4", bits, full_range), vector[24:], radius)
    np.testing.assert_array_equal(found, np.concatenate([*expected[1:], last]))
    found = vector[28:] + off(fb.lattice("A2", bits, full_range), vector[28:], radius)
    np.testing.assert_array_equal(found, np.concatenate([*expected[2:], last]))


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
    vector = point[0] / lattices.reach(A2, 2, False)
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
    monkeypatch.setattr(f"{type(compressor).__module__}._BLOCKS", 7)
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
        (("E7", 2), "kind must be one of 'A2', 'D4', 'E8', not 'E7'"),
        ((8, 2), "kind must be one of 'A2', 'D4', 'E8', not 8"),
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


@pytest.mark.parametrize("fields", [(3, 2, 0), (255, 2, 0), (2, 0, 0), (2, 17, 0), (2, 2, 2)])
def test_refused_packets(fields):
    """Kills: a lattice, a width or a flag of a forged packet that is believed."""
    body = struct.pack("<2sBBBBI3B", b"fb", 1, 8, 1, 0, 8, *fields) + bytes(2)
    with pytest.raises(fb.PacketError, match="a lattice packet has a lattice below 3"):
        fb.Packet.from_bytes(body + struct.pack("<I", zlib.crc32(body)))


def test_notation():
    assert repr(fb.lattice("E8", bits=2)) == "lattice(kind='E8', bits=2)"
    assert fb.parse("lattice('D4', 3, full_range=True)", fb.Compressor) == fb.lattice("D4", 3, True)
