"""Feedback for clients that differ, at few bits: which one to recommend.

None, error feedback (EF14), EF21, and differential quantization (arXiv 2002.02508) without and
with a memory of gradients, side by side at the same steps and bits; full and half participation,
with and without lost replies. Every packet carries its scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...output import Progress
from ..base import Cell, Options, Reproduction, Result
from .cases import (
    COMPRESSORS,
    FEEDBACKS,
    ROUNDS,
    SEEDS,
    SETTINGS,
    SHARES,
    heterogeneity,
    problem_of,
    step_of,
)
from .draw import draw
from .notes import notes
from .runs import (
    EARLY,
    FAR,
    NEAR,
    POINTS,
    TINY,
    Trace,
    end,
    follow,
    mean_gap,
    reached,
    stays,
)
from .tables import table

BITS = (1, 2, 3, 4)
ACCELERATED = ("full", "half-lossy")  # where Nesterov's method runs too
DRAWN = 2  # bits of the trajectories that are kept
ALIKE = tuple(name for name, setting in SETTINGS.items() if setting.share == 1)  # one client's


@dataclass(frozen=True)
class Setup:
    """One cell: all feedbacks on a problem, with one compressor, in one setting."""

    problem: str
    compressor: str
    bits: int
    setting: str
    rounds: int

    @property
    def ways(self) -> tuple[str, ...]:
        """The servers' steps: shares of the tuned one of gradient descent, and Nesterov's."""
        more = self.setting in ACCELERATED and self.compressor == "uniform"
        return (*SHARES, "nesterov") if more else tuple(SHARES)

    def cell(self) -> Cell:
        """It with all that decides its result."""
        setting = SETTINGS[self.setting]
        settings = {
            "problem": self.problem,
            "compressor": repr(COMPRESSORS[self.compressor](self.bits)),
            "feedbacks": [repr(feedback) for feedback in FEEDBACKS.values()],
            "ways": list(self.ways),
            "participation": setting.share,
            "loss": setting.loss,
            "rounds": self.rounds,
            "seeds": list(SEEDS),
            "measured": [TINY, NEAR, FAR, EARLY],
        }
        return Cell(settings, self.compute)

    def compute(self, folder: Path, progress: Progress, resume: bool) -> Result:
        """All the runs, and what they come to."""
        progress.start(len(FEEDBACKS) * len(self.ways), folder.name)
        runs: dict[str, dict[str, Result]] = {}
        for feedback in FEEDBACKS:
            runs[feedback] = {}
            for way in self.ways:
                traces = [self._run(feedback, way, seed) for seed in SEEDS]
                runs[feedback][way] = self._summary(traces)
                progress.update({"round": sum(len(ways) for ways in runs.values())})
        progress.finish()
        problems = [problem_of(self.problem, seed) for seed in SEEDS]
        return {
            "problem": self.problem,
            "compressor": self.compressor,
            "bits": self.bits,
            "setting": self.setting,
            "rounds": self.rounds,
            "heterogeneity": short(np.mean([heterogeneity(problem) for problem in problems])),
            "runs": runs,
        }

    def _run(self, feedback: str, way: str, seed: int) -> Trace:
        problem = problem_of(self.problem, seed)
        return follow(
            problem,
            step_of(problem, way),
            COMPRESSORS[self.compressor](self.bits),
            FEEDBACKS[feedback],
            SETTINGS[self.setting],
            self.rounds,
            seed,
        )

    def _summary(self, traces: Sequence[Trace]) -> Result:
        result = summary(traces)
        if self.bits == DRAWN and self.compressor == "uniform":
            result["curve"] = curve(traces)
        return result


def summary(traces: Sequence[Trace]) -> Result:
    """What the runs of some seeds come to, as plain values.

    ``gap`` is [geometric mean, least, greatest] over the runs that did not diverge, ``reached``
    the median round, None unless all get there; ``floor`` says whether most have one; ``early`` is
    the gap of the first run in round ``EARLY``.
    """
    kept = [trace.gaps for trace in traces if trace.gaps is not None]
    ends, rounds = [end(gaps) for gaps in kept], [reached(gaps) for gaps in kept]
    there = [k for k in rounds if k is not None]
    early = traces[0].early
    return {
        "diverged": len(traces) - len(kept),
        "gap": [short(gap) for gap in (mean_gap(ends), min(ends), max(ends))] if ends else None,
        "reached": float(np.median(there)) if len(there) == len(traces) else None,
        "floor": 2 * sum(stays(gaps) for gaps in kept) > len(traces),
        "early": None if early is None else float(f"{early:.10g}"),
        "wire_bits": max(trace.wire_bits for trace in traces),
    }


def curve(traces: Sequence[Trace]) -> list[float] | None:
    """The geometric mean of the gaps every fifth round; None if a run diverged."""
    kept = [trace.gaps for trace in traces if trace.gaps is not None]
    if len(kept) < len(traces):
        return None
    length = max(len(gaps) for gaps in kept)
    whole = np.stack([np.pad(gaps, (0, length - len(gaps)), mode="edge") for gaps in kept])
    return [short(mean_gap(whole[:, k].tolist())) for k in range(0, length, POINTS)]


def short(number: Any) -> float:
    """Four digits."""
    return float(f"{number:.4g}")


def cells(options: Options) -> dict[str, Cell]:
    """``squares-uniform-2-half-lossy``, …: every problem, compressor, width and setting."""
    options.check_own("feedback has its own problems", EARLY)
    plan = [(p, "uniform", b, s) for p in ("squares", "digits") for s in SETTINGS for b in BITS]
    plan += [(p, "e8", DRAWN, s) for p in ("squares", "digits") for s in ACCELERATED]
    plan += [("alone", "uniform", b, s) for s in ALIKE for b in BITS]
    rounds = min(ROUNDS, options.rounds or ROUNDS)
    return {
        f"{problem}-{compressor}-{bits}-{setting}": Setup(
            problem, compressor, bits, setting, rounds
        ).cell()
        for problem, compressor, bits, setting in plan
    }


def differences(committed: Result, again: Result) -> list[str]:
    """The first runs' gaps in round ``EARLY``, to a millionth."""
    found = []
    for feedback, ways in again["runs"].items():
        for way, run in ways.items():
            old, new = committed["runs"][feedback][way]["early"], run["early"]
            if old != new and not (old and new and math.isclose(old, new, rel_tol=1e-6)):
                found.append(
                    f"{feedback}, {way}: gap of round {EARLY} is {new}, committed is {old}"
                )
    return found


REPRODUCTION = Reproduction(
    summary="feedbacks at 1 to 4 bits where clients differ, stay away or lose replies",
    cells=cells,
    usual=("*",),
    table=table,
    notes=notes,
    draw=draw,
    checked=("squares-uniform-2-half-lossy", "digits-uniform-3-half", "alone-uniform-2-full"),
    differences=differences,
    check_options=Options(rounds=EARLY),
)
