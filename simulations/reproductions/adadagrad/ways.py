"""What ``reproduce adadagrad`` compares: tasks and their budgets, steps, ways to choose b."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedbias import batching

from ...settings import Settings, make_settings

CLIENTS, SEEDS = 4, (0, 1, 2)
ETA = 0.5  # η
MODELS = {"linear": "linear()", "cnn": "cnn()"}
OPTIMIZERS = ("adagrad", "adagrad_norm")
STAGES = 4  # doublings from the small size to the large one, all in the first half of the samples
WAYS = ("small", "large", "stage-wise", "adaptive", "average")  # the last needs the one before it
GRIDS = {
    ("linear", "adagrad"): (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    ("linear", "adagrad_norm"): (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    ("cnn", "adagrad"): (0.003, 0.01, 0.03, 0.1, 0.3),
    ("cnn", "adagrad_norm"): (0.1, 0.3, 1.0, 3.0, 10.0),
}
STEPS_SEED = 100  # chooses the step sizes


@dataclass(frozen=True)
class Budget:
    """How long a task and model are trained.

    Attributes
    ----------
    samples : int
        N: a run ends with the round that reaches it.
    steps : int
        After so many samples the step size is chosen.
    small : int
        The least b.
    """

    samples: int
    steps: int
    small: int

    @property
    def large(self) -> int:
        """The largest b."""
        return self.small << STAGES


BUDGETS = {
    ("digits", "linear"): Budget(28_800, 14_400, 8),
    ("digits", "cnn"): Budget(28_800, 14_400, 8),
    ("fashion-mnist", "linear"): Budget(60_000, 30_000, 16),
    ("fashion-mnist", "cnn"): Budget(24_000, 8_000, 16),
}


@dataclass(frozen=True)
class Setup:
    """A task, a model and an optimizer.

    Attributes
    ----------
    data : str
        The task whose budget and step size it has.
    task : str
        What it is trained on: the same, or other data of the same shape.
    rounds : int or None
        At most so many.
    """

    data: str
    model: str
    optimizer: str
    task: str
    data_root: str
    rounds: int | None

    @property
    def budget(self) -> Budget:
        """N, and the range of b."""
        return BUDGETS[self.data, self.model]

    @property
    def name(self) -> str:
        """``digits-linear-adagrad``."""
        return f"{self.task}-{self.model}-{self.optimizer}"

    def settings(
        self, seed: int, step_size: float, batch_size: batching.BatchSize | int, samples: int
    ) -> Settings:
        """A run over so many samples."""
        # b never falls below the small size, so the samples end the run.
        enough = -(-samples // (CLIENTS * self.budget.small))
        values: dict[str, Any] = {
            "task": self.task,
            "data_root": self.data_root,
            "model": MODELS[self.model],
            "partition": "iid()",
            "clients": CLIENTS,
            "rounds": min(self.rounds or enough, enough),
            "estimator": "minibatch(order='reshuffle')",
            "batch_size": batch_size if isinstance(batch_size, int) else repr(batch_size),
            "optimizer": f"{self.optimizer}(step_size={step_size})",
            "stop": f"until(samples={samples})",
            "evaluate_every": 0,
            "seed": seed,
        }
        return make_settings(values, "the options")


def rules(budget: Budget) -> Mapping[str, batching.BatchSize]:
    """The ways to choose b that need no other run."""
    small, large = budget.small, budget.large
    every = budget.samples // (2 * STAGES)
    return {
        "small": batching.constant_batch(small),
        "large": batching.constant_batch(large),
        "stage-wise": batching.stagewise_batch(small, 2, every, large),
        "adaptive": batching.norm_test(ETA, maximum=large, initial=small),
    }


def average(samples: int, rounds: int, clients: int = CLIENTS) -> float:
    """Examples per client and round."""
    return samples / (rounds * clients)
