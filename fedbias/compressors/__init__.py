"""Compressors: vectors → packets. Importing this registers every codec that can be decoded."""

from .base import Compressor, Guarantee
from .dense import Half, Identity
from .quantizers import Dithered, Sign, Uniform
from .sparse import RandomK, TopK

identity, half = Identity, Half
sign, uniform, dithered = Sign, Uniform, Dithered
top_k, random_k = TopK, RandomK

__all__ = [
    "Compressor",
    "Guarantee",
    "dithered",
    "half",
    "identity",
    "random_k",
    "sign",
    "top_k",
    "uniform",
]
