"""What ``reproduce differential-quantization`` says of bits, saturation and the digits."""

from __future__ import annotations

from collections.abc import Sequence

from ..base import Result
from .tables import NAMES, WORDS, Row, number

_LOW = (1, 2, 4)  # the R at which scales of their own are compared


def costs(every: Sequence[Row], ten: Result | None) -> list[str]:
    """The sentences."""
    squares = [row for row in every if row.cell["problem"] == "squares"]
    digits = [row for row in every if row.cell["problem"] == "digits"]
    small = [row for row in squares if row.cell["n"] == 16]
    return [
        *_saved(small),
        *_naive([*small, *digits]),
        *_scales(small, "least squares, κ = 10"),
        *_saturation(every),
        *_digits(digits),
        *_scales(digits, "digits"),
        *_ten(ten),
    ]


def _saved(small: Sequence[Row]) -> list[str]:
    """What E8 costs at its cheapest R, beside scalar DQ at its own."""
    shares = [share for row in small if row.way == "e8" and (share := _share(row, small))]
    if not shares:
        return []
    return [
        f"At the cheapest R, n = 16, E8 needs {min(shares):.2f} to {max(shares):.2f} times the "
        "bits of scalar DQ."
    ]


def _naive(shown: Sequence[Row]) -> list[str]:
    """What naive quantization costs, likewise."""
    parts, winners = [], []
    for row in shown:
        if not row.usual or not row.way.startswith("naive"):
            continue
        kind = "digits" if row.cell["problem"] == "digits" else f"κ = {row.cell['kappa']:g}"
        where, share = f"{NAMES[row.cell['method']]} {kind}", _share(row, shown)
        parts.append(f"{where}: {'never there' if share is None else f'{share:.2f}'}")
        winners += [where] if share is not None and share < 1 else []
    if not parts:
        return []
    won = f" It needs fewer bits than preset DQ here: {', '.join(winners)}." if winners else ""
    return [f"Naive quantization, likewise: {', '.join(parts)}.{won}"]


def _share(row: Row, shown: Sequence[Row]) -> float | None:
    """Fewest bits relative to scalar DQ on the same problem."""
    scalar = next((r.cheapest for r in shown if r.way == "scalar" and r.place == row.place), None)
    if scalar is None or row.cheapest is None:
        return None
    return float(row.cheapest["bits"] / scalar["bits"])


def _saturation(every: Sequence[Row]) -> list[str]:
    preset = [row for row in every if row.way in ("scalar", "e8", "safe", "naive")]
    saturated = sum(run["saturated"] for row in preset for run in row.cell["runs"])
    if not preset:
        return []
    boundary = [
        f"{run['boundary']} in {row.name} at R = {run['R']}"
        for row in preset
        for run in row.cell["runs"]
        if row.way == "e8" and run.get("boundary")
    ]
    return [
        f"Vectors longer than their preset range: {saturated}. Blocks of E8 at full range whose "
        "closest lattice point was no codeword, in all least-squares runs: "
        f"{', '.join(boundary) or 'none'}."
    ]


def _scales(shown: Sequence[Row], where: str) -> list[str]:
    """DQ against naive quantization, both with a scale of their own in every packet."""
    said = []
    for row in shown:
        partners = (r for r in shown if r.way == "naive-own" and r.place == row.place)
        other = next(partners, None)
        if row.way != "own" or other is None:
            continue
        words = f"{NAMES[row.cell['method']]} fewest bits {_fewest(row)} / {_fewest(other)}"
        pairs = [[one.at(bits).get("contraction") for one in (row, other)] for bits in _LOW]
        if all(ours and theirs for ours, theirs in pairs):
            words += f", contraction at R = {', '.join(map(str, _LOW))}: " + ", ".join(
                f"{ours[0]:.3f} / {theirs[0]:.3f}" for ours, theirs in pairs if ours and theirs
            )
        said.append(words)
    if not said:
        return []
    return [f"{WORDS['own']} / {WORDS['naive-own']}, {where}, nothing proved: {'; '.join(said)}."]


def _fewest(row: Row) -> str:
    return number((row.cheapest or {}).get("bits"))


def _digits(shown: Sequence[Row]) -> list[str]:
    if not shown:
        return []
    cell = shown[0].cell
    runs = [run for row in shown if row.way in ("scalar", "e8") for run in row.cell["runs"]]
    deviations = [run["deviation"] for run in runs if run.get("deviation") is not None]
    known = [run["accuracy"] for run in runs if run.get("accuracy") is not None]
    said = (
        f"Digits: {cell['digit']} against the rest, logistic loss, 64 pixels and a bias, "
        f"ridge = μ = {cell['strong_convexity']:g}, L = {cell['lipschitz']:.4g}, κ = "
        f"{cell['kappa']:.3g}, from 0, D = ‖x*‖ = {cell['distance']:.3g} by Newton's method; "
        f"‖∇f(0)‖/μ, known without it, is {cell['distance_bound']:.3g}."
    )
    if deviations:
        said += (
            f" Where DQ arrives, its z_i are the unquantized iterates but for "
            f"{max(deviations):.1g}. Test accuracy where it stops: {100 * min(known):.1f} to "
            f"{100 * max(known):.1f} %; at x* {100 * cell['best_accuracy']:.1f} %."
        )
    arrived = [
        f"{NAMES[row.cell['method']]} {number(best['rounds'])} rounds at R = {best['R']} "
        f"(unquantized {number(row.plain['rounds'])})"
        for row in shown
        if row.way == "e8" and (best := row.cheapest) and row.plain
    ]
    if arrived:
        said += f" Fewest bits, E8: {', '.join(arrived)}."
    return [said + " HB's σ is proved for quadratics alone."]


def _ten(cell: Result | None) -> list[str]:
    if cell is None:
        return []
    stopped = [count for count in cell["rounds"] if count is not None]
    return [
        f"All ten digits so, DQ-NAG with E8 at R = {cell['R']}: {len(stopped)} of 10 arrive"
        + (f", in {min(stopped)} to {max(stopped)} rounds" if stopped else "")
        + f", {cell['bits']:.0f} bits per dimension together; test accuracy "
        f"{100 * cell['accuracy']:.2f} %, with the exact minimisers "
        f"{100 * cell['best_accuracy']:.2f} %."
    ]
