"""Objectives whose constants and minimisers are known, so statements about them can be checked."""

from .few_shot import FewShot
from .least_squares import LeastSquares
from .linear import LogisticLoss, Squares
from .logistic import Logistic
from .oracle import GemanMcClure, noisy
from .policy import PolicySearch, Rollouts
from .shallow_linear import ShallowLinear, ShallowLinearLoss
from .tabular import DecisionProcess

__all__ = [
    "DecisionProcess",
    "FewShot",
    "GemanMcClure",
    "LeastSquares",
    "Logistic",
    "LogisticLoss",
    "PolicySearch",
    "Rollouts",
    "ShallowLinear",
    "ShallowLinearLoss",
    "Squares",
    "noisy",
]
