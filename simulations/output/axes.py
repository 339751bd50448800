"""The axes of a chart: their range, their ticks and the words on them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .tables import human_bytes, human_count

Points = list[tuple[float, float]]

_LARGEST = 1e280


@dataclass(frozen=True)
class Axis:
    """One axis: its label, its range, its ticks, and whether it is logarithmic."""

    label: str
    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]

    def place(self, value: float) -> float | None:
        """Where a value stands: 0 at the low end, 1 at the high end, None if it has no place."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return None
        value = max(-_LARGEST, min(value, _LARGEST))
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(value) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(
    label: str,
    values: Sequence[float],
    write: Callable[[float], str] = "{:g}".format,
    *,
    most: float = math.inf,
) -> Axis:
    """Make an axis over finite values, a little wider than they are but not beyond `most`."""
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, min(high + margin, most)
    return Axis(label, low, high, False, _ticks(low, high, _step((high - low) / 5), write))


def round_axis(rounds: Sequence[float]) -> Axis:
    """Make an axis over rounds; every tick is a whole number."""
    low, high = min(rounds), max(rounds)
    high = high if high > low else low + 1
    step = max(1.0, _step((high - low) / 6))
    high += 0.015 * (high - low)
    return Axis("round", low, high, False, _ticks(low, high, step, "{:.0f}".format))


def log_axis(
    label: str, values: Sequence[float], write: Callable[[float], str] | None = None
) -> Axis:
    """Make a logarithmic axis over positive values; at least a factor of three is shown."""
    low, high = max(min(values), 1 / _LARGEST), max(max(values), 1 / _LARGEST)
    margin = math.exp(0.04 * (math.log(high) - math.log(low)))
    margin = max(margin, math.sqrt(3 * (low / high)))
    low, high = low / margin, high * margin
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / 7))
    leads = (1, 2, 5) if last - first < 4 else (1,)
    powers = [10.0**power for power in range(first, last + 1) if power % stride == 0]
    ticks = [lead * power for power in powers for lead in leads if low <= lead * power <= high]
    return Axis(label, low, high, True, [(tick, (write or _power)(tick)) for tick in ticks])


def bytes_axis(label: str, values: Sequence[float]) -> Axis:
    """Make a logarithmic axis over positive numbers of bytes."""
    return log_axis(label, values, lambda value: _short(human_bytes(value)))


def samples_axis(values: Sequence[float]) -> Axis:
    """Make an axis over numbers of samples."""
    return linear_axis("samples so far", values, lambda value: _short(human_count(value)))


def loss_axis(label: str, curves: Sequence[Points], *, log: bool) -> Axis:
    """Make the axis of a loss, logarithmic if asked for or if the values need it.

    It ends at a hundred times the highest start, so that a run that diverges leaves the chart
    instead of flattening the others.

    Parameters
    ----------
    label : str
        The word on the axis.
    curves : sequence
        The points of every curve; at least one value is finite.
    log : bool
        Whether a logarithmic axis is preferred; it needs a positive value.
    """
    finite = [column for points in curves if (column := [y for _, y in points if math.isfinite(y)])]
    ceiling = 100 * max(abs(column[0]) for column in finite) or _LARGEST
    values = [min(y, ceiling, _LARGEST) for column in finite for y in column]
    positive = [y for y in values if y > 0]
    if positive and (log or max(positive) >= 100 * min(positive)):
        return log_axis(label, positive)
    return linear_axis(label, values)


def _ticks(
    low: float, high: float, step: float, write: Callable[[float], str]
) -> list[tuple[float, str]]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(step * k, write(round(step * k, 12))) for k in range(first, last + 1)]


def _short(text: str) -> str:
    """Write ``20 kB`` for ``20.0 kB``, and ``1.5M`` for ``1.50M``."""
    return re.sub(r"\.0+(?!\d)|(?<=\.\d)0(?!\d)", "", text)


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(lead * power for lead in (1, 2, 5, 10) if lead * power >= 0.999 * rough)


def _power(value: float) -> str:
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    lead, power = f"{value:.0e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if lead == "1" else f"{lead}·10{raised}"
