"""What the server does with the mean estimate g: pure steps, settings beside state.

``state`` is a dict of arrays that starts empty, so it can be saved as it is. Steps return new
arrays and never write into the old ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from fedbias import checks
from fedbias.notation import setting
from fedbias.vectors import Vector

State = Mapping[str, Vector]


class Optimizer(ABC):
    """A server step x_{k+1} = x_k − …, from the mean of the clients' estimates."""

    name: ClassVar[str]
    step_size: float

    @abstractmethod
    def update(self, point: Vector, gradient: Vector, state: State) -> tuple[Vector, State]:
        """The next point and state, from x_k, g_k and the state so far; {} before the first."""

    @property
    def stability(self) -> float | None:
        """Below which step size × curvature the steps converge on a quadratic; None: not known."""
        return None


@setting("gradient_descent")
class GradientDescent(Optimizer):
    """x ← x − γg."""

    step_size: float  # γ

    def __post_init__(self) -> None:
        checks.real(self.name, "step_size", self.step_size, above=0)

    def update(self, point: Vector, gradient: Vector, state: State) -> tuple[Vector, State]:
        return point - self.step_size * gradient, {}

    @property
    def stability(self) -> float:
        return 2.0


@setting("heavy_ball")
class HeavyBall(Optimizer):
    """Parallel momentum (arXiv 2403.00853): v ← (1−β)v + βg with v_0 = g_0; x ← x − γv.

    β = 1 is plain gradient descent, a small β is heavy momentum. Equal to torch's
    ``SGD(momentum=1−β, dampening=1−β)``, whose first buffer is undamped too.
    """

    step_size: float  # γ
    beta: float  # β, in (0, 1]

    def __post_init__(self) -> None:
        checks.real(self.name, "step_size", self.step_size, above=0)
        checks.real(self.name, "beta", self.beta, above=0, most=1)

    def update(self, point: Vector, gradient: Vector, state: State) -> tuple[Vector, State]:
        velocity = gradient
        if state:
            velocity = (1 - self.beta) * state["velocity"] + self.beta * gradient
        return point - self.step_size * velocity, {"velocity": velocity}

    @property
    def stability(self) -> float:
        return 2 * (2 - self.beta) / self.beta


@setting("polyak")
class Polyak(Optimizer):
    """The classical heavy ball: x_{k+1} = x_k − ηg_k + γ(x_k − x_{k−1}), x_{−1} = x_0."""

    step_size: float  # η
    momentum: float  # γ, in [0, 1)

    def __post_init__(self) -> None:
        checks.real(self.name, "step_size", self.step_size, above=0)
        checks.real(self.name, "momentum", self.momentum, least=0, below=1)

    def update(self, point: Vector, gradient: Vector, state: State) -> tuple[Vector, State]:
        previous = state.get("previous", point)
        moved = point - self.step_size * gradient + self.momentum * (point - previous)
        return moved, {"previous": point}

    @property
    def stability(self) -> float:
        return 2 * (1 + self.momentum)


@setting("nesterov")
class Nesterov(Optimizer):
    """y_{k+1} = x_k − ηg_k; x_{k+1} = y_{k+1} + γ(y_{k+1} − y_k), y_0 = x_0."""

    step_size: float  # η
    momentum: float  # γ, in [0, 1)

    def __post_init__(self) -> None:
        checks.real(self.name, "step_size", self.step_size, above=0)
        checks.real(self.name, "momentum", self.momentum, least=0, below=1)

    def update(self, point: Vector, gradient: Vector, state: State) -> tuple[Vector, State]:
        old = state.get("descended", point)
        new = point - self.step_size * gradient
        return new + self.momentum * (new - old), {"descended": new}

    @property
    def stability(self) -> float:
        return 2 * (1 + self.momentum) / (1 + 2 * self.momentum)


@setting("adagrad")
class Adagrad(Optimizer):
    """S ← S + g², x ← x − αg/√S per coordinate (Duchi et al. 2011). No ε: 0/0 is 0.

    Where g² underflows (|g| below 10^−23 in float32) it counts as 0, and no step is taken.
    """

    step_size: float  # α

    def __post_init__(self) -> None:
        checks.real(self.name, "step_size", self.step_size, above=0)

    def update(self, point: Vector, gradient: Vector, state: State) -> tuple[Vector, State]:
        total = state.get("squares", np.zeros_like(point)) + gradient * gradient
        scaled = np.divide(gradient, np.sqrt(total), where=total > 0, out=np.zeros_like(point))
        return point - self.step_size * scaled, {"squares": total}


@setting("adagrad_norm")
class AdagradNorm(Optimizer):
    """S ← S + ‖g‖², x ← x − αg/√S, one step size for all (Ward et al. 2019); 0/0 is 0. No ε."""

    step_size: float  # α
    initial: float = 0.0  # S_0

    def __post_init__(self) -> None:
        checks.real(self.name, "step_size", self.step_size, above=0)
        checks.real(self.name, "initial", self.initial, least=0)

    def update(self, point: Vector, gradient: Vector, state: State) -> tuple[Vector, State]:
        before = float(state["squares"][0]) if state else self.initial
        total = before + float(np.sum(gradient.astype(np.float64) ** 2))
        step = self.step_size / math.sqrt(total) if total > 0 else 0.0
        return point - step * gradient, {"squares": np.array([total])}


@setting("adam")
class Adam(Optimizer):
    """Adam with bias correction (Kingma and Ba 2015): x ← x − α·m̂/(√v̂ + ε)."""

    step_size: float = 1e-3  # α
    beta1: float = 0.9  # β₁
    beta2: float = 0.999  # β₂
    epsilon: float = 1e-8  # ε

    def __post_init__(self) -> None:
        checks.real(self.name, "step_size", self.step_size, above=0)
        checks.real(self.name, "beta1", self.beta1, least=0, below=1)
        checks.real(self.name, "beta2", self.beta2, least=0, below=1)
        checks.real(self.name, "epsilon", self.epsilon, above=0)

    def update(self, point: Vector, gradient: Vector, state: State) -> tuple[Vector, State]:
        zero = np.zeros_like(point)
        count = int(state["count"][0]) + 1 if state else 1
        first = self.beta1 * state.get("first", zero) + (1 - self.beta1) * gradient
        second = self.beta2 * state.get("second", zero) + (1 - self.beta2) * gradient**2
        mean, square = first / (1 - self.beta1**count), second / (1 - self.beta2**count)
        moved = point - self.step_size * mean / (np.sqrt(square) + self.epsilon)
        return moved, {"count": np.array([float(count)]), "first": first, "second": second}


gradient_descent, heavy_ball, polyak, nesterov = GradientDescent, HeavyBall, Polyak, Nesterov
adagrad, adagrad_norm, adam = Adagrad, AdagradNorm, Adam
