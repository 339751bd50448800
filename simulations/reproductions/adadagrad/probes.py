"""Batch-size tests where clients differ, and what compression does to ‖ĝ‖², on digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fedbias as fb
from fedbias import batching
from fedbias.compressors import Compressor
from fedbias.objectives import Batch, Objective, Statistics
from fedbias.state import Outcome
from fedbias.vectors import Layout, Vector, flatten, squared_norm, unflatten

from ...output import Progress
from ...settings import Settings, make_settings
from ...tasks import make_task
from ..base import Cell, Result
from .runs import EARLY, scores, short, steps
from .steps import STEPS
from .ways import ETA, SEEDS, average

CLIENTS, SAMPLES = 10, 14_400
SMALL, LARGE = 4, 128
PARTITIONS = {"iid": "iid()", "sorted": "natural()", "dirichlet": "dirichlet(alpha=0.3)"}
COMPRESSED = ("iid", "sorted")
_RANGE = {"maximum": LARGE, "initial": SMALL}
TESTS: Mapping[str, batching.BatchSize] = {
    "norm_test": batching.norm_test(ETA, **_RANGE),
    "norm_test, η = .1": batching.norm_test(0.1, **_RANGE),
    "local_norm_test": batching.local_norm_test(ETA, **_RANGE),
    "inner_product_test": batching.inner_product_test(ETA, **_RANGE),
    "augmented_test": batching.augmented_test(ETA, ETA, **_RANGE),
    "coordinate_test": batching.coordinate_test(ETA, **_RANGE),
    "cross_client_test": batching.cross_client_test(ETA, **_RANGE),
}
PLAIN = "no compression"
CODES: Mapping[str, tuple[Compressor, fb.Feedback]] = {
    PLAIN: (fb.identity(), fb.no_feedback()),
    "Top-2 %": (fb.top_k(0.02), fb.no_feedback()),
    "Top-2 %, error feedback": (fb.top_k(0.02), fb.error_feedback()),
    "Top-2 %, EF21": (fb.top_k(0.02), fb.ef21()),
    "Top-10 %": (fb.top_k(0.1), fb.no_feedback()),
    "Top-10 %, error feedback": (fb.top_k(0.1), fb.error_feedback()),
    "Top-10 %, EF21": (fb.top_k(0.1), fb.ef21()),
    "sign": (fb.sign(), fb.no_feedback()),
    "sign, error feedback": (fb.sign(), fb.error_feedback()),
    "uniform, 2 bits": (fb.uniform(2), fb.no_feedback()),
    "random 10 %": (fb.random_k(0.1), fb.no_feedback()),
}


@dataclass(eq=False)
class Recorded:
    """An objective that keeps the last gradient it gave."""

    inner: Any
    given: Vector = field(default_factory=lambda: np.zeros(0))

    @property
    def dim(self) -> int:
        """Length of the point."""
        return int(self.inner.dim)

    @property
    def size(self) -> int:
        """Number of examples."""
        return int(self.inner.size)

    def loss(self, point: Vector, batch: Batch | None = None) -> float:
        """The loss itself."""
        return float(self.inner.loss(point, batch))

    def gradient(self, point: Vector, batch: Batch | None = None) -> Vector:
        """The gradient itself."""
        self.given = self.inner.gradient(point, batch)
        return self.given

    def per_example_statistics(
        self, point: Vector, batch: Batch | None = None, what: str = "trace"
    ) -> Statistics:
        """The statistics themselves."""
        found: Statistics = self.inner.per_example_statistics(point, batch, what)
        self.given = found.gradient
        return found


def follow(
    objectives: Sequence[Objective],
    settings: Settings,
    rule: batching.BatchSize,
    code: tuple[Compressor, fb.Feedback],
    start: Vector,
) -> tuple[fb.History, list[float]]:
    """A run, and in every round ‖ĝ‖² over the square of the mean before compression."""
    recorded, ratios = [Recorded(objective) for objective in objectives], list[float]()

    def compare(round: int, state: object, outcome: Outcome) -> None:
        mean: Vector = np.mean([each.given for each in recorded], axis=0)
        ratios.append(outcome.gradient_norm**2 / squared_norm(mean))

    history = fb.run(
        recorded,
        settings.algorithm().optimizer,
        start,
        settings.rounds,
        estimator=settings.algorithm().estimator,
        compressor=code[0],
        feedback=code[1],
        batch_size=rule,
        stop=fb.until(samples=SAMPLES),
        on_round=compare,
        keep="last",
        seed=settings.seed,
    )
    return history, ratios


def tests_cell(partition: str, rounds: int | None) -> Cell:
    """All the tests on one partition, without compression."""
    plain = CODES[PLAIN]
    return _cell(partition, rounds, {name: (rule, plain) for name, rule in TESTS.items()})


def compression_cell(partition: str, rounds: int | None) -> Cell:
    """The norm test with all the compressors on one partition."""
    rule = TESTS["norm_test"]
    return _cell(partition, rounds, {name: (rule, code) for name, code in CODES.items()})


def _cell(partition: str, rounds: int | None, ways: Mapping[str, Any]) -> Cell:
    known = [_settings(partition, rounds, seed) for seed in SEEDS]

    def compute(folder: Path, progress: Progress, resume: bool) -> Result:
        progress.start(len(ways), folder.name)
        runs = {}
        for place, (name, (rule, code)) in enumerate(ways.items()):
            runs[name] = together([_run(settings, rule, code) for settings in known])
            progress.update({"round": place + 1})
        progress.finish()
        return {"partition": partition, "samples": SAMPLES, "maximum": LARGE, "runs": runs}

    settings = known[0].model_dump(exclude={"data_root"})
    spelled = {name: [repr(rule), *map(repr, code)] for name, (rule, code) in ways.items()}
    return Cell(settings | {"seed": list(SEEDS), "ways": spelled}, compute)


def _settings(partition: str, rounds: int | None, seed: int) -> Settings:
    enough = -(-SAMPLES // (CLIENTS * SMALL))
    values = {
        "task": "digits",
        "model": "linear()",
        "partition": PARTITIONS[partition],
        "clients": CLIENTS,
        "rounds": min(rounds or enough, enough),
        "estimator": "minibatch(order='reshuffle')",
        "optimizer": f"adagrad(step_size={STEPS['digits', 'linear', 'adagrad']})",
        "seed": seed,
    }
    return make_settings(values, "the options")


def _run(settings: Settings, rule: batching.BatchSize, code: Any) -> Result:
    task = make_task(settings)
    objectives, first = [task.objective(client) for client in range(CLIENTS)], task.initial()
    layout = Layout.of(first)
    history, ratios = follow(objectives, settings, rule, code, flatten(first.values()))
    sizes = [size or 0 for size in history.batch_sizes]
    samples = np.cumsum([outcome.samples for outcome in history.outcomes])
    before = [0.0, *samples[:-1].astype(float)]
    full = [x for x, size in zip(before, sizes, strict=True) if size == LARGE]
    return {
        "rounds": len(sizes),
        "samples": int(samples[-1]),
        "average": short(average(int(samples[-1]), len(sizes), CLIENTS)),
        "full": int(full[0]) if full else None,
        "ratios": [short(ratio) for ratio in (min(ratios), np.median(ratios), max(ratios))],
        "wire_bits": int(history.wire_bits.sum()),
        "sizes": [[int(x), int(b)] for x, b in steps(before, sizes)],
        "early": [
            [size, short(outcome.loss, 6)]
            for size, outcome in zip(sizes, history.outcomes, strict=True)
        ][:EARLY],
        **scores(settings, unflatten(history.points[-1], layout)),
    }


def together(runs: Sequence[Result]) -> Result:
    """The seeds' numbers side by side; curve and first rounds are the first seed's."""
    curves = ("sizes", "early")
    return {
        name: runs[0][name] if name in curves else [run[name] for run in runs] for name in runs[0]
    }
