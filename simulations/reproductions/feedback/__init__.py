"""Feedbacks side by side, for clients that differ."""

from .cells import REPRODUCTION

__all__ = ["REPRODUCTION"]
