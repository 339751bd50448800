"""Whether larger steps are slower and end flatter: the trade-off of ``reproduce flat-minima``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedbias import theory

from ..base import Result
from .cases import STARTS, TARGET
from .tables import converged

Runs = Sequence[Result]


def trade_off(name: str, runs: Runs) -> list[str]:
    """Whether larger steps are slower and end flatter."""
    there = [run for run in runs if converged(run) and run["steps"][1] is not None]
    between = [run for run in there if 1 < run["multiple"] <= 2]
    beyond = [run for run in there if run["multiple"] >= 2]
    if len(between) < 2 or len(beyond) < 2:
        return []
    fast = min(there, key=lambda run: int(run["steps"][1]))
    quick = min(beyond, key=lambda run: int(run["steps"][1]))
    slower, flatter = _against(between, _slowness), _against(between, _flatness)
    verdict = "NOT monotone" if slower or flatter else "monotone"
    return [
        f"From {STARTS[name].words}, λ_GF = {runs[0]['flow']:.4f}, the trade-off in (1, 2] is "
        f"{verdict}: steps {_words(slower, 'do not fall', 'fall')}, λ_∞ "
        f"{_words(flatter, 'does not rise', 'rises')}, to {between[-1]['norm_square']:.4f}"
        f"{_first_step(name, runs[0])}. The fewest steps, {fast['steps'][1]}, are at "
        f"{fast['multiple']:g}, where ηλ_∞ = {fast['step_size'] * fast['norm_square']:.3f}. "
        f"From 2 on {_least(quick, beyond[0])} and λ_∞ "
        f"{_words(_against(beyond, _flatness), 'does not rise', 'rises')}."
    ]


def _first_step(name: str, run: Result) -> str:
    """Where the first step alone takes all of Q; beyond it leaves the more the larger it is."""
    start = STARTS[name].vector
    multiple = run["flow"] / abs(theory.shallow_residual(start, TARGET))
    return f" (η|ε_0| = 1 at {multiple:.3f}, where Q = 0 after a step)" if multiple <= 2 else ""


def _least(quick: Result, first: Result) -> str:
    if quick is first:
        return "there are never fewer steps again"
    return f"steps fall, to {quick['steps'][1]} at {quick['multiple']:g},"


def _slowness(run: Result) -> float:
    return float(run["steps"][1])


def _flatness(run: Result) -> float:
    return -float(run["norm_square"])


def _against(runs: Runs, growing: Callable[[Result], float]) -> list[list[Result]]:
    """The stretches of runs along which what should grow with the step falls."""
    found: list[list[Result]] = []
    for one, other in zip(runs, runs[1:], strict=False):
        if growing(other) < growing(one):
            if found and found[-1][-1] is one:
                found[-1].append(other)
            else:
                found.append([one, other])
    return found


def _words(stretches: Sequence[Runs], holds: str, broken: str) -> str:
    if not stretches:
        return holds
    steps = broken == "fall"
    told = []
    for first, *_, last in stretches:
        values = [(run["steps"][1] if steps else run["norm_square"]) for run in (first, last)]
        ends = " → ".join(f"{value:.5g}" for value in values)
        told.append(f"{first['multiple']:g} to {last['multiple']:g} ({ends})")
    return f"{broken} from {', from '.join(told)}"
