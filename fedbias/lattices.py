"""Lattices and their nested (Voronoi) codes: closest points, codewords, no tables.

Points are rows of ambient coordinates, in which every lattice point is a vector of whole or half
numbers (Leech, in ``leech``: of quarters) and hence exact: D4 and E8 live in their own space, A2 in
the plane Σx = 0 of R³. The code Λ/2^bΛ has one codeword in each of its 2^(bk) cosets, the one that
lies in 2^b·V, V the Voronoi cell of 0 (Conway and Sloane 1982, 1983). The closest-point functions
break ties by fixed rules, so which of the representatives on the boundary of 2^b·V is the codeword
is fixed too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
PACKING_RADIUS = math.sqrt(0.5)  # the shortest vectors of all have length √2
_CHUNK = 1 << 21  # distances held at once in a search


def closest_a2(points: Points) -> Points:
    """Closest points of A2 = {x ∈ Z³: Σx = 0} to points with Σx = 0, shape (m, 3)."""
    rounded = np.floor(points + 0.5)
    left = points - rounded
    excess = rounded.sum(axis=1)  # −1, 0 or 1; one coordinate takes it back at the least cost
    where = np.where(excess > 0, left.argmin(axis=1), left.argmax(axis=1))
    rounded[np.arange(len(points)), where] -= excess
    return rounded


def closest_d(points: Points) -> Points:
    """Closest points of D_n = {x ∈ Z^n: Σx even}: the worst rounding is undone if Σ is odd."""
    rounded = np.floor(points + 0.5)
    left = points - rounded
    rows, worst = np.arange(len(points)), np.abs(left).argmax(axis=1)
    odd = rounded.sum(axis=1) % 2
    rounded[rows, worst] += odd * np.where(left[rows, worst] < 0, -1, 1)
    return rounded


def closest_e8(points: Points) -> Points:
    """Closest points of E8 = D8 ∪ (D8 + ½), shape (m, 8); D8 where both are as close."""
    whole, half = closest_d(points), closest_d(points - 0.5) + 0.5
    nearer = _squares(points - whole) <= _squares(points - half)
    return np.where(nearer[:, None], whole, half)


@dataclass(frozen=True, eq=False)
class RootLattice:
    """A lattice Λ whose shortest vectors have length √2.

    Attributes
    ----------
    basis : ndarray, shape (k, n)
        Rows that generate Λ, in ambient coordinates.
    frame : ndarray, shape (k, n)
        Orthonormal rows: x @ frame are the ambient coordinates of x ∈ R^k.
    closest : callable
        Points (m, n) → their closest lattice points, exact but for rounding at ties.
    covering_radius : float
        r_cov, the largest distance from Λ; the packing radius is √½ for all.
    offsets : tuple of float
        What the coordinates of one lattice point may all differ by from whole numbers.
    safe_only : bool
        Its shells are too large to be searched: only the safe ball can be coded (``reach``).
    """

    name: str
    basis: Points
    frame: Points
    closest: Callable[[Points], Points]
    covering_radius: float
    offsets: tuple[float, ...] = (0.0,)
    safe_only: bool = False

    @property
    def dim(self) -> int:
        """k, the entries of a block."""
        return len(self.basis)

    @cached_property
    def coordinates(self) -> NDArray[Any]:
        """From a lattice point to its coordinates in the basis, up to rounding."""
        return np.linalg.pinv(self.basis)


def times(rows: Points, matrix: Points) -> Points:
    """The product, summed column by column: BLAS may round otherwise on another machine."""
    total: Points = rows[:, :1] * matrix[0]
    for place in range(1, len(matrix)):
        total += rows[:, place : place + 1] * matrix[place]
    return total


def _squares(points: Points) -> Points:
    squares: Points = np.einsum("ij,ij->i", points, points)
    return squares


def _d_basis(n: int) -> Points:
    basis = np.eye(n) - np.eye(n, k=1)  # e_i − e_(i+1), and at last e_(n−1) + e_n
    basis[-1, -2] = 1
    return basis


_PLANE = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])
A2 = RootLattice("A2", np.array([[1.0, -1, 0], [0, 1, -1]]), _PLANE, closest_a2, math.sqrt(2 / 3))
D4 = RootLattice("D4", _d_basis(4), np.eye(4), closest_d, 1.0)
_HALVES = np.vstack([np.full(8, 0.5), _d_basis(8)[1:]])  # D8 has index 2 in E8
E8 = RootLattice("E8", _HALVES, np.eye(8), closest_e8, 1.0, (0.0, 0.5))


@cache
def short_vectors(lattice: RootLattice, limit: int) -> Points:
    """All nonzero lattice vectors of squared norm up to ``limit``, shape (count, n)."""
    most = math.isqrt(limit) + 1
    found = []
    for offset in lattice.offsets:
        values, rows = np.arange(-most, most + 1) + offset, np.zeros((1, 0))
        for _ in range(lattice.basis.shape[1]):  # one coordinate more, while it is short enough
            column = np.tile(values, len(rows))[:, None]
            rows = np.hstack([np.repeat(rows, len(values), axis=0), column])
            rows = rows[_squares(rows) <= limit]
        found.append(rows[(lattice.closest(rows) == rows).all(axis=1) & rows.any(axis=1)])
    return np.vstack(found)


def index(lattice: RootLattice, bits: int, points: Points) -> NDArray[np.int64]:
    """The coset of lattice points modulo 2^b·Λ, shape (m, k): 0 … 2^b − 1 each."""
    whole: NDArray[np.int64] = np.rint(points @ lattice.coordinates).astype(np.int64)
    return whole % (1 << bits)


def codewords(lattice: RootLattice, bits: int, cosets: NDArray[Any]) -> Points:
    """The codewords of cosets z: zG − 2^b·Q(zG/2^b), Q the closest point; exact."""
    points: Points = cosets @ lattice.basis
    return points - (1 << bits) * lattice.closest(points / (1 << bits))


def is_codeword(lattice: RootLattice, bits: int, points: Points) -> NDArray[np.bool_]:
    """Which lattice points are codewords; all whose norm is below 2^b·√½ are."""
    inside: NDArray[np.bool_] = _squares(points) < (1 << 2 * bits) / 2  # the ball inside 2^b·V
    doubtful = points[~inside]
    same = codewords(lattice, bits, index(lattice, bits, doubtful)) == doubtful
    inside[~inside] = same.all(axis=1)
    return inside


def nearest_codewords(lattice: RootLattice, bits: int, points: Points) -> Points:
    """The nearest codeword of every point of the ball ‖u‖ ≤ P = 2^b·√½, shape (m, n).

    The closest lattice point λ where it is a codeword. Elsewhere codewords are searched among
    λ + w, w of squared norm ≤ 2, then 4, then 6. A lattice point beyond squared norm t is at least
    √(t + 2) − ‖u − λ‖ from u (norms are even), so a codeword within that distance is the nearest.
    6 is always enough: a codeword lies within r_cov + √½ of u (see ``covering``), which is less
    than √8 − r_cov.

    With ``safe_only`` the points are of the smaller ball of ``reach``. There a closest point that
    is no codeword is a tie, at a point where the sphere touches (2^b − 1)·V, up to rounding: a
    little further inside, the other point of the tie is the closest, and a codeword.
    """
    nearest = lattice.closest(points)
    lost = np.flatnonzero(~is_codeword(lattice, bits, nearest))
    if lattice.safe_only:
        nearest[lost] = lattice.closest(points[lost] * (1 - 2.0**-40))
        return nearest
    for limit in (2, 4, 6):
        shells = short_vectors(lattice, limit)
        unsure = []
        for start in range(0, len(lost), step := max(1, _CHUNK // len(shells))):
            rows = lost[start : start + step]
            found, sure = _search(lattice, bits, points[rows], nearest[rows], limit)
            nearest[rows[sure]] = found[sure]
            unsure.append(rows[~sure])
        lost = np.concatenate([lost[:0], *unsure])
    return nearest


def _search(
    lattice: RootLattice, bits: int, points: Points, nearest: Points, limit: int
) -> tuple[Points, NDArray[np.bool_]]:
    """Nearest codewords among λ + w, |w|² ≤ limit, and which of them are surely the nearest."""
    shells, left = short_vectors(lattice, limit), points - nearest
    own = _squares(left)
    squares = own[:, None] - 2 * left @ shells.T + _squares(shells)
    squares[squares > (math.sqrt(limit + 2) - np.sqrt(own))[:, None] ** 2] = np.inf
    found, sure, rows = nearest.copy(), np.zeros(len(points), bool), np.arange(len(points))
    while rows.size:  # the next candidate of every point, nearest first
        pick = squares[rows].argmin(axis=1)
        some = np.isfinite(squares[rows, pick])
        rows, pick = rows[some], pick[some]
        candidates = nearest[rows] + shells[pick]
        good = is_codeword(lattice, bits, candidates)
        found[rows[good]], sure[rows[good]] = candidates[good], True
        rows, pick = rows[~good], pick[~good]
        squares[rows, pick] = np.inf
    return found, sure


def reach(bits: int, full_range: bool) -> float:
    """The radius in lattice units onto which the ball of a block is mapped; see ``covering``."""
    most = (1 << bits) * PACKING_RADIUS
    return most if full_range or bits == 1 else most - PACKING_RADIUS


def covering(lattice: RootLattice, bits: int, full_range: bool) -> float:
    """ρ in ‖error‖ ≤ ρ·2^(−b)·(radius of the ball) for one block.

    P = 2^b·√½ is the radius of the ball inside 2^b·V. For ‖u‖ < P − √½, u lies in (2^b − 1)·V and
    its closest point λ in u + V, so λ is inside 2^b·V and a codeword: the error is at most r_cov.
    For a reach a in [P − √½, P], shorten u by a − (P − √½) first: the error of the nearest codeword
    is at most a + r_cov + √½ − P, and ρ = 2^b·(1 + (r_cov + √½ − P)/a) is monotone in a, so one of
    the ends is the best. At P − √½, ρ = (r_cov/√½)/(1 − 2^−b); at P, ρ = r_cov/√½ + 1, which is
    less for one bit alone.
    """
    radius = reach(bits, full_range)
    most = (1 << bits) * PACKING_RADIUS
    error = radius + lattice.covering_radius + PACKING_RADIUS - most
    return (1 << bits) * error / radius
