"""Line charts of runs, as SVG text that follows the colours of its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TypeVar

from .panels import Curve, Panel

T = TypeVar("T", bound=tuple[float, ...])

# Okabe and Ito's colours, which colour-blind readers can tell apart, behind a neutral first one;
# the second tuple is for a dark page. More curves than colours differ by their dashes.
LIGHT = ("#4d5663", "#0072b2", "#d55e00", "#009e73", "#b8509a", "#d18f00", "#3fa4de", "#7a5c2e")
DARK = ("#c3cad4", "#4aa3df", "#ff8a3d", "#2cc79a", "#e58ac9", "#f2c14e", "#9fdcff", "#c9a672")
_DASHES = ((), (6, 3), (2, 3), (9, 3, 2, 3))

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 12, 46
_INNER = (_WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM)
_POINTS = 400
_FEW = 60  # points that can be told apart


def svg(panel: Panel) -> str:
    """Draw a panel as one SVG element; points that have no place on an axis are left out.

    The colours come from the classes ``c0``, ``c1``, … (see :func:`palette`).
    """
    lines = [
        f'<g class="{"limit" if curve.limit else "curve"} c{curve.index}">'
        f"<title>{escape(curve.name)}</title>{shape}</g>"
        for curve in panel.curves
        if (shape := _shape(curve, panel))
    ]
    return "\n".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{panel.title}">',
            *_frame(panel),
            f'<svg x="{_LEFT}" y="{_TOP}" width="{_INNER[0]}" height="{_INNER[1]}">',
            *lines,
            "</svg></svg>",
        ]
    )


def palette(colours: Sequence[str], count: int) -> str:
    """Style rules that give the classes ``c0``, ``c1``, … their colours."""
    return "".join(f".c{i}{{--c:{colours[i % len(colours)]}}}" for i in range(count))


def pattern(index: int) -> tuple[int, ...]:
    """Give the dash pattern of a curve; it is solid as long as there are colours left."""
    return _DASHES[index // len(LIGHT) % len(_DASHES)]


def dash(index: int) -> str:
    """Write the dash pattern of a curve as an SVG attribute."""
    lengths = " ".join(map(str, pattern(index)))
    return f' stroke-dasharray="{lengths}"' if lengths else ""


def few(curve: Curve) -> bool:
    """Whether a curve's points are drawn one by one."""
    return curve.dots and len(curve.points) <= _FEW


def _thinned(points: Sequence[T]) -> Sequence[T]:
    return points[:: -max(1, math.ceil(len(points) / _POINTS))][::-1]


def _shape(curve: Curve, panel: Panel) -> str:
    shown = [place for x, y in _thinned(curve.points) if (place := _place(panel, x, y))]
    if not shown:
        return ""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
    circled = [] if curve.limit else shown if few(curve) else shown[-1:]
    circles = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in circled)
    return f'<polyline points="{line}"{dash(curve.index)}/>{_bars(curve, panel)}{circles}'


def _bars(curve: Curve, panel: Panel) -> str:
    """The error bars as one path; what is below a logarithmic axis ends with it."""
    lines = []
    for x, low, high in _thinned(curve.bars):
        top, end = _place(panel, x, high), _place(panel, x, max(low, panel.up.low))
        if top and end:
            lines.append(f"M{top[0]:.1f} {top[1]:.1f}V{end[1]:.1f}")
    return f'<path d="{"".join(lines)}"/>' if lines else ""


def _place(panel: Panel, x: float, y: float) -> tuple[float, float] | None:
    """Where a point is drawn; None where an axis has no place for it."""
    across, up = panel.across.place(x), panel.up.place(y)
    return None if across is None or up is None else (_INNER[0] * across, _INNER[1] * (1 - up))


def _frame(panel: Panel) -> list[str]:
    (width, height), across, up = _INNER, panel.across, panel.up
    bottom, right, parts = _TOP + height, _LEFT + width, []
    for value, text in up.ticks:
        y = bottom - height * (up.place(value) or 0)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 7}" y="{y + 4:.1f}">{escape(text)}</text>')
    for value, text in across.ticks:
        x = _LEFT + width * (across.place(value) or 0)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text class="mid" x="{x:.1f}" y="{bottom + 17}">{escape(text)}</text>')
    x, y = _LEFT + width / 2, _TOP + height / 2
    return [
        *parts,
        f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>',
        f'<text class="mid soft" x="{x}" y="{_HEIGHT - 7}">{across.label}</text>',
        f'<text class="mid soft" transform="translate(12 {y}) rotate(-90)">{up.label}</text>',
    ]
