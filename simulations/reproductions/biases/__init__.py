"""The other biases that arXiv 2403.00853 names."""

from .cells import REPRODUCTION

__all__ = ["REPRODUCTION"]
