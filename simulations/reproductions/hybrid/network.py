"""The CNN on 16 nodes through the library's own loop: how many of them have gradients."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fedbias as fb
from fedbias.objectives import Objective
from fedbias.randomness import SERVER, Purpose, generator

from ...data import Dataset, iid
from ...models import cnn
from ...output import Progress
from ...threads import one_thread
from ..base import Cell, Result
from .cases import BATCH, FINAL, MOMENTUM, MULTIPLES, RADIUS, data_of
from .runs import short


@dataclass(frozen=True)
class Network:
    """One cell: populations and steps with one seed.

    Attributes
    ----------
    with_gradients : tuple of int
        n_1 of every population.
    step : float
        η of both kinds, times each multiple.
    examples : int
        Of the training data, the first so many; each kind of nodes splits a copy.
    tested : int
        Of the test data, the first so many.
    """

    task: str
    data_root: str | None
    seed: int
    rounds: int
    nodes: int = 16
    with_gradients: tuple[int, ...] = (0, 4, 8, 12, 16)
    multiples: tuple[float, ...] = MULTIPLES
    directions: int = 8
    batch: int = BATCH
    step: float = 0.1
    examples: int = 2000
    tested: int = 2000

    def cell(self) -> Cell:
        """It with all that decides its result."""
        settings = {key: value for key, value in asdict(self).items() if key != "data_root"}
        for name in ("with_gradients", "multiples"):
            settings[name] = list(settings[name])
        known = {"model": repr(cnn()), "radius": RADIUS, "momentum": MOMENTUM, "final": FINAL}
        return Cell(settings | known, self.compute)

    def compute(self, folder: Path, progress: Progress, resume: bool) -> Result:
        """A run for every population and step."""
        one_thread()
        data = data_of(self.task, self.data_root)
        progress.start(len(self.with_gradients) * len(self.multiples), folder.name)
        runs: dict[str, list[Result]] = {}
        for first in self.with_gradients:
            runs[str(first)] = []
            for multiple in self.multiples:
                runs[str(first)].append(self._run(data, first, multiple))
                progress.update({"round": sum(map(len, runs.values()))})
        progress.finish()
        return {
            "experiment": "cnn",
            "task": self.task,
            "seed": self.seed,
            "rounds": self.rounds,
            "nodes": self.nodes,
            "directions": self.directions,
            "batch": self.batch,
            "step": self.step,
            "examples": self.examples,
            "tested": self.tested,
            "multiples": list(self.multiples),
            "runs": runs,
        }

    def _run(self, data: Dataset, first: int, multiple: float) -> Result:
        """Loss, accuracy and spread at T/4, T/2 and T; None if the models did not stay finite."""
        objectives, test, start = self._clients(data, first)
        step = (1 - MOMENTUM) * self.step * multiple
        try:
            history = fb.run_gossip(
                *(objectives, [start] * self.nodes, self.rounds),
                estimator={
                    kind: fb.local_steps(1, step, MOMENTUM, inner)
                    for kind, inner in (
                        ("gradient", fb.minibatch()),
                        ("loss", fb.two_point(self.directions, RADIUS)),
                    )
                },
                matching=fb.random_matching(),
                decay=fb.cosine_decay(self.rounds * self.nodes * self.batch, final=FINAL),
                batch_size=self.batch,
                evaluate_every=self.rounds // 4,
                seed=self.seed,
            )
        except ValueError as error:
            if "finite" not in str(error):
                raise
            return {"losses": None, "accuracies": None, "spreads": None}
        told = [self.rounds // 4, self.rounds // 2, self.rounds]
        spreads: Any = history.spreads
        return {
            "losses": [short(history.losses[k]) for k in told],
            "accuracies": [short(test.metrics(history.points[k])["accuracy"]) for k in told],
            "spreads": [short(spreads[k]) for k in told],
        }

    def _clients(self, data: Dataset, first: int) -> tuple[list[Objective], Any, Any]:
        """The nodes, those with gradients first; the test data; the common start."""
        import torch

        from clients import TorchObjective

        def objective(inputs: Any, labels: Any) -> TorchObjective:
            tensors = torch.from_numpy(inputs), torch.from_numpy(labels)
            return TorchObjective(module, torch.nn.functional.cross_entropy, tensors)

        module = cnn().build(data.shape, data.classes, self.seed)
        labels = data.train_y[: self.examples]
        rng = generator(self.seed, 0, SERVER, Purpose.DATA)
        counts = first, self.nodes - first
        parts = [part for count in counts if count for part in iid().split(labels, count, rng)]
        nodes: list[Any] = [objective(data.train_x[part], labels[part]) for part in parts]
        nodes[first:] = map(fb.ForwardOnly, nodes[first:])
        test = objective(data.test_x[: self.tested], data.test_y[: self.tested])
        weights = [each.detach().numpy().ravel() for each in module.parameters()]
        return nodes, test, np.concatenate(weights).copy()
