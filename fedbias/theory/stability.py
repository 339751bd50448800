"""Where an optimizer's steps stop converging on a quadratic, found from the steps themselves."""

from __future__ import annotations

import numpy as np

from fedbias.optimizers import Optimizer
from fedbias.vectors import Vector


def quadratic_radius(optimizer: Optimizer, product: float) -> float:
    """The spectral radius of an optimizer's recursion on f(x) = λx²/2.

    The recursion maps (x_k, state) to (x_{k+1}, state): its matrix is made of what ``update`` does
    to each unit vector. Below 1 the iterates converge linearly with this rate, above 1 almost all
    of them diverge; on a quadratic in several dimensions each eigenvalue of the Hessian is a λ.

    Parameters
    ----------
    optimizer : Optimizer
        One whose steps are linear in point, gradient and state: those with a ``stability``, which
        is the product where the radius becomes 1.
    product : float
        Step size times curvature, ηλ.

    Raises
    ------
    ValueError
        If the optimizer's steps are not linear.
    """
    if optimizer.stability is None:
        raise ValueError(
            f"{optimizer} does not step linearly: use gradient_descent, heavy_ball, polyak or "
            "nesterov"
        )
    curvature = product / optimizer.step_size
    names = list(optimizer.update(np.zeros(1), np.zeros(1), {})[1])

    def mapped(unit: Vector) -> Vector:
        point, *rest = unit[:, None]
        after, state = optimizer.update(
            point, curvature * point, dict(zip(names, rest, strict=True))
        )
        return np.concatenate([after, *(state[name] for name in names)])

    matrix = np.stack([mapped(unit) for unit in np.eye(1 + len(names))], axis=1)
    return float(np.abs(np.linalg.eigvals(matrix)).max())
