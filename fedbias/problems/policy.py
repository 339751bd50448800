"""Policy search from sampled trajectories of finite length: REINFORCE, biased by its horizon."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedbias import checks
from fedbias.objectives import Batch
from fedbias.randomness import SERVER, Purpose, generator
from fedbias.vectors import Vector

from .linear import penalty
from .tabular import DecisionProcess


@dataclass(eq=False)
class Rollouts:
    """f(θ) = −J(θ) + (ridge/2)·‖θ‖², whose gradient is estimated from ``size`` trajectories.

    ``loss`` is exact; ``gradient`` is REINFORCE (Williams 1992) with the rewards to go, over
    trajectories cut after H steps. Its mean is the gradient for J_H, whatever the number of
    trajectories: more of them remove the noise, only a longer horizon removes the bias. They
    follow from ``draw_key`` alone: new ones in every round, the same ones at every point of a turn.
    Whoever asks for the gradient over all the data gets this estimate; only
    :class:`PolicySearch` has the exact one.

    Attributes
    ----------
    process : DecisionProcess
    horizon : int
        H.
    size : int
        Trajectories; they are the examples, so a batch is a choice of some.
    """

    process: DecisionProcess
    horizon: int
    size: int
    ridge: float = 0.0
    draw_key: tuple[int, ...] = (0, 0, 0)  # set by every turn

    @property
    def dim(self) -> int:
        """Length of the point, S·A."""
        return int(self.process.rewards.size)

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """f(θ), exactly; the batch makes no difference."""
        return penalty(point, self.ridge) - self.process.value(point)

    def gradient(self, point: Vector, batch: Batch | None = None) -> Vector:
        """−mean over trajectories of Σ_{t<H} ∇log π(a_t|s_t)·Σ_{u≥t} γ^u·r_u, + ridge·θ."""
        process, chances = self.process, self.process.policy(point)
        pairs = self._sampled(chances, batch)
        discounts = process.discount ** np.arange(self.horizon)[:, None]
        gains = discounts * process.rewards.ravel()[pairs]
        to_go = np.cumsum(gains[::-1], axis=0)[::-1]
        weights = np.bincount(pairs.ravel(), to_go.ravel(), minlength=self.dim)
        weights = weights.reshape(chances.shape) / pairs.shape[1]
        scored: Vector = weights - chances * weights.sum(axis=1, keepdims=True)
        return self.ridge * point - scored.ravel()

    def exact_gradient(self, point: Vector) -> Vector:
        """∇f(θ), exactly: what the estimate lacks is its horizon's bias and its noise."""
        return self.ridge * point - self.process.gradient(point)

    def _sampled(self, chances: Vector, batch: Batch | None) -> NDArray[np.int64]:
        """s·A + a of every step of every trajectory, shape (horizon, trajectories)."""
        stream = np.random.default_rng([*self.draw_key, int(Purpose.ROLLOUT)])
        draws = stream.random((1 + 2 * self.horizon, self.size))
        draws = draws if batch is None else draws[:, batch]
        choose, move = np.cumsum(chances, axis=1), np.cumsum(self.process.transitions, axis=2)
        pairs = np.empty((self.horizon, draws.shape[1]), np.int64)
        state = _drawn(np.cumsum(self.process.initial), draws[0])
        for step in range(self.horizon):
            action = _drawn(choose[state], draws[1 + 2 * step])
            pairs[step] = state * chances.shape[1] + action
            state = _drawn(move[state, action], draws[2 + 2 * step])
        return pairs


class PolicySearch:
    """f = mean over clients of −J_m + ridge: the clients share transitions, not rewards.

    J is linear in the rewards, so −f is, up to the ridge, J with their mean. The ridge keeps the
    policies random: without it every deterministic policy, good or bad, has a gradient of 0.

    Attributes
    ----------
    objectives : list of Rollouts
        One per client.
    process : DecisionProcess
        With the clients' mean rewards.
    lipschitz : float
        L, an upper bound that is far from attained (:attr:`DecisionProcess.lipschitz` + ridge).
    strong_convexity, minimizer : None
        f is not convex.
    """

    def __init__(self, objectives: list[Rollouts]) -> None:
        self.objectives = objectives
        first = objectives[0]
        rewards = np.mean([f.process.rewards for f in objectives], axis=0)
        self.process = replace(first.process, rewards=rewards)
        self.horizon, self.ridge = first.horizon, first.ridge
        self.lipschitz = self.process.lipschitz + self.ridge
        self.strong_convexity = self.minimizer = None

    @classmethod
    def chain(
        cls,
        states: int,
        discount: float,
        horizon: int,
        trajectories: int,
        seed: int,
        *,
        ridge: float = 0.0,
        clients: int = 1,
    ) -> PolicySearch:
        """Left and right on a row of states; every tenth step goes nowhere.

        The right end pays 1 for staying, the left end 0.3; a client adds noise of deviation 0.1 to
        every reward. A short horizon sees the near reward and not the far one.
        """
        checks.whole("PolicySearch", "states", states, least=2)
        checks.whole("PolicySearch", "horizon", horizon, least=1)
        checks.whole("PolicySearch", "trajectories", trajectories, least=1)
        checks.whole("PolicySearch", "clients", clients, least=1)
        checks.real("PolicySearch", "ridge", ridge, least=0)
        transitions = np.zeros((states, 2, states))
        for state in range(states):
            transitions[state, :, state] = 0.1
            transitions[state, 0, max(state - 1, 0)] += 0.9
            transitions[state, 1, min(state + 1, states - 1)] += 0.9
        rewards = np.zeros((states, 2))
        rewards[0, 0], rewards[-1, 1] = 0.3, 1.0
        rng = generator(seed, 0, SERVER, Purpose.DATA)
        initial = np.full(states, 1 / states)
        own = [rewards + 0.1 * rng.standard_normal(rewards.shape) for _ in range(clients)]
        return cls(
            [
                Rollouts(
                    DecisionProcess(transitions, paid, initial, discount),
                    horizon,
                    trajectories,
                    ridge,
                )
                for paid in own
            ]
        )

    def loss(self, point: Vector) -> float:
        """f(point)."""
        return penalty(point, self.ridge) - self.process.value(point)

    def gradient(self, point: Vector) -> Vector:
        """∇f(point), exactly."""
        return self.ridge * point - self.process.gradient(point)

    @property
    def bias_bound(self) -> float:
        """The most that ``bias`` can be, falling as γ^H."""
        return self.process.truncation_bound(self.horizon)

    def bias(self, point: Vector) -> Vector:
        """E[ĝ] − ∇f at ``point``: what the horizon cuts off, −∇J_H + ∇J."""
        return self.process.gradient(point) - self.process.gradient(point, self.horizon)


def _drawn(cumulated: Vector, draws: Vector) -> Vector:
    """One index per draw from cumulated probabilities, one row for each or one for all."""
    return np.asarray(np.sum(draws[:, None] >= cumulated[..., :-1], axis=1))
