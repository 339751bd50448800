"""What ``reproduce differential-quantization`` says of its results, computed from them alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..base import Result, Results
from .costs import costs
from .tables import NAMES, Row, rows

CLOSE = 0.01  # what counts as agreement
_APART = 0.2  # |ln(a/σ)| from which one of the two rates is alone in the window


@dataclass
class Agreement:
    """Measured against expected numbers, each with its name."""

    gaps: list[tuple[float, str]] = field(default_factory=list)

    def add(self, measured: float, expected: float, name: str) -> None:
        """One pair."""
        self.gaps.append((measured / expected - 1, name))

    def __str__(self) -> str:
        if not self.gaps:
            return "nothing to compare"
        worst, name = max(self.gaps, key=lambda gap: abs(gap[0]))
        close = sum(abs(gap) <= CLOSE for gap, _ in self.gaps)
        where = f"the farthest is {100 * worst:+.2g} %, {name}"
        if close == len(self.gaps):
            return f"all {close} within {100 * CLOSE:g} %; {where}"
        return f"NOT all: {close} of {len(self.gaps)} within {100 * CLOSE:g} %; {where}"


def notes(results: Results) -> list[str]:
    """What the columns are, where theory holds and where not, what E8 saves, digits."""
    every = rows(results)
    squares = [row for row in every if row.cell["problem"] == "squares"]
    found = [
        "Least squares with minimiser 0: floating point is then relative to the distance, and the "
        "contraction is that of the second half of up to 450 rounds; geometric mean of five seeds. "
        "Theory for DQ: max{σ, φ(a)}, a = ρ·2^(−R), ρ = √n for the scalar quantizer and "
        "√2·√(n/8) for E8 at full range; for naive GD σ + (1+σ)a. Naive NAG and HB have no preset "
        "ranges: they send a scale of 64 bits in every packet, which is counted.",
        "Bits are payload bits per dimension, as sent; the server stops at the first f − f* of at "
        "most 1e-6 of the start's (stop=until(loss=…)), means over seeds that all got there. The "
        "last columns: the least R that gets there within 1.5 times and once the unquantized "
        "method's rounds.",
        *_agreement(squares),
        *_converse(squares),
        *_lattice(squares),
        *_still(squares),
        *costs(every, results.get("digits-ten")),
    ]
    return found


def _agreement(squares: Sequence[Row]) -> list[str]:
    """Scalar DQ and naive GD against their theory, where there is one."""
    errors, naive = Agreement(), Agreement()
    for row in squares:
        for run, name in row.measured:
            if row.way == "naive":
                naive.add(run["contraction"][0], run["theory"], name)
            elif row.way == "scalar" and not _lossless(row, run):
                errors.add(run["contraction"][0], run["theory"], name)
    said = [f"Scalar DQ against φ(a), where φ(a) > σ: {errors}."] if errors.gaps else []
    for method in NAMES:
        said += _without_loss([row for row in squares if row.cell["method"] == method], method)
    said += [f"Naive GD against σ + (1+σ)a: {naive}."] if naive.gaps else []
    return said


def _without_loss(own: Sequence[Row], method: str) -> list[str]:
    """One method's scalar DQ where φ(a) ≤ σ, against σ and against the method itself."""
    bound, itself = Agreement(), Agreement()
    for row in own:
        for run, name in row.measured:
            if row.way == "scalar" and _lossless(row, run):
                bound.add(run["contraction"][0], row.cell["sigma"], name)
                if row.plain and row.plain["contraction"]:
                    itself.add(run["contraction"][0], row.plain["contraction"][0], name)
    if not bound.gaps:
        return []
    return [
        f"Scalar DQ-{NAMES[method]}, where φ(a) ≤ σ, against σ: {bound}. Against unquantized "
        f"{NAMES[method]} over the same rounds: {itself}.{_REASONS.get(method, '')}"
    ]


def _converse(squares: Sequence[Row]) -> list[str]:
    """Whether anything contracted faster than 2^(−R)."""
    quantized = [row for row in squares if row.way != "none"]
    shares = [
        (run["contraction"][0] * 2.0 ** run["R"], name)
        for row in quantized
        for run, name in row.measured
    ]
    if not shares:
        return []
    factor, name = min(shares)
    verdict = "No contraction is below" if factor >= 1 else "NOT so: a contraction is below"
    return [
        f"{verdict} the converse's 2^(−R); the nearest is {factor:.3g} × 2^(−R), {name} (a scale "
        "that is sent is not in R)."
    ]


def _lossless(row: Row, run: Result) -> bool:
    return bool(run["theory"] <= row.cell["sigma"] * (1 + 1e-9))


_REASONS = {
    "nag": " On quadratics NAG is faster than its σ; preset ranges shrink at σ, and DQ with them.",
    "hb": " HB's double root makes i·σ^i of σ^i, above σ over any rounds, for both.",
}


def _lattice(squares: Sequence[Row]) -> list[str]:
    """E8 at R − 1 bits against the scalar quantizer at R: the same a."""
    same, saved, boundary, dims = Agreement(), [], 0, set()
    scalar = {row.place: row for row in squares if row.way == "scalar"}
    for row in squares:
        if row.way != "e8" or row.cell["kappa"] != 1.5 or row.place not in scalar:
            continue
        for run, name in row.measured:
            other = scalar[row.place].at(run["R"] + 1).get("contraction")
            if other and _governed(run["theory"], row.cell["sigma"]):
                same.add(run["contraction"][0], other[0], name)
                boundary += run["boundary"]
                dims.add(row.cell["n"])
                if row.cell["method"] == "gd":  # whose contraction is a itself
                    saved.append(1 + math.log2(other[0] / run["contraction"][0]))
    if not same.gaps:
        return []
    bits = f"; as bits, GD: {min(saved):.3f} to {max(saved):.3f}" if saved else ""
    return [
        "E8 with 1 bit per dimension less than the scalar quantizer (κ = 1.5, n = "
        f"{' and '.join(str(n) for n in sorted(dims))}, σ < φ(a) < 1, ln(φ(a)/σ) > {_APART:g}): "
        f"{same}{bits}. Blocks whose closest lattice point is no codeword: {boundary}."
    ]


def _governed(rate: float, sigma: float) -> bool:
    return sigma < rate < 1 and math.log(rate / sigma) > _APART


def _still(squares: Sequence[Row]) -> list[str]:
    """Where E8 beats the bound, because its 0 is a codeword."""
    better = [
        (run["theory"], run["contraction"][0], name)
        for row in squares
        if row.way == "e8"
        for run, name in row.measured
        if run["contraction"][0] < run["theory"] * (1 - CLOSE)
    ]
    if not better:
        return []
    least, most = min(better), max(better)
    still = all(abs(measured - 1) < 1e-3 for _, measured, _ in better)
    how = "it stays where it is, contraction 1" if still else "some of its packets are 0"
    return [
        f"E8 is below max{{σ, φ(a)}} by over 1 % in {len(better)} cases, from {least[0]:.3g} "
        f"({least[2]}) to {most[0]:.3g} ({most[2]}): its 0 is a codeword, and {how}."
    ]
