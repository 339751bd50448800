"""The papers' experiments, each a folder; ``python -m simulations reproduce NAME``."""

from . import (
    adadagrad,
    biases,
    differential,
    edge_of_stability,
    feedback,
    flat_minima,
    hybrid,
    momentum,
)
from .base import Cell, Options, Reproduction, Result, Results
from .runner import check, compute

REPRODUCTIONS = {
    "parallel-momentum": momentum.REPRODUCTION,
    "biases": biases.REPRODUCTION,
    "differential-quantization": differential.REPRODUCTION,
    "feedback": feedback.REPRODUCTION,
    "adadagrad": adadagrad.REPRODUCTION,
    "hybrid": hybrid.REPRODUCTION,
    "flat-minima": flat_minima.REPRODUCTION,
    "edge-of-stability": edge_of_stability.REPRODUCTION,
}

__all__ = [
    "REPRODUCTIONS",
    "Cell",
    "Options",
    "Reproduction",
    "Result",
    "Results",
    "check",
    "compute",
]
