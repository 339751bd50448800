"""Differential quantization (arXiv 2002.02508)."""

from .cells import REPRODUCTION

__all__ = ["REPRODUCTION"]
