"""Gradient descent finds flatter minima than its flow (arXiv 2501.09137), through a federation."""

from .cells import REPRODUCTION

__all__ = ["REPRODUCTION"]
