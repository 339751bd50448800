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
from .zeroth_order import (
    averaged_variance,
    difference_bias,
    matching_contraction,
    pair_contraction,
    relative_error,
    variance_ratio,
)

__all__ = [
    "METHODS",
    "Tuned",
    "adagrad_norm_bound",
    "averaged_variance",
    "contraction",
    "converse",
    "cube_covering",
    "difference_bias",
    "differential_radii",
    "ef21_radii",
    "error_feedback_radii",
    "error_growth",
    "integer_covering",
    "lattice_covering",
    "lossless_rate",
    "matching_contraction",
    "memory_radii",
    "momentum_contraction",
    "momentum_descent",
    "momentum_floor",
    "momentum_potential",
    "momentum_step_limit",
    "naive_contraction",
    "naive_radii",
    "pair_contraction",
    "relative_error",
    "transient",
    "tuned",
    "variance_ratio",
]
