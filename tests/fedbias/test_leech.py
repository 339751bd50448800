"""The Leech lattice and its code: against its definition, all 8192 cosets, and known constants."""

import itertools
import math
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from fedbias import lattices, leech
from fedbias.compressors.nested import boundary_blocks
from fedbias.lattices import closest_d
from fedbias.leech import LEECH, closest_leech, golay_generator, golay_words
from tests.tools.lattice_points import HALF, block, directions, norms, off

each_bits = pytest.mark.parametrize("bits", [2, 3])


def belongs(points):
    """The definition; the Golay code is its own dual."""
    whole = np.rint(4 * points).astype(int)
    parity = whole[:, :1] % 2
    words = (whole - parity) // 2
    return (
        (whole == 4 * points).all(axis=1)
        & (whole % 2 == parity).all(axis=1)
        & (words @ golay_generator().T % 2 == 0).all(axis=1)
        & (whole.sum(axis=1) % 8 == 4 * parity[:, 0])
    )


@cache
def shortest():
    """The 196,560 vectors of squared norm 2, by their shapes."""
    words, found = golay_words(), []
    signs = np.array([s for s in itertools.product((1, -1), repeat=8) if math.prod(s) == 1])
    for word in words[words.sum(axis=1) == 8]:
        octad = np.zeros((128, 24))
        octad[:, word == 1] = 2 * signs
        found.append(octad)
    for place in range(24):
        found.append((np.ones(24) - 4 * np.eye(24)[place]) * (1 - 2 * words))
    for one, two in itertools.combinations(4 * np.eye(24), 2):
        found.append(np.array([one + two, one - two, two - one, -one - two]))
    return np.vstack(found) / 4


def least_distance(point):
    """To every coset of 4·D24, one after the other; exact where the point is a small fraction."""
    squares, first = [], np.eye(24)[0]
    for parity in (0, 1):
        shifts = parity + 2 * golay_words() + 4 * parity * first
        left = (4 * point - shifts) / 4
        squares.append(((left - closest_d(left)) ** 2).sum(axis=1).min())
    return min(squares)


def squares(points):
    return (points**2).sum(axis=1)


def some_cosets(bits, count):
    return np.random.default_rng(bits).integers(0, 2**bits, (count, 24))


def touching(bits, count=100):
    """Where the sphere of the safe ball meets (2^b − 1)·V: halfway between two lattice points."""
    roots = shortest()[:: len(shortest()) // count]
    return np.vstack([roots, -roots]) * (2**bits - 1) / 2


def test_the_golay_code():
    """[24, 12, 8], its own dual. Kills: a wrong bit of the generator."""
    words, generator = golay_words(), golay_generator()
    assert len(np.unique(words, axis=0)) == 4096
    weights, counts = np.unique(words.sum(axis=1), return_counts=True)
    assert weights.tolist() == [0, 8, 12, 16, 24]
    assert counts.tolist() == [1, 759, 2576, 759, 1]
    assert not (generator @ generator.T % 2).any()
    numbers = words[:, :12] @ (1 << np.arange(11, -1, -1))
    assert numbers.tolist() == list(range(4096))


def test_the_basis_and_the_shortest_vectors():
    """Kills: a vector of the basis that is not in the lattice or not enough."""
    assert belongs(LEECH.basis).all()
    assert abs(np.linalg.det(LEECH.basis)) == pytest.approx(2.0**-12)
    found = shortest()
    assert len(np.unique(found, axis=0)) == len(found) == 196_560
    assert belongs(found).all() and set(squares(found)) == {2.0}
    np.testing.assert_array_equal(closest_leech(found[::97]), found[::97])
    assert LEECH.dim == 24 and LEECH.covering_radius / HALF == pytest.approx(math.sqrt(2))


def test_points_of_the_lattice_and_of_their_balls():
    """Up to the packing radius a lattice point is the closest. Kills: a coset left out."""
    points = some_cosets(6, 400) @ LEECH.basis
    assert belongs(points).all()
    np.testing.assert_array_equal(closest_leech(points), points)
    near = points + HALF * (1 - 1e-9) * directions(LEECH, 400)
    np.testing.assert_array_equal(closest_leech(near), points)


def test_closest_points_against_all_cosets():
    """Random points, and ties: multiples of ¼, ⅛ and ⅓.

    Kills: a parity that is not repaired, or at the wrong coordinate, or at a wrong price.
    """
    free = np.random.default_rng(0).uniform(-3, 3, (12, 24))
    points = np.vstack([free, *(np.round(free * k) / k for k in (4, 8, 3))])
    found = closest_leech(points)
    assert belongs(found).all()
    for point, own in zip(points, squares(points - found), strict=True):
        assert own == pytest.approx(least_distance(point), abs=1e-12)


def test_no_neighbour_is_closer():
    """A few points against the 196,560 neighbours of what was found."""
    points = np.random.default_rng(1).uniform(-3, 3, (4, 24))
    for point, found in zip(points, closest_leech(points), strict=True):
        left = point - found
        assert (left @ shortest().T).max() <= 1 + 1e-12  # ‖left − w‖ ≥ ‖left‖, ‖w‖² = 2


def test_holes_and_the_second_moment():
    """No point is farther than the deep hole e_1 = (8, 0, …)/8; the mean square is .065771.

    2·Z^24 is part of the lattice, so a uniform point of its cell is uniform modulo the lattice.
    The mean square of an entry is .065771·vol^(2/24), vol = 2^(−12). Kills: any step left out.
    """
    holes = np.vstack([np.eye(24), -np.eye(24)]) + np.vstack([LEECH.basis, LEECH.basis])
    assert squares(closest_leech(holes) - holes).tolist() == [1.0] * 48
    points = np.random.default_rng(2).uniform(0, 2, (4000, 24))
    errors = squares(closest_leech(points) - points)
    assert errors.max() <= 1
    deviation = errors.std() / math.sqrt(len(errors))
    assert abs(errors.mean() - 24 * 0.065771 / 2) <= 4 * deviation < 0.005


@each_bits
def test_codewords(bits):
    """Different, in the closed cell, each codes itself; the arithmetic is exact.

    Kills: an index modulo another number, two representatives of one coset.
    """
    cosets = np.unique(some_cosets(bits, 500), axis=0)
    points = lattices.codewords(LEECH, bits, cosets)
    assert belongs(points).all() and len(np.unique(points, axis=0)) == len(cosets) == 500
    np.testing.assert_array_equal(lattices.index(LEECH, bits, points), cosets)
    np.testing.assert_array_equal(lattices.nearest_codewords(LEECH, bits, points), points)
    for point in points[:10]:  # fractions: both sides exact
        assert squares(point[None] / 2**bits)[0] == least_distance(point / 2**bits)


@each_bits
def test_the_decoder_knows_its_codewords(bits):
    """Codewords of the safe ball come back as the same bytes."""
    inner = lattices.codewords(LEECH, bits - 1, some_cosets(bits, 50))
    inner = inner[norms(inner) <= lattices.reach(bits, False)]
    assert len(inner) > 20
    vector, radius = inner.reshape(-1), lattices.reach(bits, False)
    packet = fb.lattice("Leech", bits).encode(vector, radius=radius)
    assert packet.payload_bits == bits * vector.size
    decoded = fb.decode(fb.Packet.from_bytes(bytes(packet)), radius)
    np.testing.assert_allclose(decoded, vector, atol=1e-12)
    assert fb.lattice("Leech", bits).encode(decoded, radius=radius) == packet


@each_bits
def test_nothing_wraps(bits):
    """On the sphere, and where it touches the cell's facets, just inside, on and just outside.

    There the closest point may be a tie with one that is no codeword. Kills: a tie that wraps.
    """
    compressor, reach = fb.lattice("Leech", bits), lattices.reach(bits, False)
    sphere = directions(LEECH, 600)
    assert boundary_blocks(compressor, sphere.reshape(-1), 1.0) == 0
    closest = closest_leech(reach * sphere)
    found = reach * (sphere + off(compressor, sphere.reshape(-1), 1.0).reshape(-1, 24))
    np.testing.assert_allclose(found, closest, atol=1e-12)
    tied = touching(bits)
    assert norms(tied) == pytest.approx(reach)
    lost = 0
    for factor in (1 - 2.0**-52, 1, 1 + 2.0**-52):
        found = lattices.nearest_codewords(LEECH, bits, tied * factor)
        assert lattices.is_codeword(LEECH, bits, found).all()
        assert norms(found - tied) == pytest.approx(HALF)
        lost += (~lattices.is_codeword(LEECH, bits, closest_leech(tied * factor))).sum()
    assert lost > 20  # there would have been that many
    errors = off(compressor, (tied / reach).reshape(-1), 1.0).reshape(-1, 24)
    assert norms(errors) == pytest.approx(HALF / reach)


@each_bits
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_covering_holds(bits, data):
    """Every ‖v‖ ≤ r, on the sphere and inside, with a tail or without.

    Kills: a guarantee that is too good.
    """
    vector = np.array(data.draw(block(24)) + data.draw(st.sampled_from([[], [0.0], [0.0] * 15])))
    radius = data.draw(st.sampled_from([1.0, 3e-7, 1e9]))
    compressor = fb.lattice("Leech", bits)
    error = norms(off(compressor, vector * radius, radius)[:24])
    bound = compressor.guarantee(24).covering * 2.0**-bits
    assert error <= bound * radius * (1 + 1e-12)
    assert bound * 2**bits == pytest.approx(math.sqrt(2) / (1 - 2.0**-bits))


@each_bits
def test_the_covering_is_attained(bits):
    """By the deep hole. Kills: a guarantee that is too weak."""
    compressor = fb.lattice("Leech", bits)
    hole = np.eye(24)[0] / lattices.reach(bits, False)
    bound = compressor.guarantee(24).covering * 2.0**-bits
    assert norms(off(compressor, hole, 1.0)) == pytest.approx(bound)


def test_a_tail_has_smaller_lattices():
    """24 + 8 + 4 + 2 + 1. Kills: a tail of another lattice."""
    vector, code = np.random.default_rng(3).standard_normal(63), fb.lattice("Leech", 3)
    radius = float(norms(vector[:24])) * 1.5
    found = off(code, vector, radius)
    for piece in (slice(0, 24), slice(24, 48)):
        np.testing.assert_allclose(found[piece], off(code, vector[piece], radius), atol=1e-12)
    rest = off(fb.lattice("E8", 3), vector[48:], radius)
    np.testing.assert_allclose(found[48:], rest, atol=1e-12)
    told = code.guarantee(39).covering ** 2
    assert told == pytest.approx((64 / 49) * (3 * 2 + 4 / 3) + 1)


def test_points_are_done_in_pieces(monkeypatch):
    """Kills: a piece that is read or written in the wrong place."""
    points = np.random.default_rng(4).uniform(-3, 3, (75, 24))
    whole = closest_leech(points)
    monkeypatch.setattr(leech, "_CHUNK", 7)
    np.testing.assert_array_equal(closest_leech(points), whole)
    assert closest_leech(points[:0]).shape == (0, 24)


@pytest.mark.parametrize("bits", [12, 16])
def test_many_bits(bits):
    """Indices stay exact. Kills: float32 on the way."""
    vector = np.random.default_rng(0).standard_normal(72)
    compressor = fb.lattice("Leech", bits)
    error = vector - fb.decode(compressor.encode(vector))
    largest = norms(vector.reshape(3, 24)).max()
    bound = compressor.guarantee(24).covering * 2.0**-bits * largest
    assert 0.5 * bound < norms(error.reshape(3, 24)).max() <= bound


@pytest.mark.parametrize("values", [(1,), (1, True), (2, True)])
def test_refused_settings(values):
    """Kills: a range in which the nearest codeword would have to be searched."""
    with pytest.raises(ValueError, match="Leech has too many shortest vectors to search"):
        fb.lattice("Leech", *values)


@pytest.mark.parametrize("fields", [(3, 1, 0), (3, 2, 1)])
def test_refused_packets(fields):
    """Kills: a forged packet that is believed."""
    body = struct.pack("<2sBBBBI3B", b"fb", 1, 8, 1, 0, 24, *fields)
    body += bytes(3 * fields[1])
    with pytest.raises(fb.PacketError, match="a lattice packet of Leech cannot have"):
        fb.Packet.from_bytes(body + struct.pack("<I", zlib.crc32(body)))
