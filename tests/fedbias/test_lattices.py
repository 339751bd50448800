"""Lattices and their codes: closest points and nearest codewords against brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedbias as fb
from fedbias import lattices
from fedbias.lattices import A2, D4, E8
from tests.tools.lattice_points import (
    HALF,
    LATTICES,
    all_codewords,
    around,
    belongs,
    block,
    deep_hole,
    directions,
    hard_points,
    norms,
    roots,
)

SMALL = [(A2, 1), (A2, 2), (A2, 3), (A2, 4), (D4, 1), (D4, 2), (D4, 3), (E8, 1)]
each_lattice = pytest.mark.parametrize("lattice", LATTICES.values(), ids=lambda one: one.name)
each_small = pytest.mark.parametrize(
    ("lattice", "bits"), SMALL, ids=[f"{one.name}-{bits}" for one, bits in SMALL]
)


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
        (E8, [0.45] * 7 + [-0.1], [0.5] * 8),  # ½ … −½ has an odd sum
        (E8, [0.9, 0.8] + [0.1] * 6, [1, 1] + [0] * 6),
        (E8, [-1.4, -0.6] + [-0.5] * 5 + [0.5], [-1.5] + [-0.5] * 6 + [0.5]),
    ],
)
def test_closest_points_by_hand(lattice, point, expected):
    """Kills: the parity of D_n not repaired, the half coset of E8 forgotten."""
    found = lattice.closest(np.array([point], float))
    np.testing.assert_array_equal(found, [expected])
    assert belongs(lattice, found).all()


@each_lattice
def test_closest_points_against_brute_force(lattice):
    """Random points, and ties: multiples of a half and of a third.

    Kills: any step of a decoder left out.
    """
    rng, size = np.random.default_rng(0), lattice.basis.shape[1]
    free = rng.uniform(-3, 3, (40 // size, size))
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
        assert len(np.unique(shells, axis=0)) == count and (shells**2).sum(axis=1).min() == 2
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
