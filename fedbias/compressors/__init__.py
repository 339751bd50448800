"""Compressors: vectors → packets. Importing this registers every codec that can be decoded."""

from .base import Compressor, Guarantee
from .dense import Half, Identity
from .entropy import EntropyCoded
from .nested import Lattice
from .quantizers import Dithered, Sign, Uniform
from .rotations import Rotated
from .sparse import RandomK, TopK
from .trellis import TrellisCoded

identity, half = Identity, Half
sign, uniform, dithered = Sign, Uniform, Dithered
lattice, rotated = Lattice, Rotated
entropy_coded, trellis_coded = EntropyCoded, TrellisCoded
top_k, random_k = TopK, RandomK

__all__ = [
    "Compressor",
    "Guarantee",
    "dithered",
    "entropy_coded",
    "half",
    "identity",
    "lattice",
    "random_k",
    "rotated",
    "sign",
    "top_k",
    "trellis_coded",
    "uniform",
]
