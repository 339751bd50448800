"""How ``reproduce differential-quantization`` shows its results: the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedbias import theory

from ..base import Result, Results
from .runs import METHODS
from .ways import block_covering

NAMES = {"gd": "GD", "nag": "NAG", "hb": "HB"}
WORDS = {
    "none": "unquantized",
    "scalar": "DQ, scalar",
    "e8": "DQ, E8",
    "safe": "DQ, E8 in its safe range",
    "naive": "naive, scalar",
    "own": "DQ, scalar, own scale",
    "naive-own": "naive, scalar, own scale",
}
DELAYS = (1.5, 1.0)  # times the unquantized method's rounds
_SHOWN = (2, 3, 4, 6)  # R


@dataclass(frozen=True)
class Row:
    """One method, one way to send its gradients, one problem.

    Attributes
    ----------
    cell : mapping
        The cell's result.
    plain : mapping or None
        The unquantized method's run on the same problem.
    """

    name: str
    cell: Result
    plain: Result | None

    @property
    def way(self) -> str:
        """How gradients travel."""
        way: str = self.cell["way"]
        return way

    @property
    def place(self) -> tuple[object, ...]:
        """Problem and method, whatever the way."""
        return place(self.cell)

    @property
    def usual(self) -> bool:
        """Naive quantization has preset ranges for GD; for NAG and HB it sends its scale."""
        naive = "naive" if self.cell["method"] == "gd" else "naive-own"
        return self.way in ("none", "scalar", "e8", naive)

    @property
    def measured(self) -> list[tuple[Result, str]]:
        """The runs whose contraction is known, and their names."""
        runs = [run for run in self.cell["runs"] if run["contraction"]]
        return [(run, f"{self.name} at R = {run['R']}") for run in runs]

    @property
    def problem(self) -> str:
        """The problem, in words."""
        kind = "digits" if self.cell["problem"] == "digits" else f"n = {self.cell['n']}"
        return f"{kind}, κ = {self.cell['kappa']:.3g}"

    @property
    def converse(self) -> list[float]:
        """What nobody can beat at every R: max{σ, 2^(−R)} for GD, 2^(−R) for the others.

        Their σ is what is proved from above.
        """
        least = self.cell["sigma"] if METHODS[self.cell["method"]] == "gradient_descent" else 0.0
        return [max(least, 2.0 ** -run["R"]) for run in self.cell["runs"]]

    @property
    def lossless(self) -> float | None:
        """The least R at which theory sees no loss; None where nothing is proved."""
        n, known = self.cell["n"], {"scalar": theory.cube_covering, "e8": block_covering}
        if self.way not in known:
            return None
        tuned = theory.tuned(METHODS[self.cell["method"]], self.cell["kappa"], 1.0)
        return theory.lossless_rate(tuned, known[self.way](n))

    def at(self, bits: int) -> Result:
        """The runs at R = bits; empty if there are none."""
        return next((run for run in self.cell["runs"] if run["R"] == bits), {})

    @property
    def cheapest(self) -> Result | None:
        """The runs that needed the fewest bits; of several the least R."""
        arrived = [run for run in self.cell["runs"] if run["bits"] is not None]
        return min(arrived, key=lambda run: run["bits"], default=None)

    def least_rate(self, delay: float) -> int | None:
        """The least R that needs at most so many times the unquantized method's rounds."""
        if self.plain is None or self.plain["rounds"] is None:
            return None
        return least_rate(self.cell["runs"], delay * self.plain["rounds"])


def least_rate(runs: Sequence[Result], rounds: float) -> int | None:
    """The least R at which the server stopped after at most so many rounds."""
    in_time = [r["R"] for r in runs if r["rounds"] is not None and r["rounds"] <= rounds + 1e-9]
    return min(in_time, default=None)


def rows(results: Results) -> list[Row]:
    """Every cell but that of all ten digits, in the order of the results."""
    cells = {name: cell for name, cell in results.items() if "runs" in cell}
    plain = {place(cell): cell["runs"][0] for cell in cells.values() if cell["way"] == "none"}
    return [Row(name, cell, plain.get(place(cell))) for name, cell in cells.items()]


def table(results: Results) -> list[list[str]]:
    """A row per method, problem and way, n = 16 and digits."""
    lines = [
        ["method", "problem", "sent by", "no loss from R =", "unquantized contraction (σ)"]
        + [f"contraction (theory) at R = {bits}" for bits in _SHOWN]
        + ["fewest bits per dimension to 1e-6", "at R =", "rounds there", "unquantized"]
        + [f"least R within {delay:g} × these" for delay in DELAYS]
    ]
    for row in rows(results):
        if row.usual and row.way != "none" and row.cell["n"] != 64:
            lines.append(_line(row))
    return lines


def _line(row: Row) -> list[str]:
    plain, best, lossless = row.plain or {}, row.cheapest or {}, row.lossless
    return [
        NAMES[row.cell["method"]],
        row.problem,
        WORDS[row.way],
        "-" if lossless is None else f"{lossless:.2f}",
        _contraction(plain | {"theory": row.cell["sigma"]}) if plain.get("contraction") else "-",
        *(_contraction(row.at(bits)) for bits in _SHOWN),
        number(best.get("bits")),
        str(best.get("R", "-")),
        number(best.get("rounds")),
        number(plain.get("rounds")),
        *(str(row.least_rate(delay) or "-") for delay in DELAYS),
    ]


def _contraction(run: Mapping[str, object]) -> str:
    measured, expected = run.get("contraction"), run.get("theory")
    known = f" ({expected:.4f})" if isinstance(expected, float) else ""
    if not isinstance(measured, list):
        return f"-{known}"
    return f"{measured[0]:.4f}{known}"


def number(value: float | None) -> str:
    """Three digits, more for larger whole numbers."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 or math.isclose(value, round(value)) else f"{value:.3g}"


def place(cell: Result) -> tuple[object, ...]:
    """What cells of different ways have in common."""
    return tuple(cell[key] for key in ("problem", "method", "n", "kappa"))
