"""Whole numbers as symbols of few kinds: what an entropy coder needs a table of.

The number of a cell, of either sign, is a symbol and, far out, a few plain bits behind it. With
grain g, numbers of magnitude below 2^g have a symbol each. Beyond, every octave has 2^g symbols
per sign, and what is below their resolution are the plain bits, nearly uniform there. From 2^24 on
all numbers share one symbol, the escape: their entries are sent as they are. So the table stays
small at high rates and under heavy tails.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[Any]
FAR_BITS = 24
FAR = 1 << FAR_BITS  # the magnitude that stands for all from here on
GRAINS = range(7)


def symbols(magnitude: Ints, negative: NDArray[np.bool_], grain: int) -> Ints:
    """The symbol of every number; 0, −1, 1, −2, 2 have the symbols 0, 1, 2, 3, 4.

    Parameters
    ----------
    magnitude : ndarray of int32, shape (n,)
        At most FAR, the escape.
    negative : ndarray of bool, shape (n,)
        Without meaning where the magnitude is 0 or FAR.
    grain : int
        One of GRAINS.
    """
    kind = magnitude.astype(np.int32)
    beyond = np.flatnonzero(magnitude >= 1 << grain)
    if beyond.size:
        width = _log2(magnitude[beyond]) - grain
        kind[beyond] = (width << grain) + (magnitude[beyond] >> width)
    return 2 * kind - (negative & (magnitude > 0) & (magnitude < FAR))


class Table(NamedTuple):
    """What the symbols of one grain stand for, each an array over all symbols.

    Attributes
    ----------
    lowest : magnitude of the smallest number of this symbol.
    sign : −1 or 1.
    width : plain bits behind it.
    """

    lowest: Ints
    sign: Ints
    width: Ints

    @property
    def escape(self) -> int:
        """The symbol of what is beyond, the last one."""
        return len(self.lowest) - 1


@cache
def table(grain: int) -> Table:
    """The symbols of one grain; not to be written to."""
    kinds = ((FAR_BITS - grain + 1) << grain) + 1
    symbol = np.arange(2 * kinds - 1)
    kind = (symbol + 1) >> 1
    width = np.maximum((kind >> grain) - 1, 0)
    lowest = (kind - (width << grain)) << width
    width[-1] = 0  # the escape
    return Table(lowest, 1 - 2 * (symbol & 1), width)


@cache
def coarser(grain: int) -> Ints:
    """The symbol in this grain of every symbol of the finest grain; not to be written to."""
    finest = table(GRAINS[-1])
    return symbols(finest.lowest.astype(np.int32), finest.sign < 0, grain)


def _log2(whole: Ints) -> Ints:
    return np.frexp(whole.astype(np.float64))[1] - 1
