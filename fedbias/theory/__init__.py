"""The papers' statements as functions, a file for each paper."""

from .adaptive import adagrad_norm_bound
from .momentum import (
    momentum_contraction,
    momentum_descent,
    momentum_floor,
    momentum_potential,
    momentum_step_limit,
)
from .quantization import (
    METHODS,
    Tuned,
    contraction,
    converse,
    cube_covering,
    error_growth,
    integer_covering,
    lattice_covering,
    lossless_rate,
    naive_contraction,
    transient,
    tuned,
)
from .schedules import (
    differential_radii,
    ef21_radii,
    error_feedback_radii,
    memory_radii,
    naive_radii,
)

__all__ = [
    "METHODS",
    "Tuned",
    "adagrad_norm_bound",
    "contraction",
    "converse",
    "cube_covering",
    "differential_radii",
    "ef21_radii",
    "error_feedback_radii",
    "error_growth",
    "integer_covering",
    "lattice_covering",
    "lossless_rate",
    "memory_radii",
    "momentum_contraction",
    "momentum_descent",
    "momentum_floor",
    "momentum_potential",
    "momentum_step_limit",
    "naive_contraction",
    "naive_radii",
    "transient",
    "tuned",
]
