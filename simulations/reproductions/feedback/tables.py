"""The table of ``reproduce feedback``."""

from __future__ import annotations

from ..base import Result, Results
from .cases import FEEDBACKS, SHARES

WORDS = {
    "squares": "least squares, 8 clients",
    "digits": "digits, 10 clients",
    "alone": "least squares, 1 client",
}
PLACES = {
    "full": "all take part",
    "full-lossy": "all, 20 % loss",
    "half": "half take part",
    "half-lossy": "half, 20 % loss",
}


def table(results: Results) -> list[list[str]]:
    """A row per cell, a column per feedback: the gap at the tuned step and at a quarter of it."""
    lines = [["problem", "who", "compressor", "bits a round", *FEEDBACKS]]
    for result in results.values():
        runs = result["runs"]
        sent = max(run["wire_bits"] for ways in runs.values() for run in ways.values())
        lines.append(
            [WORDS[result["problem"]], PLACES[result["setting"]]]
            + [f"{result['compressor']}, {result['bits']} bit", f"{sent:,}"]
            + [" / ".join(entry(runs[name][share]) for share in SHARES) for name in FEEDBACKS]
        )
    return lines


def entry(run: Result) -> str:
    """``6e-4``, ``6e-4 f`` with a floor, ``diverges`` or in how many runs."""
    if run["gap"] is None:
        return "diverges"
    if run["diverged"]:
        return f"diverges in {run['diverged']}"
    return number(run["gap"][0]) + (" f" if run["floor"] else "")


def number(gap: float) -> str:
    """One digit: ``6e-4``."""
    lead, power = f"{gap:.0e}".split("e")
    return f"{lead}e{int(power)}"
