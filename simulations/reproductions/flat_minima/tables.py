"""The table of ``reproduce flat-minima``, and the runs in it."""

from __future__ import annotations

from ..base import Result, Results
from .cases import FINE, GRIDS, ROUGH, SHOWN, STARTS, Expected

_HEADINGS = [
    *("start", "η·λ_GF", "λ_∞", "product formula less λ_∞", "expected λ_∞"),
    *("steps to 1e-12 / 1e-14", "expected", "4 clients in Flower", "as the loop's, bit for bit"),
    *("rate of ε", "in theory", "largest move ηε"),
]


def table(results: Results) -> list[list[str]]:
    """A row per start and step: those that are expected, and some between."""
    lines = [_HEADINGS]
    for name in (*GRIDS, "opposed"):
        start = STARTS[name]
        for run in results[name]["runs"] if name in results else ():
            expected = start.expected.get(run["multiple"])
            if expected or run["multiple"] in SHOWN or name == "opposed":
                lines.append([start.words, *_entries(run, expected)])
    return lines


def converged(run: Result) -> bool:
    """Whether it got to |ε| < 1e-12."""
    return run["steps"][0] is not None


def grid(results: Results, name: str) -> list[Result]:
    """The runs of a start, by η·λ_GF, each with the start's words."""
    runs = results[name]["runs"] if name in results else []
    told = [run | {"from": STARTS[name].words} for run in runs]
    return sorted(told, key=lambda run: float(run["multiple"]))


def _entries(run: Result, expected: Expected | None) -> list[str]:
    there = converged(run)
    rate = [f"{value:.6f}" for value in run["rate"]] if there and run["rate"] else ["-", "-"]
    return [
        f"{run['multiple']:.4g}",
        f"{run['norm_square']:.5f}" if there else "diverges" if run["diverged"] else "none",
        f"{run['product'] - run['norm_square']:.0e}" if there else "-",
        (expected.limit or "none") if expected else "-",
        _steps(run["steps"]),
        _steps([expected.steps.get(limit, ...) for limit in (ROUGH, FINE)]) if expected else "-",
        _steps(run["federated_steps"]),
        f"{'yes' if run['identical'] else 'NO'}, {run['compared']} points",
        *rate,
        f"{run['move']:.4g}" + ("" if run["bounded"] else " > √2"),
    ]


def _steps(counts: list[int | None | object]) -> str:
    """``123 / 144``; never where there is none, nothing for what nobody wrote down."""
    return " / ".join("never" if count is None else str(count) for count in counts if count != ...)
