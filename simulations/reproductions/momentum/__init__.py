"""Parallel momentum (arXiv 2403.00853): the MNIST table."""

from .cells import REPRODUCTION

__all__ = ["REPRODUCTION"]
