"""Objectives whose constants and minimisers are known, so statements about them can be checked."""

from .least_squares import LeastSquares
from .linear import LogisticLoss, Squares
from .logistic import Logistic

__all__ = ["LeastSquares", "Logistic", "LogisticLoss", "Squares"]
