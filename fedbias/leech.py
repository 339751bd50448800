"""The Leech lattice and its closest points, from the extended Golay code.

Scaled to shortest vectors of length √2, Λ24 is a quarter of these integer vectors x (Conway and
Sloane, Sphere Packings, ch. 4): x = 2c + 4z with Σz even, or x = 1 + 2c + 4z with Σz odd, c any
word of the Golay code. So it has 2·4096 cosets of 4·D24; in each the closest point is found as in
D24, by rounding and undoing the worst rounding where the parity is wrong, and the best of the 8192
is the closest point of all. What a word costs is the sum over its halves of 12 coordinates; a
half has 4096 patterns, whose costs are summed up by doubling.

The points that a decoder asks for have coordinates that are multiples of 2^(−b−2), b ≤ 16. There
every cost is a multiple of 4^−b below 2^7 and hence exact in any order: a tie is a real tie, and
the first word wins, on every machine. Elsewhere rounding decides between points that are as near;
no sum is left to BLAS, which may round otherwise on another machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedbias.lattices import Points, RootLattice

_CHUNK = 32  # points handled at once: six tables of 4096 × 32 numbers
_SQUARES = (0, 1, 3, 4, 5, 9)  # modulo 11


def golay_generator() -> NDArray[np.int64]:
    """The generator (I | A) of the extended Golay code, shape (12, 24); A is symmetric."""
    place = np.arange(11)
    right = np.ones((12, 12), np.int64)
    right[:11, :11] = np.isin((place[:, None] + place) % 11, _SQUARES)
    right[11, 11] = 0
    return np.hstack([np.eye(12, dtype=np.int64), right])


def golay_words() -> NDArray[np.int64]:
    """All 4096 words; the first half of word i is i in binary, highest bit first."""
    messages = np.arange(4096)[:, None] >> np.arange(11, -1, -1) & 1
    return messages @ golay_generator() % 2


_WORDS = golay_words()
_SECOND = _WORDS[:, 12:] @ (1 << np.arange(11, -1, -1))  # the second half of word i as a number


def _over_words(
    operation: np.ufunc, zero: NDArray[Any], one: NDArray[Any], space: NDArray[Any]
) -> NDArray[Any]:
    """The operation over all coordinates for every word and point: (24, m) twice → (4096, m).

    A coordinate contributes ``zero`` where the word has 0, ``one`` where it has 1. The space,
    (3, 4096, m), is used again and again: fresh tables take longer than the sums.
    """
    for table, last in zip(space, (11, 23), strict=False):
        table[0], table[1], size = zero[last], one[last], 2
        for place in range(last - 1, last - 12, -1):
            operation(table[:size], one[place], out=table[size : 2 * size])
            operation(table[:size], zero[place], out=table[:size])
            size *= 2
    np.take(space[1], _SECOND, axis=0, out=space[2], mode="clip")
    words: NDArray[Any] = operation(space[0], space[2], out=space[0])
    return words


def _closest_in_half(points: Points, parity: int, spaces: tuple[Points, ...]) -> Points:
    """Closest 2c + 4z with Σz ≡ parity, of points (24, m)."""
    whole = np.rint(points / 4)
    left = points - 4 * whole  # −2 … 2; to the numbers 2 + 4z it is 2 − |left|
    size, below = np.abs(left), left < 0  # 2 + 4(whole − below) is the closest of those
    costs = _over_words(np.add, np.zeros_like(size), 4 - 4 * size, spaces[0])  # beyond Σ left²
    worst = _over_words(np.maximum, size, 2 - size, spaces[1])
    odd = whole % 2 == 1
    wrong = _over_words(np.not_equal, odd, odd ^ below, spaces[2])
    np.not_equal(wrong, bool(parity), out=wrong)
    worst *= -8
    worst += 16  # a coordinate that is off by w costs (4 − w)² − w² more on the other side
    worst *= wrong
    costs += worst
    pick, columns = costs.argmin(axis=0), np.arange(points.shape[1])
    word = _WORDS[pick].T
    found: Points = 2.0 * word + 4 * (whole - word * below)
    left = points - found
    place = np.abs(left).argmax(axis=0)
    away = np.where(left[place, columns] < 0, -4, 4)
    found[place, columns] += away * wrong[pick, columns]
    return found


def closest_leech(points: Points) -> Points:
    """Closest points of the Leech lattice with shortest vectors of length √2, shape (m, 24)."""
    nearest = np.empty(points.shape)
    tables = (3, 4096, min(_CHUNK, len(points)))
    spaces = np.empty(tables), np.empty(tables), np.empty(tables, bool)
    for start in range(0, len(points), _CHUNK):
        some = 4 * np.ascontiguousarray(points[start : start + _CHUNK].T)
        own = tuple(space[..., : some.shape[1]] for space in spaces)
        even, odd = _closest_in_half(some, 0, own), _closest_in_half(some - 1, 1, own) + 1
        nearer = ((some - even) ** 2).sum(axis=0) <= ((some - odd) ** 2).sum(axis=0)
        nearest[start : start + _CHUNK] = np.where(nearer, even, odd).T / 4
    return nearest


def _basis() -> Points:
    """An odd vector, eleven words and 4·D12 of the second half: of determinant 2^36/4^24."""
    differences = 4 * (np.eye(24) - np.eye(24, k=1))[12:]  # the last row: 8·e_24
    differences[-1, -1] = 8
    first = np.append(np.ones(23), -3)  # twice it is 2·(the first word) + …
    return np.vstack([first, 2 * golay_generator()[1:], differences]) / 4


LEECH = RootLattice("Leech", _basis(), np.eye(24), closest_leech, 1.0, safe_only=True)
