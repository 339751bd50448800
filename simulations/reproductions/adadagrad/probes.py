"""Batch-size tests where clients differ, and what compression does to ‖ĝ‖², on digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fedbias as fb
from fedbias import batching
from fedbias.compressors import Compressor
from fedbias.state import Outcome
from fedbias.vectors import Vector, squared_norm

from ...output import Progress
from ..base import Cell, Result
from .runs import EARLY, short, steps
from .softmax import Softmax, ends, problems
from .ways import ETA, SEEDS, average

CLIENTS, SAMPLES = 10, 14_400
SMALL, LARGE = 4, 128
OPTIMIZER, ESTIMATOR = fb.adagrad(step_size=0.1), fb.minibatch(order="reshuffle")
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


def follow(
    objectives: Sequence[Softmax],
    rule: batching.BatchSize,
    code: tuple[Compressor, fb.Feedback],
    rounds: int,
    seed: int,
) -> tuple[fb.History, list[float]]:
    """A run from 0, and in every round ‖ĝ‖² over the square of the mean before compression."""
    ratios = list[float]()

    def compare(round: int, state: object, outcome: Outcome) -> None:
        mean: Vector = np.mean([objective.given for objective in objectives], axis=0)
        ratios.append(outcome.gradient_norm**2 / squared_norm(mean))

    history = fb.run(
        objectives,
        OPTIMIZER,
        np.zeros(objectives[0].dim),
        rounds,
        estimator=ESTIMATOR,
        compressor=code[0],
        feedback=code[1],
        batch_size=rule,
        stop=fb.until(samples=SAMPLES),
        on_round=compare,
        keep="last",
        seed=seed,
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
    enough = -(-SAMPLES // (CLIENTS * SMALL))
    most = min(rounds or enough, enough)

    def compute(folder: Path, progress: Progress, resume: bool) -> Result:
        progress.start(len(ways), folder.name)
        runs = {}
        for place, (name, (rule, code)) in enumerate(ways.items()):
            runs[name] = together([_run(partition, rule, code, most, seed) for seed in SEEDS])
            progress.update({"round": place + 1})
        progress.finish()
        return {"partition": partition, "samples": SAMPLES, "maximum": LARGE, "runs": runs}

    settings = {
        "partition": PARTITIONS[partition],
        "clients": CLIENTS,
        "estimator": repr(ESTIMATOR),
        "optimizer": repr(OPTIMIZER),
        "samples": SAMPLES,
        "rounds": most,
        "seeds": list(SEEDS),
        "ways": {name: [repr(rule), *map(repr, code)] for name, (rule, code) in ways.items()},
    }
    return Cell(settings, compute)


def _run(partition: str, rule: batching.BatchSize, code: Any, rounds: int, seed: int) -> Result:
    objectives = problems(PARTITIONS[partition], CLIENTS, seed)
    history, ratios = follow(objectives, rule, code, rounds, seed)
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
        **ends(history.points[-1]),
    }


def together(runs: Sequence[Result]) -> Result:
    """The seeds' numbers side by side; curve and first rounds are the first seed's."""
    curves = ("sizes", "early")
    return {
        name: runs[0][name] if name in curves else [run[name] for run in runs] for name in runs[0]
    }
