"""A Markov decision process small enough that its policy gradient is solved for, not sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedbias import checks
from fedbias.vectors import Vector


@dataclass(frozen=True, eq=False)
class DecisionProcess:
    """J(θ) = E Σ_t γ^t r(s_t, a_t) under the policy π(a|s) ∝ exp θ_sa, and J_H, its first H terms.

    Attributes
    ----------
    transitions : ndarray, shape (S, A, S)
        P(s'|s, a).
    rewards : ndarray, shape (S, A)
        r.
    initial : ndarray, shape (S,)
        The distribution of s_0.
    discount : float
        γ in [0, 1).
    """

    transitions: Vector
    rewards: Vector
    initial: Vector
    discount: float

    def __post_init__(self) -> None:
        checks.real("DecisionProcess", "discount", self.discount, least=0, below=1)
        states, actions = self.rewards.shape
        shapes = self.transitions.shape, self.initial.shape
        if shapes != ((states, actions, states), (states,)):
            raise ValueError(
                f"DecisionProcess: transitions and initial must have the shapes {(states, actions)}"
                f" + (S,) and (S,) that rewards ask for, not {shapes[0]} and {shapes[1]}"
            )
        for name in ("transitions", "initial"):
            chances = getattr(self, name)
            if (chances < 0).any() or not np.allclose(chances.sum(axis=-1), 1, rtol=0, atol=1e-12):
                raise ValueError(f"DecisionProcess: {name} must be probabilities that sum to 1")

    @property
    def lipschitz(self) -> float:
        """R/(2(1−γ)³) ≥ ‖∇²J(θ)‖ for every θ, R being the range of the rewards.

        Mei et al. 2020 have 8/(1−γ)³ for rewards in [0, 1]. Here u'∇²J u is split into
        covariances under π(·|s) of u_s (deviation ≤ ‖u‖/√2), of (u_s − ū_s)² (≤ ‖u‖²), of Q
        (≤ R/(2(1−γ))) and of u'∇V (≤ ‖u‖·R/(2√2(1−γ)²)). It is an upper bound and not attained:
        for γ = 0.5 to 0.8 the curvatures that are seen are 20 to 200 times smaller.
        """
        return float(np.ptp(self.rewards)) / (2 * (1 - self.discount) ** 3)

    def policy(self, point: Vector) -> Vector:
        """π, shape (S, A), from θ, shape (S·A,)."""
        logits = point.reshape(self.rewards.shape)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def value(self, point: Vector, horizon: int | None = None) -> float:
        """J(θ), or J_H(θ) with H = ``horizon``."""
        chances = self.policy(point)
        mean_rewards, moves = np.sum(chances * self.rewards, axis=1), self._moves(chances)
        if horizon is None:
            system = np.eye(len(moves)) - self.discount * moves
            return float(self.initial @ np.linalg.solve(system, mean_rewards))
        values = np.zeros(len(moves))
        for _ in range(horizon):
            values = mean_rewards + self.discount * moves @ values
        return float(self.initial @ values)

    def gradient(self, point: Vector, horizon: int | None = None) -> Vector:
        """∇J(θ) by the policy-gradient theorem (Sutton et al. 2000), or ∇J_H(θ), shape (S·A,)."""
        chances = self.policy(point)
        moves = self._moves(chances)
        if horizon is None:
            system = np.eye(len(moves)) - self.discount * moves
            values = np.linalg.solve(system, np.sum(chances * self.rewards, axis=1))
            visits = np.linalg.solve(system.T, self.initial)
            return (visits[:, None] * self._advantages(chances, values)[0]).ravel()
        advantages, values = [], np.zeros(len(moves))
        for _ in range(horizon):
            advantage, values = self._advantages(chances, values)
            advantages.append(advantage)
        total, visits = np.zeros_like(chances), self.initial
        for advantage in reversed(advantages):  # with H, H − 1, …, 1 steps to go
            total += visits[:, None] * advantage
            visits = self.discount * visits @ moves
        return total.ravel()

    def truncation_bound(self, horizon: int) -> float:
        """γ^H·R/(2√2(1−γ))·(√H + 1/(1−γ)) ≥ ‖∇J_H(θ) − ∇J(θ)‖ for every θ.

        Of ∇(J − J_H) = γ^H·E[Σ_{t<H} ∇log π(a_t|s_t)·V(s_H) + ∇V(s_H)]: the scores are
        uncorrelated and V has a deviation of at most R/(2(1−γ)).
        """
        left = 1 - self.discount
        reach = self.discount**horizon * float(np.ptp(self.rewards)) / (2 * math.sqrt(2) * left)
        return reach * (math.sqrt(horizon) + 1 / left)

    def _moves(self, chances: Vector) -> Vector:
        return np.asarray(np.einsum("sa,sat->st", chances, self.transitions))

    def _advantages(self, chances: Vector, values: Vector) -> tuple[Vector, Vector]:
        """π·(Q − V), and V, one step before the given values."""
        ahead = self.rewards + self.discount * self.transitions @ values
        here = np.sum(chances * ahead, axis=1)
        return chances * (ahead - here[:, None]), here
