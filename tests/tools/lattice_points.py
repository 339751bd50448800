"""Points that are hard for a lattice, and its definition by brute force."""

import itertools
import math
from functools import cache

import numpy as np
from hypothesis import strategies as st

import fedbias as fb
from fedbias import lattices
from fedbias.lattices import A2, D4, E8

LATTICES = {"A2": A2, "D4": D4, "E8": E8}
HALF = math.sqrt(0.5)


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


@cache
def tuples(values, size):
    return np.array(list(itertools.product(values, repeat=size)))


def around(lattice, point):
    """All lattice points none of whose coordinates differs from the point's by more than 1."""
    steps = tuples((-1, 0, 1, 2), len(point))
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
    cosets = tuples(range(2**bits), lattice.dim)
    return cosets, lattices.codewords(lattice, bits, cosets)


def deep_hole(lattice):
    return np.array([2.0, -1, -1]) / 3 if lattice is A2 else np.eye(1, lattice.dim)[0]


def hard_points(lattice, bits, count):
    """In lattice units: inside the ball 2^b·√½, on its sphere, on the facets it touches, holes."""
    most, rng = 2**bits * HALF, np.random.default_rng(bits)
    sphere = most * directions(lattice, count) @ lattice.frame
    inside = sphere * rng.uniform(0, 1, (count, 1)) ** (1 / lattice.dim)
    touching = roots(lattice)[:: max(1, len(roots(lattice)) // count)] * 2 ** (bits - 1)
    beside = touching + 0.1 * rng.standard_normal((len(touching), lattice.dim)) @ lattice.frame
    holes = deep_hole(lattice) + lattice.closest(inside)
    points = np.vstack([sphere, inside, touching, beside, holes])
    return points * np.minimum(1, most / np.maximum(norms(points), 1e-9))[:, None]


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
