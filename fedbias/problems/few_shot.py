"""Few-shot regression: tasks that are quadratic, so that MAML's loss has a known minimiser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedbias import checks
from fedbias.randomness import SERVER, Purpose, generator
from fedbias.vectors import Vector

from .linear import Squares


class FewShot:
    """F = mean over tasks of F_m(x) = f_m(x − α∇f_m(x)), f_m being a client's least squares.

    With H_m = ∇²f_m, ∇F_m = (I − αH_m)²·∇f_m: F is quadratic as well. It is the loss that
    :func:`fedbias.meta` descends with all the data; with batches that estimator is biased, by
    :meth:`bias`. For tasks that are not quadratic none of this holds.

    Attributes
    ----------
    objectives : list of Squares
        One task per client.
    lipschitz, strong_convexity : float
        L and μ: the extreme eigenvalues of ∇²F.
    minimizer : ndarray, shape (dim,)
        x*, the best point to adapt from.
    minimum : float
        F(x*).
    """

    def __init__(self, objectives: Sequence[Squares], inner_step_size: float) -> None:
        checks.real("FewShot", "inner_step_size", inner_step_size, least=0)
        self.objectives, self.inner_step_size = list(objectives), inner_step_size
        zero = np.zeros(objectives[0].dim)
        slope = self.gradient(zero)
        hessian = np.stack([self.gradient(unit) - slope for unit in np.eye(zero.size)], axis=1)
        spectrum = np.linalg.eigvalsh(hessian)
        self.lipschitz, self.strong_convexity = float(spectrum[-1]), max(0.0, float(spectrum[0]))
        self.minimizer: Vector = np.linalg.lstsq(hessian, -slope, rcond=None)[0]
        self.minimum = self.loss(self.minimizer)

    @classmethod
    def sines(cls, tasks: int, examples: int, seed: int, inner_step_size: float) -> FewShot:
        """The sine waves of Finn et al. 2017, regressed on 1 and sin kt, cos kt for k = 1, 2, 3.

        Every task can be fitted without error, but no point fits them all.

        Parameters
        ----------
        tasks : int
            Amplitudes are uniform in [0.1, 5], phases in [0, π].
        examples : int
            Per task; t is uniform in [−5, 5].
        inner_step_size : float
            α ≥ 0.
        """
        checks.whole("FewShot", "tasks", tasks, least=1)
        checks.whole("FewShot", "examples", examples, least=1)
        rng = generator(seed, 0, SERVER, Purpose.DATA)
        objectives = []
        for _ in range(tasks):
            amplitude, phase = rng.uniform(0.1, 5), rng.uniform(0, np.pi)
            times = rng.uniform(-5, 5, examples)
            angles = times[:, None] * np.arange(1, 4)
            features = np.hstack([np.ones((examples, 1)), np.sin(angles), np.cos(angles)])
            objectives.append(Squares(features, amplitude * np.sin(times + phase)))
        return cls(objectives, inner_step_size)

    def loss(self, point: Vector) -> float:
        """F(point)."""
        step = self.inner_step_size
        return float(np.mean([f.loss(point - step * f.gradient(point)) for f in self.objectives]))

    def gradient(self, point: Vector) -> Vector:
        """∇F(point)."""
        parts = []
        for task in self.objectives:
            adapted = task.gradient(point - self.inner_step_size * task.gradient(point))
            parts.append(adapted - self.inner_step_size * task.hvp(point, adapted))
        mean: Vector = np.mean(parts, axis=0)
        return mean

    def bias(self, point: Vector, batch_size: int) -> Vector:
        """E[ĝ] − ∇F at ``point``, where ĝ is the tasks' mean of ``fb.meta`` with batches.

        (α²/b)·mean over tasks and their examples i of (h_i − H)·H·(g_i − g), with h_i and g_i one
        example's Hessian and gradient: the noise of the support batch enters twice.
        """
        parts = []
        for task in self.objectives:
            residuals = task.features @ point - task.targets
            off = task.features * residuals[:, None] - task.features.T @ residuals / task.size
            bent = task.hvp(point, off.T).T  # H(g_i − g), one row per example
            along = np.sum(task.features * bent, axis=1)  # the part with H·H sums to 0
            parts.append(task.features.T @ along / task.size)
        mean: Vector = self.inner_step_size**2 / batch_size * np.mean(parts, axis=0)
        return mean
