"""Progressive sharpening to the edge of stability, and step sizes c/λ̂ that know where it is."""

from .cells import REPRODUCTION

__all__ = ["REPRODUCTION"]
