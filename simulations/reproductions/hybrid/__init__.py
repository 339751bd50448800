"""Hybrid decentralized optimization (arXiv 2210.07703): zeroth- and first-order nodes together."""

from .cells import REPRODUCTION

__all__ = ["REPRODUCTION"]
